"""A tenant's budgets as its clients see them: refusals, headers, the largest output, and a race for the last of one."""

import asyncio
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.admission.shared_budgets import Reserved, SharedBudgets
from service.auth.tenants import Tenant
from service.observability.ledger_file import DAY, LedgerFile, Line
from tests.conftest import Start
from tests.fake_engine import Fault
from tests.relay.test_ledger import folder
from tests.support.exchanges import CHAT, COMPLETION, EXCHANGES, MESSAGE, RESPONSE, TALKING, Case, label
from tests.support.gateways import HOUSE
from tests.support.redis import redis_server
from tests.support.waiting import until

TENANT = {"x-roundhouse-tenant": "t"}


@pytest.mark.parametrize("case", TALKING, ids=label)
@pytest.mark.parametrize("stream", [False, True], ids=label)
async def test_answers_tell_what_remains(case: Case, stream: bool, start: Start) -> None:
    gateway = await start("models: [{model: pebble-chat}]\ntenants: {t: {requests_per_minute: 2, tokens_per_day: 900}}")
    body = case.body(stream, **({"max_output_tokens": 20} if case is RESPONSE else {"max_tokens": 20}))
    seen = [await gateway.http.post(case.path, json=body, headers=TENANT) for _ in range(3)]
    assert [one.status_code for one in seen] == [200, 200, 429]
    name = "anthropic-ratelimit-{1}-{0}" if case is MESSAGE else "x-ratelimit-{0}-{1}"
    for number, one in enumerate(seen):
        assert one.headers[name.format("limit", "requests")] == "2"
        assert one.headers[name.format("remaining", "requests")] == str((1, 0, 0)[number])
        assert one.headers[name.format("limit", "tokens")] == "900"
        assert one.headers[name.format("reset", "requests")].endswith("Z" if case is MESSAGE else "s")
    remaining = [int(one.headers[name.format("remaining", "tokens")]) for one in seen]
    assert 900 > remaining[0] > remaining[1]
    assert "2 requests per minute" in seen[2].text and seen[2].headers["retry-after"]
    other = await gateway.http.post(case.path, json=body)
    assert not [one for one in other.headers if "ratelimit" in one]


async def test_a_replay_tells_no_budgets_of_another_moment(start: Start) -> None:
    gateway = await start("models: [{model: pebble-chat}]\ntenants: {t: {requests_per_minute: 2}}")
    headers = {**TENANT, "idempotency-key": "k"}
    first, again = [await gateway.http.post(CHAT.path, json=CHAT.body(), headers=headers) for _ in range(2)]
    assert first.headers["x-ratelimit-remaining-requests"] == "1"
    assert again.headers["idempotent-replayed"] == "true" and "x-ratelimit-limit-requests" not in again.headers


LIMIT_FIELDS = {"chat": "max_completion_tokens", "completions": "max_tokens", "responses": "max_output_tokens"}


@pytest.mark.parametrize(("case", "stream"), EXCHANGES, ids=label)
async def test_the_largest_output_is_bounded(case: Case, stream: bool, start: Start) -> None:
    gateway = await start(HOUSE + "\ntenants: {t: {max_output_tokens: 40}}")
    body = case.body(stream)
    assert (await gateway.http.post(case.path, json=body, headers=TENANT)).status_code == 200
    field = LIMIT_FIELDS.get(case.name)
    sent = gateway.seen[-1].json
    if field:
        assert sent[field] == 40
        for name, large in ((field, 41), ("max_tokens" if case is CHAT else field, 10**6)):
            refused = await gateway.http.post(case.path, json=case.body(stream, **{name: large}), headers=TENANT)
            assert refused.status_code == 400
            error = refused.json()["error"]
            assert error["param"] == name and "at most 40" in error["message"]
        assert len(gateway.seen) == 1
        assert (await gateway.http.post(case.path, json=case.body(stream, **{field: 39}), headers=TENANT)).is_success
        assert gateway.seen[-1].json[field] == 39
    elif case is MESSAGE:
        assert sent["max_tokens"] == 20
        refused = await gateway.http.post(case.path, json=case.body(stream, max_tokens=41), headers=TENANT)
        assert refused.status_code == 400 and "at most 40" in refused.json()["error"]["message"]
    else:
        assert not any(name.startswith("max_") for name in sent) or case.name == "suffix"


async def test_the_sequences_of_a_request_share_what_they_may_generate(start: Start) -> None:
    gateway = await start("{models: [{model: pebble-base, engine: {max_model_len: 512}}], "
                          "request_bounds: {output_tokens: 1024}}")  # fmt: skip
    for fields, sent in (
        ({"n": 4, "max_tokens": 256}, 256),
        ({"prompt": ["a"] * 8}, 128),  # what has no bound of its own gets its share
        ({"n": 2, "max_tokens": 512}, 512),
        ({"n": 2}, None),  # two are bounded by the context
    ):
        answer = await gateway.http.post(COMPLETION.path, json={"model": "pebble-base", "prompt": "a"} | fields)
        assert answer.status_code == 200, answer.text
        assert gateway.seen[-1].json.get("max_tokens") == sent
    refused = await gateway.http.post(COMPLETION.path, json=COMPLETION.body(n=4, max_tokens=257))
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "max_tokens"
    assert "at most 256, for the 4 sequences" in refused.json()["error"]["message"]


