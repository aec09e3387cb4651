"""The versions that run here: Roundhouse's own, and that of vLLM as each model's engines say it."""

import asyncio
import json
from collections.abc import Iterator

from service.config.release import release
from service.engine.probe import fetch
from service.transport.pool import ConnectionPool, Deadlines, TransportError, get_request
from service.upstreams.replica import Replica
from service.upstreams.upstreams import Upstreams

DEADLINES = Deadlines(connect=1.0, first_byte=1.0, idle=1.0, total=1.0)  # seconds
MAX_LENGTH = 64  # characters of a version that an engine elsewhere may have

Start = tuple[str, int]
"""One start of an engine: the id of its replica, and how often that was restarted before."""


class Versions:
    """Asks each ready engine once for its version, when a client first wants to know; a restarted one again."""

    def __init__(self, upstreams: Upstreams, transport: ConnectionPool) -> None:
        self._upstreams, self._transport = upstreams, transport
        self._known: dict[Start, str] = {}

    async def read(self) -> dict[str, object]:
        """`version` and `engines`: vLLM's release by model, several joined by a comma; without those unknown."""
        ready = list(self._ready())
        known = {start: self._known[start] for _, start, _ in ready if start in self._known}
        missing = [(start, replica) for _, start, replica in ready if start not in known]
        answers = await asyncio.gather(*(self._ask(replica) for _, replica in missing))
        known |= {start: answer for (start, _), answer in zip(missing, answers, strict=True) if answer}
        self._known = known
        engines: dict[str, set[str]] = {}
        for model, start, _ in ready:
            if start in known:
                engines.setdefault(model, set()).add(known[start])
        joined = {model: ", ".join(sorted(found)) for model, found in engines.items()}
        return {"version": release(), "engines": joined}

    def _ready(self) -> Iterator[tuple[str, Start, Replica]]:
        for upstream in self._upstreams:
            for replica in upstream.replicas:
                if replica.state and replica.ready:
                    yield upstream.served.id, (replica.id, replica.state.restarts), replica

    async def _ask(self, replica: Replica) -> str | None:
        """The version of an engine; None where it does not say."""
        try:
            status, body = await fetch(self._transport, replica.address, get_request("/version"), DEADLINES)
            version = json.loads(body)["version"] if status == 200 else None
        except (TransportError, ValueError, KeyError, TypeError, RecursionError):
            return None
        return version[:MAX_LENGTH] if isinstance(version, str) else None
