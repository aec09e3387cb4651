"""Users who sign on with an identity provider: what their tokens open at a gateway, and that others open nothing."""

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from service.auth import issuer
from service.auth.keys import Key, digest
from tests.conftest import Start
from tests.support import fleets
from tests.support.exchanges import CHAT
from tests.support.gateways import HOUSE, RunningGateway
from tests.support.issuers import NAME, Provider, jwk, mock_provider, private_key, provider, token
from tests.support.waiting import until

API_KEY = "rh_an-api-key-0123456789"
KEYS = {digest(API_KEY.encode()): Key("acme-1", "acme")}


def house(url: str, **members: str) -> str:
    """A fleet whose users sign on with the provider at `url`."""
    groups = "ml: acme, ops: {tenant: other, endpoints: [metrics]}, small: {tenant: other, models: [pebble-chat]}"
    given = {"issuer": url, "audience": "roundhouse", **members, "tenants": f"{{{groups}}}"}
    rows = "".join(f"  {name}: {value}\n" for name, value in given.items())
    return f"{HOUSE}\ntenants: {{acme: {{}}, other: {{}}}}\nsign_on:\n{rows}"


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


async def ask(gateway: RunningGateway, secret: str, model: str = "pebble-chat") -> tuple[int, str | None]:
    """The status of a request with this key or token, and the code of its error."""
    answer = await gateway.http.post(CHAT.path, json=CHAT.body() | {"model": model}, headers=bearer(secret))
    return answer.status_code, answer.json().get("error", {}).get("code")


def refusals(gateway: RunningGateway) -> dict[str, float]:
    found = re.findall(r'sign_on_refusals_total\{reason="(\w+)"\} (\d+)', gateway.gateway.render_metrics().decode())
    return {reason: float(count) for reason, count in found}


@pytest.fixture(scope="module", name="mock_provider")
def a_real_provider() -> Iterator[str]:
    with mock_provider() as url:
        yield url


async def signed_on(url: str, client_id: str) -> str:
    """The ID token that alice gets by signing on to a client, by the authorization code as in a browser."""
    asked = {
        "client_id": client_id, "redirect_uri": "http://127.0.0.1:1/back", "response_type": "code", "scope": "openid",
    }  # fmt: skip
    alone = httpx.Limits(max_keepalive_connections=0)  # it closes one that nobody has used for seconds
    async with httpx.AsyncClient(base_url=url, trust_env=False, verify=False, limits=alone) as http:
        answer = await http.post("/oauth2/authorize", params=asked, data={"sub": "alice@example.com"})
        (code,) = parse_qs(urlsplit(answer.headers["location"]).query)["code"]
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": asked["redirect_uri"]}
        answer = await http.post("/oauth2/token", data=form, auth=(client_id, "secret"))
        found: str = answer.json()["id_token"]
        return found


async def test_a_user_of_a_real_provider_gets_in(mock_provider: str, start: Start) -> None:
    import openai  # takes a second of each process that collects tests

    gateway = await start(house(mock_provider), keys=KEYS)
    mine, anothers = await signed_on(mock_provider, "roundhouse"), await signed_on(mock_provider, "another-app")
    ours = openai.DefaultAsyncHttpxClient(trust_env=False, verify=False)
    async with openai.AsyncOpenAI(
        base_url=f"http://127.0.0.1:{gateway.port}/v1", api_key=mine, http_client=ours
    ) as client:
        assert (await client.chat.completions.create(model="pebble-chat", messages=CHAT.fields["messages"])).choices
        with pytest.raises(openai.AuthenticationError):
            await client.with_options(api_key=anothers).models.list()
    await gateway.settle()
    assert [(line["tenant"], line["reason"]) for line in gateway.lines] == [("acme", None), ("", "token: audience")]


@pytest.fixture
async def one() -> AsyncIterator[Provider]:
    async with provider(jwk("a")) as found:
        yield found


async def test_what_a_group_may_do_is_what_its_users_may(one: Provider, start: Start) -> None:
    gateway = await start(house(one.url), keys=KEYS)
    ml, small, ops, nobody = (
        token(iss=one.url, groups=groups) for groups in (["x", "ml"], ["small"], ["ops"], ["others"])
    )
    for _ in range(2):  # as a new token and as one that is known
        assert await ask(gateway, ml) == (200, None)
        assert await ask(gateway, small) == (200, None)
        assert await ask(gateway, small, "pebble-instruct") == (404, "model_not_found")
        for secret in (ops, nobody):
            assert await ask(gateway, secret) == (403, "insufficient_scope")
        answers = [await gateway.http.get("/metrics", headers={"x-api-key": secret}) for secret in (ops, ml, nobody)]
        assert [answer.status_code for answer in answers] == [200, 403, 403]
    headers = {**bearer(ml), "x-roundhouse-tenant": "other"}
    assert (await gateway.http.post(CHAT.path, json=CHAT.body(), headers=headers)).status_code == 403
    assert await ask(gateway, API_KEY) == (200, None)
    await gateway.settle()
    assert {line["tenant"] for line in gateway.lines} == {"acme", "other", ""}


