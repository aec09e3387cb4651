"""What an autoscaler asks Prometheus: one query for each signal, each with exactly one series as its answer.

A model gets as many replicas as the largest signal wants: its value divided by what one replica can take. Requests are
counted when they arrive and not when they end, for a model that is full ends no more than it can serve. Gauges of
requests are of one gateway and are summed; every gateway sees the same engines, so of those it is the maximum.
k8s/build.py writes the queries into the Helm chart, with its template's expressions in place of the arguments.
"""

WINDOW = "1m"  # over which arrivals are counted: four scrapes


def load(model: str, namespace: str, drain_seconds: float | str, drain_cap: float | str) -> str:
    """Requests a second to be served: those that arrive, and the queued ones over `drain_seconds`.

    The queue counts for `drain_cap` requests a second at most. A replica takes what was measured for it.
    """
    arrivals = f"sum(rate(roundhouse_requests_arrived_total{_of(model, namespace)}[{WINDOW}]))"
    queued = f"sum(roundhouse_requests_queued{_of(model, namespace)})"
    return f"{arrivals} + clamp_max({queued} / {drain_seconds}, {drain_cap})"


def in_flight(model: str, namespace: str) -> str:
    """Requests that run: the floor beside `load`, so that long ones keep their replicas. The queue is capped there."""
    return f"sum(roundhouse_requests_in_flight{_of(model, namespace)})"


def demand(model: str, namespace: str) -> str:
    """Requests in flight and queued: what wakes a model, and what it is scaled by where no capacity was measured.

    It is there, and above zero while a request waits, also for a model without a replica.
    """
    return f"sum(roundhouse_demand{_of(model, namespace)})"


def kv_cache(model: str, namespace: str) -> str:
    """Full KV caches, as a sum over the replicas: 1.6 where two are 80 % full; 0 without a replica."""
    usage = f"roundhouse_engine_kv_cache_usage_ratio{_of(model, namespace)}"
    return f"sum(max by (replica) ({usage})) or vector(0)"


def _of(model: str, namespace: str) -> str:
    """The matchers; `namespace` is the gateways', which Prometheus adds when it scrapes them."""
    return f'{{model="{model}",namespace="{namespace}"}}'
