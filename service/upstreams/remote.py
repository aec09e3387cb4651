"""An engine that others started, watched from here: which model it serves, and whether it answers and gets on."""

import json
import time
from collections.abc import Callable

from service.config.settings import Settings
from service.engine.probe import ask, probe
from service.engine.readiness import FIRST_TOKEN, KNOCK
from service.engine.state import Condition, EngineState
from service.engine.watchdog import Watchdog
from service.transport import pool
from service.transport.pool import ConnectionPool, RefusedError, TransportError
from service.upstreams.replica import Replica
from service.upstreams.upstream import Upstream

IDENTITY = 30.0  # seconds after which a ready engine is asked again which model it serves
SILENCE = 5.0  # seconds without any answer, from the first question in vain, after which a ready engine counts as gone


class WrongModelError(Exception):
    """Another model is served at this address."""


class RemoteEngine:
    """Watches one replica and writes its `state`, as the supervisor of an engine would; calls `changed` when it did."""

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
        self._changed, self._hang, self._start_timeout = changed, settings.hang_timeout, settings.start_timeout
        self._began = clock()
        self._identified = 0.0
        self._doubted = False
        self._silent_since: float | None = clock()
        self._lives = 0
        self._watchdog: Watchdog | None = None

    async def poll(self, doubted: bool) -> None:
        """One look, once a second or so; `doubted` says that a request failed there since the last one."""
        if self._watchdog:
            await self._watch(self._watchdog, doubted)
        else:
            await self._prove()

    async def _prove(self) -> None:
        """Nothing is sent to an engine before it has said who it is and made a token."""
        try:
            await self._identify()
            if not self._lives:
                self._show("starting", "waiting for its first token")
            await self._make_token()
        except WrongModelError as error:
            self._show("failed", reason=str(error))
        except TransportError as error:
            if self._lives or self._clock() - self._began > self._start_timeout:
                self._show("failed", reason=f"it does not answer: {error}")
            else:
                self._show("waiting" if self._silent_since is not None else "starting", f"not ready yet: {error}")
        else:
            self._lives += 1
            self._watchdog = Watchdog(
                self._replica.address, probe(self._upstream.served), self._transport, self._clock, self._hang
            )
            self._replica.breaker.succeeded()
            self._show("ready")

    async def _watch(self, watchdog: Watchdog, doubted: bool) -> None:
        """Looks whether an engine that was ready still is."""
        began, reason = self._clock(), None
        self._doubted |= doubted
        if self._doubted or self._silent_since is not None or began - self._identified > IDENTITY:
            reason = await self._strange()
        reason = reason or await watchdog.poll()
        found, now = watchdog.stats, self._clock()
        if found and found.at >= began:
            self._silent_since = None
        elif self._silent_since is None:
            self._silent_since = began
        self._replica.stats = found if found and now - found.at < SILENCE else None
        if reason:
            self._watchdog = self._replica.stats = None
            self._show("failed", reason=reason)

    async def _strange(self) -> str | None:
        """Why the address no longer has our engine, if it has not."""
        try:
            await self._identify()
        except WrongModelError as error:
            return str(error)
        except RefusedError as error:
            return f"it is gone: {error}"
        except TransportError as error:
            silent = self._silent_since is not None and self._clock() - self._silent_since > SILENCE
            return f"it no longer answers: {error}" if silent else None
        return None

    async def _identify(self) -> None:
        """Asks which models are served at the address; raises WrongModelError where ours is not among them."""
        status, body = await ask(self._transport, self._replica.address, pool.get_request("/v1/models"), KNOCK)
        self._silent_since = None
        if status != 200:
            raise TransportError(f"status {status} of /v1/models")
        names = models_in(body)
        if self._upstream.served.id not in names:
            others = ", ".join(f"'{name[:64]}'" for name in names[:3]) or "no model"
            raise WrongModelError(f"{self._replica.address} serves {others} and not '{self._upstream.served.id}'")
        self._identified, self._doubted = self._clock(), False

    async def _make_token(self) -> None:
        """Asks for one token; raises TransportError where none comes. An engine that ends answers without one."""
        request = pool.post_request(*probe(self._upstream.served))
        status, body = await ask(self._transport, self._replica.address, request, FIRST_TOKEN)
        if status != 200 or b'"finish_reason":"abort"' in body:
            raise TransportError("it is ending" if status == 200 else f"status {status} for a first request")

    def _show(self, condition: Condition, phase: str = "", reason: str | None = None) -> None:
        replica, known = self._replica, self._replica.state
        if known and (known.condition, known.phase, known.reason) == (condition, phase, reason):
            return
        replica.state = EngineState(
            replica.id, self._upstream.served.id, -1, condition, phase, reason, time.time(), max(0, self._lives - 1)
        )
        self._changed()


def models_in(body: bytes) -> list[str]:
    """The names in an answer of `/v1/models`; raises TransportError for what is none."""
    try:
        return [str(row["id"]) for row in json.loads(body)["data"]]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise TransportError("the answer of /v1/models is not a list of models") from None
