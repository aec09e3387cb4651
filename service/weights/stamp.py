"""What was hashed last time: a file beside the manifest that makes verifying the same weights again cheap.

It holds nothing that the files' own metadata does not confirm. Whoever can write it can write the manifest too.
"""

import json
import os
from contextlib import suppress
from pathlib import Path

STAMP = ".roundhouse-verified.json"

# Size, mtime and ctime in nanoseconds, inode. The change time moves even where somebody sets the others back.
Mark = tuple[int, int, int, int]
Stamps = dict[str, tuple[Mark, str]]


def mark(path: Path) -> Mark:
    """What tells without reading it that a file is the one from last time."""
    seen = path.stat()
    return seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_ino


def read(directory: Path) -> Stamps:
    """Each file's mark and SHA-256 when it was last hashed; nothing where that is not known."""
    try:
        written = json.loads((directory / STAMP).read_text(encoding="utf-8"))
        return {name: (tuple(row[:4]), row[4]) for name, row in written.items()}
    except (OSError, ValueError, TypeError, AttributeError, IndexError):
        return {}


def write(directory: Path, stamps: Stamps) -> None:
    """Remembers the marks; in a directory that cannot be written each verification hashes again."""
    scratch = directory / f"{STAMP}.{os.getpid()}"
    with suppress(OSError):
        scratch.write_text(json.dumps({name: [*seen, sha256] for name, (seen, sha256) in stamps.items()}))
        scratch.replace(directory / STAMP)
