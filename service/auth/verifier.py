"""Verifies tokens of signed-on users, each of them once."""

from collections import OrderedDict
from collections.abc import Callable

from service.auth.issuer import Issuer
from service.auth.jwks_source import JwksSource
from service.auth.keys import Key, digest
from service.auth.sign_on import SignOn
from service.auth.tokens import TokenError, verify

MAX_KNOWN = 10_000  # tokens


class Verifier:
    """Tells whom a token stands for. `report` is called after each fetch of signing keys, as `Issuer` says.

    Tokens that were verified are known by their digest, those that were used last, until the signing keys or the
    configuration change. That they have not expired since is for the caller to look at.
    """

    def __init__(self, sign_on: SignOn, report: Callable[[str | None], None]) -> None:
        self._known: OrderedDict[bytes, Key] = OrderedDict()
        self._sign_on = sign_on
        self._issuer = Issuer(sign_on, JwksSource().fetch, self._known.clear, report)
        self.watch = self._issuer.watch

    def apply(self, sign_on: SignOn) -> None:
        """Verifies by this configuration from now on."""
        if sign_on != self._sign_on:
            self._sign_on = sign_on
            self._issuer.apply(sign_on)

    def known(self, hashed: bytes) -> Key | None:
        """Whom the token with this digest stands for, if it was verified before."""
        if (key := self._known.get(hashed)) is not None:
            self._known.move_to_end(hashed)
        return key

    async def key_of(self, token: bytes) -> Key:
        """Whom the token stands for; raises TokenError.

        Where it is signed with a key that is not in hand it waits for a fetch of the keys, if one is due or running.
        """
        try:
            return self._verified(token)
        except TokenError as error:
            if error.reason not in ("unknown_key", "unavailable") or not await self._issuer.newer():
                raise
        return self._verified(token)

    def _verified(self, token: bytes) -> Key:
        keys = self._issuer.keys
        try:
            key = verify(token, keys or {}, self._sign_on)
        except TokenError as error:
            if keys is None and error.reason == "unknown_key":
                raise TokenError("unavailable") from None
            raise
        self._known[digest(token)] = key
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)
        return key
