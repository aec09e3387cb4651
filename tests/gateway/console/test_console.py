"""The console's endpoints: what the page shows, to whom, and that its files reveal nothing."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

from service.auth.keys import FIRST, Key, Keys, digest
from service.engine.state import EngineState
from service.gateway.console.client_settings import CLIENTS, Service
from service.gateway.console.console import ADDRESS, KEY
from service.gateway.console.page import FILES, FOLDER, OPEN_PATHS, PAGE
from tests.conftest import Start
from tests.fake_engine import Fault
from tests.support import fleets
from tests.support.exchanges import CHAT
from tests.support.gateways import HOUSE, ONE, RunningGateway
from tests.support.waiting import until

SECRETS = {
    "rh_the-first-key-0123456789": FIRST,
    "rh_of-acme-0123456789": Key("acme-1", "acme"),
    "rh_of-acme-one-model-0123456789": Key("acme-2", "acme", models=frozenset({"pebble-chat"})),
    "rh_of-other-0123456789": Key("other-1", "other"),
    "rh_for-metrics-0123456789": Key("scraper", endpoints=frozenset({"metrics"})),
}
FIRST_KEY, ACME, ACME_ONE, OTHER, SCRAPER = SECRETS
KEYS: Keys = {digest(secret.encode()): key for secret, key in SECRETS.items()}
FLEET = HOUSE + "\ntenants: {acme: {}, other: {}}\n"


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"} if secret else {}


async def get(gateway: RunningGateway, path: str, secret: str = "") -> Any:
    answer = await gateway.http.get(f"/console/api/{path}", headers=bearer(secret))
    assert answer.status_code == 200, answer.text
    return answer.json()


async def chat(gateway: RunningGateway, secret: str = "", **fields: Any) -> int:
    answer = await gateway.http.post(CHAT.path, json=CHAT.body() | fields, headers=bearer(secret))
    return answer.status_code


async def test_the_page_and_its_files_need_no_key_and_have_no_data(start: Start) -> None:
    gateway = await start(FLEET, keys=KEYS)
    for path in sorted(path.decode() for path in OPEN_PATHS):
        answers = [await gateway.http.get(path, headers=headers) for headers in ({}, bearer("rh_wrong"), bearer(ACME))]
        assert len({(one.status_code, one.content) for one in answers}) == 1
        if path == "/console/api/sign-in":
            assert answers[0].json() == {}
            continue
        if path == "/console/":
            assert (answers[0].status_code, answers[0].headers["location"]) == (307, "../console")
            continue
        name = PAGE if path == "/console" else path.rpartition("/")[2]
        assert answers[0].content == (FOLDER / name).read_bytes()
        headers = answers[0].headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'self';") and "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy and headers["x-frame-options"] == "DENY"
        assert headers["x-content-type-options"] == "nosniff"
    assert {path.name for path in FOLDER.iterdir()} == {PAGE, *FILES}
    for path in ("/console/api/state", "/console/nope.js", "/console/index.html", "/console/../v1/models", "/consoles"):
        assert (await gateway.http.get(path)).status_code == 401, path
    assert (await gateway.http.get("/console/nope.js", headers=bearer(ACME))).status_code == 404
    assert (await gateway.http.post("/console")).status_code == 405


def test_the_page_names_no_other_origin() -> None:
    """Neither scripts nor styles nor anything else is loaded from elsewhere, and there is no script in the page."""
    for name in (PAGE, *FILES):
        text = (FOLDER / name).read_text(encoding="utf-8")
        assert set(re.findall(r"https?://[^\s\"'`]+", text)) <= {"http://www.w3.org/2000/svg"}, name
        unsafe = r"innerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|\sstyle=|\son\w+="
        assert not re.search(unsafe, text), name
    assert re.findall(r"<script[^>]*>([^<]*)</script>", (FOLDER / PAGE).read_text(encoding="utf-8")) == [""]


BROWSER = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


async def test_a_browser_at_the_address_is_sent_to_the_console(start: Start) -> None:
    gateway = await start(FLEET, keys=KEYS)
    for headers in (BROWSER, BROWSER | bearer(ACME)):
        answer = await gateway.http.get("/", headers=headers)
        assert (answer.status_code, answer.headers["location"], answer.headers["vary"]) == (307, "console", "Accept")
    for accept in ({}, {"accept": "application/json"}):
        assert (await gateway.http.get("/", headers=accept)).status_code == 401
        assert (await gateway.http.get("/", headers=accept | bearer(ACME))).json()["service"] == "roundhouse"
    for method in ("HEAD", "POST"):
        assert (await gateway.http.request(method, "/", headers=BROWSER)).status_code == 401
    assert (await gateway.http.head("/", headers=BROWSER | bearer(ACME))).status_code == 200
    for path in ("//", "/?x", "/v1/models"):
        line = await gateway.connect()
        await line.send(f"GET {path} HTTP/1.1\r\nhost: test\r\naccept: text/html\r\nconnection: close\r\n\r\n".encode())
        assert (await line.answer()).status == (307 if path == "/?x" else 401), path


SIGN_ON = """
sign_on:
  issuer: https://id.example.org:8443/realms/acme
  audience: roundhouse
  jwks: /nowhere/keys.json
  client_id: roundhouse-console
  default_tenant: acme
