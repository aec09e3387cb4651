"""The log on standard output: a line for each request and each event, as JSON or as text for a terminal."""

import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from functools import partial

from service.config.settings import Settings
from service.errors import ErrorCode
from service.observability import log_lines, log_text
from service.observability.log_fields import Level
from service.observability.log_writer import LogWriter
from service.observability.record import PROBES, Record, log_fields

STANDARD_OUTPUT = 1
RANKS: Mapping[str, int] = {"debug": 0, "info": 1, "warning": 2, "error": 3}
LEAST_OF_REQUESTS = RANKS["info"]
EVERY = 1 << 32  # of as many equal parts of all request ids


class Log:
    """Writes lines of events and of requests, as far as the settings want them.

    `on_left_out` is called with the reason for each request that gets no line: *level*, *probe* or *sample*.
    """

    def __init__(
        self, writer: LogWriter, settings: Settings, on_left_out: Callable[[str], object] = lambda _: None
    ) -> None:
        self._write, self._on_left_out, self._probes = writer.write, on_left_out, settings.log_probes
        self._close = writer.close
        self._least, self._bound = RANKS[settings.log_level], settings.log_sample * EVERY
        self._timestamp_second, self._timestamp = 0, ""

    def event(self, event: str, level: Level = "info", **fields: object) -> None:
        """Writes the line of an event, whose fields must be what JSON has; never blocks."""
        if RANKS[level] >= self._least:
            self._write(json.dumps({"time": self._now(), "level": level, "event": event, **fields}))

    def request(self, record: Record) -> None:
        """Writes the line of a finished request, if it gets one; never blocks."""
        if reason := self._reason_to_leave_out(record):
            self._on_left_out(reason)
        else:
            self._write(log_fields(record, self._now()))

    def close(self) -> None:
        """Writes what is queued."""
        self._close()

    def _reason_to_leave_out(self, record: Record) -> str:
        """Why a request gets no line; empty if it gets one. What went wrong does, but that no model is ready yet."""
        if self._least > LEAST_OF_REQUESTS and RANKS[record.level] < self._least:
            return "level"
        complete = record.outcome == "complete"
        if not self._probes and record.endpoint.startswith(PROBES):
            return "probe" if complete or record.code == ErrorCode.MODEL_UNAVAILABLE else ""
        # Request ids are random.
        return "sample" if complete and self._bound < EVERY and int(record.request_id[:8], 16) >= self._bound else ""

    def _now(self) -> str:
        """The UTC time in ISO 8601, formatted once per second."""
        second = int(time.time())
        if second != self._timestamp_second:
            self._timestamp_second, self._timestamp = second, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(second))
        return self._timestamp


class EventHandler(logging.Handler):
    """Writes what libraries and our own tasks log by `logging` to the log, as events."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a message with its traceback."""
        try:
            level: Level = "error" if record.levelno >= logging.ERROR else "warning"
            if record.levelno < logging.WARNING:
                level = "info" if record.levelno >= logging.INFO else "debug"
            self._log.event("message", level, logger=record.name, message=self.format(record))
        except (TypeError, ValueError, LookupError):  # a message that cannot be formatted fails nobody
            self.handleError(record)


def open_log(
    settings: Settings,
    on_drop: Callable[[int], object] = lambda _: None,
    on_left_out: Callable[[str], object] = lambda _: None,
) -> Log:
    """The log on standard output, as text where that is a terminal; `on_drop` is that of `LogWriter`."""
    terminal = os.isatty(STANDARD_OUTPUT)
    encode = log_lines.encoded
    if settings.log_format == "text" or (settings.log_format == "auto" and terminal):
        dull = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
        encode = partial(log_text.encoded, coloured=terminal and not dull)
    return Log(LogWriter(STANDARD_OUTPUT, on_drop, encode), settings, on_left_out)
