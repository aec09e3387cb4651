"""API keys at the gateway: who gets in, by which header, to what; and what a stranger is told, which is nothing."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.auth.keys import ALL_GROUPS, FIRST, Key, Keys, digest
from service.config.run_dir import private_folder
from service.gateway.authentication import OPEN_PATHS, group_of
from service.gateway.console import page
from service.protocol.generation import PATHS
from tests.conftest import Start
from tests.support.exchanges import CHAT, MESSAGE, RESPONSE
from tests.support.fleets import ROOT
from tests.support.gateways import HOUSE, ONE, RunningGateway, answer_of
from tests.support.waiting import until

GOOD = "rh_the-first-key-0123456789"
TENANT = "rh_of-a-tenant-0123456789"
LIMITED = "rh_for-one-model-0123456789"
SCRAPER = "rh_for-metrics-0123456789"
PROXY = "rh_of-a-proxy-0123456789"
EXPIRED = "rh_expired-0123456789"
SECRETS = (GOOD, TENANT, LIMITED, SCRAPER, PROXY, EXPIRED)
KEYS: Keys = {
    digest(secret.encode()): key
    for secret, key in (
        (GOOD, FIRST),
        (TENANT, Key("acme-1", "acme")),
        (LIMITED, Key("acme-2", "acme", models=frozenset({"gpt-4o-mini"}))),
        (SCRAPER, Key("scraper", endpoints=frozenset({"metrics"}))),
        (PROXY, Key("proxy", proxy=True)),
        (EXPIRED, Key("old", expires=1.0)),
    )
}
FLEET = HOUSE + "\ntenants: {acme: {max_in_flight: 7}, other: {}}\n"
BAD: dict[str, dict[str, str]] = {
    "none": {},
    "unknown": {"authorization": "Bearer rh_unknown-0123456789"},
    "expired": {"authorization": f"Bearer {EXPIRED}"},
    "empty": {"x-api-key": ""},
    "in the query": {},
}


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


def is_stranger(path: str, status: int, headers: Any, body: bytes) -> bool:
    """Whether the answer is what every caller without a valid key gets, in the shape of the API of this path."""
    said = json.loads(body)
    kind = said["error"].get("code") or said["error"]["type"]
    expected = "authentication_error" if path.startswith("/v1/messages") else "invalid_api_key"
    return (status, headers["www-authenticate"], kind) == (401, "Bearer", expected)


@pytest.mark.parametrize("name", BAD)
async def test_without_a_valid_key_every_path_is_the_same_401(name: str, start: Start) -> None:
    """Unknown paths too, and wrong methods: a stranger does not learn what there is."""
    gateway = await start(FLEET, keys=KEYS)
    query = f"?key={GOOD}&api_key={GOOD}" if name == "in the query" else ""
    table = gateway.gateway._endpoints.table
    paths = [path for path in table if path.encode() not in OPEN_PATHS | page.OPEN_PATHS]
    bodies = set()
    for path in [*paths, "/v1/models/pebble-chat", "/v1/models/nope", "/v1/responses/resp_1", "/nope", "/v1/files"]:
        for method in ("GET", "POST", "OPTIONS"):
            answer = await gateway.http.request(method, path + query, headers=BAD[name])
            assert is_stranger(path, answer.status_code, answer.headers, answer.content), (method, path)
            bodies.add(answer.content)
    assert len(bodies) == 2  # OpenAI's and Anthropic's
    assert not gateway.seen


async def test_probes_need_no_key(start: Start) -> None:
    gateway = await start(ONE, keys=KEYS)
    for path in ("/health", "/ping"):
        assert (await gateway.http.get(path)).status_code == 200
    # Another spelling of such a path is not one: it is decided on what was sent.
    for path in ("/%68ealth", "//health", "/health/", "/HEALTH", "/health/../v1/models", "/health;x"):
        line = await gateway.connect()
        await line.send(f"GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n".encode())
        assert (await line.answer()).status == 401, path
    assert {path.decode() for path in OPEN_PATHS} == {"/livez", "/readyz", "/healthz", "/health", "/ping"}


async def test_the_files_of_the_console_need_no_key_and_nothing_else_below_it_does(start: Start) -> None:
    """They are the same for everyone: tests/gateway/console/test_console.py holds them against the files."""
    gateway = await start(ONE, keys=KEYS)
    named = {f"/console/{name}" for name in page.FILES}
    assert {path.decode() for path in page.OPEN_PATHS} == {"/console", "/console/", "/console/api/sign-in", *named}
    for path in ("/%63onsole", "/console/api/state", "/console//app.js", "/console/api/../app.js", "/console;x"):
        line = await gateway.connect()
        await line.send(f"GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n".encode())
        assert (await line.answer()).status == 401, path


@pytest.mark.parametrize("target", ["http://test/v1/models", "/v1/models?/health", "http://test/v1/models#/health"])
@pytest.mark.parametrize("host", ["test", "test:80"])
async def test_neither_host_nor_target_makes_a_path_a_probe(target: str, host: str, start: Start) -> None:
    gateway = await start(ONE, keys=KEYS)
    line = await gateway.connect()
    await line.send(f"GET {target} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n".encode())
    assert (await line.answer()).status in (400, 401)


@pytest.mark.parametrize("case", [CHAT, MESSAGE], ids=lambda case: case.name)
@pytest.mark.parametrize("more", [(), ("expect: 100-continue",)], ids=["plain", "expecting"])
async def test_the_401_comes_before_the_body(case: Any, more: tuple[str, ...], start: Start) -> None:
    """The head announces 4 MB, of which nothing is ever sent."""
    gateway = await start(ONE, keys=KEYS)
    line = await gateway.connect()
    await line.post(case.path, b"", "content-length: 4194304", "authorization: Bearer rh_unknown", *more)
    answer = answer_of(await line.rest())
    assert answer.whole and is_stranger(case.path, answer.status, answer.headers, answer.body)


async def test_nothing_else_is_said_to_a_stranger(start: Start) -> None:
    gateway = await start(ONE, keys=KEYS, host="127.0.0.1", max_header_bytes=200)
    for headers in ({"host": "evil.example"}, {"origin": "https://evil.example"}, {"x-much": "x" * 300}):
        answer = await gateway.http.post(CHAT.path, content=b"{", headers=headers)
        assert is_stranger(CHAT.path, answer.status_code, answer.headers, answer.content)


async def test_a_key_that_is_sent_twice_is_no_valid_request(start: Start) -> None:
    """Programs before the gateway could have checked the one, and it the other."""
    gateway = await start(ONE, keys=KEYS)
    for name, value in (("authorization", f"Bearer {GOOD}"), ("x-api-key", GOOD)):
        line = await gateway.connect()
        rows = f"{name}: {value}\r\n{name}: x\r\n"
        await line.send(f"GET /v1/models HTTP/1.1\r\nhost: test\r\n{rows}\r\n".encode())
        assert (await line.answer()).status == 400


async def test_the_libraries_send_keys_as_both_apis_have_it(start: Start) -> None:
    import anthropic  # takes seconds of each process that collects tests
    import openai

    gateway = await start(ONE, keys=KEYS)
    ours = openai.DefaultAsyncHttpxClient(trust_env=False, verify=False)
    theirs = anthropic.DefaultAsyncHttpxClient(trust_env=False, verify=False)
    url, body = f"http://127.0.0.1:{gateway.port}", CHAT.fields["messages"]
    async with theirs, openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=GOOD, http_client=ours) as client:
        assert (await client.chat.completions.create(model="pebble-chat", messages=body)).choices
        with pytest.raises(openai.AuthenticationError) as caught:
            await client.with_options(api_key="rh_wrong").models.list()
        assert caught.value.code == "invalid_api_key"
        claude = anthropic.AsyncAnthropic(base_url=url, api_key=GOOD, http_client=theirs)
        message = await claude.messages.create(model="pebble-chat", messages=body, max_tokens=9)
        assert message.type == "message"
        by_token = anthropic.AsyncAnthropic(base_url=url, api_key=None, auth_token=GOOD, http_client=theirs)
        assert (await by_token.messages.create(model="pebble-chat", messages=body, max_tokens=9)).type == "message"
        with pytest.raises(anthropic.AuthenticationError):
            await claude.with_options(api_key="rh_wrong").messages.create(
                model="pebble-chat", messages=body, max_tokens=9
            )


async def test_a_valid_key_opens_the_whole_table(start: Start, tmp_path: Path) -> None:
    gateway = await start(FLEET, keys=KEYS, usage_dir=private_folder(tmp_path / "usage", "usage_dir"))
    for path, functions in gateway.gateway._endpoints.table.items():
        for method in functions:
            answer = await gateway.http.request(method, path, headers={"x-api-key": GOOD})
            assert answer.status_code != 401, path
            # A POST without a body is at fault, there is nothing of the name in braces, and one path is a redirect.
            found = method == "GET" and "{" not in path
            assert (answer.status_code == 200) == (found and path != "/console/"), path
    assert (await gateway.http.get("/nope", headers=bearer(GOOD))).status_code == 404
    assert (await gateway.http.put("/v1/models", headers=bearer(GOOD))).status_code == 405


def routes() -> Iterator[tuple[str, str, str]]:
    """What the servers behind the gateway have, as a server's name, a method and a path."""
    golden = yaml.safe_load((ROOT / "tests/golden/routes.yaml").read_text(encoding="utf-8"))
    for server, listed in golden.items():
        for route in listed["routes"]:
            method, path = route.split()
            yield server, method, path