"""


async def test_the_page_may_ask_the_provider_where_users_sign_in_and_nobody_else(start: Start, tmp_path: Path) -> None:
    gateway = await start(FLEET + SIGN_ON, keys=KEYS)
    for client in ("roundhouse-console", None):
        for path in ("/console", "/console/app.js"):
            policy = (await gateway.http.get(path)).headers["content-security-policy"]
            assert ("connect-src 'self' https://id.example.org:8443" in policy) == bool(client)
            assert policy.count("https://") == bool(client)
        shown = (await gateway.http.get("/console/api/sign-in")).json()
        named = {"issuer": "https://id.example.org:8443/realms/acme", "client_id": client}
        assert shown == (named if client else {})
        without = (FLEET + SIGN_ON).replace("  client_id: roundhouse-console\n", "")
        gateway.gateway.apply(fleets.load(tmp_path, without))


async def test_without_a_console_there_is_no_such_path(start: Start) -> None:
    gateway = await start(FLEET, keys=KEYS, console=False)
    for path in ("/console", "/console/app.js", "/console/api/state", "/"):
        assert (await gateway.http.get(path, headers=BROWSER)).status_code == 401
        with_key = await gateway.http.get(path, headers=BROWSER | bearer(FIRST_KEY))
        assert with_key.status_code == (200 if path == "/" else 404)


async def test_each_question_has_its_scope(start: Start) -> None:
    gateway = await start(FLEET, keys=KEYS)
    given = {
        path: [(await gateway.http.get(f"/console/api/{path}", headers=bearer(secret))).status_code
               for secret in ("", FIRST_KEY, ACME, SCRAPER)]
        for path in ("state", "clients", "load")
    }  # fmt: skip
    assert given == {"state": [401, 200, 200, 403], "clients": [401, 200, 200, 403], "load": [401, 200, 403, 200]}


async def test_the_state_of_the_fleet_and_of_a_start(start: Start) -> None:
    gateway = await start(HOUSE)
    listed = (await gateway.http.get("/v1/models")).json()["data"]
    state = await get(gateway, "state")
    assert state["models"] == listed
    assert state["caller"] == {"key": "", "tenant": "default", "all": True,
                               "endpoints": ["inference", "metrics", "models"]}  # fmt: skip
    assert state["process"]["processes"] == 1 and state["version"]
    gateway.show(1, "starting", "loading weights")
    state = await get(gateway, "state")
    assert state["models"][1]["state"] == "starting"
    assert state["starts"]["pebble-instruct-0"]["step"] == 5
    gateway.show(1, "ready")


async def test_load_is_sampled_and_told_from_where_the_caller_is(start: Start) -> None:
    gateway = await start(ONE)
    assert await chat(gateway) == await chat(gateway, stream=True) == 200
    await gateway.settle()
    console = gateway.gateway._endpoints.console
    assert console
    console.sample(1e9)  # so late that the gateway's own clock has no sample due any more
    before = await get(gateway, "load")
    console.sample(2e9)
    console.sample(2e9)  # not due yet
    answer = await get(gateway, f"load?since={before['since']}")
    (sample,) = answer["models"]["pebble-chat"]
    shown = dict(zip(answer["model_fields"], sample, strict=True))
    assert len(answer["replicas"]["pebble-chat-0"]) == 1
    whole = await get(gateway, "load?since=another-process:999")  # its samples are not this one's
    assert whole["models"]["pebble-chat"][-1] == sample
    ended = sum(row[whole["model_fields"].index("ended")] for row in whole["models"]["pebble-chat"])
    assert ended == 2 and shown["running"] == 0
    for bad in ("load?since=x", "load?since=:-1", "load?since=:" + "9" * 400, "load?until=3", "state?since=1"):
        assert (await gateway.http.get(f"/console/api/{bad}")).status_code == 400, bad


async def test_housekeeping_takes_the_samples(start: Start) -> None:
    gateway = await start(ONE)
    console = gateway.gateway._endpoints.console
    assert console
    await until(lambda: console._history.count > 0, "the first sample")


async def test_errors_are_shown_to_their_tenant_and_to_the_first_key(start: Start) -> None:
    gateway = await start(FLEET, keys=KEYS)
    assert await chat(gateway, ACME, model="nope-canary") == 404
    assert await chat(gateway, OTHER, max_tokens=-1) == 400
    assert await chat(gateway, "rh_wrong") == 401
    gateway.engines[1].script(Fault(status=500, body=b"{}"), Fault(status=500, body=b"{}"))
    assert await chat(gateway, ACME, model="pebble-instruct", messages=[{"role": "user", "content": "canary"}]) >= 500
    await until(lambda: len(gateway.lines) == gateway.started, "all log lines")
    ids = {line["request_id"]: line for line in gateway.lines}
    seen = {secret: (await get(gateway, "state", secret))["errors"] for secret in (FIRST_KEY, ACME, ACME_ONE, OTHER)}
    assert [one["status"] for one in seen[FIRST_KEY]][-3:] == [401, 400, 404]
    assert [one["tenant"] for one in seen[FIRST_KEY]][-3:] == ["", "other", "acme"]
    assert {one["tenant"] for one in seen[ACME]} == {"acme"} and len(seen[ACME]) == 2
    assert [one["model"] for one in seen[ACME_ONE]] == [""]  # the other failed on a model that this key may not use
    assert [one["code"] for one in seen[OTHER]] == [ids[seen[OTHER][0]["request_id"]]["code"]]
    assert "canary" not in json.dumps(seen)


async def test_who_waits_and_why_is_shown_to_its_tenant_and_to_the_first_key(start: Start) -> None:
    fleet = "models: [{model: pebble-chat, max_in_flight: 1}]\ntenants: {acme: {}, other: {}}\n"
    gateway = await start(fleet, keys=KEYS)
    gateway.engines[0].script(Fault(delay=60))
    async with asyncio.TaskGroup() as group:
        tasks = []
        for secret in (ACME, OTHER, ACME):
            tasks.append(group.create_task(chat(gateway, secret)))
            await until(lambda: gateway.gateway.admission.demand("pebble-chat") == len(tasks), "the request")
        rows = {secret: (await get(gateway, "state", secret))["waiting"] for secret in (FIRST_KEY, ACME, OTHER)}
        for task in tasks:
            task.cancel()
    assert sorted(row["tenant"] for row in rows[FIRST_KEY]) == ["acme", "other"]
    assert {row["position"] for row in rows[FIRST_KEY]} <= {1, 2}
    assert [row["tenant"] for row in rows[ACME]] == ["acme"] and [row["tenant"] for row in rows[OTHER]] == ["other"]
    assert rows[ACME][0]["reason"] == "its ready replicas run 1 of the 1 sequences that they take at once"
    assert rows[ACME][0]["refused_in"] > 0


async def test_the_settings_of_clients_are_those_that_connect_prints(start: Start) -> None:
    gateway = await start(FLEET, keys=KEYS)
    answer = await get(gateway, "clients?model=pebble-instruct", ACME)
    assert (answer["address"], answer["key"]) == (ADDRESS, KEY)
    assert [one["name"] for one in answer["clients"]] == list(CLIENTS)
    rows = (await gateway.http.get("/v1/models", headers=bearer(ACME))).json()["data"]
    names = sorted((row["id"] for row in rows), key=lambda name: (name != "pebble-instruct", name in
                   ("pebble-code", "pebble-base", "embedder")))  # fmt: skip
    contexts = {row["id"]: row["context_length"] for row in rows if row["context_length"]}
    claude = CLIENTS["claude"].settings(Service(ADDRESS, KEY, tuple(names), contexts))
    assert answer["clients"][0]["text"] == claude
    assert ACME not in json.dumps(answer)
    limited = json.dumps(await get(gateway, "clients", ACME_ONE))
    assert "pebble-chat" in limited and "pebble-instruct" not in limited
    for query, status in (("model=nope", 404), ("modle=x", 400)):
        assert (await gateway.http.get(f"/console/api/clients?{query}", headers=bearer(ACME))).status_code == status


async def test_an_engine_state_that_nobody_knows_is_shown_too(start: Start) -> None:
    """A phase that names a flag is not one of the known steps."""
    gateway = await start(ONE)
    gateway.show(0, "starting", "starts again without --odd")
    assert (await get(gateway, "state"))["starts"]["pebble-chat-0"]["step"] is None
    gateway.show(0, "ready")
    assert isinstance(gateway.replicas[0].state, EngineState)
