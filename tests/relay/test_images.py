"""Conversations with images through the gateway: what engines get of them, and what clients are told."""

import base64
import json
from typing import Any

import pytest

from tests.conftest import Start
from tests.fake_engine import Fault
from tests.support.exchanges import CHAT, COUNT, MESSAGE, RESPONSE, TALKING, Case, error_in, label
from tests.support.gateways import ONE, RunningGateway
from tests.support.pictures import base64_of, block, chat_part, data_url, picture, responses_part

SEEING = """
models:
  - model: pebble-chat
  - {model: pebble-instruct, vision: true}
  - {model: llama-2-7b-chat, id: reader}
aliases: {gpt-4o: pebble-chat, claude-sonnet-5: pebble-instruct}
"""
RED = picture()
every_chat = pytest.mark.parametrize("case", (*TALKING, COUNT), ids=label)


def talk(case: Case, data: bytes = RED, media_type: str = "image/png") -> dict[str, Any]:
    """The fields of a conversation with a text and an image."""
    url = data_url(data, media_type)
    if case is RESPONSE:
        parts = [{"type": "input_text", "text": "What is it?"}, responses_part(url)]
        return {"input": [{"type": "message", "role": "user", "content": parts}]}
    picture_part = block(data, media_type) if case.anthropic else chat_part(url)
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, picture_part]}]}


async def refusal(gateway: RunningGateway, case: Case, **fields: Any) -> str:
    """The message of the 400 for a request, of which nothing has reached an engine."""
    response = await gateway.post(case.path, case.body(**fields))
    assert response.status_code == 400, response.text
    error_in(case, response.content)
    assert not gateway.seen
    return str(response.json()["error"]["message"])


@every_chat
@pytest.mark.parametrize("stream", [False, True], ids=label)
async def test_an_engine_that_sees_gets_the_image_as_it_was_sent(case: Case, stream: bool, start: Start) -> None:
    gateway = await start(SEEING)
    fields = talk(case)
    response = await gateway.post(case.path, case.body(stream and case.streams, model="claude-sonnet-5", **fields))
    assert response.status_code == 200, response.text
    assert response.headers["x-roundhouse-model"] == "pebble-instruct"
    (seen,) = gateway.seen
    assert {name: seen.json[name] for name in fields} == fields
    await gateway.settle()


@every_chat
async def test_a_model_without_eyes_gets_no_image(case: Case, start: Start) -> None:
    gateway = await start(SEEING)
    text = "'pebble-chat' (variant chat) does not support image input. Use 'pebble-instruct', or leave the images out."
    assert await refusal(gateway, case, **talk(case)) == text
    other = "'reader' (variant chat) does not support image input. Use 'pebble-instruct', or leave the images out."
    assert await refusal(gateway, case, **talk(case), model="reader") == other


async def test_where_nothing_sees_the_client_is_told(start: Start) -> None:
    gateway = await start(ONE)
    text = "does not support image input. No model served here does: leave the images out."
    assert text in await refusal(gateway, MESSAGE, **talk(MESSAGE))


@every_chat
@pytest.mark.parametrize("name", ["gpt-4o", "pebble", "auto"])
async def test_a_name_that_leaves_it_open_leads_to_a_model_that_sees(case: Case, name: str, start: Start) -> None:
    gateway = await start(SEEING)
    response = await gateway.post(case.path, case.body(model=name, **talk(case)))
    assert response.headers["x-roundhouse-model"] == "pebble-instruct"
    route = {"endpoint": case.path, "model": name, **talk(case)}
    assert (await gateway.post("/v1/route", route)).json()["model"] == "pebble-instruct"


@every_chat
async def test_bounds_are_those_of_the_fleet_file(case: Case, start: Start) -> None:
    gateway = await start(SEEING + "images: {max_count: 1, max_bytes: 1000, max_pixels: 100}")
    large = talk(case, picture("PNG", 11, 10))
    message = await refusal(gateway, case, model="pebble-instruct", **large)
    assert "11 × 10 pixels, and all images of a request may have 100 pixels together" in message
    heavy = await refusal(gateway, case, model="pebble-instruct", **talk(case, RED + bytes(1000)))
    assert "bytes" in heavy
    assert ("image exceeds" in heavy) == case.anthropic
    assert "declared as image/gif" in await refusal(
        gateway, case, model="pebble-instruct", **talk(case, RED, "image/gif")
    )
    field = "input" if case is RESPONSE else "messages"
    turns = talk(case)[field] * 2
    assert "has 2 images, and 1 are allowed" in await refusal(gateway, case, model="pebble-instruct", **{field: turns})