@pytest.mark.parametrize("server", ["vllm", "bentoml"])
async def test_no_route_of_another_server_is_reachable(server: str, start: Start) -> None:
    """vLLM's and BentoML's paths are 401 without a key, and 404 with one, unless the gateway's own table has them."""
    gateway = await start(FLEET, keys=KEYS)
    table = gateway.gateway._endpoints.table
    stored = gateway.gateway._endpoints._stored
    paths = [(method, path) for named, method, path in routes() if named == server]
    assert len(paths) > 5
    for method, template in paths:
        path = template.replace("{", "").replace("}", "").replace(":path", "")
        for headers in (BAD["none"], BAD["unknown"], bearer(GOOD)):
            answer = await gateway.http.request(method, path, headers=headers)
            if path.encode() in OPEN_PATHS:
                assert answer.status_code in (200, 404, 405), path
            elif headers != bearer(GOOD):
                assert answer.status_code == 401, path
            elif path in table or stored.name_of(path):
                assert answer.status_code in (200, 400, 404, 405, 415), path
            else:
                assert answer.status_code == 404, path
    assert not gateway.seen


async def test_a_key_that_is_taken_away_stops_working_at_once(start: Start) -> None:
    gateway = await start(ONE, keys=KEYS)
    answers = [(await gateway.http.get("/v1/models", headers=bearer(TENANT))).status_code]
    gateway.gateway.use_keys({secret: key for secret, key in KEYS.items() if key.id != "acme-1"})
    answers += [(await gateway.http.get("/v1/models", headers=bearer(one))).status_code for one in (TENANT, GOOD)]
    gateway.gateway.use_keys({})
    answers.append((await gateway.http.get("/v1/models", headers=bearer(GOOD))).status_code)
    assert answers == [200, 401, 200, 401]


