"""Runs guardrails: asks a guard or a classifier about each text, within the step's time, and counts the verdicts."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from service.auth.tenants import Priority, Tenant
from service.errors import ApiError, ErrorCode
from service.fleet.guardrail import Guardrail
from service.guardrails.classifier import Classifiers
from service.guardrails.texts import messages_for, pieces
from service.guardrails.verdicts import READERS, Block, UnreadableVerdictError, Verdict, blocking
from service.observability.record import Trace
from service.transport.pool import TransportError

Stage = Literal["input", "output", "moderation"]
Result = Literal["passed", "blocked", "failed"]


@dataclass(frozen=True)
class Asker:
    """On whose behalf a guard is asked: the fair queue and the limits of that model count it for this tenant.

    `trace` is that of the request which is judged.
    """

    request_id: str
    tenant: Tenant
    priority: Priority
    key: str = ""  # the id of its API key
    trace: Trace | None = None


class AskModel(Protocol):
    """Asks a served guard about a conversation; returns what it says. Raises ApiError."""

    def __call__(
        self, model: str, messages: list[dict[str, Any]], time_limit: float, asker: Asker
    ) -> Awaitable[str]: ...


Observe = Callable[[str, Stage, Result, float], None]  # the step, the stage, what came of it, and seconds


class Judge:
    """Judges texts by the steps of the fleet file."""

    def __init__(
        self, ask_model: AskModel, classifiers: Classifiers, observe: Observe, clock: Callable[[], float]
    ) -> None:
        self._ask_model, self._classifiers, self._observe, self._clock = ask_model, classifiers, observe, clock

    async def check(
        self, steps: Sequence[Guardrail], texts: Sequence[str], stage: Stage, asker: Asker, answers: str | None = None
    ) -> Block | None:
        """The first block that a step sees in the texts, which with `answers` are answers to that.

        Raises ApiError 503 where a step that must not be passed over gives no verdict.
        """
        for step in steps:
            for text in texts:
                for piece in pieces(text, step.window) if text.strip() else ():
                    if block := await self._check_piece(step, piece, stage, asker, answers):
                        return block
        return None

    async def _check_piece(
        self, step: Guardrail, text: str, stage: Stage, asker: Asker, answers: str | None
    ) -> Block | None:
        try:
            return blocking(step, await self.verdict(step, text, stage, asker, answers))
        except ApiError:
            if step.on_error == "block":
                raise
            return None

    async def verdict(
        self, step: Guardrail, text: str, stage: Stage, asker: Asker, answers: str | None = None
    ) -> Verdict:
        """The verdict of a step on one text. Raises ApiError: 503 if there is none, 429 beyond the asker's limits."""
        began = self._clock()
        result: Result = "failed"
        try:
            async with asyncio.timeout(step.timeout):
                found = await self._ask(step, text, asker, answers)
            result = "blocked" if blocking(step, found) else "passed"
            return found
        except TimeoutError:
            raise _unavailable(step, f"it gave no verdict within {step.timeout:g} s") from None
        except ApiError as error:
            if error.code is ErrorCode.RATE_LIMIT_EXCEEDED:
                raise
            raise _unavailable(step, error.message.rstrip("."), error.retry_after) from None
        except (TransportError, UnreadableVerdictError) as error:
            raise _unavailable(step, str(error)) from None
        finally:
            self._observe(step.name, stage, result, self._clock() - began)

    async def _ask(self, step: Guardrail, text: str, asker: Asker, answers: str | None) -> Verdict:
        if step.model is None or step.format is None:
            return await self._classifiers.classify(step, text)
        answer = await self._ask_model(step.model, messages_for(text, answers), step.timeout, asker)
        return READERS[step.format](answer)


def _unavailable(step: Guardrail, why: str, retry_after: float | None = None) -> ApiError:
    text = f"The guardrail '{step.name}' could not judge this ({why}), and nothing passes unjudged. Try again later."
    return ApiError(ErrorCode.GUARDRAIL_UNAVAILABLE, text, retry_after=retry_after or 1.0)