@every_chat
async def test_a_url_is_never_passed_on(case: Case, start: Start) -> None:
    gateway = await start(SEEING)
    url = "http://127.0.0.1:9/red.png"
    source = {"type": "image", "source": {"type": "url", "url": url}}
    part = source if case.anthropic else responses_part(url) if case is RESPONSE else chat_part(url)
    turn = {"type": "message", "role": "user", "content": [part]}
    fields = {"input": [turn]} if case is RESPONSE else {"messages": [{"role": "user", "content": [part]}]}
    assert "images are not fetched from anywhere" in await refusal(gateway, case, model="pebble-instruct", **fields)


async def test_a_stream_is_refused_with_a_real_status(start: Start) -> None:
    gateway = await start(SEEING)
    response = await gateway.post(CHAT.path, CHAT.body(True, model="pebble-instruct", **talk(CHAT, b"no image")))
    assert (response.status_code, response.headers["content-type"]) == (400, "application/json")
    await gateway.settle()
    assert gateway.lines[-1]["code"] == "invalid_value"


async def test_no_rate_limit_counts_the_data_of_an_image_as_text(start: Start) -> None:
    gateway = await start(SEEING + "tenants: {default: {tokens_per_minute: 20000}}")
    fields = talk(CHAT, RED + bytes(600_000))
    body = CHAT.body(model="pebble-instruct", max_tokens=5, **fields)
    assert (await gateway.post(CHAT.path, body)).status_code == 200


@pytest.mark.parametrize(
    ("engines", "ours"),
    [
        ("Failed to load image: image file is truncated", "Could not process image: its data is damaged"),
        (
            "At most 2 image(s) may be provided in one prompt.",
            "'pebble-instruct' takes 2 images in one request",
        ),
    ],
)
async def test_what_only_the_engine_finds_is_told_in_our_words(engines: str, ours: str, start: Start) -> None:
    gateway = await start(SEEING)
    body = json.dumps({"error": {"message": engines, "type": "BadRequestError"}}).encode()
    gateway.engines[1].script(Fault(status=400, body=body), path=MESSAGE.path)
    response = await gateway.post(MESSAGE.path, MESSAGE.body(model="pebble-instruct", **talk(MESSAGE)))
    assert response.status_code == 400
    assert response.json()["error"]["message"].startswith(ours)


async def test_the_official_sdks_send_images(start: Start) -> None:
    import anthropic  # takes seconds of each process that collects tests
    import openai

    gateway = await start(SEEING)
    url = f"http://127.0.0.1:{gateway.port}"
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        messages: Any = talk(CHAT)["messages"]
        answer = await client.chat.completions.create(model="gpt-4o", messages=messages)
        assert answer.model == "pebble-instruct"
        given: Any = talk(RESPONSE)["input"]
        assert (await client.responses.create(model="gpt-4o", input=given)).model == "pebble-instruct"
        with pytest.raises(openai.BadRequestError, match="does not support image input"):
            await client.chat.completions.create(model="reader", messages=messages)
    async with anthropic.AsyncAnthropic(base_url=url, api_key="none", max_retries=0) as claude:
        turns: Any = talk(MESSAGE)["messages"]
        told = await claude.messages.create(model="claude-sonnet-5", max_tokens=5, messages=turns)
        assert told.model == "pebble-instruct"
        with pytest.raises(anthropic.BadRequestError, match="does not support image input"):
            await claude.messages.create(model="reader", max_tokens=5, messages=turns)
    sent = gateway.seen[-1].json["messages"][0]["content"][1]["source"]["data"]
    assert base64.b64decode(sent) == RED == base64.b64decode(base64_of(RED))