@pytest.mark.usefixtures("within_a_day")
@pytest.mark.parametrize("limits", [{"requests_per_day": 5}, {"tokens_per_day": 160}], ids=["requests", "tokens"])
async def test_a_race_for_the_last_of_a_budget_lets_none_too_many_through(limits: dict[str, Any], start: Start) -> None:
    fleet = f"models: [{{model: pebble-chat}}]\ntenants: {{t: {json.dumps(limits)}}}"
    gateway = await start(fleet)
    gateway.engines[0].always = Fault(gap=0.005)
    body = CHAT.body(max_tokens=8)
    answers = await asyncio.gather(*(gateway.http.post(CHAT.path, json=body, headers=TENANT) for _ in range(40)))
    statuses = Counter(one.status_code for one in answers)
    used = sum(one.json()["usage"]["total_tokens"] for one in answers if one.status_code == 200)
    assert statuses.keys() == {200, 429}
    assert statuses[200] <= limits.get("requests_per_day", 40) and 0 < used <= limits.get("tokens_per_day", 1000)
    refused = next(one for one in answers if one.status_code == 429)
    assert "per day" in refused.text and 1 <= int(refused.headers["retry-after"]) <= DAY


@pytest.mark.usefixtures("within_a_day")
async def test_a_day_survives_a_restart(start: Start, tmp_path: Any) -> None:
    path = folder(tmp_path)
    file = LedgerFile(path)
    now = time.time()
    rows = [("t", 1), ("t", 1), ("t", 0), ("u", 1)]
    file.write(
        Line(f"r{number}", now, tenant, "", "m", "/v1/completions", 10, 0, 5, False, bool(admitted), 200, "complete")
        for number, (tenant, admitted) in enumerate(rows)
    )
    file.close()
    fleet = "models: [{model: pebble-base}]\ntenants: {t: {requests_per_day: 3, tokens_per_day: 9000}}"
    gateway = await start(fleet, usage_dir=path)
    statuses = []
    for _ in range(2):
        answer = await gateway.http.post(COMPLETION.path, json=COMPLETION.body(max_tokens=5), headers=TENANT)
        statuses.append((answer.status_code, answer.headers["x-ratelimit-remaining-requests"]))
    assert statuses == [(200, "0"), (429, "0")]
    await until(lambda: len(gateway.lines) == 2, "the end of the requests")


FLEET = "models: [{model: pebble-chat, max_in_flight: 1}]\ntenants: {t: {requests_per_day: 3}, free: {}}"


@pytest.mark.usefixtures("within_a_day")
async def test_gateways_on_one_redis_share_a_budget_and_close_without_it(start: Start, tmp_path: Path) -> None:
    (tmp_path / "redis").mkdir()
    with redis_server(tmp_path / "redis") as redis:
        gateway = await start(FLEET, redis_url=redis.url, gateway_replicas=2)
        other = SharedBudgets(redis.url, lambda: None)  # that of another gateway
        tenant = Tenant("t", requests_per_day=3)
        bodies = [CHAT.body(number % 4 == 0, max_tokens=4) for number in range(9)]
        results = await asyncio.gather(
            *(gateway.http.post(CHAT.path, json=body, headers=TENANT) for body in bodies),
            *(other.reserve(tenant, 10.0) for _ in bodies),
            return_exceptions=True,
        )
        answers = [one for one in results if isinstance(one, httpx.Response)]
        assert sum(one.status_code == 200 for one in answers) + sum(isinstance(one, Reserved) for one in results) == 3
        assert all(one.headers["x-ratelimit-limit-requests"] == "3" for one in answers)
        assert {one.status_code for one in answers} <= {200, 429}
        redis.kill()
        closed = await gateway.http.post(CHAT.path, json=CHAT.body(), headers=TENANT)
        assert (closed.status_code, closed.json()["error"]["code"]) == (503, "budgets_unavailable")
        assert closed.headers["retry-after"] and str(tmp_path) not in closed.text
        free = await gateway.http.post(CHAT.path, json=CHAT.body(), headers={"x-roundhouse-tenant": "free"})
        assert free.status_code == 200
        assert gateway.sample("roundhouse_budget_store_failures_total") > 0
        redis.start()
        again = await gateway.http.post(CHAT.path, json=CHAT.body(), headers=TENANT)
        assert (again.status_code, again.headers["x-ratelimit-remaining-requests"]) == (200, "2")
        await other.close()
