"""HTTP classifiers: asked over TCP, TLS and Unix sockets, and what becomes of those that fail."""

import asyncio
import math
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from service.auth.tenants import Tenant
from service.errors import ApiError, ErrorCode
from service.fleet.guardrail import Guardrail
from service.guardrails.classifier import Classifiers, endpoint_of
from service.guardrails.judge import Asker, Judge
from service.transport import connect
from service.transport.pool import ConnectionPool
from tests.guardrails.classifier import Behaviour, FakeClassifier
from tests.support.certificates import certificate
from tests.support.each import each

ASKER = Asker("r", Tenant("t"), "default")


@asynccontextmanager
async def judging(keys: dict[str, str] | None = None) -> AsyncIterator[tuple[Judge, list[tuple[str, str]]]]:
    """A judge, and what it counted."""
    counted: list[tuple[str, str]] = []
    pool = ConnectionPool()

    async def nobody(model: str, messages: list[Any], time_limit: float, asker: Asker) -> str:
        raise AssertionError

    def observe(name: str, stage: str, result: str, seconds: float) -> None:
        assert math.isfinite(seconds)
        counted.append((name, result))

    clock = asyncio.get_running_loop().time
    yield Judge(nobody, Classifiers(pool, keys or {}), observe, clock), counted
    pool.close()


async def test_a_classifier_is_asked_with_its_own_key(tmp_path: Path) -> None:
    async with FakeClassifier().listen(tmp_path / "c.sock") as fake, FakeClassifier().listen() as other:
        steps = [
            Guardrail("words", url=f"unix:{tmp_path}/c.sock:/v1/moderations"),
            Guardrail("more", url=f"http://127.0.0.1:{other.port}/check?deep=1"),
        ]
        async with judging({"words": "secret-of-words"}) as (judge, counted):
            assert await judge.check(steps, ["fine", " "], "input", ASKER) is None
            block = await judge.check(steps, ["forbidden"], "output", ASKER, answers="what?")
        assert str(block) == "the guardrail 'words' (violence)"
        assert counted == [("words", "passed"), ("more", "passed"), ("words", "blocked")]
        (head, body), _ = fake.requests
        assert "POST /v1/moderations HTTP/1.1" in head
        assert "authorization: Bearer secret-of-words" in head
        assert body == {"input": "fine"}
        ((head, _),) = other.requests
        assert "POST /check?deep=1 HTTP/1.1" in head
        assert "secret" not in head


@pytest.mark.parametrize("behaviour", ["slow", "broken", "refusing", "chatty", "odd"])
async def test_a_classifier_that_gives_no_verdict(behaviour: Behaviour) -> None:
    async with FakeClassifier(behaviour).listen() as fake, judging() as (judge, counted):
        url = f"http://127.0.0.1:{fake.port}/"
        with pytest.raises(ApiError) as caught:
            await judge.check([Guardrail("words", url=url, timeout=0.2)], ["fine"], "input", ASKER)
        assert caught.value.code is ErrorCode.GUARDRAIL_UNAVAILABLE
        assert "guardrail 'words' could not judge this (" in caught.value.message
        passing = Guardrail("words", url=url, timeout=0.2, on_error="pass")
        assert await judge.check([passing], ["fine"], "input", ASKER) is None
        assert counted == [("words", "failed")] * 2


async def test_a_classifier_that_is_not_there() -> None:
    async with judging() as (judge, _):
        with pytest.raises(ApiError, match="Connection refused"):
            await judge.check([Guardrail("words", url="http://127.0.0.1:1/")], ["fine"], "input", ASKER)


async def test_a_certificate_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate(tmp_path))
    async with FakeClassifier().listen(context=context) as fake, judging() as (judge, _):
        step = Guardrail("words", url=f"https://127.0.0.1:{fake.port}/", timeout=5)
        connect.verifying_context.cache_clear()
        with pytest.raises(ApiError, match="TLS failed"):
            await judge.check([step], ["fine"], "input", ASKER)
        assert not fake.requests
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))
        connect.verifying_context.cache_clear()
        try:
            assert await judge.check([step], ["fine"], "input", ASKER) is None
        finally:
            connect.verifying_context.cache_clear()
        assert len(fake.requests) == 1


@each(
    ("url", "endpoint"),
    [
        ("https://a.example", ("tls:a.example:443", "a.example", "/")),
        ("https://a.example:8443/x?y=1", ("tls:a.example:8443", "a.example:8443", "/x?y=1")),
        ("http://[::1]:80/x", ("[::1]:80", "[::1]:80", "/x")),
        ("unix:/run/c.sock:/v1", ("/run/c.sock", "localhost", "/v1")),
    ],
)
def test_where_a_classifier_is(url: str, endpoint: tuple[str, str, str]) -> None:
    assert endpoint_of(url) == endpoint
