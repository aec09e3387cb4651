"""The Bento's image, by `bentoml build` and `bentoml containerize` themselves, on a Debian in place of their base."""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.config.paths import ROOT
from tests.images.build import BUILD, FOLDER, HOUR, base, pip_configuration, settings, volumes

NAME = "localhost/roundhouse/bento:test"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"  # BentoML chooses the Python that builds the Bento
DEBIANS = {"3.11": 12, "3.13": 13}
# What BentoML's base, python:3.11-slim, has on top of Debian.
BASE = """
FROM {debian}
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3-dev python3-pip \
    && rm /usr/lib/python3*/EXTERNALLY-MANAGED
"""


def build() -> str:
    """Builds the Bento and its image; returns the image's name. Packages come from where they do on this machine."""
    python = [*BUILD, "--tag", f"docker.io/library/python:{PYTHON}-slim", "--file", "-"]
    subprocess.run(
        python, input=BASE.format(debian=base(DEBIANS[PYTHON])), check=True, stdout=sys.stderr, text=True, timeout=HOUR
    )
    with _programs() as programs, tempfile.TemporaryDirectory() as home:
        environment = {
            **os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "BENTOML_HOME": home, "DOCKER_BUILDKIT": "1",
            "UV_EXTRA_INDEX_URL": settings().get("extra-index-url", ""),
        }  # fmt: skip
        bentoml = [sys.executable, "-m", "bentoml"]
        for words in (["build"], ["containerize", "gateway", "--backend", "buildah", "--image-tag", NAME]):
            subprocess.run([*bentoml, *words], cwd=ROOT, env=environment, check=True, stdout=sys.stderr, timeout=HOUR)
    return NAME


@contextmanager
def _programs() -> Iterator[Path]:
    """A folder with a `buildah` that builds as for the other images, and shows builds what pip here is told."""
    uv = FOLDER / "host/uv.toml"
    with pip_configuration() as pip, tempfile.TemporaryDirectory() as folder:
        mounts = [*volumes()]
        told = settings()
        lines = [f"find-links = {told.get('find-links', '').split()}", "native-tls = true"]
        lines += [f'index-url = "{told["index-url"]}"'] if "index-url" in told else []
        uv.write_text("".join(f"{line}\n" for line in lines))
        for source, path in (
            (pip, "/etc/pip.conf"),
            (uv, "/etc/uv/uv.toml"),
            (FOLDER / "host/ca.crt", "/etc/ssl/certs/ca-certificates.crt"),
        ):
            mounts += ["--volume", f"{source}:{path}:ro"]
        command = shlex.join([str(shutil.which(BUILD[0])), *BUILD[1:], *mounts])
        program = Path(folder, BUILD[0])
        program.write_text(f'#!/bin/sh\nshift  # `build`\nexec {command} "$@"\n')
        program.chmod(0o755)
        yield Path(folder)