async def status(gateway: RunningGateway, method: str, path: str, secret: str) -> tuple[int, Any]:
    answer = await gateway.http.request(method, path, headers=bearer(secret))
    return answer.status_code, answer.json()["error"]["code"] if answer.status_code > 400 else None


async def test_metrics_are_a_scope_of_their_own(start: Start) -> None:
    gateway = await start(ONE, keys=KEYS)
    denied = (403, "insufficient_scope")
    assert await status(gateway, "GET", "/metrics", SCRAPER) == (200, None)
    assert await status(gateway, "GET", "/metrics", GOOD) == (200, None)
    for path in ("/metrics", "/metrics/targets", "/metrics/engines/pebble-chat-0"):
        assert await status(gateway, "GET", path, TENANT) == denied
    for path in ("/v1/models", "/version", "/", "/v1/models/pebble-chat", "/v1/responses/x", "/nope"):
        assert await status(gateway, "GET", path, SCRAPER) == denied, path
    for path in PATHS:
        answer = await gateway.http.post(path, headers=bearer(SCRAPER))
        assert answer.status_code == 403, path
    assert not gateway.seen


def test_every_path_belongs_to_one_group() -> None:
    ours = "/metrics", "/metrics/targets", "/metrics/engines/chat-0", "/console/api/load"
    assert {path for path in (*ours, "/metricsx", "/Metrics") if group_of(path) == "metrics"} == set(ours)
    assert {group_of(path) for path in (*PATHS, "/v1/route", "/v1/responses/x", "/anything/else")} == {"inference"}
    assert {"metrics", "models", "inference"} == ALL_GROUPS


