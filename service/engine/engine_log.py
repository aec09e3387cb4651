"""Lines of an engine's log carried to the log of the service, with the model and the replica that they are of."""

import re
from collections.abc import Callable

from service.config.setting_types import CarriedLog
from service.observability.log import Log
from service.observability.log_fields import Level

LEVEL = re.compile(r"(?:\(\w[^)]* pid=\d+\) )?(DEBUG|INFO|WARNING|ERROR|CRITICAL) \d")
LEVELS: dict[str, Level] = {
    "DEBUG": "debug", "INFO": "info", "WARNING": "warning", "ERROR": "error", "CRITICAL": "error",
}  # fmt: skip
TRACEBACK = "Traceback (most recent call last)"
MAX_LINE = 8192  # characters; the whole is in the engine's own log file


def carry(log: Log, carried: CarriedLog, model: str, replica: str) -> Callable[[str, bool], None] | None:
    """What is called with each line of the engine's log as vLLM wrote it, and whether it was asked to end by then; None
    where no line is carried.

    A line without a level has that of the line before it, so that a traceback stays whole. At a stop that was asked for
    vLLM may report the end of its own core as an error: then errors are warnings.
    """
    if carried == "off":
        return None
    last: Level = "info"

    def line(text: str, ending: bool) -> None:
        nonlocal last
        if found := LEVEL.match(text):
            last = LEVELS[found[1]]
        elif TRACEBACK in text:
            last = "error"
        level: Level = "warning" if ending and last == "error" else last
        if carried == "all" or level == "error":
            log.event("engine", level, model=model, replica=replica, message=text[:MAX_LINE])

    return line
