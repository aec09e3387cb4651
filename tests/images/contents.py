"""What must be so of every image that the Dockerfile makes: its configuration, its packages, its files' rights."""

import json
import stat
import subprocess
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path

from packaging.utils import canonicalize_name

from tests.images import build
from tests.packaging.test_locks import lock

USER = 65532
# What the user, or everyone, may write to where the root file system is not read-only.
WRITABLE = ("home/roundhouse", "var/lib/roundhouse", "tmp", "var/tmp", "run/lock")


def check(image: str, locked: str) -> None:
    """Asserts it of an image with the packages of this lock."""
    told = build.configuration(image)
    assert told["User"] == f"{USER}:{USER}"
    assert "org.opencontainers.image.version" in told["Labels"]
    assert not any(name in line for line in told["Env"] for name in ("KEY", "TOKEN", "PASSWORD", "SECRET"))
    with build.mounted(image) as root:
        bill = json.loads((root / told["Labels"]["roundhouse.sbom"].lstrip("/")).read_text())
        billed = {one["name"]: one["version"] for one in bill["components"]}
        there = installed(root)
        del there["roundhouse"]
        assert billed == there == lock(locked)
        assert not list(root.glob("etc/pip.conf")) and not (root / "opt/tools").exists()
        assert not [path for path, mode, _ in found(root, "f") if mode & (stat.S_ISUID | stat.S_ISGID)]
        ours = [path for path, mode, user in found(root, "f,d") if mode & stat.S_IWOTH or user == USER]
        assert not [path for path in ours if not any(path.is_relative_to(one) for one in WRITABLE)]


def installed(root: Path) -> dict[str, str]:
    """Package → version, of those in the image's environment."""
    (packages,) = root.glob("opt/roundhouse/lib/python3.*/site-packages")
    return {canonicalize_name(one.metadata["Name"]): one.version for one in distributions(path=[str(packages)])}


def found(root: Path, types: str) -> Iterator[tuple[Path, int, int]]:
    """Everything of these types of `find` in an image, with its mode and its owner."""
    command = ["find", str(root), "-xdev", "-type", types, "-printf", r"%P\0%m\0%U\0"]
    words = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")
    for path, mode, user in zip(words[:-1:3], words[1::3], words[2::3], strict=True):
        yield Path(path), int(mode, 8), int(user)


def size(folder: Path) -> int:
    """Bytes on the disk."""
    done = subprocess.run(["du", "-s", "--block-size=1", folder], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[0])
