"""Sets the metrics of the fleet's present state, from what admission and the upstreams know."""

from collections.abc import Mapping

from service.admission.gate import Admission
from service.auth.tenants import BUDGETS, Tenant
from service.engine.status_writer import START_PHASES
from service.observability.fleet_metrics import FleetMetrics
from service.upstreams.replica import Replica
from service.upstreams.upstream import Upstream
from service.upstreams.upstreams import Upstreams

OTHER_PHASE = "other"  # its text names flags, which are not a closed set


class FleetGauges:
    """Updates `metrics`; `gateways` is the number of processes among which GPU time is divided."""

    def __init__(self, metrics: FleetMetrics, upstreams: Upstreams, admission: Admission, gateways: int) -> None:
        self._metrics, self._upstreams, self._admission, self._gateways = metrics, upstreams, admission, gateways
        self._ejections: dict[str, int] = {}
        self._arrivals: dict[str, int] = {}
        self._gpu_seconds: dict[tuple[str, str], float] = {}
        self._replicas: set[tuple[str, str]] = set()
        self._budgets: set[tuple[str, str]] = set()

    def update(self, tenants: Mapping[str, Tenant], now: float) -> None:
        """Sets all of them; `now` is in monotonic seconds."""
        self._update_budgets(tenants, now)
        self._metrics.set_replicas(self._upstreams.counts())
        replicas = {(one.served.id, replica.id) for one in self._upstreams for replica in one.replicas}
        for model, replica in self._replicas - replicas:
            self._metrics.forget_replica(model, replica)
        self._replicas = replicas
        for upstream in self._upstreams:
            self._update_model(upstream, now)

    def _update_budgets(self, tenants: Mapping[str, Tenant], now: float) -> None:
        limited = [tenant for tenant in tenants.values() if tenant.has_budgets]
        budgets = {(one.id, name) for one in limited for name in BUDGETS if getattr(one, name) is not None}
        for tenant, budget in self._budgets - budgets:
            self._metrics.forget_budget(tenant, budget)
        self._budgets = budgets
        for one in limited:
            for name, part in self._admission.used_budgets(one, now).items():
                self._metrics.budget_used.labels(one.id, name).set(part)

    def _update_model(self, upstream: Upstream, now: float) -> None:
        metrics, admission, model = self._metrics, self._admission, upstream.served.id
        metrics.in_flight.labels(model).set(admission.load(model))
        metrics.sequences_in_flight.labels(model).set(admission.sequences(model))
        metrics.queued.labels(model).set(admission.queued(model))
        metrics.demand.labels(model).set(admission.demand(model))
        ready = [replica for replica in upstream.replicas if replica.ready]
        metrics.ejected.labels(model).set(sum(not replica.breaker.closed for replica in ready))
        metrics.concurrency_limit.labels(model).set(sum(replica.limit for replica in ready))
        metrics.ejections.labels(model).inc(_growth(self._ejections, model, upstream.ejection_count))
        metrics.arrived.labels(model).inc(_growth(self._arrivals, model, upstream.arrival_count))
        self._add_gpu_time(upstream, now)
        for replica in upstream.replicas:
            self._update_replica(model, replica)

    def _add_gpu_time(self, upstream: Upstream, now: float) -> None:
        upstream.update_gpu_time(self._gateways, now)
        model, price = upstream.served.id, upstream.served.gpu_hour_price or 0.0
        for use, total in (("busy", upstream.gpu_time.busy), ("idle", upstream.gpu_time.idle)):
            seconds = total - self._gpu_seconds.get((model, use), 0.0)
            self._gpu_seconds[model, use] = total
            self._metrics.gpu_seconds.labels(model, use).inc(seconds)
            self._metrics.cost.labels(model, use).inc(seconds / 3600 * price)

    def _update_replica(self, model: str, replica: Replica) -> None:
        metrics, state, stats = self._metrics, replica.state, replica.stats
        if state:
            metrics.engine_restarts.labels(model, replica.id).set(state.restarts)
            for phase, seconds in state.start_phases.items():
                name = phase if phase in START_PHASES else OTHER_PHASE
                metrics.start_seconds.labels(model, replica.id, name).set(seconds)
        metrics.engine_running.labels(model, replica.id).set(stats.running if stats else 0)
        metrics.engine_waiting.labels(model, replica.id).set(stats.waiting if stats else 0)
        metrics.kv_cache.labels(model, replica.id).set(stats.kv_usage if stats else 0)


def _growth(known: dict[str, int], model: str, count: int) -> int:
    """By how much a model's count has grown; a model that was removed from the fleet and came back counts anew."""
    before, known[model] = known.get(model, 0), count
    return count - before if count >= before else count
