"""A file beside the manifest that caches the SHA-256 of files whose metadata has not changed since they were hashed.

It makes repeated verification cheap. It adds no trust: whoever can write it can write the manifest too.
"""

import json
import os
from contextlib import suppress
from pathlib import Path

CACHE_FILE = ".roundhouse-verified.json"

# Size, mtime and ctime in nanoseconds, inode. ctime changes even when a program sets mtime back.
Signature = tuple[int, int, int, int]
Hashes = dict[str, tuple[Signature, str]]


def signature(path: Path) -> Signature:
    """The metadata by which an unchanged file is recognised without reading it."""
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


def load(directory: Path) -> Hashes:
    """Each file's signature and SHA-256 when it was last hashed; empty if there is no valid cache."""
    try:
        cached = json.loads((directory / CACHE_FILE).read_text(encoding="utf-8"))
        return {name: (tuple(row[:4]), row[4]) for name, row in cached.items()}
    except (OSError, ValueError, TypeError, AttributeError, IndexError):
        return {}


def save(directory: Path, hashes: Hashes) -> None:
    """Writes the cache; in a read-only directory nothing is cached, and every verification hashes again."""
    temporary = directory / f"{CACHE_FILE}.{os.getpid()}"
    with suppress(OSError):
        temporary.write_text(json.dumps({name: [*seen, sha256] for name, (seen, sha256) in hashes.items()}))
        temporary.replace(directory / CACHE_FILE)
