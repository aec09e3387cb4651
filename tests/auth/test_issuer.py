"""Signing keys in hand: when they are fetched again, how long they are kept, and that one fetch runs at a time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from service.auth import issuer
from service.auth.issuer import MAX_AGE, RETRY, Issuer
from service.auth.jwks_source import FetchError
from service.auth.sign_on import SignOn
from tests.support.issuers import NAME, jwk, key_set
from tests.support.waiting import until

FIRST, SECOND = key_set(jwk("a")), key_set(jwk("b"))
SIGN_ON = SignOn.model_validate({"issuer": NAME, "audience": "rh", "default_tenant": "default"})
ELSEWHERE = SIGN_ON.model_copy(update={"jwks": "https://id.example/other"})


@dataclass
class Watched:
    """An issuer that is watched; `answer` is what a fetch brings, or how it fails, once `may_answer` is set."""

    answer: bytes | FetchError = FIRST
    now: float = 1000.0
    asked: list[SignOn] = field(default_factory=list)
    reports: list[str | None] = field(default_factory=list)
    changes: int = 0
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.may_answer.set()
        self.issuer = Issuer(SIGN_ON, self.fetch, self.change, self.reports.append, lambda: self.now)

    async def fetch(self, sign_on: SignOn) -> bytes:
        self.asked.append(sign_on)
        await self.may_answer.wait()
        if isinstance(self.answer, FetchError):
            raise self.answer
        return self.answer

    def change(self) -> None:
        self.changes += 1

    def ids(self) -> set[str | None]:
        return {kid for kid, _ in self.issuer.keys or {} if kid}


@asynccontextmanager
async def watched(fetched: bool = True) -> AsyncIterator[Watched]:
    one = Watched()
    if not fetched:
        one.may_answer.clear()
    task = asyncio.create_task(one.issuer.watch())
    await until(lambda: len(one.reports) == 1 if fetched else bool(one.asked), "the first fetch")
    try:
        yield one
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_keys_are_fetched_again_for_a_new_one_but_not_for_every_one() -> None:
    async with watched() as one:
        assert one.ids() == {"a"} and one.changes == 1
        one.answer = SECOND
        assert not await one.issuer.newer(), "one was just fetched"
        one.now += RETRY
        assert await one.issuer.newer() and one.ids() == {"b"} and one.changes == 2
        assert not await one.issuer.newer() and len(one.asked) == 2


async def test_many_that_wait_cause_one_fetch() -> None:
    async with watched(fetched=False) as one:
        waiting = [asyncio.create_task(one.issuer.newer()) for _ in range(50)]
        await asyncio.sleep(0)
        one.may_answer.set()
        assert all(await asyncio.gather(*waiting)) and len(one.asked) == 1 and one.ids() == {"a"}


async def test_the_same_keys_change_nothing() -> None:
    async with watched() as one:
        keys = one.issuer.keys
        one.now += RETRY
        assert await one.issuer.newer()
        assert one.issuer.keys is keys and one.changes == 1 and one.reports == [None, None]


async def test_keys_are_kept_while_the_issuer_is_down_but_not_for_ever() -> None:
    async with watched() as one:
        for age, kept in ((RETRY, {"a"}), (MAX_AGE - RETRY, {"a"}), (MAX_AGE + 1, set())):
            one.answer, one.now = FetchError("it is down"), 1000.0 + age
            assert await one.issuer.newer()
            assert one.ids() == kept
        assert one.reports == [None, *["it is down"] * 3] and one.issuer.keys is None and one.changes == 2
        one.answer, one.now = FIRST, one.now + RETRY
        assert await one.issuer.newer() and one.ids() == {"a"}


async def test_a_set_without_keys_that_can_be_used_takes_none_away() -> None:
    async with watched() as one:
        for answer in (b"<html>", key_set()):
            one.answer, one.now = answer, one.now + RETRY
            assert await one.issuer.newer()
        assert one.ids() == {"a"} and all("is not usable" in (report or "") for report in one.reports[1:])


async def test_a_failed_fetch_is_tried_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(issuer, "RETRY", 0.01)
    one = Watched(FetchError("it is down"))
    task = asyncio.create_task(one.issuer.watch())
    await until(lambda: len(one.reports) > 2, "more fetches")
    one.answer = FIRST
    await until(lambda: one.ids() == {"a"}, "the keys")
    task.cancel()


async def test_what_an_earlier_configuration_asked_for_is_thrown_away() -> None:
    async with watched(fetched=False) as one:
        one.issuer.apply(ELSEWHERE)
        one.answer = SECOND
        one.may_answer.set()
        await until(lambda: len(one.reports) == 1, "the fetch for the new one")
        assert one.asked == [SIGN_ON, ELSEWHERE] and one.ids() == {"b"}
        one.issuer.apply(ELSEWHERE.model_copy(update={"audience": ("other",)}))
        assert one.ids() == {"b"}, "the keys are the same issuer's"


async def test_a_request_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(issuer, "FETCH_TIMEOUT", 0.01)
    async with watched(fetched=False) as one:
        assert await one.issuer.newer() and one.issuer.keys is None