async def test_every_other_token_is_the_same_401(one: Provider, start: Start) -> None:
    gateway = await start(house(one.url), keys=KEYS)
    bad = {
        "signature": token(iss=one.url, key=private_key("b")), "unknown_key": token("c", iss=one.url),
        "issuer": token(iss=NAME), "audience": token(iss=one.url, aud="x"), "expired": token(iss=one.url, exp=1),
        "not_yet_valid": token(iss=one.url, nbf=2**32), "claims": token(iss=one.url, sub=None),
        "algorithm": "eyJhbGciOiJub25lIn0.e30.", "malformed": token(iss=one.url, x="x" * 2**14),
    }  # fmt: skip
    without = await gateway.http.post(CHAT.path)
    for secret in bad.values():
        line = await gateway.connect()
        await line.post(CHAT.path, b"", "content-length: 4194304", f"authorization: Bearer {secret}")
        answer = await line.answer()  # before any of the body
        assert (answer.status, answer.body) == (401, without.content)
        assert answer.headers["www-authenticate"] == "Bearer"
    assert refusals(gateway) == dict.fromkeys(bad, 1.0)
    await until(lambda: len(gateway.lines) == gateway.started, "all log lines")
    reasons = {line["reason"] for line in gateway.lines[1:]}
    assert reasons == {f"token: {reason}" for reason in bad} and not gateway.seen
    with_both = {"authorization": f"Bearer {bad['expired']}", "x-api-key": API_KEY}
    assert (await gateway.http.get("/v1/models", headers=with_both)).status_code == 200


async def test_a_rotated_key_is_fetched_when_its_first_token_comes(
    one: Provider, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = await start(house(one.url))
    assert await ask(gateway, token(iss=one.url)) == (200, None)
    one.publish(jwk("b"))
    assert await ask(gateway, token("b", iss=one.url)) == (401, "invalid_api_key"), "keys were just fetched"
    monkeypatch.setattr(issuer, "RETRY", 0.0)
    asked = len(one.asked)
    answers = await asyncio.gather(*(ask(gateway, token("b", iss=one.url)) for _ in range(8)))
    assert answers == [(200, None)] * 8 and len(one.asked) == asked + 2
    assert await ask(gateway, token("a", iss=one.url)) == (401, "invalid_api_key"), "its key is withdrawn"


async def test_while_the_provider_is_down_api_keys_go_on_and_tokens_come_back_by_themselves(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(issuer, "RETRY", 0.05)
    async with provider(jwk("a")) as one:
        one.status = "503 Busy"
        gateway = await start(house(one.url), keys=KEYS)
        secret = token(iss=one.url)
        answer = await gateway.http.get("/v1/models", headers=bearer(secret))
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "sign_on_unavailable")
        assert int(answer.headers["retry-after"]) >= 1
        assert await ask(gateway, API_KEY) == (200, None)
        assert await ask(gateway, "rh_wrong") == (401, "invalid_api_key")
        assert gateway.sample("roundhouse_sign_on_last_fetch_successful") == 0
        one.status = "200 OK"
        await until(lambda: gateway.sample("roundhouse_sign_on_last_fetch_successful") == 1, "the keys")
        assert await ask(gateway, secret) == (200, None)
    events = [json.loads(line) for line in gateway.output if '"sign_on_keys"' in line]
    assert [len(event["problems"]) for event in events] == [1, 0], "each is said once"
    assert "answers 503" in events[0]["problems"][0]


async def test_a_fleet_that_is_read_again_changes_what_users_may(one: Provider, start: Start, tmp_path: Path) -> None:
    gateway = await start(house(one.url))
    secret = token(iss=one.url)
    assert await ask(gateway, secret) == (200, None)
    gateway.gateway.apply(fleets.load(tmp_path, house(one.url).replace("ml: acme", "ml: other")))
    assert await ask(gateway, secret) == (200, None)
    gateway.gateway.apply(fleets.load(tmp_path, house(one.url, clock_skew="0").replace("ml:", "mlx:")))
    assert await ask(gateway, secret) == (403, "insufficient_scope")
    await gateway.settle()
    assert [line["tenant"] for line in gateway.lines] == ["acme", "other", ""]


async def test_without_api_keys_nobody_but_users_gets_in(one: Provider, start: Start) -> None:
    gateway = await start(house(one.url))
    assert (await gateway.http.get("/v1/models")).status_code == 401
    assert (await gateway.http.get("/v1/models", headers=bearer(token(iss=one.url)))).status_code == 200
    assert (await gateway.http.get("/health")).status_code == 200


async def test_no_token_and_no_subject_is_shown(one: Provider, start: Start, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    gateway = await start(house(one.url))
    faults: tuple[dict[str, Any], ...] = ({}, {"exp": 1}, {"groups": []})
    secrets = [token(iss=one.url, sub="alice@example.com", **fault) for fault in faults]
    shown = b""
    for secret in secrets:
        for model in ("pebble-chat", "nope"):
            answer = await gateway.http.post(CHAT.path, json=CHAT.body() | {"model": model}, headers=bearer(secret))
            shown += answer.content + repr(answer.headers).encode()
    await until(lambda: len(gateway.lines) == gateway.started, "all log lines")
    shown += "".join(gateway.output).encode() + gateway.gateway.render_metrics()
    shown += repr([one for one in caplog.record_tuples if not one[0].startswith("http")]).encode()
    shown += repr([(seen.headers, seen.body) for seen in gateway.seen]).encode()
    assert gateway.seen and b"alice" not in shown
    for secret in secrets:
        assert not any(part.encode() in shown for part in secret.split("."))
