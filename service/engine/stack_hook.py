"""Has every Python process of an engine write where its threads stand, when asked by a signal and when it crashes.

The supervisor puts a copy of this file, named `sitecustomize.py`, into a folder of its own and that folder first into
PYTHONPATH: Python runs it at the start of each process, spawned ones included. SIGUSR2 then writes the stacks of all
threads to `<pid>.stack` in that folder, from C, so that a process that spins or holds the GIL answers too; so does a
signal that ends the process, such as SIGSEGV. The stacks name files, lines and functions, and hold no values.
"""

import faulthandler
import importlib
import os
import signal
import sys

NAME = "sitecustomize"


def register(folder: str) -> None:
    """Has this process write its stacks to `folder`. Where the file cannot be made nothing is changed."""
    path = os.path.join(folder, f"{os.getpid()}.stack")  # noqa: PTH118  as few imports as possible
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError:
        return
    faulthandler.enable(file)
    faulthandler.register(signal.SIGUSR2, file)


def register_with_forks(folder: str) -> None:
    """`register` for this process and for those that it forks."""
    register(folder)
    os.register_at_fork(after_in_child=lambda: register(folder))


def run_hidden(folder: str) -> None:
    """Runs the `sitecustomize` that Python would have run without this one, if there is one."""
    sys.path[:] = [entry for entry in sys.path if os.path.realpath(entry) != folder]
    this = sys.modules.pop(NAME)
    try:
        importlib.import_module(NAME)
    except ModuleNotFoundError as error:
        sys.modules[NAME] = this
        if error.name != NAME:
            raise


if __name__ == NAME:
    here = os.path.dirname(os.path.realpath(__file__))  # noqa: PTH120
    register_with_forks(here)
    run_hidden(here)
