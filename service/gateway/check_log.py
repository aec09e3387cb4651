"""What the operator hears of the processes that check schemas and images: metrics and lines in the log."""

import json
import time
from collections.abc import Callable, Sequence

from service.observability.metrics import Metrics

NOT_THERE = {
    "xgrammar": "schemas and grammars are not compiled before engines get them, only bounded: install xgrammar",
    "Pillow": "images are not decoded before engines get them, only their headers are read: install Pillow",
}


class CheckLog:
    """Counts checks, and logs what a new process finds and how one died."""

    def __init__(self, metrics: Metrics, write: Callable[[str], None]) -> None:
        self._metrics, self._write = metrics, write

    def checked(self, kind: str, result: str, seconds: float) -> None:
        """Counts a check."""
        self._metrics.checks.labels(kind, result).inc()
        if result != "remembered":
            self._metrics.check_seconds.labels(kind).observe(seconds)

    def started(self, found: Sequence[str]) -> None:
        """Logs what a new process can check, and what is missing for the rest."""
        there = {name.partition(" ")[0] for name in found}
        missing = [text for name, text in NOT_THERE.items() if name not in there]
        self._log("check_process_started", found=found, **({"problems": missing} if missing else {}))

    def died(self, how: str) -> None:
        """Counts and logs a death."""
        self._metrics.check_process_deaths.labels(how).inc()
        self._log("check_process_died", how=how)

    def _log(self, event: str, **fields: object) -> None:
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self._write(json.dumps({"time": now, "event": event, **fields}))
