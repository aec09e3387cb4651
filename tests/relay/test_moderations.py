"""`POST /v1/moderations` as clients use it, on a running gateway."""

import json
from pathlib import Path
from typing import Any

import pytest

from service.auth.keys import Key, Keys, digest
from tests.conftest import Start
from tests.fake_engine import Fault
from tests.guardrails.classifier import FakeClassifier
from tests.support.gateways import ONE

PATH = "/v1/moderations"
FLEET = """
models:
  - {model: pebble-chat}
  - {model: llama-guard-3-8b, aliases: [omni-moderation-latest]}
"""


async def test_the_official_sdk(start: Start) -> None:
    import openai  # takes a second of each process that collects tests

    gateway = await start(FLEET)
    http = openai.DefaultAsyncHttpxClient(trust_env=False, verify=False)
    url = f"http://127.0.0.1:{gateway.port}/v1"
    async with http, openai.AsyncOpenAI(base_url=url, api_key="none", http_client=http, max_retries=0) as client:
        answer = await client.moderations.create(model="omni-moderation-latest", input=["fine", "the forbidden thing"])
        fine, flagged = answer.results
        assert (answer.model, fine.flagged, flagged.flagged) == ("llama-guard-3-8b", False, True)
        assert not any(fine.categories.model_dump().values())
        assert (flagged.categories.violence, flagged.categories.illicit_violent) == (True, True)
        assert (flagged.categories.hate, flagged.category_scores.hate, flagged.category_scores.violence) == (
            False,
            0,
            1,
        )
        assert flagged.categories.model_dump()["S9"] is True
        parts: Any = [{"type": "text", "text": "the"}, {"type": "text", "text": "forbidden"}]
        (one,) = (await client.moderations.create(input=parts)).results
        assert one.flagged
        assert answer.id.startswith("modr-")
    line = gateway.lines[0]
    assert (line["endpoint"], line["model"], line["variant"]) == (PATH, "llama-guard-3-8b", "guard")
    assert gateway.sample("roundhouse_guardrail_checks_total", stage="moderation", result="blocked") == 2


async def test_long_texts_are_judged_to_their_end(start: Start) -> None:
    gateway = await start(FLEET)
    for engine in gateway.engines:
        engine.context = 10**6
    (result,) = (await gateway.post(PATH, {"input": "word " * 4000 + "forbidden"})).json()["results"]
    assert result["flagged"] is True


async def test_all_texts_together_have_the_time_of_a_request(start: Start) -> None:
    gateway = await start(FLEET, total_timeout=0.7)
    gateway.engines[1].always = Fault(gap=0.2)
    answer = await gateway.post(PATH, {"input": ["fine"] * 2000})
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")
    assert len(gateway.engines[1].requests) < 10


WRONG: list[tuple[Any, int, str]] = [
    ({}, 400, "input"),
    ({"input": []}, 400, "input"),
    ({"input": 1}, 400, "input"),
    ({"input": ["x"] * 3000}, 400, "input"),
    ({"input": ["x", {"type": "text", "text": "y"}]}, 400, "input"),
    ({"input": [{"type": "image_url", "image_url": {"url": "https://x"}}]}, 400, "input[0]"),
    ({"input": "x", "model": "pebble-chat"}, 404, "model"),
    ({"input": "x", "model": "unknown"}, 404, "model"),
]


async def test_bad_requests_reach_no_guard(start: Start) -> None:
    gateway = await start(FLEET)
    for body, status, param in WRONG:
        answer = await gateway.post(PATH, body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (status, param), answer.text
    assert not any(engine.requests for engine in gateway.engines)


async def test_without_a_guard_there_is_the_reason(start: Start) -> None:
    gateway = await start(ONE)
    answer = await gateway.post(PATH, {"input": "x"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert "No guard is served here" in answer.text


async def test_a_guard_that_fails(start: Start) -> None:
    gateway = await start(FLEET)
    gateway.engines[1].always = Fault(status=500, body=b"{}")
    answer = await gateway.post(PATH, {"input": "x"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "guardrail_unavailable")


async def test_the_tenants_limits_hold(start: Start) -> None:
    gateway = await start(FLEET + "tenants: {default: {requests_per_minute: 2}}")
    answers = [await gateway.post(PATH, {"input": "x"}) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]


async def test_a_key_for_some_models(start: Start) -> None:
    keys: Keys = {
        digest(name.encode()): Key(name, models=frozenset(models))
        for name, models in (("chat-only-key-000", {"pebble-chat"}), ("guard-only-key-00", {"omni-moderation-latest"}))
    }
    gateway = await start(FLEET, keys=keys)
    statuses = {}
    for key in ("unknown-key-000000", "chat-only-key-000", "guard-only-key-00"):
        headers = {"authorization": f"Bearer {key}"}
        statuses[key] = (await gateway.http.post(PATH, json={"input": "x"}, headers=headers)).status_code
    assert list(statuses.values()) == [401, 404, 200]


@pytest.mark.parametrize("said", ["fine", "forbidden"])
async def test_a_classifier_answers(start: Start, tmp_path: Path, said: str) -> None:
    async with FakeClassifier().listen(tmp_path / "c.sock") as fake:
        steps = f"guardrails: {{words: {{url: 'unix:{tmp_path}/c.sock:/v1/moderations'}}}}"
        gateway = await start(f"{ONE}\n{steps}\ndefault_guardrails: {{input: [words]}}", guardrail_keys="words=s3cret")
        answer = (await gateway.post(PATH, {"input": said})).json()
        (result,) = answer["results"]
        assert (answer["model"], result["flagged"]) == ("words", said == "forbidden")
        assert result["category_scores"]["violence"] == (0.9 if said == "forbidden" else 0.1)
        chat = {"model": "pebble-chat", "messages": [{"role": "user", "content": said}]}
        asked = await gateway.post("/v1/chat/completions", chat)
        assert asked.status_code == (200 if said == "fine" else 400)
        assert "Bearer s3cret" in fake.requests[0][0]
        assert "s3cret" not in json.dumps(gateway.output)
        gateway.gateway.transport.close()
