"""What an evaluation keeps and reads on disk: the replies of a run, and the gateway's log."""

import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType

import click
import msgspec

from service.evaluation.calls import Reply

FILE = "replies.jsonl"


class Replies:
    """The replies of a run in its folder, by their key. They hold prompts' answers: the folder is its user's alone.

    Each is written as soon as it is there, with one call to the kernel: a kill loses only what was still asked.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError as error:
            raise click.ClickException(f"--run {folder}: {error.strerror}") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._file)
            raise click.ClickException(f"--run {folder}: another evaluation is writing there") from None
        self.by_key = self._read()

    def __enter__(self) -> "Replies":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.close(self._file)

    def add(self, reply: Reply) -> None:
        """Keeps a reply."""
        line = msgspec.json.encode(reply) + b"\n"
        try:
            written = os.write(self._file, line)
        except OSError as error:
            raise click.ClickException(f"{self.path}: {error.strerror}") from None
        if written < len(line):
            raise click.ClickException(f"{self.path}: the disk is full")
        self.by_key[reply.key] = reply

    def _read(self) -> dict[str, Reply]:
        """What is there already. A last line without its end, of a write that broke off, is cut off."""
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            os.ftruncate(self._file, whole)
        found = {}
        for number, line in enumerate(data[:whole].splitlines(), 1):
            try:
                reply = msgspec.json.decode(line, type=Reply)
            except (msgspec.DecodeError, UnicodeDecodeError):
                raise click.ClickException(f"{self.path}:{number}: is no reply of a run; take another folder") from None
            found[reply.key] = reply
        return found


def costs_of(paths: Iterable[Path], ids: Mapping[str, str]) -> dict[str, tuple[float, float]]:
    """GPU seconds and cost from a gateway's log, summed by what `ids` says of each request id."""
    found: dict[str, tuple[float, float]] = {}
    for path in paths:
        with path.open("rb") as lines:
            for line in lines:
                try:
                    row = json.loads(line)
                except ValueError:
                    continue  # what others write to the same output
                if isinstance(row, dict) and row.get("event") == "request" and row.get("request_id") in ids:
                    what = ids[row["request_id"]]
                    seconds, cost = found.get(what, (0.0, 0.0))
                    found[what] = seconds + (row.get("gpu_seconds") or 0), cost + (row.get("cost") or 0)
    return found


def write(path: Path, text: str, option: str) -> None:
    """Writes a report whole or not at all, for its user alone: it has prompts and answers in it."""
    temporary = path.with_name(path.name + ".new")
    try:
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
        temporary.replace(path)
    except OSError as error:
        raise click.ClickException(f"{option} {path}: {error.strerror}") from None
