"""The error for a model that cannot serve requests now."""

from service.errors import ApiError, unavailable
from service.upstreams.upstream import Upstream

RETRY_AFTER_LOADING = 10.0  # seconds


def not_ready(upstream: Upstream, now: float) -> ApiError:
    """503: none of the model's replicas is usable. With all ejected, `Retry-After` is when the first is half-open."""
    model = upstream.served.id
    condition, reason = upstream.condition()
    if condition == "ready":
        half_open_at = min((replica.breaker.retry_at for replica in upstream.replicas), default=now)
        seconds = max(1.0, half_open_at - now)
        return unavailable(f"No replica of '{model}' is available at present.", "model_unavailable", seconds)
    code = "model_loading" if condition in ("scaled_to_zero", "starting", "waiting") else "model_unavailable"
    why = f" ({reason})" if reason and condition != "failed" else ""
    see = f"; GET /v1/models/{model} says why" if condition == "failed" else ""
    return unavailable(f"'{model}' is not ready: {condition.replace('_', ' ')}{why}{see}.", code, RETRY_AFTER_LOADING)
