"""The processor's instructions between marks in a program, as valgrind counts them, whatever else the machine does."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from service.config.paths import ROOT

MARK = "getpriority"  # a function of libc that nothing else calls, before which valgrind writes down its count
SLOWER = 50  # times that valgrind makes a program


def available() -> bool:
    """Whether valgrind is installed."""
    return shutil.which("valgrind") is not None


def begin() -> None:
    """Begins to count, in a program that `between_marks` runs with `begins`: what came before is ten times as quick."""
    subprocess.run(["callgrind_control", "--instr=on", str(os.getpid())], stdout=subprocess.DEVNULL, check=True)


def mark() -> None:
    """Ends one part of the count and begins the next."""
    os.getpriority(os.PRIO_PROCESS, 0)


def between_marks(module: str, *arguments: str, begins: bool = False, kept: Path | None = None) -> list[int]:
    """The instructions from each mark of `python -m module` to the next one.

    With `begins`, nothing is counted before the program calls `begin`. `kept` is a folder for callgrind's files.
    """
    with tempfile.TemporaryDirectory() as folder:
        options = ["--tool=callgrind", f"--callgrind-out-file={folder}/out", f"--dump-before={MARK}*"]
        options += ["--instr-atstart=no"] if begins else []
        subprocess.run(
            ["valgrind", *options, sys.executable, "-m", module, *arguments],
            cwd=ROOT, env=os.environ | {"PYTHONHASHSEED": "0"}, capture_output=True, check=True,
        )  # fmt: skip
        files = sorted(Path(folder).glob("out.*"), key=lambda file: int(file.suffix[1:]))
        if kept:
            shutil.copytree(folder, kept, dirs_exist_ok=True)
        return [int(re.findall(r"^totals: (\d+)", file.read_text(), re.M)[-1]) for file in files[1:]]
