"""A running container: the image's own entry point as its own user, without capabilities, on a read-only root.

Made of the kernel's namespaces by unshare and chroot, which work where container runtimes do not.
"""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.images import build

PATIENCE = 600.0  # seconds for an engine's start, on machines that are shared
# $1 is the root file system; what follows are mounts, each KIND:SOURCE:PATH, and after `--` the command.
SETUP = """
set -e
root=$1; shift
mount --make-rprivate /
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --bind /sys "$root/sys"
mount -o remount,ro,bind "$root/sys"
mount -t tmpfs -o mode=755 dev "$root/dev"
for name in null zero full random urandom; do touch "$root/dev/$name"; mount --bind /dev/$name "$root/dev/$name"; done
mkdir "$root/dev/shm"
mount -t tmpfs -o mode=1777,size=1g shm "$root/dev/shm"
mount -t tmpfs -o mode=1777 tmp "$root/tmp"
cp /etc/hosts /etc/resolv.conf "$root/etc/"  # as container engines do
while [ "$1" != -- ]; do
  path=$2
  mkdir -p "$root$path"
  mount --bind "${1#*:}" "$root$path"
  [ "${1%%:*}" = rw ] || mount -o remount,ro,bind "$root$path"
  shift 2
done
shift
mount -o remount,ro,bind "$root"
exec chroot "$root" "$@"
"""
WITHOUT_RIGHTS = ("--clear-groups", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")


@dataclass(frozen=True)
class Container:
    """A started container. `health` is the image's health check, `as_user` what runs a command as its user."""

    health: list[str]
    as_user: list[str]
    environment: list[str]
    log: Path
    process: "subprocess.Popen[bytes]"

    @property
    def first(self) -> int:
        """The pid of its first process, as this machine sees it."""
        (child,) = psutil.Process(self.process.pid).children()
        return int(child.pid)

    def healthy(self, port: int) -> bool:
        """Whether the image's own health check, run in the container, says so of the port that it was told."""
        words = [str(port) if word.isdecimal() else word for word in self.health]
        enter = ["nsenter", "--target", str(self.first), "--mount", "--pid", "--root", "--wd", *self.as_user]
        done = subprocess.run([*enter, "/usr/bin/env", "-i", *self.environment, *words], capture_output=True)
        return done.returncode == 0

    def until(self, holds: Callable[[], bool]) -> float:
        """Waits for it; returns how many seconds that took."""
        began = time.monotonic()
        while not holds():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() - began < PATIENCE, self.log.read_text()
            time.sleep(0.1)
        return time.monotonic() - began

    def stop(self) -> int:
        """Sends SIGTERM to its first process, as container engines do; returns the exit status."""
        os.kill(self.first, signal.SIGTERM)
        return self.process.wait(120)

    def end(self) -> int:
        """Waits until it ends by itself; returns the exit status."""
        return self.process.wait(PATIENCE)


@contextmanager
def running(
    image: str, folder: Path, words: Sequence[str], environment: Mapping[str, str], read_only: Sequence[Path],
    writable: Mapping[str, Path], entrypoint: Sequence[str] = (),
) -> Iterator[Container]:  # fmt: skip
    """Runs the image with these words after its entry point, or another one, in the network of this machine.

    `read_only` folders are mounted where they are, `writable` ones at the paths that are their keys.
    """
    told: dict[str, Any] = build.configuration(image)
    variables = [*told["Env"], *(f"{key}={value}" for key, value in environment.items())]
    mounts = [word for path in read_only for word in (f"ro:{path}", str(path))]
    mounts += [word for at, path in writable.items() for word in (f"rw:{path}", at)]
    inside = f"cd {shlex.quote(told['WorkingDir'])} && exec {shlex.join([*(entrypoint or told['Entrypoint']), *words])}"
    folder.mkdir()
    log = folder / "log"
    with build.mounted(image) as root:
        number = _number(root, told["User"])
        as_user = ["/usr/bin/setpriv", "--reuid", number, "--regid", number, *WITHOUT_RIGHTS]
        command = [
            "unshare", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child",
            "sh", "-c", SETUP, "sh", str(root), *mounts, "--",
            *as_user, "/usr/bin/env", "-i", *variables, "/bin/sh", "-c", inside,
        ]  # fmt: skip
        with log.open("wb") as out:
            process = subprocess.Popen(command, stdout=out, stderr=out)
        try:
            yield Container((told.get("Healthcheck") or {"Test": []})["Test"][1:], as_user, variables, log, process)
        finally:
            process.kill()
            process.wait()
            print(log.read_text()[-4000:], file=sys.stderr)


def _number(root: Path, user: str) -> str:
    """The number of an image's user, which is said as `number:number` or by name."""
    names = {
        fields[0]: fields[2] for fields in (line.split(":") for line in (root / "etc/passwd").read_text().splitlines())
    }
    return names.get(user) or user.partition(":")[0]
