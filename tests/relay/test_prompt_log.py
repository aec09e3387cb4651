"""Prompts and outputs are logged of tenants that ask for it, and of nobody else."""

import json
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from service.auth.keys import Key, digest
from service.config.strict_yaml import ConfigError
from service.fleet import fleet as fleets
from service.observability.log_writer import LogWriter
from tests.conftest import Start
from tests.support.exchanges import CHAT, MESSAGE, RESPONSE, Case
from tests.support.fleets import CATALOG, write
from tests.support.gateways import ONE

SECRETS = {"acme": "rh_of-a-tenant-0123456789", "other": "rh_another-0123456789"}
KEYS = {digest(secret.encode()): Key(f"{tenant}-1", tenant) for tenant, secret in SECRETS.items()}
FLEET = ONE + "\ntenants: {acme: {log_prompts: true}, other: {}}"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_a_request_is_logged_with_what_its_client_got(stream: bool, start: Start, tmp_path: Path) -> None:
    """Whatever the client got is the same as without."""
    path, write_line = tmp_path / "prompts", LogWriter.write
    gateway = await start(FLEET, keys=KEYS, prompt_log=path)
    log = gateway.gateway._prompt_log
    assert log
    body = "one jane@mail.example three"
    fields: tuple[tuple[Case, dict[str, Any]], ...] = (
        (CHAT, {"messages": [{"role": "user", "content": body}]}),
        (RESPONSE, {"input": body}),
        (MESSAGE, {}),
    )
    with mock.patch.object(log._writer, "write", lambda line: write_line(log._writer, line)):
        for case, more in fields:
            answers = [
                await gateway.http.post(
                    case.path, json={**case.body(stream), **more}, headers={"x-api-key": SECRETS[tenant]}
                )
                for tenant in ("acme", "other")
            ]
            assert [answer.status_code for answer in answers] == [200, 200]
            assert answers[0].headers.keys() == answers[1].headers.keys()
        refused = {**CHAT.body(), "model": "nope"}
        await gateway.http.post(CHAT.path, json=refused, headers={"x-api-key": SECRETS["acme"]})
        log.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(one["tenant"], one["endpoint"], one["model"]) for one in lines] == [
        ("acme", case.path, "pebble-chat") for case, _ in fields
    ]
    chat, response, message = lines
    assert chat["request"]["messages"] == [{"role": "user", "content": "one [redacted] three"}]
    assert response["request"]["input"] == "one [redacted] three"
    said = json.dumps([one["response"] for one in lines])
    assert "jane@" not in path.read_text() and said.count("[redacted] three") >= 2 and "one two three" in said
    if not stream:
        assert message["response"]["content"][0]["text"] == "one two three"
    assert path.stat().st_mode & 0o777 == 0o600


def test_without_a_file_such_a_fleet_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, FLEET)
    with pytest.raises(ConfigError) as caught:
        fleets.load(path, CATALOG, may_log_prompts=False)
    assert caught.value.problems == [
        f"{path}:2: tenants.acme.log_prompts: needs ROUNDHOUSE_PROMPT_LOG, the file that they go to"
    ]
    assert fleets.load(path, CATALOG).tenants["acme"].log_prompts
    path = write(tmp_path, FLEET + "\nredact: ['(']")
    with pytest.raises(ConfigError) as caught:
        fleets.load(path, CATALOG)
    assert caught.value.problems[0].startswith(f"{path}:3: redact[0]: is no regular expression")
