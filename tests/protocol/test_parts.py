"""Which parts of messages reach an engine, and where their images are."""

import json
from typing import Any

import pytest

from service.errors import ApiError
from service.protocol.images import find_images
from service.protocol.parse_body import parse_body
from tests.protocol.test_generation import (
    CHAT,
    COUNT,
    DATA,
    ENDPOINTS,
    IMAGE_BLOCK,
    INPUT_IMAGE,
    MESSAGES,
    RESPONSES,
    TOKENIZE,
)
from tests.protocol.test_requests import body

TEXT = {"type": "text", "text": "What is it?"}
REMOTE = "http://169.254.169.254/latest/x.png"
CHAT_PART = {"type": "image_url", "image_url": {"url": DATA, "detail": "low"}}


def place(path: str, part: dict[str, Any]) -> dict[str, Any]:
    """The fields of a request to `path` whose second part is this one."""
    turn = {"role": "user", "content": [TEXT, part]}
    return {"input": [turn]} if path == RESPONSES else {"messages": [turn]}


def found(path: str, **fields: Any) -> list[tuple[str, str, str]]:
    images = find_images(parse_body(ENDPOINTS[path].body, body(path, **fields)).request)
    return [(image.path, image.media_type, image.data) for image in images]


@pytest.mark.parametrize(
    ("path", "fields", "where"),
    [
        (CHAT, place(CHAT, CHAT_PART), "messages[0].content[1].image_url.url"),
        (CHAT, {"messages": [{"role": "tool", "tool_call_id": "c", "content": [CHAT_PART]}]},
         "messages[0].content[0].image_url.url"),
        (CHAT, place(CHAT, INPUT_IMAGE), "messages[0].content[1].image_url"),
        (RESPONSES, place(RESPONSES, INPUT_IMAGE), "input[0].content[1].image_url"),
        (RESPONSES, {"input": [{"type": "function_call_output", "call_id": "c", "output": [TEXT, INPUT_IMAGE]}]},
         "input[0].output[1].image_url"),
        (MESSAGES, place(MESSAGES, IMAGE_BLOCK), "messages[0].content[1].image.source.base64"),
        (MESSAGES, place(MESSAGES, {"type": "tool_result", "tool_use_id": "t", "content": [TEXT, IMAGE_BLOCK]}),
         "messages[0].content[1].tool_result.content[1].image.source.base64"),
        (COUNT, {"system": [IMAGE_BLOCK]}, "system[0].image.source.base64"),
    ],
)  # fmt: skip
def test_images_are_found(path: str, fields: dict[str, Any], where: str) -> None:
    assert found(path, **fields) == [(where, "image/png", "AAAA")]


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (CHAT, {}), (CHAT, place(CHAT, {"type": "refusal", "refusal": "no"})), (RESPONSES, {}), (MESSAGES, {}),
        (RESPONSES, {"input": [{"type": "function_call_output", "call_id": "c", "output": "AAAA"}]}),
        (RESPONSES, {"input": [{"type": "computer_call_output", "output": {"type": "computer_screenshot"}}]}),
        (MESSAGES, place(MESSAGES, {"type": "tool_result", "tool_use_id": "t", "content": "AAAA"})),
        (MESSAGES, place(MESSAGES, {"type": "search_result", "source": REMOTE, "content": [TEXT]})),
    ],
)  # fmt: skip
def test_other_requests_have_none(path: str, fields: dict[str, Any]) -> None:
    assert not found(path, **fields)


FETCHED = "are not fetched from anywhere"


def test_a_conversation_whose_tokens_are_asked_for_is_read_like_a_chat() -> None:
    assert len(found(TOKENIZE, prompt=None, messages=[{"role": "user", "content": [CHAT_PART]}])) == 1
    remote = {"type": "image_url", "image_url": {"url": REMOTE}}
    with pytest.raises(ApiError, match=FETCHED):
        found(TOKENIZE, prompt=None, messages=[{"role": "user", "content": [remote]}])


