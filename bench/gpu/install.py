"""Unpacks and installs what the kit packed: python3 install.py NAME.json DESTINATION

It travels beside the bundle to a machine without a network and needs nothing there but Python 3.9 with pip. Everything
goes into DESTINATION; what is installed on that machine is used and not changed.
"""

from __future__ import annotations

import importlib.util
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

SITE, PROJECT, LAUNCHER = "site", "project", "python"


def main(arguments: list[str]) -> None:
    """The command line."""
    if len(arguments) != 2:
        sys.exit("usage: python3 install.py NAME.json DESTINATION")
    index_path, destination = Path(arguments[0]), Path(arguments[1]).absolute()
    unbundle = _beside("unbundle")
    try:
        index = unbundle.unpack(index_path, destination)
    except unbundle.BundleError as error:
        sys.exit(f"{error}\nNothing was put in place.")
    if index.get("requirements"):
        _install(destination, destination / index["requirements"])
    launcher = _launcher(destination)
    print(f"{len(index['files'])} files are unpacked and as they were packed; {launcher} is a Python that sees them.")
    run = destination / PROJECT / "bench/gpu/run"
    if run.exists():
        print(f"  PYTHON={shlex.quote(str(launcher))} {shlex.quote(str(run))} --minutes 25")


def _install(destination: Path, requirements: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--upgrade", "--no-compile",
               "--disable-pip-version-check", "--find-links", str(requirements.parent), "--target",
               str(destination / SITE), "-r", str(requirements)]  # fmt: skip
    if subprocess.run(command, check=False).returncode:
        sys.exit(f"pip could not install the wheels, as it says above; they lie in {requirements.parent}.")


def _launcher(destination: Path) -> Path:
    """A Python that finds the private folder first, and all that this one finds after it."""
    paths = ":".join(shlex.quote(str(destination / name)) for name in (SITE, PROJECT))
    launcher = destination / LAUNCHER
    launcher.write_text(
        f'#!/bin/sh\nexport PYTHONPATH={paths}${{PYTHONPATH:+:$PYTHONPATH}}\nexec {shlex.quote(sys.executable)} "$@"\n'
    )
    launcher.chmod(0o755)
    return launcher


def _beside(name: str) -> Any:
    # Python's isolated mode does not look beside a program for what it imports.
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    if spec is None or spec.loader is None:
        sys.exit(f"{name}.py is missing beside {__file__}.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except FileNotFoundError:
        sys.exit(f"{name}.py is missing beside {__file__}.")
    return module


if __name__ == "__main__":
    main(sys.argv[1:])
