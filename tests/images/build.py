"""Builds the targets of the Dockerfile with buildah, on Debians that debootstrap makes: no registry is needed."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from service.config.paths import ROOT

FOLDER = ROOT / "build/images"
# Debian's images by their own names, so that what builds on them needs no telling.
DEBIAN = "docker.io/library/debian:{}-slim"
SUITES = {12: "bookworm", 13: "trixie"}
RELEASES = {"gateway": 13, "engine": 12, "engine-cpu": 12}  # what each target runs on
PROGRAMS = ("buildah", "debootstrap")
HOUR = 3600.0  # seconds: packages of gigabytes, on machines that are shared
STORE = ("--root", str(FOLDER / "store"), "--runroot", str(FOLDER / "run"), "--storage-driver", "overlay")
BUILD = ("buildah", *STORE, "bud", "--format", "docker", "--pull-never", "--isolation", "chroot", "--layers")
# What Debian's slim images leave out.
SLIM = ("usr/share/doc/*", "usr/share/man/*", "usr/share/info/*", "usr/share/locale/*", "var/cache/apt/*",
        "var/lib/apt/lists/*")  # fmt: skip
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
IN_BUILD = "/run/host"  # where the build finds this machine's certificates


def missing() -> str | None:
    """Why no image can be built here."""
    absent = [name for name in PROGRAMS if not shutil.which(name)]
    if absent:
        return f"no {', '.join(absent)}; on Debian: apt-get install {' '.join(PROGRAMS)}"
    return None if os.geteuid() == 0 else "images are built and run by root alone"


def buildah(*words: str | Path) -> str:
    """Its output; raises CalledProcessError. What it says of a failure is on standard error."""
    command = ["buildah", *STORE, *map(str, words)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=HOUR).stdout.strip()


def base(release: int) -> str:
    """The name of Debian's image of this release, which is made if there is none."""
    name = DEBIAN.format(release)
    if name in buildah("images", "--format", "{{.Name}}:{{.Tag}}").splitlines():
        return name
    root = FOLDER / "debian"
    shutil.rmtree(root, ignore_errors=True)
    subprocess.run(["debootstrap", "--variant=minbase", SUITES[release], str(root)], check=True, timeout=HOUR)
    for path in (path for pattern in SLIM for path in root.glob(pattern)):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    excluded = [f"path-exclude /usr/share/{name}/*\n" for name in ("doc", "man", "info", "locale")]
    (root / "etc/dpkg/dpkg.cfg.d/slim").write_text("".join(excluded))
    container = buildah("from", "scratch")
    buildah("add", container, root, "/")
    buildah("commit", "--rm", container, name)
    shutil.rmtree(root)
    return name


def build(target: str) -> str:
    """Builds a target on its Debian; returns the name of the image. pip finds packages as it does on this machine."""
    name = f"localhost/roundhouse/{target}:test"
    with pip_configuration() as secret:
        command = [
            *BUILD, "--build-arg", f"BASE={base(RELEASES[target])}", "--secret", f"id=pip,src={secret}", *volumes(),
            "--target", target, "--tag", name, str(ROOT),
        ]  # fmt: skip
        subprocess.run(command, check=True, stdout=sys.stderr, timeout=HOUR)
    return name


def configuration(image: str) -> dict[str, Any]:
    """What the image says about itself: Env, Entrypoint, Cmd, User, Labels, Healthcheck …"""
    found: dict[str, Any] = json.loads(buildah("inspect", "--type", "image", image))["Docker"]["config"]
    return found


@contextmanager
def mounted(image: str) -> Iterator[Path]:
    """The root file system of a new container of the image."""
    container = buildah("from", "--pull-never", image)
    try:
        yield Path(buildah("mount", container))
    finally:
        buildah("rm", container)


def settings() -> dict[str, str]:
    """pip's settings here; those of the environment win."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], check=True, stdout=subprocess.PIPE, text=True
    )
    found: dict[str, str] = {}
    for line in sorted(listed.stdout.splitlines(), key=lambda line: line.startswith(":env:")):
        name, _, value = line.partition("=")
        found[name.rpartition(".")[2]] = value.strip("'\"").replace("\\n", " ")
    return found


def volumes() -> Iterator[str]:
    """Arguments that show a build the folders of this machine from which pip takes packages, and its certificates."""
    folder = FOLDER / "host"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(CERTIFICATES, folder / "ca.crt")
    yield from ("--volume", f"{folder}:{IN_BUILD}:ro")
    for name in ("find-links", "index-url", "extra-index-url"):
        for place in settings().get(name, "").split():
            path = Path(place.removeprefix("file://"))
            for one in (path, path.parent / "files"):
                if path.is_absolute() and one.is_dir():
                    yield from ("--volume", f"{one}:{one}:ro")


@contextmanager
def pip_configuration() -> Iterator[Path]:
    """A file for pip in a build, which may have credentials: it is there no longer than the build."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / "pip.conf"
    path.touch(mode=0o600)
    kept = {name: value for name, value in settings().items() if name not in ("constraint", "cert")}
    kept["cert"] = f"{IN_BUILD}/ca.crt"
    path.write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in kept.items()))
    try:
        yield path
    finally:
        path.unlink()
