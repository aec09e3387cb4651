"""Clients of a soak test: each sends requests in a loop and checks the responses; all can be paused."""

import asyncio
import random
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import httptools

from bench.soaking.answers import Told, Verdict, judged, same
from bench.soaking.requests import Ask, drawn

LONGEST = 180.0  # seconds after which an answer counts as lost: every deadline of the gateway is shorter
SMALL = 4096  # bytes that a slow reader's socket holds
SIP, PAUSE = 1024, 0.02  # bytes that a slow reader takes, and the seconds between
THINK = 0.2  # seconds at most between an answer and the next request


class Traffic:
    """So many clients of the gateway on a port of 127.0.0.1, which ask for `model`. Verdicts are counted."""

    def __init__(self, port: int, model: str, clients: int, seed: int) -> None:
        self._port, self._model, self._clients, self._seed = port, model, clients, seed
        self._go, self._quiet, self._busy = asyncio.Event(), asyncio.Event(), 0
        self.endings: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.twice = 0  # keys for which an answer was generated more than once

    @asynccontextmanager
    async def flowing(self) -> AsyncIterator[None]:
        """Lets the clients run."""
        self._go.set()
        clients = [asyncio.create_task(self._client(number)) for number in range(self._clients)]
        try:
            yield
        finally:
            for client in clients:
                client.cancel()
            found = await asyncio.gather(*clients, return_exceptions=True)
        for one in found:
            if isinstance(one, Exception):
                raise one

    async def rest(self) -> None:
        """Lets no client ask anything any more, and waits until all have their answers."""
        self._go.clear()
        if self._busy:
            self._quiet.clear()
            await self._quiet.wait()

    def resume(self) -> None:
        """Lets the clients go on."""
        self._go.set()

    async def _client(self, number: int) -> None:
        source = random.Random(self._seed * 1000 + number)
        turn = 0
        while True:
            await self._go.wait()
            turn += 1
            self._busy += 1
            try:
                await self._turn(drawn(source, f"{number}-{turn}"), source)
            finally:
                self._busy -= 1
                if not self._busy:
                    self._quiet.set()
            await asyncio.sleep(source.uniform(0, THINK))

    async def _turn(self, ask: Ask, source: random.Random) -> None:
        if ask.key is None:
            self._count(await self._asked(ask))
            return
        # Twice at the same time, of which the second is refused and one may leave, and once more when that is over.
        leaving = source.uniform(0.0, 0.5) if source.random() < 0.5 else None
        both = await asyncio.gather(self._asked(ask), self._asked(replace(ask, leaving=leaving)))
        verdicts = [*both, await self._asked(ask)]
        for verdict in verdicts:
            self._count(verdict)
        self.twice += not same(verdicts)

    def _count(self, verdict: Verdict) -> None:
        self.endings[verdict.ending] += 1
        self.reasons[f"{verdict.ending} {verdict.why}".strip()] += 1

    async def _asked(self, ask: Ask) -> Verdict:
        return judged(ask, await fetch(self._port, ask, self._model))


class _Body:
    """Takes an answer's framing off."""

    def __init__(self) -> None:
        self.told = Told()
        self.parser = httptools.HttpResponseParser(self)

    def on_headers_complete(self) -> None:
        self.told.status = self.parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        self.told.body += body

    def on_message_complete(self) -> None:
        self.told.whole = True


async def fetch(port: int, ask: Ask, model: str) -> Told:
    """Asks once, on a connection of its own, and reads as that client does."""
    body = _Body()
    one = socket.socket()
    if ask.slow:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
    one.setblocking(False)
    try:
        async with asyncio.timeout(LONGEST if ask.leaving is None else ask.leaving):
            await asyncio.get_running_loop().sock_connect(one, ("127.0.0.1", port))
            await _converse(one, ask, model, body)
    except TimeoutError:
        body.told.left = ask.leaving is not None and not body.told.whole
    except (OSError, httptools.HttpParserError):
        pass  # what came until then is judged
    finally:
        one.close()
    return body.told


async def _converse(one: socket.socket, ask: Ask, model: str, body: _Body) -> None:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(one, ask.wire(model))
    while not body.told.whole:
        data = await loop.sock_recv(one, SIP if ask.slow else 2**16)
        if not data:
            with suppress(httptools.HttpParserError):
                body.parser.feed_data(b"")
            return
        body.parser.feed_data(data)
        if ask.slow:
            await asyncio.sleep(PAUSE)
