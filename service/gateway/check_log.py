"""What the operator hears of the processes that check schemas and images: metrics and lines in the log."""

from collections.abc import Sequence

from service.observability.log import Log
from service.observability.metrics import Metrics

NOT_THERE = {
    "xgrammar": "schemas and grammars are not compiled before engines get them, only bounded: install xgrammar",
    "Pillow": "images are not decoded before engines get them, only their headers are read: install Pillow",
}


class CheckLog:
    """Counts checks, and logs what a new process finds and how one died."""

    def __init__(self, metrics: Metrics, log: Log) -> None:
        self._metrics, self._log = metrics, log

    def checked(self, kind: str, result: str, seconds: float) -> None:
        """Counts a check."""
        self._metrics.checks.labels(kind, result).inc()
        if result != "remembered":
            self._metrics.check_seconds.labels(kind).observe(seconds)

    def started(self, found: Sequence[str]) -> None:
        """Logs what a new process can check, and what is missing for the rest."""
        there = {name.partition(" ")[0] for name in found}
        missing = [text for name, text in NOT_THERE.items() if name not in there]
        problems = {"problems": missing} if missing else {}
        self._log.event("check_process_started", "warning" if missing else "info", found=[*found], **problems)

    def died(self, how: str) -> None:
        """Counts and logs a death."""
        self._metrics.check_process_deaths.labels(how).inc()
        self._log.event("check_process_died", "warning", how=how)
