"""An external engine, given by `addresses`: the gateway checks its identity, readiness and progress itself."""

import json
import logging
import time
from collections.abc import Callable
from dataclasses import replace

from service.config.settings import Settings, variable
from service.engine.probe import fetch, probe_request
from service.engine.readiness import FIRST_TOKEN, HEALTH_CHECK
from service.engine.state import Condition, EngineState
from service.engine.watchdog import Watchdog
from service.transport import pool
from service.transport.pool import ConnectionPool, RefusedError, TransportError
from service.upstreams.replica import Replica
from service.upstreams.upstream import Upstream

log = logging.getLogger("roundhouse")

IDENTITY_INTERVAL = 30.0  # seconds after which a ready engine is asked again which models it serves
SILENCE_TIMEOUT = 5.0  # seconds without any response, from the first failed poll, after which a ready engine has failed
NOT_OUR_KEY = (
    f"the engine at its address asks for an API key, and {variable('engine_key')} is not set or is another one"
)


class UnusableError(Exception):
    """Another model is served at this address, or its engine does not accept our key."""


class RemoteEngine:
    """Health-checks one replica and sets its `state` and `stats`, as a supervisor would; calls `changed` after that.

    An engine becomes ready when it lists the expected model and answers a probe request; no client's request is sent
    to it earlier. `restarts` in its state counts how often it became ready again.
    """

    def __init__(
        self,
        replica: Replica,
        upstream: Upstream,
        settings: Settings,
        transport: ConnectionPool,
        clock: Callable[[], float],
        changed: Callable[[], None],
    ) -> None:
        self._replica, self._upstream, self._transport, self._clock = replica, upstream, transport, clock
        self._changed, self._hang_timeout, self._start_timeout = changed, settings.hang_timeout, settings.start_timeout
        self._started_at = clock()
        self._identified_at = 0.0
        self._recheck = False
        self._silent_since: float | None = clock()
        self._incarnations = 0
        self._adapters: dict[str, str | None] = {}
        self._watchdog: Watchdog | None = None

    async def poll(self, recheck: bool) -> None:
        """Checks the engine, about once a second; `recheck` says that a request failed there since the last poll."""
        if self._watchdog:
            await self._watch(self._watchdog, recheck)
        else:
            await self._check_readiness()

    async def _check_readiness(self) -> None:
        try:
            await self._identify()
            if not self._incarnations:
                self._show("starting", "waiting for its first token")
            await self._send_probe()
        except UnusableError as error:
            self._show("failed", reason=str(error))
        except TransportError as error:
            if self._incarnations or self._clock() - self._started_at > self._start_timeout:
                self._show("failed", reason=f"it does not answer: {error}")
            else:
                self._show("waiting" if self._silent_since is not None else "starting", f"not ready yet: {error}")
        else:
            self._incarnations += 1
            probe = probe_request(self._upstream.served)
            self._watchdog = Watchdog(self._replica.address, probe, self._transport, self._clock, self._hang_timeout)
            self._replica.breaker.record_success()
            self._show("ready")

    async def _watch(self, watchdog: Watchdog, recheck: bool) -> None:
        """Checks whether an engine that was ready still is."""
        began, reason = self._clock(), None
        self._recheck |= recheck
        if self._recheck or self._silent_since is not None or began - self._identified_at > IDENTITY_INTERVAL:
            reason = await self._identity_problem()
        reason = reason or await watchdog.poll()
        stats, now = watchdog.stats, self._clock()
        if stats and stats.at >= began:
            self._silent_since = None
        elif self._silent_since is None:
            self._silent_since = began
        self._replica.stats = stats if stats and now - stats.at < SILENCE_TIMEOUT else None
        if reason:
            self._watchdog = self._replica.stats = None
            self._show("failed", reason=reason)

    async def _identity_problem(self) -> str | None:
        """Why the expected engine is no longer at the address; None if it is, or if one poll alone failed."""
        try:
            await self._identify()
        except UnusableError as error:
            return str(error)
        except RefusedError as error:
            return f"it no longer accepts connections: {error}"
        except TransportError as error:
            silent = self._silent_since is not None and self._clock() - self._silent_since > SILENCE_TIMEOUT
            return f"it no longer answers: {error}" if silent else None
        return None

    async def _identify(self) -> None:
        """Asks which models the engine serves; raises UnusableError if it may not, or if ours is none of them."""
        status, body = await fetch(self._transport, self._replica.address, pool.get_request("/v1/models"), HEALTH_CHECK)
        self._silent_since = None
        if status in (401, 403):
            raise UnusableError(NOT_OUR_KEY)
        if status != 200:
            raise TransportError(f"status {status} of /v1/models")
        ids = model_ids(body)
        if self._upstream.served.id not in ids:
            others = ", ".join(f"'{model_id[:64]}'" for model_id in ids[:3]) or "no model"
            raise UnusableError(f"the engine at its address serves {others} and not '{self._upstream.served.id}'")
        self._identified_at, self._recheck = self._clock(), False
        self._show_adapters({one: None for one in ids if one != self._upstream.served.id})

    async def _send_probe(self) -> None:
        """Sends a probe request; raises TransportError where it fails. A draining engine answers 200 with an abort."""
        request = pool.post_request(*probe_request(self._upstream.served))
        status, body = await fetch(self._transport, self._replica.address, request, FIRST_TOKEN)
        if status != 200 or b'"finish_reason":"abort"' in body:
            raise TransportError("it is shutting down" if status == 200 else f"the probe request got status {status}")

    def _show_adapters(self, adapters: dict[str, str | None]) -> None:
        """Notes which adapters the engine lists: it has loaded those."""
        self._adapters = adapters
        state = self._replica.state
        if state and state.adapters != adapters:
            self._replica.state = replace(state, adapters=adapters)
            self._changed()

    def _show(self, condition: Condition, phase: str = "", reason: str | None = None) -> None:
        replica, known = self._replica, self._replica.state
        if known and (known.condition, known.phase, known.reason) == (condition, phase, reason):
            return
        if condition == "failed":
            log.warning("%s: %s", replica.log_name, reason)
        model, restarts = self._upstream.served.id, max(0, self._incarnations - 1)
        replica.state = EngineState(
            replica.id, model, -1, condition, phase, reason, time.time(), restarts, adapters=self._adapters
        )
        self._changed()


def model_ids(body: bytes) -> list[str]:
    """The ids in a response of `/v1/models`; raises TransportError if it is not a list of models."""
    try:
        return [str(row["id"]) for row in json.loads(body)["data"]]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise TransportError("the response of /v1/models is not a list of models") from None
