"""What the gateway writes to the audit log: who used and changed what, and no more."""

import json
from pathlib import Path
from typing import Any
from unittest import mock

from service.auth.keys import Key, digest
from service.gateway.auditing import key_changes
from service.observability.log_writer import LogWriter
from tests.conftest import Start
from tests.support import fleets
from tests.support.exchanges import CHAT, RESPONSE
from tests.support.gateways import ONE

SECRET, OTHER = "rh_of-a-tenant-0123456789", "rh_another-0123456789"
KEYS = {digest(SECRET.encode()): Key("acme-1", "acme")}
HEADERS = {"x-api-key": SECRET}


def actions(output: list[str]) -> list[dict[str, Any]]:
    """The lines of the audit log; the tests' gateways collect them with those of the access log."""
    return [line for line in map(json.loads, output) if line["event"] == "audit"]


async def test_uses_and_changes_have_a_line_each(start: Start, tmp_path: Path) -> None:
    stored = {"responses_dir": tmp_path / "stored"}
    stored["responses_dir"].mkdir(0o700)
    gateway = await start(ONE, keys=KEYS, audit_log=tmp_path / "audit", audit_requests=True, **stored)
    response = await gateway.http.post(RESPONSE.path, json=RESPONSE.body(store=True), headers=HEADERS)
    path = f"/v1/responses/{response.json()['id']}"
    assert (await gateway.http.get(path, headers=HEADERS)).status_code == 200
    assert (await gateway.http.delete(path, headers=HEADERS)).status_code == 200
    assert (await gateway.http.delete(path, headers=HEADERS)).status_code == 404
    assert (await gateway.http.get("/metrics", headers=HEADERS)).status_code == 403
    assert (await gateway.http.post(CHAT.path, json=CHAT.body())).status_code == 401
    gateway.gateway.apply(fleets.load(tmp_path, ONE + "\naliases: {x: pebble-chat}"))
    gateway.gateway.log_reload(["fleet.yaml:1: models: is missing"])
    gateway.gateway.use_keys({digest(OTHER.encode()): Key("acme-1", "acme")})
    await gateway.settle()
    started, *lines = actions(gateway.output)
    assert started["action"] == "started" and len(started["settings_sha256"]) == len(started["fleet_sha256"]) == 64
    used, deleted, scope, stranger, reloaded, refused, keys = lines
    who = {"key": "acme-1", "tenant": "acme"}
    assert {**used, **who} == used
    assert (used["action"], used["model"], used["endpoint"], used["status"]) == (
        "model_used", "pebble-chat", "/v1/responses", 200,
    )  # fmt: skip
    assert used["prompt_tokens"] > 0 < used["completion_tokens"]
    assert {**deleted, **who, "action": "response_deleted", "response": response.json()["id"]} == deleted
    assert (scope["action"], scope["key"], scope["code"]) == ("refused", "acme-1", "insufficient_scope")
    assert (stranger["action"], stranger["key"], stranger["client"]) == ("refused", "", "127.0.0.1")
    assert (reloaded["action"], reloaded["changes"]) == ("fleet_reloaded", ["aliases: x"])
    assert (refused["action"], refused["problems"]) == ("reload_refused", ["fleet.yaml:1: models: is missing"])
    assert (keys["action"], keys["changes"]) == ("keys_reloaded", ["acme-1 rotated"])
    assert SECRET not in "".join(gateway.output) and "one two three" not in "".join(gateway.output)
    assert [line["key"] for line in gateway.lines] == ["acme-1"] * 5 + [""]


async def test_the_file_begins_with_the_start_and_ends_with_the_end(start: Start, tmp_path: Path) -> None:
    write = LogWriter.write
    gateway = await start(ONE, audit_log=tmp_path / "audit")
    with mock.patch.object(LogWriter, "write", write):
        audit = gateway.gateway._audit
        assert audit
        await gateway.http.post(CHAT.path, json=CHAT.body())  # a use, which is no action unless it is asked for
        audit.write("stopped")
        audit.close()
    assert [json.loads(line)["action"] for line in (tmp_path / "audit").read_text().splitlines()] == ["stopped"]


def test_what_changed_of_keys() -> None:
    old = {b"1": Key("a", "t"), b"2": Key("b", "t"), b"3": Key("c", "t"), b"4": Key("d", "t")}
    new = {b"1": Key("a", "t"), b"2": Key("b", "u"), b"5": Key("c", "t"), b"6": Key("e", "t")}
    assert key_changes(old, new) == ["b changed", "c rotated", "d removed", "e added"]
    assert key_changes(None, None) == []
