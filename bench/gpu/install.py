"""Unpacks and installs what the kit packed: python3 install.py DESTINATION

It is copied with the bundle to a machine without a network, and needs coreutils, tar, xz for a compressed bundle,
and Python 3.9 or later with pip. It writes to DESTINATION only; installed packages are used and not changed.
"""

from __future__ import annotations

import importlib.util
import shlex
import subprocess
import sys
from pathlib import Path

SITE, PROJECT, LAUNCHER = "site", "project", "python"


def main(arguments: list[str]) -> None:
    """The command line."""
    if len(arguments) != 1:
        sys.exit("usage: python3 install.py DESTINATION")
    destination = Path(arguments[0]).absolute()
    _unpack(Path(__file__).absolute().parent, destination)
    for requirements in sorted(destination.glob("wheels/*.lock")):
        _install(destination, requirements)
    _compile(destination)
    launcher = _launcher(destination)
    print(f"The bundle is unpacked; {launcher} is a Python that sees it.")
    run = destination / PROJECT / "bench/gpu/run"
    if run.exists():
        print(f"  PYTHON={shlex.quote(str(launcher))} {shlex.quote(str(run))} --minutes 25")


def _unpack(bundle: Path, destination: Path) -> None:
    if subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=bundle, check=False).returncode:
        sys.exit("Parts are missing or damaged, as sha256sum says above. Nothing was unpacked.")
    destination.mkdir(parents=True, exist_ok=True)
    extract = f"tar --extract --directory {shlex.quote(str(destination))}"
    compressed = any(bundle.glob("*.tar.xz.part-*"))
    command = f"cat ./*.tar.xz.part-* | xz -dc -T0 | {extract}" if compressed else f"cat ./*.tar.part-* | {extract}"
    if subprocess.run(["sh", "-c", command], cwd=bundle, check=False).returncode:
        sys.exit("tar could not unpack the bundle, as it says above.")


def _install(destination: Path, requirements: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--upgrade", "--no-compile",
               "--disable-pip-version-check", "--find-links", str(requirements.parent), "--target",
               str(destination / SITE), "-r", str(requirements)]  # fmt: skip
    if subprocess.run(command, check=False).returncode:
        sys.exit(f"pip could not install the wheels, as it says above; they lie in {requirements.parent}.")


def _compile(destination: Path) -> None:
    """Writes byte-code for all modules on all cores: it halves the time of the first import of vLLM."""
    folders = [str(destination / name) for name in (SITE, PROJECT) if (destination / name).is_dir()]
    # A module for another Python does not compile, which is no failure.
    subprocess.run(
        [sys.executable, "-m", "compileall", "-q", "-j", "0", *folders], stdout=subprocess.DEVNULL, check=False
    )


def _launcher(destination: Path) -> Path:
    """A Python that finds the private folder first, and all that this one finds after it."""
    paths = ":".join(shlex.quote(str(destination / name)) for name in (SITE, PROJECT))
    # Without FlashInfer, some releases of vLLM fail in their sampler unless they are told not to import it.
    sampler = "" if _has_flashinfer(destination) else "export VLLM_USE_FLASHINFER_SAMPLER=0\n"
    launcher = destination / LAUNCHER
    launcher.write_text(
        f"#!/bin/sh\nexport PYTHONPATH={paths}${{PYTHONPATH:+:$PYTHONPATH}}\n{sampler}"
        f'exec {shlex.quote(sys.executable)} "$@"\n'
    )
    launcher.chmod(0o755)
    return launcher


def _has_flashinfer(destination: Path) -> bool:
    return (destination / SITE / "flashinfer").is_dir() or importlib.util.find_spec("flashinfer") is not None


if __name__ == "__main__":
    main(sys.argv[1:])
