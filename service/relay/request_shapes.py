"""What an operator may know of the requests at an engine when it failed: their shapes, and nothing that they say."""

from collections import deque
from typing import Any

from service.relay.call import Call

MOST = 256  # failed requests that are remembered
RECENT = 15.0  # seconds

Shape = dict[str, Any]


def shape(call: Call, now: float) -> Shape:
    """A request that is at an engine at `now`, in seconds of the monotonic clock."""
    record = call.record
    return {
        "request_id": record.request_id,
        "endpoint": record.endpoint,
        "streamed": record.streamed,
        "sequences": call.sequences,
        "prompt_tokens": round(call.prompt_tokens),
        "prompt_tokens_estimated": not record.prompt_tokens,
        "output_tokens": record.completion_tokens or len(record.output_times),
        "images": len(call.images),
        "body_bytes": len(call.body),
        "age_s": round(now - record.started, 3),
        "at_engine_s": None if call.sent_at is None else round(now - call.sent_at, 3),
        "attempts": record.attempts,
    }


class FailedRequests:
    """The last requests whose exchange with a replica broke off: those of an engine that crashed are there no more."""

    def __init__(self) -> None:
        self._failed: deque[tuple[str, float, Shape]] = deque(maxlen=MOST)

    def add(self, replica: str, call: Call, now: float) -> None:
        """The request has just failed at the replica with this id."""
        self._failed.append((replica, now, shape(call, now)))

    def recent(self, replica: str, now: float) -> list[Shape]:
        """Those that failed there within the last seconds."""
        return [
            {**found, "failed_s_ago": round(now - at, 3)}
            for name, at, found in self._failed
            if name == replica and now - at <= RECENT
        ]
