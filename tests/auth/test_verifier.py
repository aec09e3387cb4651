"""Tokens that were verified are known, for as long as their keys and the configuration count."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from service.auth import issuer, verifier
from service.auth.keys import digest
from service.auth.sign_on import SignOn
from service.auth.tokens import TokenError, verify
from service.auth.verifier import Verifier
from tests.support.issuers import NAME, jwk, key_set, token
from tests.support.waiting import until


def sign_on(path: Path, **members: Any) -> SignOn:
    given = {"issuer": NAME, "audience": "roundhouse", "jwks": str(path), "tenants": {"ml": "acme"}, **members}
    return SignOn.model_validate(given)


def publish(path: Path, *rows: Any) -> None:
    path.write_bytes(key_set(*rows))
    path.chmod(0o600)


@asynccontextmanager
async def started(path: Path) -> AsyncIterator[Verifier]:
    reports: list[str | None] = []
    one = Verifier(sign_on(path), reports.append)
    task = asyncio.create_task(one.watch())
    await until(lambda: bool(reports), "the first fetch")
    try:
        yield one
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_a_token_is_verified_once(tmp_path: Path) -> None:
    publish(path := tmp_path / "jwks.json", jwk("a"))
    text = token().encode()
    async with started(path) as one:
        with mock.patch.object(verifier, "verify", wraps=verify) as counted:
            assert one.known(digest(text)) is None
            key = await one.key_of(text)
            assert one.known(digest(text)) is key and key.tenant == "acme"
            for bad in (token(exp=1), token("b")):
                with pytest.raises(TokenError):
                    await one.key_of(bad.encode())
                assert one.known(digest(bad.encode())) is None
            assert counted.call_count == 3


async def test_the_ones_used_last_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifier, "MAX_KNOWN", 3)
    publish(path := tmp_path / "jwks.json", jwk("a"))
    texts = [token(sub=f"user-{number}").encode() for number in range(4)]
    async with started(path) as one:
        for text in texts[:3]:
            await one.key_of(text)
        one.known(digest(texts[0]))
        await one.key_of(texts[3])
        assert [one.known(digest(text)) is not None for text in texts] == [True, False, True, True]


async def test_a_key_that_is_withdrawn_takes_its_tokens_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(issuer, "RETRY", 0.0)
    publish(path := tmp_path / "jwks.json", jwk("a"))
    old, new = token("a").encode(), token("b").encode()
    async with started(path) as one:
        await one.key_of(old)
        publish(path, jwk("b"))
        await one.key_of(new)  # fetches the keys anew
        assert one.known(digest(old)) is None and one.known(digest(new)) is not None
        with pytest.raises(TokenError, match="unknown_key"):
            await one.key_of(old)


async def test_another_configuration_forgets_what_was_verified(tmp_path: Path) -> None:
    publish(path := tmp_path / "jwks.json", jwk("a"))
    text = token().encode()
    async with started(path) as one:
        await one.key_of(text)
        one.apply(sign_on(path))
        assert one.known(digest(text)) is not None, "it is the same"
        one.apply(sign_on(path, tenants={"ml": "other"}))
        assert one.known(digest(text)) is None and (await one.key_of(text)).tenant == "other"
        one.apply(sign_on(path, audience="other"))
        with pytest.raises(TokenError, match="audience"):
            await one.key_of(text)


async def test_without_keys_nothing_can_be_verified(tmp_path: Path) -> None:
    async with started(tmp_path / "missing.json") as one:
        with pytest.raises(TokenError, match="unavailable"):
            await one.key_of(token().encode())
        with pytest.raises(TokenError, match="issuer"):
            await one.key_of(token(iss="https://other.example").encode())
