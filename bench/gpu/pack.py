"""Packs what a machine without a network lacks to run the kit: `bench/gpu/pack OUT --target packages.json`.

`packages.json` is the output of `python3 -m pip list --format json` on that machine. OUT.tar.part-0000 … (with
--compress OUT.tar.xz.part-0000 …), SHA256SUMS and install.py are what to carry; `python3 install.py DESTINATION`
installs them there.
"""

import argparse
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click

from bench.gpu import install, wheels
from bench.gpu.lacking import LockError, installed, lacking
from service.cli.packing import Size
from service.config.paths import ROOT
from service.weights import bundle
from service.weights.digests import sha256
from service.weights.store import WeightsError

LOCK = ROOT / "requirements/cuda.lock"
PART = "60MB"
WHOLE = 2**50  # bytes: more than any archive has
OLDEST = 5  # minor versions of the C library for which wheels of the format "manylinux_2_N" exist
LEGACY = ("manylinux2014", "manylinux2010", "manylinux1", "linux")


def platforms(glibc: int, machine: str) -> list[str]:
    """The wheel platforms that a Linux with C library 2.`glibc` takes, the newest first."""
    return [*(f"manylinux_2_{minor}_{machine}" for minor in range(glibc, OLDEST - 1, -1)),
            *(f"{name}_{machine}" for name in LEGACY)]  # fmt: skip


def fetch(packages: list[str], folder: Path, python: str, glibc: int, machine: str) -> None:
    """Downloads wheels for another machine with pip, which has its indexes from its own configuration."""
    tags = [word for name in platforms(glibc, machine) for word in ("--platform", name)]
    command = [
        sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--python-version", python,
        "--implementation", "cp", *tags, "--dest", str(folder), *packages,
    ]  # fmt: skip
    if subprocess.run(command, check=False).returncode:
        raise WeightsError("pip could not fetch all wheels, as it says above; --wheel-dir names a folder with them")


def pack(
    out: Path, needed: list[str], folder: Path, part_size: int, project: bool,
    exclude: Sequence[str] = (), compress: bool = False,
) -> list[Path]:  # fmt: skip
    """Writes the bundle with `needed` from the folder of wheels, and the installer beside it; returns its parts.

    Files of wheels that match a pattern in `exclude` are left out. `compress` uses xz, which the target then needs too.
    """
    with tempfile.TemporaryDirectory(prefix="roundhouse-pack-") as scratch:
        if needed and (exclude or compress):
            folder = wheels.without(folder, Path(scratch) / "wheels", exclude, compressed=not compress)
        lock = Path(scratch) / "needed.lock"
        lock.write_text("".join(f"{line}\n" for line in needed), encoding="utf-8")
        items = bundle.of_wheels(folder, lock) if needed else []
        items += bundle.of_project(ROOT) if project else []
        if not items:
            raise WeightsError("nothing to pack: the target has every package already")
        parts = _compressed(out, items, part_size, Path(scratch)) if compress else bundle.pack(out, items, part_size)
    shutil.copyfile(install.__file__, out.with_name("install.py"))
    return parts


def _compressed(out: Path, items: list[bundle.Item], part_size: int, scratch: Path) -> list[Path]:
    """The bundle as one archive that xz compresses, in parts, with SHA256SUMS beside them."""
    prefix = f"{out.name}.tar.xz.part-"
    if any(out.parent.glob("*.part-*")):
        raise WeightsError(f"{out.parent} holds parts already: use an empty folder for each bundle")
    (archive,) = bundle.pack(scratch / "archive" / out.name, items, WHOLE)
    out.parent.mkdir(parents=True, exist_ok=True)
    command = f"xz -T0 --stdout {shlex.quote(str(archive))} | split -b {part_size} -d -a 4 - {shlex.quote(prefix)}"
    command = f"set -o pipefail; {command} && sha256sum {shlex.quote(prefix)}* > {bundle.SUMS}"
    if subprocess.run(["bash", "-c", command], cwd=out.parent, check=False).returncode:
        raise WeightsError("xz could not compress the bundle, as it says above")
    return sorted(out.parent.glob(f"{prefix}*"))


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    asked = _parser().parse_args(arguments)
    try:
        have = installed(asked.target.read_text(encoding="utf-8")) if asked.target else {}
        needed = lacking(asked.lock.read_text(encoding="utf-8"), have, asked.python, asked.keep)
        print(f"{len(needed)} packages of {asked.lock.name} are lacking there.")
        with tempfile.TemporaryDirectory(prefix="roundhouse-wheels-") as scratch:
            if needed and not asked.wheel_dir:
                fetch(needed, Path(scratch), asked.python, asked.glibc, asked.machine)
            parts = pack(asked.out, needed, asked.wheel_dir or Path(scratch), asked.part_size, not asked.no_project,
                         asked.exclude, asked.compress)  # fmt: skip
    except (LockError, WeightsError, OSError) as error:
        sys.exit(str(error))
    sums = asked.out.with_name(bundle.SUMS)
    print(f"{len(parts)} parts of at most {asked.part_size / 1e6:g} MB and {sums}, SHA-256 {sha256(sums)}")
    print("Carry them with install.py, and there: python3 install.py DESTINATION")


def _size(text: str) -> int:
    try:
        return Size().convert(text, None, None)
    except click.BadParameter as error:
        raise argparse.ArgumentTypeError(error.message) from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench/gpu/pack", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--target", type=Path, help="what pip lists there, as JSON or frozen; without it, nothing is there"
    )
    parser.add_argument(
        "--lock", type=Path, default=LOCK, help="the packages to have (default: requirements/cuda.lock)"
    )
    parser.add_argument("--keep", action="append", default=[], help="a package, or pattern, to use as it is there")
    parser.add_argument("--python", default="3.12", help="Python's version there (default: 3.12)")
    parser.add_argument(
        "--glibc", type=int, default=28, metavar="N", help="its C library is 2.N or later (default: 28)"
    )
    parser.add_argument("--machine", default="x86_64", help="its processor (default: x86_64)")
    parser.add_argument("--wheel-dir", type=Path, help="a folder with the wheels, instead of downloading them")
    parser.add_argument("--part-size", type=_size, default=_size(PART), help=f"largest part (default: {PART})")
    parser.add_argument(
        "--exclude", action="append", default=[], metavar="PATTERN",
        help="files of wheels to leave out, as '*_vllm_fa2_C*'; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--compress", action="store_true", help="compress the bundle with xz, which the target needs too"
    )
    parser.add_argument("--no-project", action="store_true", help="leave Roundhouse's own source out")
    return parser


if __name__ == "__main__":
    main()
