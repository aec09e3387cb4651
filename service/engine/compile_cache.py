"""Where engines keep what they compile, and what is removed there: libraries that a killed engine left half-written.

torch has a compiler write them in place. Every later start would try to load such a file, and fail.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

# What torch compiles for a CPU engine: it lies in /tmp, where vLLM does not move it to its own cache.
INDUCTOR_CACHE = "TORCHINDUCTOR_CACHE_DIR"
BROKEN = re.compile(r"ImportError: (/\S+\.so): (?:file too short|invalid ELF header|cannot read file data|ELF )")


def root(environment: Mapping[str, str]) -> Path | None:
    """Where vLLM keeps what it compiles; None where it has no home."""
    if stated := environment.get("VLLM_CACHE_ROOT"):
        return Path(stated)
    if cache := environment.get("XDG_CACHE_HOME"):
        return Path(cache, "vllm")
    return Path(home, ".cache/vllm") if (home := environment.get("HOME")) else None


def mend(log: Iterable[str], environment: Mapping[str, str]) -> str:
    """Removes the libraries of the cache that an engine could not load, as its `log` says; what was done, for people.

    Nothing outside of the cache is touched, whatever the log says. "" where there is nothing to do.
    """
    removed = [str(path) for path in sorted({Path(match[1]) for line in log for match in BROKEN.finditer(line)})
               if _is_within(path, _folders(environment)) and _remove(path)]  # fmt: skip
    return f"; removed {', '.join(removed)}, which is compiled again" if removed else ""


def _folders(environment: Mapping[str, str]) -> Iterator[Path]:
    if inductor := environment.get(INDUCTOR_CACHE):
        yield Path(inductor)
    if found := root(environment):
        yield found


def _is_within(path: Path, folders: Iterable[Path]) -> bool:
    return any(path.resolve().is_relative_to(folder.resolve()) for folder in folders)


def _remove(path: Path) -> bool:
    with suppress(OSError):
        path.unlink()
        return True
    return False
