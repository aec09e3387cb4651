"""Stored responses as clients use them, on a running gateway with fake engines."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from service.database import file
from service.relay import stored
from service.stored.database import FILE, Database
from service.stored.response import NewResponse
from tests.conftest import Start
from tests.fake_engine import Call, Fault, Script
from tests.support.exchanges import RESPONSE, label
from tests.support.gateways import RunningGateway
from tests.support.waiting import until

if TYPE_CHECKING:
    import openai

TENANTS = "models: [{model: pebble-chat, min_replicas: 2}]\ntenants: {a: {}, b: {}}"
PATH = RESPONSE.path


@pytest.fixture
async def gateway(start: Start, tmp_path: Path) -> RunningGateway:
    return await start(TENANTS, responses_dir=folder(tmp_path))


def folder(tmp_path: Path) -> Path:
    path = tmp_path / "responses"
    path.mkdir(exist_ok=True)
    return path


async def ask(gateway: RunningGateway, text: Any, tenant: str = "a", **fields: Any) -> httpx.Response:
    body = {"model": "pebble-chat", "input": text, **fields}
    return await gateway.http.post(PATH, json=body, headers={"x-roundhouse-tenant": tenant})


async def get(gateway: RunningGateway, path: str, tenant: str = "a", method: str = "GET") -> httpx.Response:
    return await gateway.http.request(method, f"{PATH}/{path}", headers={"x-roundhouse-tenant": tenant})


def final(answer: httpx.Response) -> Any:
    """The response in a whole answer, or in the last event of a stream."""
    if answer.headers["content-type"].startswith("application/json"):
        return answer.json()
    return json.loads(answer.text.strip().rpartition("data: ")[2])["response"]


@pytest.mark.parametrize("stream", [False, True], ids=label)
async def test_a_conversation_is_continued(gateway: RunningGateway, stream: bool) -> None:
    first = await ask(gateway, "my name is Ada", instructions="Be brief.", metadata={"k": "v"}, stream=stream)
    one = final(first)
    assert (one["store"], one["metadata"], one["previous_response_id"]) == (True, {"k": "v"}, None)
    assert (await get(gateway, one["id"])).json() == one
    if stream:  # the same id from the first event on
        ids = {json.loads(row[6:])["response"]["id"] for row in first.text.split("\n") if '"response":' in row}
        assert ids == {one["id"]}
    two = final(await ask(gateway, "and now?", previous_response_id=one["id"], stream=stream))
    assert two["previous_response_id"] == one["id"] != two["id"]
    three = final(await ask(gateway, [{"role": "user", "content": "more"}], previous_response_id=two["id"]))
    assert three["status"] == "completed"
    (last,) = [seen.json for seen in gateway.seen if len(seen.json["input"]) == 5]
    texts = [
        item["content"] if isinstance(item["content"], str) else item["content"][0]["text"] for item in last["input"]
    ]
    assert texts == ["my name is Ada", "my name is Ada", "and now?", "and now?", "more"]
    assert all(seen.json["store"] is False for seen in gateway.seen)
    assert not any({"previous_response_id", "metadata", "background"} & set(seen.json) for seen in gateway.seen)
    assert [seen.json.get("instructions") for seen in gateway.seen].count("Be brief.") == 1  # not carried over


async def test_tool_calls_are_continued_by_their_results(gateway: RunningGateway) -> None:
    for engine in gateway.engines:
        engine.agent = Script((Call("look", '{"a":1}'),), "done")
    tools = [{"type": "function", "name": "look", "parameters": {"type": "object"}}]
    one = (await ask(gateway, "go", tools=tools)).json()
    (call,) = one["output"]
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "5"}
    two = (await ask(gateway, [result], tools=tools, previous_response_id=one["id"])).json()
    assert two["output"][0]["content"][0]["text"] == "done"
    (sent,) = [seen.json["input"] for seen in gateway.seen if len(seen.json["input"]) == 3]
    assert [item["type"] for item in sent] == ["message", "function_call", "function_call_output"]


async def test_references_are_replaced_by_their_items(gateway: RunningGateway) -> None:
    one = (await ask(gateway, "first words")).json()
    reference = {"type": "item_reference", "id": one["output"][0]["id"]}
    answer = await ask(gateway, [reference, {"role": "user", "content": "next"}])
    assert answer.status_code == 200
    (sent,) = [seen.json["input"] for seen in gateway.seen if len(seen.json["input"]) == 2]
    assert sent[0]["content"][0]["text"] == "first words"
    missing = await ask(gateway, [reference], tenant="b")
    assert (missing.status_code, missing.json()["error"]["param"]) == (404, "input[0]")
    assert len(gateway.seen) == 2


async def test_a_follow_up_goes_to_the_replica_of_its_conversation(gateway: RunningGateway) -> None:
    """The openings are greetings, so that by its own text a follow-up would have another prefix key."""
    went = []
    for number in range(8):
        one = await ask(gateway, f"hi {number}", instructions="Be brief.")
        two = await ask(gateway, "and now?", previous_response_id=one.json()["id"])
        three = await ask(gateway, "then?", previous_response_id=two.json()["id"])
        went.append([answer.headers["x-roundhouse-replica"] for answer in (one, two, three)])
    assert all(len(set(replicas)) == 1 for replicas in went), went
    assert len({replicas[0] for replicas in went}) == 2


async def test_another_tenants_id_is_one_that_does_not_exist(gateway: RunningGateway) -> None:
    id = (await ask(gateway, "secret")).json()["id"]
    unknown = "resp_" + "0" * 32
    for method, suffix in (("GET", ""), ("GET", "/input_items"), ("POST", "/cancel"), ("DELETE", "")):
        theirs, none = [await get(gateway, name + suffix, "b", method) for name in (id, unknown)]
        assert theirs.status_code == none.status_code == 404
        assert theirs.text.replace(id, unknown) == none.text
    theirs, none = [await ask(gateway, "x", "b", previous_response_id=name) for name in (id, unknown)]
    assert (theirs.status_code, theirs.json()["error"]["code"]) == (404, "response_not_found")
    assert theirs.text.replace(id, unknown) == none.text
    assert (await get(gateway, id)).status_code == 200
    assert len(gateway.seen) == 1


async def test_nothing_is_stored_for_one_who_does_not_want_it(gateway: RunningGateway) -> None:
    answer = (await ask(gateway, "x", store=False)).json()
    assert (await get(gateway, answer["id"])).status_code == 404
    assert answer.get("store") is None


async def test_what_needs_a_store_is_refused_where_there_is_none(start: Start) -> None:
    gateway = await start()
    for fields, param in (
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0]"),
    ):
        answer = await gateway.post(PATH, {"model": "chat", "input": "x", **fields})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
        assert "ROUNDHOUSE_RESPONSES_DIR" in answer.json()["error"]["message"]
    answer = await gateway.http.get(f"{PATH}/resp_1")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "response_not_found")
    assert "ROUNDHOUSE_RESPONSES_DIR" in answer.json()["error"]["message"]
    assert not gateway.seen
    answer = await gateway.post(PATH, {"model": "chat", "input": "x", "store": True})
    assert answer.status_code == 200


async def test_a_conversation_is_bounded(start: Start, tmp_path: Path) -> None:
    gateway = await start(responses_dir=folder(tmp_path), max_body_bytes=4000)
    id = None
    for _ in range(9):
        answer = await gateway.post(
            PATH, {"model": "chat", "input": "x" * 1000, **({"previous_response_id": id} if id else {})}
        )
        if answer.status_code != 200:
            break
        id = answer.json()["id"]
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
    assert 1 <= len(gateway.seen) <= 3


@pytest.mark.parametrize("stream", [False, True], ids=label)
async def test_a_file_that_cannot_be_written_stops_only_what_needs_it(
    start: Start, tmp_path: Path, stream: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(file, "BUSY", 0.01)
    gateway = await start(responses_dir=folder(tmp_path))
    one = (await gateway.post(PATH, {"model": "chat", "input": "Zanzibar"})).json()
    body = {"model": "chat", "input": "Zanzibar", "stream": stream}
    with closing(sqlite3.connect(folder(tmp_path) / FILE)) as other:
        other.execute("BEGIN IMMEDIATE")
        for fields in ({"store": False}, {}, {"previous_response_id": one["id"]}):
            answer = await gateway.post(PATH, body | fields)
            assert answer.status_code == 200 and final(answer).get("store") is not True
        asked_for = await gateway.post(PATH, body | {"store": True})
        if stream:
            assert asked_for.status_code == 200
            assert asked_for.text.count("store_unavailable") == 1 and "response.completed" not in asked_for.text
        else:
            assert (asked_for.status_code, asked_for.json()["error"]["code"]) == (503, "store_unavailable")
        background = await gateway.post(PATH, {"model": "chat", "input": "z", "background": True})
        assert background.status_code == 503
    assert gateway.sample("roundhouse_response_store_failures_total") >= 4
    assert final(await gateway.post(PATH, body | {"store": True}))["store"] is True
    assert "Zanzibar" not in "".join(gateway.output) + caplog.text and "locked" in caplog.text


async def status_of(gateway: RunningGateway, id: str) -> str:
    return str((await get(gateway, id)).json()["status"])


async def until_status(gateway: RunningGateway, id: str, status: str) -> Any:
    while (found := (await get(gateway, id)).json())["status"] != status:
        assert found["status"] in ("queued", "in_progress"), found
        await asyncio.sleep(0.01)
    return found


async def test_a_background_run_goes_on_without_its_client(gateway: RunningGateway) -> None:
    line = await gateway.connect()
    for engine in gateway.engines:
        engine.hold()
    await line.post(PATH, json.dumps({"model": "chat", "input": "one two", "background": True}).encode(),
                    "x-roundhouse-tenant: a", "connection: close")  # fmt: skip
    answer = await line.answer()
    begun = answer.json
    assert (answer.status, begun["status"], begun["output"], begun["background"]) == (200, "in_progress", [], True)
    assert answer.headers["x-roundhouse-model"] == "pebble-chat"
    running = await ask(gateway, "x", previous_response_id=begun["id"])
    assert running.status_code == 400 and "in progress" in running.json()["error"]["message"]
    for engine in gateway.engines:
        engine.go_on()
    ended = await until_status(gateway, begun["id"], "completed")
    assert ended["output"][0]["content"][0]["text"] == "one two"
    assert ended["id"] == begun["id"] and ended["background"] is True
    follow_up = await ask(gateway, "next", previous_response_id=begun["id"])
    assert follow_up.status_code == 200
    cancelled = await get(gateway, f"{begun['id']}/cancel", method="POST")
    assert cancelled.json() == ended  # it stays as it is
    assert "background" not in gateway.seen[0].json


async def test_a_queued_background_run_waits_for_its_turn(start: Start, tmp_path: Path) -> None:
    gateway = await start(
        "models: [{model: pebble-chat, max_in_flight: 1}]", responses_dir=folder(tmp_path), queue_timeout=0.05
    )
    gateway.engines[0].hold()
    one, two = [
        (await gateway.post(PATH, {"model": "chat", "input": "one two", "background": True})).json() for _ in range(2)
    ]
    assert (one["status"], two["status"]) == ("in_progress", "queued")
    gateway.engines[0].go_on()
    for response in (one, two):
        while (found := (await gateway.http.get(f"{PATH}/{response['id']}")).json())["status"] != "completed":
            assert found["status"] in ("queued", "in_progress")
            await asyncio.sleep(0.01)


async def test_a_failed_background_run_says_why(gateway: RunningGateway) -> None:
    for engine in gateway.engines:
        engine.script(Fault(status=500, body=b"{}"))
    id = (await ask(gateway, "x", background=True)).json()["id"]
    failed = await until_status(gateway, id, "failed")
    assert failed["error"]["code"] == "upstream_error"
    await until(lambda: len(gateway.lines) == gateway.started, "the end of the run")
    assert next(line for line in gateway.lines if line["code"])["outcome"] == "failed"


@pytest.mark.parametrize("how", ["here", "deleted", "elsewhere"])
async def test_a_background_run_is_cancelled(
    gateway: RunningGateway, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "POLL", 0.01)
    for engine in gateway.engines:
        engine.script(Fault(gap=3600.0))
    begun = (await ask(gateway, "one two", background=True)).json()
    await until(lambda: any(engine.running for engine in gateway.engines), "the run")
    if how == "here":
        assert (await get(gateway, f"{begun['id']}/cancel", method="POST")).json()["status"] == "cancelled"
    elif how == "deleted":
        deleted = await get(gateway, begun["id"], method="DELETE")
        assert deleted.json() == {"id": begun["id"], "object": "response", "deleted": True}
    else:  # as another worker process does it
        other = Database(folder(tmp_path), 2**20, 3600.0)
        assert other.update(NewResponse("a", begun["id"], None, 0, begun | {"status": "cancelled"}, ()))
        other.close()
    await until(lambda: not any(engine.running for engine in gateway.engines), "the end of the run")
    again = await get(gateway, f"{begun['id']}/cancel", method="POST")
    assert again.json().get("status") == (None if how == "deleted" else "cancelled")
    await until(lambda: len(gateway.lines) == gateway.started, "the end of the request")
    (line,) = [line for line in gateway.lines if line["endpoint"] == PATH]
    assert line["outcome"] == "cancelled"
    assert not gateway.gateway._stored._running and not gateway.gateway._stored._lost


async def test_a_run_that_the_shutdown_ends_has_failed(gateway: RunningGateway) -> None:
    for engine in gateway.engines:
        engine.script(Fault(gap=3600.0))
    id = (await ask(gateway, "one two", background=True)).json()["id"]
    await until(lambda: any(engine.running for engine in gateway.engines), "the run")
    gateway.gateway.abort_requests()
    failed = await until_status(gateway, id, "failed")
    assert failed["error"]["code"] == "shutting_down"


async def test_a_run_whose_end_could_not_be_stored_has_failed_later(
    gateway: RunningGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file, "BUSY", 0.01)
    monkeypatch.setattr(stored, "POLL", 0.01)
    for engine in gateway.engines:
        engine.hold()
    id = (await ask(gateway, "one two", background=True)).json()["id"]
    with closing(sqlite3.connect(folder(tmp_path) / FILE)) as other:
        other.execute("BEGIN IMMEDIATE")
        for engine in gateway.engines:
            engine.go_on()
        await until(lambda: bool(gateway.gateway._stored._lost), "the end of the run")
        assert await status_of(gateway, id) == "in_progress"
    assert (await until_status(gateway, id, "failed"))["error"]["code"] == "store_unavailable"
    await until(lambda: not gateway.gateway._stored._lost, "the note of it")


async def test_only_a_background_response_can_be_cancelled(gateway: RunningGateway) -> None:
    id = (await ask(gateway, "x")).json()["id"]
    answer = await get(gateway, f"{id}/cancel", method="POST")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")


async def test_a_repeated_request_gets_the_same_stored_response(gateway: RunningGateway) -> None:
    key = {"idempotency-key": "k", "x-roundhouse-tenant": "a"}
    body = {"model": "chat", "input": "x"}
    one, two = [(await gateway.http.post(PATH, json=body, headers=key)).json() for _ in range(2)]
    assert one == two == (await get(gateway, one["id"])).json()
    assert len(gateway.seen) == 1


@pytest.fixture
async def sdk(gateway: RunningGateway) -> AsyncIterator["openai.AsyncOpenAI"]:
    import openai

    url, headers = f"http://127.0.0.1:{gateway.port}/v1", {"x-roundhouse-tenant": "a"}
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, default_headers=headers) as client:
        yield client


async def test_the_official_sdk(gateway: RunningGateway, sdk: "openai.AsyncOpenAI") -> None:
    import openai

    one = await sdk.responses.create(model="chat", input="my name is Ada")
    two = await sdk.responses.create(model="chat", input="and now?", previous_response_id=one.id)
    assert two.previous_response_id == one.id
    assert (await sdk.responses.retrieve(two.id)).output_text == two.output_text == "and now?"
    listed = [item async for item in sdk.responses.input_items.list(two.id, order="asc", limit=2)]
    texts = [item.to_dict()["content"][0]["text"] for item in listed]  # type: ignore[index]
    assert texts == ["my name is Ada", "my name is Ada", "and now?"]
    stream = await sdk.responses.create(model="chat", input="then?", previous_response_id=two.id, stream=True)
    events = [event async for event in stream]
    assert events[0].response.id == events[-1].response.id  # type: ignore[union-attr]
    assert (await sdk.responses.retrieve(events[-1].response.id)).status == "completed"  # type: ignore[union-attr]
    await sdk.responses.delete(one.id)
    with pytest.raises(openai.NotFoundError):
        await sdk.responses.retrieve(one.id)
    with pytest.raises(openai.NotFoundError, match="stored no more"):
        await sdk.responses.create(model="chat", input="x", previous_response_id=two.id)
    for engine in gateway.engines:
        engine.script(Fault(gap=3600.0))
    run = await sdk.responses.create(model="chat", input="one two", background=True)
    assert run.status == "in_progress"
    assert (await sdk.responses.cancel(run.id)).status == "cancelled"
    with pytest.raises(openai.BadRequestError, match="not kept"):
        await sdk.responses.retrieve(two.id, stream=True)


async def test_a_run_that_was_stored_too_late_has_failed(
    gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client was told that it does not run."""
    store = gateway.gateway._stored._opened()
    begin, ids = Database.begin, []

    def begin_late(database: Database, response: NewResponse) -> None:
        begin(database, response)
        ids.append(response.id)
        raise sqlite3.OperationalError("too late")

    monkeypatch.setattr(Database, "begin", begin_late)
    answer = await ask(gateway, "x", background=True)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "store_unavailable")
    assert (await store.run(Database.get, "a", ids[0]) or {})["status"] == "failed"
    assert not gateway.seen
