"""The error for a model that cannot serve requests now."""

import math
import time

from service.errors import ApiError, ErrorCode
from service.upstreams.upstream import Upstream

RETRY_AFTER_LOADING = 10.0  # seconds
RETRY_AFTER_ADAPTER = 1.0


def not_ready(upstream: Upstream, now: float, adapter: str | None = None) -> ApiError:
    """503: none of the model's replicas is usable, or has the `adapter`.

    With all ejected, `Retry-After` is when the first is half-open.
    """
    model = adapter or upstream.served.id
    condition, reason = upstream.adapter_condition(adapter) if adapter else upstream.condition()
    retry_after = loading_wait(upstream)
    if condition == "starting" and adapter and upstream.condition()[0] == "ready":
        retry_after = RETRY_AFTER_ADAPTER
    if condition == "ready":
        half_open_at = min((replica.breaker.retry_at for replica in upstream.replicas), default=now)
        message = f"No replica of '{model}' is available at present."
        return ApiError(ErrorCode.MODEL_UNAVAILABLE, message, retry_after=half_open_at - now)
    loading = condition in ("scaled_to_zero", "starting", "waiting")
    code = ErrorCode.MODEL_LOADING if loading else ErrorCode.MODEL_UNAVAILABLE
    why = f" ({reason})" if reason and condition != "failed" else ""
    see = f"; GET /v1/models/{model} says why" if condition == "failed" else ""
    return ApiError(code, f"'{model}' is not ready: {condition.replace('_', ' ')}{why}{see}.", retry_after=retry_after)


def full_before_its_turn(upstream: Upstream) -> ApiError:
    """503: the queue is full of an engine that is not there yet. It moves only once it is."""
    served, seconds = upstream.served, math.ceil(loading_wait(upstream))
    message = f"'{served.id}' is not ready and its queue is full ({served.max_queued}). Try again in {seconds} s."
    return ApiError(ErrorCode.OVERLOADED, message, retry_after=float(seconds))


def loading_wait(upstream: Upstream) -> float:
    """The seconds after which a client may try a model again that is not ready: when it may be, where that is known."""
    return upstream.ready_in(time.monotonic()) or RETRY_AFTER_LOADING
