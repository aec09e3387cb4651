"""A log whose lines a test gets."""

from typing import Any

from service.config.settings import Settings
from service.observability.log import Log
from service.observability.log_lines import encoded, text_of
from service.observability.log_writer import LogWriter
from service.observability.record import Record, log_fields


class _Lines(LogWriter):
    def __init__(self, lines: list[str]) -> None:
        super().__init__(-1)
        self._lines = lines

    def write(self, line: Any) -> None:
        self._lines.append(text_of(line))


def log_to(lines: list[str], left_out: list[str] | None = None, **settings: Any) -> Log:
    """A log that appends its lines to `lines`, and to `left_out` why a request got none."""
    reasons = [] if left_out is None else left_out
    return Log(_Lines(lines), Settings(**settings), reasons.append)


def log_line(record: Record, time: str) -> str:
    """A record's line without its end."""
    return encoded([log_fields(record, time)]).decode().removesuffix("\n")
