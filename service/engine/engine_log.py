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


def carry(log: Log, carried: CarriedLog, model: str, replica: str) -> Callable[[str], None] | None:
    """What is called with each line of the engine's log as vLLM wrote it; None where no line is carried.

    A line without a level has that of the line before it, so that a traceback stays whole.
    """
    if carried == "off":
        return None
    last: Level = "info"

    def line(text: str) -> None:
        nonlocal last
        if found := LEVEL.match(text):
            last = LEVELS[found[1]]
        elif TRACEBACK in text:
            last = "error"
        if carried == "all" or last == "error":
            log.event("engine", last, model=model, replica=replica, message=text[:MAX_LINE])

    return line
