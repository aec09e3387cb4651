"""Mistakes in one entry of the fleet file, and the paths that it gives."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class EntryError(Exception):
    """A mistake in one entry: `key` is the key of the entry that is wrong, and `within` leads further inside it."""

    def __init__(self, key: str, message: str, within: tuple[str | int, ...] = ()) -> None:
        super().__init__(message)
        self.key, self.message, self.within = key, message, within


@contextmanager
def mistakes_in(key: str, value: str, within: tuple[str | int, ...] = ()) -> Iterator[None]:
    """Turns whatever the file system has against the value of `key` into an EntryError."""
    try:
        yield
    except FileNotFoundError as error:
        raise EntryError(key, f"{error.filename} does not exist", within) from None
    except OSError as error:
        raise EntryError(key, f"{error.filename or value}: {error.strerror or error}", within) from None
    except (ValueError, RuntimeError) as error:  # no name that a file can have, a user without a home, links in a ring
        raise EntryError(key, f"{value}: {error}", within) from None


def existing_path(
    text: str, folder: Path, key: str, within: tuple[str | int, ...] = (), *, must_exist: bool = True
) -> str:
    """The absolute path that `text` means, relative to `folder`; raises EntryError for one that does not exist."""
    with mistakes_in(key, text, within):
        path = Path(text).expanduser()
        path = path if path.is_absolute() else (folder / path).resolve()
        if must_exist:
            path.stat()
    return str(path)
