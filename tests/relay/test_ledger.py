"""The usage ledger beside the engines' own counters: requests of every endpoint, aborts, faults and retries."""

import asyncio
import json
import random
import re
from pathlib import Path

from service.config.run_dir import private_folder
from service.observability.ledger_file import DAY, FILE, LedgerFile, Line
from tests.conftest import Start
from tests.fake_engine import Fault
from tests.support.exchanges import CASES, CHAT, EXCHANGES, STREAMING
from tests.support.gateways import HOUSE, RunningGateway
from tests.support.waiting import until

PROMPT, COMPLETION = (
    re.compile(rb'"(?:prompt|input)_tokens":(\d+)'),
    re.compile(rb'"(?:completion|output)_tokens":(\d+)'),
)
TENANTS = "\ntenants: {t: {}, u: {}}"


def folder(tmp_path: Path) -> Path:
    return private_folder(tmp_path / "usage", "usage_dir")


def written(path: Path) -> list[Line]:
    """The lines of the ledger."""
    if not (path / FILE).exists():
        return []
    file = LedgerFile(path)
    with file._file.transaction("DEFERRED") as connection:
        rows = connection.execute("SELECT * FROM lines ORDER BY time").fetchall()
    file.close()
    return [Line(*row[:-1]) for row in rows if row[-1] is None]


async def lines_of(gateway: RunningGateway, path: Path, count: int) -> list[Line]:
    await until(lambda: len(gateway.lines) == count, "the end of every request")
    await until(lambda: len(written(path)) == count, "a line in the ledger for every request")
    return written(path)


def counted(gateway: RunningGateway) -> tuple[int, int]:
    """The tokens of prompts and completions by the engines' own counters."""
    totals = [engine.totals for engine in gateway.engines]
    return sum(one["prompt"] for one in totals), sum(one["said"] for one in totals)


async def test_every_exchange_is_a_line_with_the_engines_own_count(start: Start, tmp_path: Path) -> None:
    gateway = await start(HOUSE + TENANTS, usage_dir=folder(tmp_path))
    for case, stream in EXCHANGES:
        headers = {"x-roundhouse-tenant": "u" if stream else "t"}
        assert (await gateway.http.post(case.path, json=case.body(stream), headers=headers)).status_code == 200
    lines = await lines_of(gateway, folder(tmp_path), len(EXCHANGES))
    assert [(one.endpoint, one.tenant) for one in lines] == [(c.path, "u" if s else "t") for c, s in EXCHANGES]
    assert not any(one.estimated for one in lines)
    generated = [one for one in lines if one.completion]
    assert (sum(one.prompt for one in generated), sum(one.completion for one in generated)) == counted(gateway)
    assert {one.id for one in lines} == {line["request_id"] for line in gateway.lines}
    assert all(one.admitted and one.status == 200 and one.outcome == "complete" for one in lines)


async def test_aborts_faults_and_retries_differ_from_the_engines_only_where_it_says_so(
    start: Start, tmp_path: Path
) -> None:
    gateway = await start("models: [{model: pebble-chat, min_replicas: 2}]" + TENANTS, usage_dir=folder(tmp_path))
    gateway.expected_unseen = None
    chance, count = random.Random(7), 300
    for engine in gateway.engines:
        engine.gap = 0.001

    async def one(number: int) -> None:
        case = chance.choice([case for case in STREAMING if case.model == "pebble-chat"])
        body = json.dumps(case.body(chance.random() < 0.6, max_tokens=8) if case is CHAT else case.body(True)).encode()
        line = await gateway.connect()
        await line.post(case.path, body, "x-roundhouse-tenant: t", "connection: close")
        if number % 3:
            await line.rest()
        else:
            await asyncio.sleep(chance.random() * 0.01)  # it may have ended by then
            line.leave()
        if number % 29 == 0:  # refused by one engine: the other one answers
            gateway.engines[number % 2].script(Fault(status=503, body=b"{}"))

    for begin in range(0, count, 20):
        await asyncio.gather(*map(one, range(begin, begin + 20)))
    lines = await lines_of(gateway, folder(tmp_path), count)
    exact = [line for line in lines if not line.estimated]
    assert len(exact) >= count * 0.6
    seen = [seen for engine in gateway.engines for seen in engine.requests]
    answers = {one.headers["x-request-id"]: one.answer for one in seen if COMPLETION.search(one.answer)}
    for line in exact:
        if line.completion:
            assert line.completion == int(COMPLETION.findall(answers[line.id])[-1])
            assert line.prompt == int(PROMPT.findall(answers[line.id])[-1])
    prompts, completions = counted(gateway)
    rest = [line for line in lines if line.estimated]
    # Each line that is estimated differs by no more than the longest answer.
    assert abs(sum(line.completion for line in lines) - completions) <= 20 * len(rest)
    assert sum(line.completion for line in exact) <= completions
    assert sum(line.prompt for line in exact) <= prompts


async def test_what_is_refused_costs_nothing_and_has_its_line(start: Start, tmp_path: Path) -> None:
    fleet = HOUSE + "\ntenants: {t: {requests_per_minute: 1}}"
    gateway = await start(fleet, usage_dir=folder(tmp_path))
    headers = {"x-roundhouse-tenant": "t"}
    statuses = [(await gateway.http.post(CHAT.path, json=CHAT.body(), headers=headers)).status_code for _ in range(3)]
    assert statuses == [200, 429, 429]
    await gateway.http.get("/v1/models")
    assert (await gateway.http.post(CASES[0].path, content=b"{}")).status_code == 415
    await until(lambda: len(written(folder(tmp_path))) == 3, "the lines")
    lines = written(folder(tmp_path))
    assert [(one.status, one.outcome, one.admitted) for one in lines] == [
        (200, "complete", True), (429, "refused", False), (429, "refused", False)
    ]  # fmt: skip
    assert [one.prompt + one.completion for one in lines[1:]] == [0, 0]


async def test_what_guards_read_is_on_record_and_in_no_budget(start: Start, tmp_path: Path) -> None:
    fleet = """
models: [{model: pebble-chat}, {model: llama-guard-3-8b}]
guardrails: {safety: {model: llama-guard-3-8b, timeout: 5}}
default_guardrails: {input: [safety], output: [safety]}"""
    gateway = await start(fleet + TENANTS, usage_dir=folder(tmp_path))
    headers = {"x-roundhouse-tenant": "t"}
    assert (await gateway.http.post(CHAT.path, json=CHAT.body(), headers=headers)).status_code == 200
    gateway.engines[1].script(Fault(status=503, body=b"{}"))  # a guard that gives no verdict
    assert (await gateway.http.post(CHAT.path, json=CHAT.body(), headers=headers)).status_code == 503
    await until(lambda: len(written(folder(tmp_path))) == 5, "a line for each request and each verdict")
    lines = written(folder(tmp_path))
    guards = [line for line in lines if line.endpoint == "guardrail"]
    assert [(one.tenant, one.model, one.status) for one in guards] == [
        ("t", "llama-guard-3-8b", status) for status in (200, 200, 503)
    ]
    assert [one.outcome for one in guards] == ["complete", "complete", "refused"]
    assert sum(one.prompt for one in lines if not one.estimated) == counted(gateway)[0]
    file = LedgerFile(folder(tmp_path))
    (asked,) = [line for line in lines if line.endpoint == CHAT.path and line.admitted]
    assert file.used_on(int(asked.time // DAY))["t"] == (1, asked.prompt + asked.completion)
    file.close()
