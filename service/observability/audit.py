"""The audit log: who changed or used what, one line of JSON for each action, in a file of its own."""

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from service.errors import ErrorCode
from service.observability.log_writer import LogWriter
from service.observability.record import Record

REFUSALS = 60  # lines a minute and process about callers who are not let in; the others are counted in one line
REFUSED = (ErrorCode.INVALID_API_KEY, ErrorCode.INSUFFICIENT_SCOPE)
LONGEST = 256  # characters of a text that comes from outside
MOST = 64  # items of a list
STORED = "/v1/responses/{id}"


class AuditLog:
    """Writes what happened, without waiting. `requests` says whether each use of a model is an action.

    Strangers cannot fill the disk: of the requests that are refused for want of a key only so many get a line, and the
    file is of bounded size. `clock` is in Unix seconds.
    """

    def __init__(self, writer: LogWriter, requests: bool, clock: Callable[[], float] = time.time) -> None:
        self._writer, self._requests, self._clock = writer, requests, clock
        self._minute, self._refused = 0, 0

    def write(self, action: str, **fields: object) -> None:
        """Writes a line; never blocks and never raises."""
        self._writer.write(audit_line(self._clock(), action, fields))

    def observe(self, scope: Mapping[str, Any], record: Record) -> None:
        """Writes what a request that has ended did, if that is an action."""
        who = {"key": record.key, "tenant": record.tenant, "request_id": record.request_id}
        if record.code in REFUSED:
            self._refuse(who, scope, record)
        elif record.endpoint == STORED and scope["method"] == "DELETE" and record.status == 200:
            self.write("response_deleted", **who, response=scope["path"].rpartition("/")[2])
        elif self._requests and record.model:
            used = {name: getattr(record, name) for name in ("endpoint", "model", "status", "outcome")}
            tokens = {name: getattr(record, name) for name in ("prompt_tokens", "completion_tokens")}
            self.write("model_used", **who, **used, **tokens)

    def _refuse(self, who: dict[str, str], scope: Mapping[str, Any], record: Record) -> None:
        self.expire()
        self._refused += 1
        if self._refused <= REFUSALS:
            client = (scope.get("client") or ("",))[0]
            seen = {"client": client, "endpoint": record.endpoint, "status": record.status, "code": record.code}
            self.write("refused", **who, **seen)

    def expire(self) -> None:
        """Once a minute is over, writes how many refusals in it got no line."""
        minute = int(self._clock() // 60)
        if minute != self._minute:
            self._count_others()
            self._minute = minute

    def _count_others(self) -> None:
        if self._refused > REFUSALS:
            self.write("refused_more", count=self._refused - REFUSALS)
        self._refused = 0

    def close(self) -> None:
        """Writes what is left."""
        self._count_others()
        self._writer.close()


def audit_line(now: float, action: str, fields: dict[str, Any]) -> str:
    """One action at `now`, in Unix seconds, as a line of printable ASCII JSON. Pure."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
    return json.dumps(
        {"time": stamp, "event": "audit", "action": action, **{name: _short(value) for name, value in fields.items()}}
    )


def _short(value: Any) -> Any:
    if isinstance(value, str):
        return value[:LONGEST]
    if isinstance(value, list):
        return [*map(_short, value[:MOST]), *([f"and {len(value) - MOST} more"] if len(value) > MOST else [])]
    return value
