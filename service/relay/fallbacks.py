"""The models that answer a request in place of the one it was resolved to, while nothing of an answer has begun."""

from collections.abc import Callable, Iterator
from typing import Literal

from msgspec.structs import replace

from service.errors import ApiError, ErrorCode
from service.relay.call import Call
from service.routing.resolve import Target

Reason = Literal["unavailable", "queue_full", "activation_timeout"]
UNREADY = (ErrorCode.MODEL_UNAVAILABLE, ErrorCode.MODEL_LOADING, ErrorCode.UPSTREAM_ERROR)
# What a fallback may refuse where the first model would not: it is no answer to the request.
UNFIT = (ErrorCode.CONTEXT_LENGTH_EXCEEDED, ErrorCode.MAX_TOKENS_TOO_LARGE, ErrorCode.TOOLS_NOT_SERVED)


class Fallbacks:
    """The fallbacks of one request, each tried once: `models` that fit it, and what prepares the request for one."""

    def __init__(self, target: Target, models: Iterator[Target], prepare: Callable[[Target], Call]) -> None:
        self._target, self._models, self._prepare = target, models, prepare
        self._first: tuple[ApiError, Reason] | None = None

    def following(self, call: Call, error: ApiError) -> Call:
        """The request for the next model, after `call` has ended in `error` before any answer.

        Raises `error` where that is no reason to ask another model, and the error of the first model where none is
        left, or where the present one is the wrong one for this request after all.
        """
        reason = reason_for(call, error)
        if reason is None and not (self._first and error.code in UNFIT):
            raise error
        if self._first is None and reason:
            self._first = error, reason
        assert self._first
        following = self._next(call, self._first[1])
        if following is None:
            raise self._first[0]
        return following

    def _next(self, call: Call, reason: Reason) -> Call | None:
        target, record = self._target, call.record
        why = f"fallback: {reason} of {target.name}, {target.reason}"
        for other in self._models:
            try:
                following = self._prepare(replace(other, reason=why))
            except ApiError:  # such as more sequences than this model's engines take
                continue
            record.reset_attempt()
            record.estimate, record.replica = None, ""
            record.fallback, record.fallback_of = reason, target.name
            following.fall_back, following.storing, following.prefix_key = self.following, call.storing, call.prefix_key
            return following
        return None


def reason_for(call: Call, error: ApiError) -> Reason | None:
    """Why another model may answer instead; None if the error is not that of a model that cannot answer now."""
    if error.code == ErrorCode.OVERLOADED:
        return "queue_full"
    if error.code not in UNREADY:
        return None
    from_zero = call.served.min_replicas == 0 and call.upstream.condition()[0] not in ("ready", "failed")
    return "activation_timeout" if from_zero else "unavailable"
