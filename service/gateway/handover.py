"""Makes `bentoml serve` run the service in processes that import what they need: its workers, and its first process.

BentoML decides as always what runs: a process for each service, its GPUs, its environment, its socket. Then its command
hands over to `supervisor.py`, and the processes are those of `worker.py`. Patches a private part of BentoML.
"""

import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

HERE = Path(__file__).parent
SUPERVISOR, WORKER = HERE / "supervisor.py", HERE / "run_worker.py"
BENTOML_S_WORKER = ["-m", "_bentoml_impl.worker.service"]
# What BentoML says of a process, in circus' words; all else is circus' default.
WATCHER = (
    "name", "cmd", "args", "numprocesses", "working_dir", "env", "respawn", "stop_children", "use_sockets",
    "graceful_timeout", "close_child_stdin",
)  # fmt: skip
SOCKET = ("name", "host", "port", "backlog")
CHECK_DELAY = 10  # seconds between two looks at the processes, as BentoML has it
Start = Callable[[Any], object]


class Handover:
    """Stands in for BentoML's arbiter: `start` becomes the supervisor instead, and does not return."""

    def __init__(self, watchers: Sequence[Any], sockets: Sequence[Any], run_dir: Path, remove: Sequence[Path]) -> None:
        self.exit_stack = ExitStack()
        self._sockets = sockets
        self._plan = plan(watchers, sockets, run_dir, remove)

    def start(self, cb: Start) -> NoReturn:
        """Closes what BentoML has opened, and becomes the supervisor."""
        cb(None)
        self.exit_stack.close()
        for one in self._sockets:
            one.close()
        descriptor = os.memfd_create("supervisor", 0)  # inherited, unlike others, and nobody else can read it
        os.write(descriptor, json.dumps(self._plan).encode())
        os.lseek(descriptor, 0, os.SEEK_SET)
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, "-P", str(SUPERVISOR), str(descriptor)])


def plan(
    watchers: Sequence[Any], sockets: Sequence[Any], run_dir: Path, remove: Sequence[Path]
) -> dict[str, Any]:  # fmt: skip
    """What the supervisor runs, as JSON: `watchers` and `sockets` are circus' own; folders to `remove` at the end.

    Engines get no socket of BentoML's, for nothing would connect to it. Who may write to circus' own sockets may have
    it run anything, so they are in the run folder, and not on ports as BentoML has them.
    """
    unused = {f"$(circus.sockets.{one.name})" for one in sockets if one.is_unix}
    return {
        "watchers": [
            {name: getattr(one, name) for name in WATCHER} | {"args": _ours(one.args, unused)} for one in watchers
        ],
        "sockets": [
            {name: getattr(one, name) for name in SOCKET} | {"family": int(one.family)}
            for one in sockets if not one.is_unix
        ],
        "arbiter": {
            "endpoint": f"ipc://{run_dir}/ctl.sock", "pubsub_endpoint": f"ipc://{run_dir}/pub.sock",
            "check_delay": CHECK_DELAY,
        },
        "remove": [str(one) for one in remove],
    }  # fmt: skip


def _ours(words: Sequence[str], unused: set[str]) -> list[str]:
    """The arguments of our worker from those of BentoML's, without the options that have one of the `unused` values."""
    if list(words[:2]) != BENTOML_S_WORKER:
        raise ImportError(f"This version of BentoML starts its workers in another way: adapt {__file__} to it.")
    options = {index - 1 for index, word in enumerate(words) if word in unused}
    kept = [word for index, word in enumerate(words) if index not in options and word not in unused]
    return ["-P", str(WORKER), *kept[2:]]


def hand_over(run_dir: Path, remove: Sequence[Path]) -> None:
    """Has BentoML's command become the supervisor, which starts our workers.

    With `--reload` or `--development` it stays what it is, and starts its own. Raises ImportError for a version of
    BentoML without the patched part.
    """
    utilities = import_module("bentoml._internal.utils.circus")
    if not hasattr(utilities, "create_standalone_arbiter"):
        raise ImportError(f"This version of BentoML has no create_standalone_arbiter: adapt {__file__} to it.")
    create = utilities.create_standalone_arbiter

    def create_arbiter(watchers: Sequence[Any], *, sockets: Sequence[Any], threaded: bool, **options: Any) -> Any:
        if threaded or options:
            return create(watchers, sockets=sockets, threaded=threaded, **options)
        return Handover(watchers, sockets, run_dir, remove)

    utilities.create_standalone_arbiter = create_arbiter  # type: ignore[attr-defined]
