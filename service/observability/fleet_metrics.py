"""The metrics of the fleet's present state: demand, replicas, engines, and what their GPUs are used for."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry

from service.observability.series import Counter, Gauge

SHARED = "livesum"  # over the gateway processes of a machine: each has a part of the requests
SAME = "livemax"  # each process sees the same engines


class FleetMetrics:
    """Set several times a second by the gateway, also for models that no request has asked for yet.

    `shared` says that several processes write to the files of prometheus_client, which nothing can be removed from.
    """

    def __init__(self, registry: CollectorRegistry, shared: bool = False) -> None:
        self._shared = shared

        def gauge(name: str, text: str, labels: tuple[str, ...], mode: str = SAME) -> Gauge:
            return Gauge(f"roundhouse_{name}", text, labels, registry=registry, multiprocess_mode=mode)  # type: ignore[arg-type]

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"roundhouse_{name}", text, labels, registry=registry)

        of_model, of_replica = ("model",), ("model", "replica")
        self.in_flight = gauge("requests_in_flight", "Requests that hold a slot at a replica.", of_model, SHARED)
        self.sequences_in_flight = gauge(
            "sequences_in_flight",
            "Sequences that the requests in flight are for the engines: their prompts times choices, or their inputs.",
            of_model, SHARED,
        )  # fmt: skip
        self.queued = gauge("requests_queued", "Requests waiting for a slot at a replica.", of_model, SHARED)
        self.demand = gauge(
            "demand", "Requests of a model, in flight and queued: the value for an autoscaler.", of_model, SHARED
        )
        self.arrived = counter(
            "requests_arrived",
            "Requests that came for a model, counted when they come: also those that wait or find no capacity.",
            "model",
        )
        self.replicas = gauge("replicas", "Replicas by state.", ("model", "state"))
        self.ejected = gauge("replicas_ejected", "Replicas that get no requests for now, since some failed.", of_model)
        self.concurrency_limit = gauge(
            "concurrency_limit", "Sequences that may be in flight at the ready replicas, as adapted to their load.",
            of_model, SHARED,
        )  # fmt: skip
        self.engine_restarts = gauge(
            "engine_restarts",
            "How often a replica's engine was started again after a crash or a hang.",
            of_replica,
        )
        self.start_seconds = gauge(
            "engine_start_seconds", "How long each phase of the last start of a replica's engine took.",
            (*of_replica, "phase"),
        )  # fmt: skip
        self.engine_running = gauge("engine_requests_running", "Requests in the engine's batch.", of_replica)
        self.engine_waiting = gauge("engine_requests_waiting", "Requests that wait within the engine.", of_replica)
        self.kv_cache = gauge("engine_kv_cache_usage_ratio", "Used part of the engine's KV cache, 0 to 1.", of_replica)
        self.budget_used = gauge(
            "tenant_budget_used_ratio",
            "Used part of a tenant's budget, 0 to 1: of a minute's until it refills, of a day's until midnight UTC.",
            ("tenant", "budget"),
        )
        self.ejections = counter("ejections", "How often a replica was ejected.", "model")
        self.gpu_seconds = counter(
            "gpu_seconds", "GPU time of running engines: busy while a request is in flight at the model, else idle.",
            "model", "use",
        )  # fmt: skip
        self.share_memory = gauge(
            "share_memory_bytes", "Memory that engines have together, of the machine or of each of the share's cards.",
            ("share",),
        )  # fmt: skip
        self.share_taken = gauge(
            "share_taken_memory_bytes", "What engines take of a share: those that are there, come, go or sleep.",
            ("share",),
        )  # fmt: skip
        self.share_changes = gauge(
            "share_changes",
            "How often a model that shares memory was loaded, stopped to make room, put to sleep (slept) and woken.",
            ("model", "change"),
        )  # fmt: skip
        self.share_wait = gauge(
            "share_wait_seconds",
            "Seconds for which a model that shares memory has waited for room, with requests, in all.", of_model,
        )  # fmt: skip
        self.cost = counter("cost", "GPU time at the fleet file's price, in its currency.", "model", "use")

    def forget_replica(self, model: str, replica: str) -> None:
        """Removes the series of a replica that is gone; from shared files nothing can be removed."""
        if self._shared:
            return
        gauges = self.engine_restarts, self.engine_running, self.engine_waiting, self.kv_cache, self.start_seconds
        for one in gauges:
            one.remove_by_labels({"model": model, "replica": replica})

    def forget_budget(self, tenant: str, budget: str) -> None:
        """Removes the series of a budget that is gone; in shared files it is unused."""
        if self._shared:
            self.budget_used.labels(tenant, budget).set(0)
        else:
            self.budget_used.remove(tenant, budget)

    def set_replicas(self, counts: Iterable[tuple[str, str, int]]) -> None:
        """Sets the replica gauge from rows of (model, state, count)."""
        for model, state, count in counts:
            self.replicas.labels(model, state).set(count)
