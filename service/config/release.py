"""The release of Roundhouse that runs."""

import tomllib
from importlib import metadata

from service.config.paths import ROOT


def release() -> str:
    """That of the installed package, or of the source tree: a Bento's image has the sources and installs no package."""
    try:
        return metadata.version("roundhouse")
    except metadata.PackageNotFoundError:
        read = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
        return str(read["project"]["version"])