@pytest.mark.parametrize(
    ("path", "part", "code", "words"),
    [
        (CHAT, {"type": "image_url", "image_url": {"url": REMOTE}}, "invalid_value", FETCHED),
        (CHAT, {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}, "invalid_value", FETCHED),
        (CHAT, {"type": "image_url", "image_url": {"url": DATA.upper()}}, "invalid_value", FETCHED),
        (CHAT, {"type": "image_url", "image_url": {"url": " " + DATA}}, "invalid_value", FETCHED),
        (CHAT, {"type": "image_url", "image_url": REMOTE}, "invalid_value", "an object with 'url'"),
        (CHAT, {"type": "image_url"}, "invalid_value", "an object with 'url'"),
        (CHAT, {"type": "image_url", "image_url": {}}, "missing_required_parameter", "image_url.url' is required"),
        (CHAT, {"type": "image_url", "image_url": {"url": "data:image/png,AAAA"}}, "invalid_value", "begin like"),
        (CHAT, {"type": "image_url", "image_url": {"url": "data:image/png;base64"}}, "invalid_value", "begin like"),
        (CHAT, {"type": "input_image", "image_url": REMOTE}, "invalid_value", FETCHED),
        (RESPONSES, {"type": "input_image", "image_url": REMOTE}, "invalid_value", FETCHED),
        (RESPONSES, {"type": "input_image", "image_url": None, "file_id": "f"}, "unsupported_parameter", "stored"),
        # vLLM goes by these members if there is no type, or a uuid.
        (CHAT, {"image_url": REMOTE}, "missing_required_parameter", "type' is required"),
        (CHAT, {"text": "a", "audio_url": REMOTE}, "missing_required_parameter", "type' is required"),
        (CHAT, {"type": "text", "text": "a", "uuid": "x", "video_url": REMOTE}, "unsupported_parameter", "uuid"),
        (CHAT, {**CHAT_PART, "uuid": 7}, "unsupported_parameter", "another client's"),
        (CHAT, {"type": "audio_url", "audio_url": {"url": REMOTE}}, "unsupported_parameter", "audio is not taken"),
        (CHAT, {"type": "input_audio", "input_audio": {}}, "unsupported_parameter", "audio is not taken"),
        (CHAT, {"type": "video_url", "video_url": {"url": DATA}}, "unsupported_parameter", "single frames"),
        (CHAT, {"type": "image_embeds", "image_embeds": "AAAA"}, "unsupported_parameter", "tensors"),
        (CHAT, {"type": "file", "file": {"file_id": "f"}}, "unsupported_parameter", "files are not read"),
        (RESPONSES, {"type": "input_file", "file_url": REMOTE}, "unsupported_parameter", "files are not read"),
    ],
)  # fmt: skip
def test_what_no_engine_may_get_is_refused(path: str, part: dict[str, Any], code: str, words: str) -> None:
    with pytest.raises(ApiError, match=words) as raised:
        found(path, **place(path, part))
    assert (raised.value.status, raised.value.code) == (400, code)
    assert (raised.value.param or "").startswith(("messages[0].content[1]", "input[0].content[1]"))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"type": "url", "url": REMOTE}, "image.source.type: Input should be 'base64'; images are not fetched"),
        ({"type": "file", "file_id": "f"}, "image.source.type: Input should be 'base64'; images are not fetched"),
        ({"media_type": "image/png", "data": "AAAA"}, "image.source.type: Input should be 'base64'"),
        ("https://example.org", "image.source.type: Input should be 'base64'"),
        ({"type": "base64", "data": "AAAA"}, "image.source.base64.media_type: Field required"),
        ({"type": "base64", "media_type": "image/png"}, "image.source.base64.data: Field required"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("nested", [False, True])
def test_anthropics_endpoints_have_its_words(source: Any, message: str, nested: bool) -> None:
    block: dict[str, Any] = {"type": "image", "source": source}
    start = "messages.0.content.1."
    if nested:
        block, start = {"type": "tool_result", "content": [block]}, f"{start}tool_result.content.0."
    with pytest.raises(ApiError) as raised:
        found(MESSAGES, **place(MESSAGES, block))
    assert raised.value.message.startswith(start + message)


@pytest.mark.parametrize(("path", "item"), [(RESPONSES, {"output": [{"type": 3}]}), (RESPONSES, {"output": ["a"]})])
def test_a_malformed_list_of_a_tool_is_refused(path: str, item: dict[str, Any]) -> None:
    with pytest.raises(ApiError, match=r"'input\[0\].output' is invalid: it should be text or a list of parts"):
        found(path, input=[{"type": "function_call_output", "call_id": "c", **item}])


def test_escapes_hide_nothing() -> None:
    part = '{"type": "image_url", "im\\u0061ge_url": {"url": "' + REMOTE + '"}}'
    raw = body(CHAT, **place(CHAT, {"type": "PART"})).replace(b'{"type": "PART"}', part.encode())
    assert json.loads(raw)["messages"][0]["content"][1]["image_url"]["url"] == REMOTE
    with pytest.raises(ApiError, match=FETCHED):
        find_images(parse_body(ENDPOINTS[CHAT].body, raw).request)
