"""Where signing keys are fetched from, over real sockets, and what is not believed."""

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from service.auth import jwks_source
from service.auth.jwks_source import MAX_BYTES, FetchError, JwksSource
from service.auth.sign_on import SignOn
from tests.support.issuers import NAME, Provider, jwk, key_set, provider


def sign_on(issuer: str, jwks: str | None = None) -> SignOn:
    return SignOn.model_validate({"issuer": issuer, "audience": "rh", "jwks": jwks, "default_tenant": "default"})


async def problem(issuer: str, jwks: str | None = None) -> str:
    with pytest.raises(FetchError) as caught:
        await JwksSource().fetch(sign_on(issuer, jwks))
    return str(caught.value)


async def test_the_issuers_configuration_says_where_the_keys_are() -> None:
    async with provider(jwk("a")) as one:
        assert await JwksSource().fetch(sign_on(one.url)) == key_set(jwk("a"))
        assert await JwksSource().fetch(sign_on(NAME, f"{one.url}/keys")) == key_set(jwk("a"))
        assert one.asked == ["/.well-known/openid-configuration", "/keys", "/keys"]
        one.publish(jwk("a"), issuer=f"{one.url}/")  # a slash at the end is the issuer's, but not twice in a path
        assert await JwksSource().fetch(sign_on(f"{one.url}/"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"issuer": "https://id.example"}, "is of the issuer 'https://id.example'"),
        ({"issuer": None}, "is of the issuer None"),
        ({"jwks_uri": "http://id.example/keys"}, "jwks_uri: it should begin with https"),
        ({"jwks_uri": "file:///etc/passwd"}, "jwks_uri: it should be an https URL"),
        ({"jwks_uri": 3}, "jwks_uri: it should be an https URL"),
    ],
    ids=range(5),
)
async def test_a_configuration_of_another_issuer_is_not_believed(change: dict[str, Any], message: str) -> None:
    async with provider(jwk("a")) as one:
        one.publish(jwk("a"), **change)
        assert message in await problem(one.url)
        assert len(one.asked) == 1


async def test_what_is_no_answer_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    async with provider(jwk("a")) as one:
        for answer, status, message in (
            (b"<html>", "200 OK", "is no configuration of an issuer"),
            (b"[]", "200 OK", "is no configuration of an issuer"),
            (b"{}", "503 Busy", "answers 503"),
            (b"", f"302 Found\r\nlocation: {one.url}/keys", "answers 302, and redirects are not followed"),
            (b" " * (MAX_BYTES + 1), "200 OK", "is larger than"),
        ):
            one.answers["/.well-known/openid-configuration"], one.status = answer, status
            assert message in await problem(one.url)
        one.held.clear()
        with monkeypatch.context() as hurried:
            hurried.setattr(jwks_source, "TIMEOUT", 0.05)
            assert "did not answer within 0.05 s" in await problem(one.url)
    assert "cannot be reached" in await problem(one.url)


async def test_an_answer_that_never_ends_does_not_hold_the_fetch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each piece comes in time, and the whole does not."""

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        # A client that leaves with something unread resets the connection, which then has no end of file.
        with suppress(ConnectionError):
            while not reader.at_eof() and not writer.is_closing():
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.01)
        writer.close()
        left.set()

    left = asyncio.Event()
    monkeypatch.setattr(jwks_source, "TIMEOUT", 0.2)
    monkeypatch.setattr(Provider, "answer", lambda _, reader, writer: drip(reader, writer))
    async with provider() as one:
        assert "did not answer within 0.2 s" in await problem(one.url)
        await left.wait()


async def test_a_file_is_read_and_bounded(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    assert "cannot be read: No such file" in await problem(NAME, str(path))
    path.write_bytes(key_set(jwk("a")))
    path.chmod(0o644)
    assert await JwksSource().fetch(sign_on(NAME, str(path))) == key_set(jwk("a"))
    path.chmod(0o666)
    assert f"chmod go-w {path}" in await problem(NAME, str(path))
    path.chmod(0o600)
    path.write_bytes(b" " * (MAX_BYTES + 1))
    assert "is larger than" in await problem(NAME, str(path))


async def test_authorities_that_cannot_be_read_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere.pem")
    assert "the certificate authorities cannot be read" in await problem("http://127.0.0.1:1")
