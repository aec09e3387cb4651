"""Which packages of a lock file a machine lacks. Pure."""

import json
from collections.abc import Iterable, Mapping
from fnmatch import fnmatch

from packaging.markers import default_environment
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version


class LockError(Exception):
    """A list of packages that cannot be read; the message names the line."""


def installed(text: str) -> dict[str, str | None]:
    """Package → version, from `pip list --format json` or `pip freeze`; None for one installed from somewhere else."""
    try:
        rows = json.loads(text)
    except ValueError:
        return dict(_frozen(line) for line in text.splitlines() if line.strip() and line.strip()[0] not in "#-")
    try:
        return {canonicalize_name(row["name"]): str(row["version"]) for row in rows}
    except (TypeError, KeyError):
        raise LockError(
            "the list of what is installed is not one of pip's: make it with pip list --format json"
        ) from None


def lacking(lock: str, have: Mapping[str, str | None], python: str, keep: Iterable[str] = ()) -> list[str]:
    """The lines of `lock`, all `name==version`, that a machine with `have` still needs for its `python` (as `3.12`).

    A package that is there in another version is needed too: it goes into a private folder and touches nothing.
    `keep` are patterns of names that stay as they are on that machine, whatever their version.
    """
    environment = {key: str(value) for key, value in default_environment().items()}
    environment |= {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
    patterns = [canonicalize_name(one) if "*" not in one else one.lower() for one in keep]
    needed = []
    for line in lock.splitlines():
        text = line.partition(" #")[0].strip().removesuffix("\\").strip()
        if not text or text.startswith(("#", "--hash=")):
            continue
        try:
            one = Requirement(text)
        except InvalidRequirement:
            raise LockError(f"'{text}' is no pinned package") from None
        name = canonicalize_name(one.name)
        versions = [of.version for of in one.specifier if of.operator == "=="]
        if not versions:
            raise LockError(f"'{text}' is not pinned with ==")
        applies = one.marker is None or one.marker.evaluate(environment)
        kept = name in have and any(fnmatch(name, pattern) for pattern in patterns)
        if applies and not kept and not _same(versions[0], have.get(name)):
            needed.append(f"{name}=={versions[0]}")
    return needed


def _frozen(line: str) -> tuple[str, str | None]:
    name, equal, version = line.partition("==")
    return canonicalize_name(name.partition(" @ ")[0].strip()), version.strip() if equal else None


def _same(wanted: str, found: str | None) -> bool:
    """Whether it is the same release: a build's suffix, as in 2.11.0+cu130, makes no other one."""
    try:
        return found is not None and Version(wanted).public == Version(found).public
    except InvalidVersion:
        return wanted == found