async def test_the_tenant_of_the_key_is_the_tenant_of_the_request(start: Start) -> None:
    gateway = await start(FLEET, keys=KEYS)
    named = {"x-roundhouse-tenant": "other"}
    given = [
        await gateway.http.post(CHAT.path, json=CHAT.body(), headers={**bearer(secret), **more})
        for secret, more in (
            (GOOD, {}), (TENANT, {}), (TENANT, {"x-roundhouse-tenant": "acme"}), (PROXY, {}), (PROXY, named),
            (TENANT, named), (GOOD, named), (PROXY, {"x-roundhouse-tenant": "nobody"}),
        )
    ]  # fmt: skip
    await gateway.settle()
    assert [answer.status_code for answer in given] == [200] * 5 + [403, 403, 400]
    assert [line["tenant"] for line in gateway.lines[:5]] == ["default", "acme", "acme", "default", "other"]
    assert given[5].json()["error"]["code"] == "insufficient_scope"


async def test_answers_are_kept_apart_by_tenant(start: Start) -> None:
    """The same idempotency key of two tenants is two keys."""
    gateway = await start(FLEET, keys=KEYS)
    for secret in (GOOD, TENANT, GOOD):
        answer = await gateway.http.post(
            CHAT.path, json=CHAT.body(), headers={**bearer(secret), "idempotency-key": "a"}
        )
        assert answer.status_code == 200
    assert len(gateway.seen) == 2


async def test_a_key_for_some_models_sees_no_others(start: Start) -> None:
    gateway = await start(FLEET, keys=KEYS)
    mine, theirs = bearer(LIMITED), bearer(GOOD)
    listed = (await gateway.http.get("/v1/models", headers=mine)).json()["data"]
    assert [row["id"] for row in listed] == ["pebble-chat", "gpt-4o-mini"]  # the alias, and what it stands for
    for name, found in (("gpt-4o-mini", 200), ("pebble-chat", 200), ("pebble", 200), ("auto", 200), ("chat", 200),
                        ("pebble-instruct", 404), ("instruct", 404)):  # fmt: skip
        answer = await gateway.http.post(CHAT.path, json=CHAT.body() | {"model": name}, headers=mine)
        assert answer.status_code == found, name
        assert answer.status_code == 404 or answer.headers["x-roundhouse-model"] == "pebble-chat"
        if name == "pebble-instruct":
            unknown = await gateway.http.post(CHAT.path, json=CHAT.body() | {"model": "pebble-instruck"}, headers=mine)
            assert answer.json()["error"]["message"] == unknown.json()["error"]["message"].replace("uck", "uct")
            assert "pebble-code" not in answer.text and "embedder" not in answer.text
            assert (await gateway.http.get(f"/v1/models/{name}", headers=mine)).status_code == 404
            assert (await gateway.http.get(f"/v1/models/{name}", headers=theirs)).status_code == 200
            route = await gateway.http.post("/v1/route", json={"model": name}, headers=mine)
            assert route.status_code == 404
    assert {json.loads(seen.body)["model"] for seen in gateway.seen} == {"pebble-chat"}


async def test_no_key_is_ever_shown(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    """Good ones and wrong ones: in no log line, metric, error or header of an answer, and not to an engine."""
    caplog.set_level(logging.DEBUG)
    gateway = await start(FLEET, keys=KEYS)
    wrong = "rh_wrong-canary-0123456789"
    shown = b""
    for secret in (*SECRETS, wrong):
        for headers in (bearer(secret), {"x-api-key": secret}):
            for case in (CHAT, MESSAGE, RESPONSE):
                for body in (case.body(), case.body() | {"model": "nope"}, {"model": 3}):
                    answer = await gateway.http.post(case.path, json=body, headers=headers)
                    shown += answer.content + repr(answer.headers).encode()
    await until(lambda: len(gateway.lines) == gateway.started, "all log lines")
    shown += "".join(gateway.output).encode() + gateway.gateway.render_metrics()
    shown += repr([one for one in caplog.record_tuples if not one[0].startswith("http")]).encode()  # the client's own
    shown += repr([(seen.headers, seen.body) for seen in gateway.seen]).encode()
    assert gateway.seen
    for secret in (*SECRETS, wrong):
        assert secret.encode() not in shown and digest(secret.encode()).hex().encode() not in shown
