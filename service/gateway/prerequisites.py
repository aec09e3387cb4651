"""What must be there to serve: Linux, and the releases of uvicorn and kantoku whose private parts the gateway uses."""

import sys
from collections.abc import Iterator, Mapping
from importlib import metadata

# As pyproject.toml requires them. kantoku is BentoML's fork of circus, and is imported as `circus`.
RELEASES: Mapping[str, tuple[int, int]] = {"uvicorn": (0, 54), "kantoku": (0, 18)}


def unmet(platform: str, installed: Mapping[str, str | None]) -> list[str]:
    """One sentence for each prerequisite that is missing. `installed` gives the version of each package, or None."""
    wrong = wrong_platform(platform, "Serving")
    return [*([wrong] if wrong else []), *_wrong_releases(installed)]


def unmet_here() -> list[str]:
    """What is missing on this machine."""
    return unmet(sys.platform, {package: _version(package) for package in RELEASES})


def wrong_platform(platform: str, what: str) -> str | None:
    """Why `what` does not work on this platform, as `sys.platform` names it; None where it does."""
    if platform == "linux":
        return None
    return f"{what} needs Linux, whose kernel supervises the engines, and this is {platform}."


def _wrong_releases(installed: Mapping[str, str | None]) -> Iterator[str]:
    for package, (major, minor) in RELEASES.items():
        version = installed.get(package)
        if version is None or version.split(".")[:2] != [str(major), str(minor)]:
            found = f"{package} {version}" if version else f"no {package}"
            yield (
                f"Serving needs {package} {major}.{minor}, whose private parts it uses, and {found} is installed: "
                f"pip install '{package}=={major}.{minor}.*'"
            )


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
