"""Signed-on users at the gateway: whom their tokens stand for, and what is counted and logged about that.

It is imported only where the fleet file has a `sign_on`: the cryptography takes 0.2 s and 9 MB.
"""

from collections.abc import Iterable

from service.auth.issuer import RETRY
from service.auth.keys import REFUSAL, Key
from service.auth.sign_on import SignOn, is_token
from service.auth.tokens import Reason, TokenError
from service.auth.verifier import Verifier
from service.errors import ApiError, ErrorCode
from service.observability.log import Log
from service.observability.log_fields import Level
from service.observability.metrics import Metrics
from service.observability.record import Record

UNAVAILABLE = "Tokens cannot be verified at present: the identity provider cannot be reached. API keys go on working."


class SignedOnUsers:
    """Verifies tokens of users, and logs what comes of fetches of signing keys.

    `known` and `apply` are those of `Verifier`.
    """

    def __init__(self, sign_on: SignOn, metrics: Metrics, log: Log) -> None:
        self._metrics, self._log = metrics, log
        self._problem: str | None = ""  # of the last fetch of signing keys; empty before the first
        self._verifier = Verifier(sign_on, self._report_fetch)
        self.known, self.apply, self.watch = self._verifier.known, self._verifier.apply, self._verifier.watch

    async def key_of(self, secrets: Iterable[bytes], record: Record) -> Key:
        """What the bearer of one of these tokens may do; `record` says why none is accepted.

        Raises ApiError: 401 as for every key that is not valid, or 503 while there is nothing to verify tokens by.
        """
        refusal = ApiError(ErrorCode.INVALID_API_KEY, REFUSAL)
        for token in filter(is_token, secrets):
            try:
                return await self._verifier.key_of(token)
            except TokenError as error:
                self._count(error.reason, record)
                if error.reason == "unavailable":
                    refusal = ApiError(ErrorCode.SIGN_ON_UNAVAILABLE, UNAVAILABLE, retry_after=RETRY)
        raise refusal

    def _count(self, reason: Reason, record: Record) -> None:
        record.reason = f"token: {reason}"
        self._metrics.sign_on_refusals.labels(reason).inc()

    def _report_fetch(self, problem: str | None) -> None:
        """Sets the metric of the last fetch of signing keys, and logs what came of it where that is news."""
        self._metrics.last_sign_on_fetch_successful.set(problem is None)
        if problem == self._problem:
            return
        self._problem = problem
        outcome = "in use" if problem is None else "failed: tokens are verified by earlier keys, if there are any"
        level: Level = "warning" if problem else "info"
        self._log.event("sign_on_keys", level, outcome=outcome, problems=[problem] if problem else [])
