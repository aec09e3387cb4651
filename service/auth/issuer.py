"""The signing keys of an issuer as they are in hand, and when they are fetched again."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

from service.auth import jwks
from service.auth.jwks import SigningKeys
from service.auth.jwks_source import FetchError
from service.auth.sign_on import SignOn

REFRESH = 300.0  # seconds between two fetches of keys that are in hand: a key that is withdrawn counts for so long
REREAD = 10.0  # the same for a file
RETRY = 10.0  # seconds from the end of a fetch to the next that a token with an unknown key, or a failure, can cause
FETCH_TIMEOUT = 5.0  # seconds that a request waits for a fetch
MAX_AGE = 86400.0  # seconds for which keys are used while their issuer cannot be reached

Fetch = Callable[[SignOn], Awaitable[bytes]]


class Issuer:
    """Fetches the keys of the issuer of `sign_on` while `watch` runs, and has them in `keys`; None if there are none.

    `fetch` raises FetchError. `changed` is called when there are other keys than before, and `report` after each fetch
    with what was wrong, None if nothing. `clock` is in seconds.
    """

    def __init__(
        self, sign_on: SignOn, fetch: Fetch, changed: Callable[[], None], report: Callable[[str | None], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._fetch, self._changed, self._report, self._clock = fetch, changed, report, clock
        self._wanted, self._round = asyncio.Event(), asyncio.Event()
        self._fetching = False
        self._use(sign_on)

    def _use(self, sign_on: SignOn) -> None:
        self._sign_on, self.keys, self._body = sign_on, None, b""  # type: SignOn, SigningKeys | None, bytes
        self._fetched = self._attempted = -float("inf")

    def apply(self, sign_on: SignOn) -> None:
        """Fetches the keys of this issuer from now on; those in hand are kept if they are the same issuer's."""
        if (sign_on.issuer, sign_on.jwks) != (self._sign_on.issuer, self._sign_on.jwks):
            self._use(sign_on)
            self._wanted.set()
        self._changed()

    async def watch(self) -> None:
        """Fetches the keys now and from time to time, until cancelled."""
        while True:
            failed = await self._refresh()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RETRY if failed else REREAD if self._sign_on.jwks_path else REFRESH):
                    await self._wanted.wait()

    async def newer(self) -> bool:
        """Waits for the end of a fetch, if one runs or may begin; False where the last one ended too recently."""
        if not self._fetching:
            if self._clock() - self._attempted < RETRY:
                return False
            self._wanted.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FETCH_TIMEOUT):
                await self._round.wait()
        return True

    async def _refresh(self) -> bool:
        """One fetch; whether it failed. What a fetch for an earlier configuration brought is thrown away."""
        sign_on, problem = self._sign_on, None
        self._wanted.clear()
        self._fetching = True
        try:
            body = await self._fetch(sign_on)
            keys = self.keys if body == self._body else await asyncio.to_thread(jwks.parse, body)
        except FetchError as error:
            problem = str(error)
        except ValueError as error:
            problem = f"the key set of {sign_on.issuer} is not usable: {error}"
        finally:
            self._fetching = False
        if sign_on is self._sign_on:
            self._attempted = self._clock()
            if problem is None:
                self._fetched = self._attempted
                self._replace(keys, body)
            elif self._attempted - self._fetched > MAX_AGE:
                self._replace(None, b"")
            self._report(problem)
        waiting, self._round = self._round, asyncio.Event()
        waiting.set()
        return problem is not None

    def _replace(self, keys: SigningKeys | None, body: bytes) -> None:
        if keys is not self.keys:
            self.keys, self._body = keys, body
            self._changed()
