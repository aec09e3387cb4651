"""Why a model cannot answer now, as the client is told."""

from service.errors import ApiError, ErrorCode
from service.upstreams.upstream import Upstream

RETRY_AFTER_LOADING = 10.0  # seconds


def not_ready(upstream: Upstream, now: float) -> ApiError:
    """503, because none of the model's replicas can be asked."""
    model = upstream.served.id
    condition, reason = upstream.condition()
    if condition == "ready":
        back = min((replica.breaker.retry_at for replica in upstream.replicas), default=now)
        message = f"No replica of '{model}' answers at present."
        return ApiError(ErrorCode.MODEL_UNAVAILABLE, message, retry_after=back - now)
    loading = condition in ("scaled_to_zero", "starting", "waiting")
    code = ErrorCode.MODEL_LOADING if loading else ErrorCode.MODEL_UNAVAILABLE
    why = f" ({reason})" if reason and condition != "failed" else ""
    see = f"; GET /v1/models/{model} says why" if condition == "failed" else ""
    return ApiError(
        code, f"'{model}' is not ready: {condition.replace('_', ' ')}{why}{see}.", retry_after=RETRY_AFTER_LOADING
    )
