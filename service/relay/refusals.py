"""Why a model cannot answer now, as the client is told."""

from service.errors import ApiError, unavailable
from service.upstreams.upstream import Upstream

RETRY_AFTER_LOADING = 10.0  # seconds


def not_ready(upstream: Upstream, now: float) -> ApiError:
    """503, because none of the model's replicas can be asked."""
    model = upstream.served.id
    condition, reason = upstream.condition()
    if condition == "ready":
        back = min((replica.breaker.retry_at for replica in upstream.replicas), default=now)
        return unavailable(f"No replica of '{model}' answers at present.", "model_unavailable", max(1.0, back - now))
    code = "model_loading" if condition in ("scaled_to_zero", "starting", "waiting") else "model_unavailable"
    why = f" ({reason})" if reason and condition != "failed" else ""
    see = f"; GET /v1/models/{model} says why" if condition == "failed" else ""
    return unavailable(f"'{model}' is not ready: {condition.replace('_', ' ')}{why}{see}.", code, RETRY_AFTER_LOADING)
