"""Builds the objects of the gateway and wires them together; the order of the middleware is one expression."""

import asyncio
import contextlib
import os
import random
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from service.admission.budgets import day_of
from service.admission.gate import Admission
from service.auth.keys import Keys
from service.catalog.catalog import Catalog
from service.checks.checks import Checks
from service.checks.process import command
from service.config.settings import Settings
from service.engine import process_files
from service.fleet.changes import changes
from service.fleet.fleet import Fleet
from service.gateway.auditing import configuration, file_digest, key_changes, open_audit, open_prompt_log
from service.gateway.authentication import KeyMiddleware
from service.gateway.check_log import CheckLog
from service.gateway.cors import CorsMiddleware
from service.gateway.endpoints import Endpoints
from service.gateway.engine_demand import EngineDemand
from service.gateway.evidence import EvidenceWitness
from service.gateway.gauges import FleetGauges
from service.gateway.metric_pages import MetricPages
from service.gateway.middleware import ErrorMiddleware, LimitsMiddleware, RecordMiddleware
from service.gateway.scale_to_zero import Activator
from service.gateway.share_gauges import ShareGauges
from service.gateway.share_wants import WantsWriter
from service.gateway.sites import ANY, SiteMiddleware, allowed_hosts
from service.gateway.storage import open_ledger, open_shared_budgets, open_store
from service.gateway.versions import Versions
from service.observability.background import keep_running
from service.observability.log import open_log
from service.observability.metrics import Metrics
from service.observability.trace_settings import TraceSettings
from service.observability.tracer import Tracer
from service.relay.relay import Relay
from service.relay.screening import Screening
from service.relay.stored import StoredResponses
from service.server.asgi import App
from service.server.connection import Connection
from service.server.timeouts import ClientTimeouts
from service.transport.pool import ConnectionPool
from service.upstreams.limit import ceiling
from service.upstreams.upstreams import Upstreams

if TYPE_CHECKING:
    from service.gateway.sign_on import SignedOnUsers

TICK = 0.25  # seconds between two runs of the housekeeping
WORKER = "m"  # the kind of file by which a process that writes metrics says that it lives


