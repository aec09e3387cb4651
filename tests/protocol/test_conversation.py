"""Conversations that are continued: the bodies that engines get, the events that clients get, the pages of items."""

import json
from typing import Any

import pytest

from service.errors import ApiError
from service.protocol.conversation import continued, new_items, page, references, split_events, unfinished, with_ids
from service.protocol.parse_body import parse_body
from service.protocol.requests import ResponsesRequest


def request(**fields: Any) -> tuple[ResponsesRequest, bytes]:
    body = json.dumps({"model": "m", **fields}).encode()
    parsed = parse_body(ResponsesRequest, body).request
    assert isinstance(parsed, ResponsesRequest)
    return parsed, body


USER = {"role": "user", "content": "and?"}
STORED = b'{"id":"msg_1","type":"message","role":"assistant","content":[{"type":"output_text","text":"yes"}]}'


def test_the_engine_gets_the_conversation_and_the_clients_own_bytes() -> None:
    read, body = request(input="é", previous_response_id="resp_1", background=True, temperature=0.10)
    items = new_items(read, body, {})
    sent = json.loads(continued(body, [STORED], items))
    assert sent == {
        "model": "m",
        "temperature": 0.1,
        "input": [json.loads(STORED), {"type": "message", "role": "user", "content": "é"}],
    }


def test_a_message_without_any_text_is_left_out() -> None:
    read, body = request(input=[USER])
    empty = b'{"id":"msg_2","type":"message","role":"assistant","content":[]}'
    sent = json.loads(continued(body, [empty, STORED], new_items(read, body, {})))
    assert sent["input"] == [json.loads(STORED), USER]


@pytest.mark.parametrize("reference", [{"type": "item_reference", "id": "msg_1"}, {"id": "msg_1"}])
def test_a_reference_is_replaced_by_its_item(reference: Any) -> None:
    read, body = request(input=[USER, reference])
    assert references(read) == ["msg_1"]
    assert new_items(read, body, {"msg_1": STORED}) == [json.dumps(USER).encode(), STORED]
    with pytest.raises(ApiError) as caught:
        new_items(read, body, {})
    assert (caught.value.status, caught.value.param) == (404, "input[1]")
    assert caught.value.message == (
        "No item 'msg_1' is stored here. Send the whole conversation instead of what refers to it."
    )


def test_only_lifecycle_events_are_changed_and_the_last_is_held_back() -> None:
    delta = b'event: response.output_text.delta\ndata: {"delta":"event: response.created\\n"}\n\n'
    created = b'event: response.created\ndata: {"response":{"id":"x"},"type":"response.created"}\n\n'
    done = b'event: response.incomplete\ndata: {"response":{"id":"x","a":1}}\n\n'
    assert split_events(delta, {"id": "ours"}) == (delta, None)
    passed, final = split_events(created + delta + done, {"id": "ours"})
    assert passed == created.replace(b'"x"', b'"ours"') + delta
    assert final == (b"event: response.incomplete", {"response": {"id": "ours", "a": 1}})


def test_a_response_without_output_shows_its_request() -> None:
    _, body = request(input="a", tools=[{"type": "function", "name": "f"}], max_output_tokens=3, text=None)
    shown = unfinished(body, "served", 5, "queued")
    assert (shown["model"], shown["status"], shown["output"], shown["created_at"]) == ("served", "queued", [], 5)
    assert (shown["tools"][0]["name"], shown["max_output_tokens"], shown["tool_choice"]) == ("f", 3, "auto")


ITEMS = [json.dumps({"role": "user", "content": str(n)}).encode() for n in range(5)] + [STORED]
LISTED = [(f"i{n}", item) for n, item in enumerate(ITEMS)]


@pytest.mark.parametrize(
    ("query", "ids", "more"),
    [
        ({}, "i5 i4 i3 i2 i1 i0", False),
        ({"order": "asc", "limit": "2"}, "i0 i1", True),
        ({"order": "asc", "after": "i3"}, "i4 i5", False),
        ({"after": "i1", "limit": "100"}, "i0", False),
        ({"after": "i0"}, "", False),
    ],
)
def test_pages(query: dict[str, str], ids: str, more: bool) -> None:
    got = page(LISTED, query)
    assert ([item["id"] for item in got["data"]], got["has_more"]) == (ids.split(), more)
    assert (got["first_id"], got["last_id"]) == ((ids.split()[0], ids.split()[-1]) if ids else (None, None))


@pytest.mark.parametrize(
    ("name", "value"),
    [("limit", "0"), ("limit", "101"), ("limit", "x"), ("limit", "9" * 5000), ("order", "up"), ("after", "i9")],
)
def test_a_wrong_parameter_is_named(name: str, value: str) -> None:
    with pytest.raises(ApiError) as caught:
        page(LISTED, {name: value})
    assert (caught.value.status, caught.value.param) == (400, name)


def test_items_are_listed_with_ids_and_parts() -> None:
    named = with_ids(ITEMS, lambda: "new")
    assert [id for id, _ in named] == ["msg_new"] * 5 + ["msg_1"]
    (listed,) = page(named[:1], {})["data"]
    assert listed == {
        "id": "msg_new",
        "type": "message",
        "role": "user",
        "status": "completed",
        "content": [{"type": "input_text", "text": "0"}],
    }


def test_a_listed_text_of_the_assistant_is_output() -> None:
    (listed,) = page([("i1", b'{"role":"assistant","content":"yes"}')], {})["data"]
    assert listed["content"] == [{"type": "output_text", "text": "yes", "annotations": []}]