class Gateway:
    """The gateway as an ASGI app (`app`), and its reload, draining and background tasks.

    `metrics_dir` is prometheus_client's multiprocess folder; None where there is only one worker. `keys` are the API
    keys, None where none is asked for, and `traces` say how traces are made, None where none are.
    """

    def __init__(
        self, settings: Settings, catalog: Catalog, fleet: Fleet, metrics_dir: Path | None = None,
        keys: Keys | None = None, traces: TraceSettings | None = None,
    ) -> None:  # fmt: skip
        assert settings.run_dir
        self._fleet, self._run_dir, self._gateways = fleet, settings.run_dir, settings.gateway_processes
        self.metrics = Metrics(metrics_dir, settings.genai_metrics)
        self.transport = ConnectionPool(settings.engine_key.get_secret_value())
        left_out = self.metrics.log_lines_left_out
        self.log = open_log(settings, self.metrics.log_lines_dropped.inc, lambda why: left_out.labels(why).inc())
        self._tracer = Tracer(traces, self.metrics) if traces else None
        self._settings, self._audit = settings, open_audit(settings, self.metrics)
        self.upstreams = Upstreams(fleet, settings, self.transport, time.monotonic)
        self.admission = Admission(
            settings, time.monotonic, random.random, shared=open_shared_budgets(settings, self.metrics)
        )
        self._gauges = FleetGauges(self.metrics.fleet, self.upstreams, self.admission, self._gateways)
        self._share_gauges = ShareGauges(self.metrics.fleet, fleet, settings.run_dir)
        self._stored = StoredResponses(open_store(settings, self.metrics), settings.max_body_bytes)
        self._checks = Checks(
            command(settings.check_memory_bytes, settings.check_timeout), settings.check_processes,
            settings.check_timeout, settings.queue_timeout + settings.check_timeout,
            CheckLog(self.metrics, self.log),
        )  # fmt: skip
        self._prompt_log = open_prompt_log(settings, fleet, self.metrics)
        self._ledger = open_ledger(settings, self.metrics)
        self._relay = Relay(
            fleet, catalog, self.upstreams, self.admission, self.transport, settings, time.monotonic, self._stored,
            Screening(self._checks, settings.check_images), self._prompt_log, self.metrics, self._ledger,
        )  # fmt: skip
        metric_pages = MetricPages(self.render_metrics, self.upstreams, self.transport)
        self._endpoints = Endpoints(
            fleet, self.upstreams, self._relay, Versions(self.upstreams, self.transport), metric_pages,
            self.is_ready, settings, self._stored, self.admission,
        )  # fmt: skip
        self._activator = Activator(fleet)
        self._wants = WantsWriter(fleet, settings.run_dir, self.upstreams, self.admission)
        self._witness = EvidenceWitness(self.upstreams, self._relay.shapes_at, self.metrics, settings.run_dir)
        # Each gets the next one's method: calling an object costs twice as much.
        app: App = LimitsMiddleware(self._endpoints.__call__, settings.max_header_bytes).__call__
        hosts = allowed_hosts(settings.host, settings.allowed_host_names)
        if ANY not in hosts:
            app = SiteMiddleware(app, hosts).__call__
        self._users = self._signed_on_users(fleet)
        self._key_middleware = KeyMiddleware(
            app, {} if keys is None and self._users else keys, self._users, console=settings.console
        )
        self._cors_middleware = CorsMiddleware(ErrorMiddleware(self._key_middleware.__call__).__call__, fleet.cors)
        self._record_middleware = RecordMiddleware(
            self._cors_middleware.__call__, self.metrics, self._endpoints.name_of, self.log,
            [one.observe for one in (self._audit, self._endpoints.console) if one],
            self._ledger.end if self._ledger else None, self._tracer,
        )  # fmt: skip
        self.app: App = self._record_middleware.__call__
        self._client_timeouts = ClientTimeouts(
            keep_alive=settings.keep_alive_timeout, write=settings.client_write_timeout
        )

    def _signed_on_users(self, fleet: Fleet) -> "SignedOnUsers | None":
        if fleet.sign_on is None:
            return None
        from service.gateway.sign_on import SignedOnUsers  # slow to import, and seldom needed

        return SignedOnUsers(fleet.sign_on, self.metrics, self.log)

    def connection(self, **options: Any) -> Callable[..., Connection]:
        """The protocol class of the server, for this gateway; `options` are more arguments of `Connection`."""
        return partial(
            Connection, gateway_app=self.app, timeouts=self._client_timeouts,
            on_invalid=self._record_middleware.record_invalid, **options,
        )  # fmt: skip

    def is_ready(self) -> bool:
        """Whether it should get traffic: it is not draining, and a model is ready or scales from zero on demand."""
        available = (
            upstream.served.min_replicas == 0 or upstream.condition()[0] == "ready" for upstream in self.upstreams
        )
        return not self._record_middleware.draining and any(available)

    def apply(self, fleet: Fleet) -> None:
        """Serves this fleet from now on; requests in flight finish with the one they started with."""
        if self._audit:
            digest = file_digest(self._settings.fleet)
            self._audit.write("fleet_reloaded", changes=changes(self._fleet, fleet), fleet_sha256=digest)
        for alias in sorted(fleet.shares):
            if fleet.shares[alias] != self._fleet.shares.get(alias):
                self.log.event("weights", alias=alias, weights=fleet.shares[alias])
        self._fleet = fleet
        self.upstreams.apply(fleet)
        self._relay.apply(fleet)
        self._endpoints.apply(fleet)
        self._cors_middleware.policy = fleet.cors
        if self._prompt_log:
            self._prompt_log.use(fleet.redact)
        self.admission.apply(fleet)
        if self._users and fleet.sign_on:
            self._users.apply(fleet.sign_on)

    def use_keys(self, keys: Keys | None) -> None:
        """Asks new requests for one of these keys; None asks for none."""
        if self._audit:
            self._audit.write("keys_reloaded", changes=key_changes(self.keys, keys))
        self._key_middleware.keys = keys

    @property
    def keys(self) -> Keys | None:
        """The API keys that requests are asked for; None if they are not asked for one."""
        return self._key_middleware.keys

    def log_reload(self, problems: list[str]) -> None:
        """Logs the result of a reload of the fleet file and sets its metric; no problems means success."""
        self.metrics.last_reload_successful.set(not problems)
        self.metrics.reloads.labels("fleet", "refused" if problems else "applied").inc()
        self._log_reload("reload", "fleet stays", problems)

    def log_keys_reload(self, problems: list[str]) -> None:
        """Logs the result of a reload of the keys file and sets its metric; no problems means success."""
        self.metrics.last_keys_reload_successful.set(not problems)
        self.metrics.reloads.labels("keys", "refused" if problems else "applied").inc()
        self._log_reload("keys_reload", "keys stay", problems)

    def _log_reload(self, event: str, remains: str, problems: list[str]) -> None:
        outcome = f"refused: the previous {remains} in use" if problems else "in use"
        self.log.event(event, "error" if problems else "info", outcome=outcome, problems=problems)
        if self._audit and problems:
            self._audit.write(f"{event}_refused", problems=problems)

    def start_draining(self) -> None:
        """Makes readiness fail, and closes client connections after their next response."""
        self._record_middleware.draining = True

    def abort_requests(self) -> None:
        """Ends all requests in flight; each client gets an error."""
        self._relay.end()

    def render_metrics(self) -> bytes:
        """The current metrics of all gateway processes that live, in Prometheus' text format."""
        self.update_gauges()
        self.metrics.forget_dead_workers({pid for pid, _ in process_files.read(self._run_dir, WORKER)})
        return self.metrics.text()

    def count_failure(self, task: str, _: BaseException) -> None:
        """Counts a failure of a background task."""
        self.metrics.background_task_failures.labels(task).inc()

    def update_gauges(self) -> None:
        """Sets all gauges to their current values."""
        self.metrics.models = {served.id for served in self._fleet.served}
        self.metrics.replicas = {replica.id for upstream in self.upstreams for replica in upstream.replicas}
        self.metrics.idempotency_cache_bytes.set(self._relay.idempotency_cache_bytes)
        self._gauges.update(self._fleet.tenants, time.monotonic())
        self._share_gauges.update(time.monotonic())
        self.metrics.publish()

    def wanted_engines(self) -> list[int]:
        """The on-demand engines that should run now, as indices in start order."""
        slots = {served.id: ceiling(served, self._gateways) for served in self._fleet.served}
        demand = {served.id: self.admission.peak_demand(served.id) for served in self._fleet.served}
        return self._activator.wanted_engines(self._fleet, demand.__getitem__, slots.__getitem__, time.monotonic())

    @contextlib.asynccontextmanager
    async def background_tasks(self) -> AsyncIterator[None]:
        """Runs the watch over the upstreams and the housekeeping while the context lasts."""
        if self._audit:
            self._audit.write("started", process=os.getpid(), **configuration(self._settings))
        self.upstreams.refresh()
        if self._ledger:
            day, workers = day_of(time.time()), self._settings.workers
            used = await self._ledger.used_on(day)
            self.admission.restore(
                day, {name: (count / workers, tokens / workers) for name, (count, tokens) in used.items()}
            )
        watch = partial(self.upstreams.watch, self._upstreams_changed, self.count_failure)
        tasks = [
            asyncio.create_task(keep_running(name, loop, self.count_failure))
            for name, loop in (
                ("upstreams", watch),
                ("housekeeping", self._housekeeping),
                ("stored responses", self._stored.watch),
                *((("signing keys", self._users.watch),) if self._users else ()),
                *((("usage ledger", self._ledger.watch),) if self._ledger else ()),
                *((("shared budgets", self.admission.shared.watch),) if self.admission.shared else ()),
            )
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            self.metrics.publish()
            self.transport.close()
            await self._checks.close()
            await self._stored.close()
            if self.admission.shared:
                await self.admission.shared.close()
            if self._ledger:
                await self._ledger.close()
            if self._tracer:
                await self._tracer.close()
            self.log.close()
            if self._prompt_log:
                self._prompt_log.close()
            if self._audit:
                self._audit.write("stopped", process=os.getpid())
                self._audit.close()

    async def start_checking(self) -> None:
        """Starts the first process that checks schemas and images, so that no request waits for it."""
        await self._checks.warm()

    def _upstreams_changed(self) -> None:
        self._witness.look()
        self.admission.wake_waiters()

    async def _housekeeping(self) -> None:
        """Every TICK: updates gauges, expires what is stale, and tells the supervisors what is wanted of engines."""
        demand = EngineDemand(self._run_dir, os.getpid())
        while True:
            self.update_gauges()
            self._endpoints.sample(time.monotonic())
            self._relay.expire()
            self.transport.expire()
            if self._audit:
                self._audit.expire()
            demand.write(self.wanted_engines(), self._fleet)
            self._wants.write(time.monotonic())
            due_at = time.monotonic() + TICK
            await asyncio.sleep(TICK)
            self.metrics.event_loop_lag.observe(max(0.0, time.monotonic() - due_at))
