"""Images on vLLM, through the whole service: what it says of them is what transformers says."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.pictures import block, chat_part, data_url, picture, responses_part
from tests.support.services import ROOT, Service, serving

pytestmark = pytest.mark.engine

MODEL, PROMPT = "eye", "What is it?"
COLOURS = {"red": picture(width=40, height=30), "blue": picture("JPEG", 30, 40, "blue")}
FLEET = """
models:
  - model: {weights}
    id: eye
    variant: chat
    vision: true
    engine: {{dtype: float32, enforce_eager: true, max_model_len: 256, max_num_seqs: 4}}
    env: {{VLLM_CPU_OMP_THREADS_BIND: nobind, OMP_NUM_THREADS: 1, VLLM_CPU_KVCACHE_SPACE: 1, TORCHDYNAMO_DISABLE: 1}}
"""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("eye")
    files = [folder / name for name in COLOURS]
    for file, data in zip(files, COLOURS.values(), strict=True):
        file.write_bytes(data)
    made = [sys.executable, "-m", "tests.vllm.seeing_model", str(folder), *map(str, files)]
    subprocess.run(made, cwd=ROOT, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def service(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("seeing")
    (folder / "fleet.yaml").write_text(FLEET.format(weights=weights))
    with serving(folder / "fleet.yaml", folder / "run") as running:
        yield running


def ask(service: Service, path: str, body: dict[str, Any]) -> httpx.Response:
    fields = {"model": MODEL, "temperature": 0, **body}
    return httpx.post(f"{service.url}{path}", json=fields, timeout=120, verify=False)


def parts(part: dict[str, Any], kind: str = "text") -> list[dict[str, Any]]:
    return [part, {"type": kind, "text": PROMPT}]


def chat(data: bytes, media_type: str) -> dict[str, Any]:
    content = parts(chat_part(data_url(data, media_type)))
    return {"messages": [{"role": "user", "content": content}], "max_tokens": 12, "return_token_ids": True}


def test_every_endpoint_answers_as_transformers_does(service: Service, weights: Path) -> None:
    expected = json.loads((weights / "reference.json").read_text())
    assert expected[0] != expected[1], "the answer depends on the image"
    for data, tokens in zip(COLOURS.values(), expected, strict=True):
        media_type = "image/png" if data.startswith(b"\x89PNG") else "image/jpeg"
        answer = ask(service, "/v1/chat/completions", chat(data, media_type)).json()
        assert answer["choices"][0]["token_ids"] == tokens
        text = answer["choices"][0]["message"]["content"]
        turn = {"type": "message", "role": "user"}
        given = [{**turn, "content": parts(responses_part(data_url(data, media_type)), "input_text")}]
        response = ask(service, "/v1/responses", {"input": given, "max_output_tokens": 12}).json()
        assert response["output"][0]["content"][0]["text"] == text
        messages = [{"role": "user", "content": parts(block(data, media_type))}]
        message = ask(service, "/v1/messages", {"messages": messages, "max_tokens": 12}).json()
        assert message["content"][0]["text"] == text
        counted = ask(service, "/v1/messages/count_tokens", {"messages": messages}).json()
        assert counted["input_tokens"] == message["usage"]["input_tokens"]


def test_an_image_in_the_output_of_a_tool(service: Service) -> None:
    call = {"type": "function_call", "name": "look", "arguments": "{}", "call_id": "c"}
    output = {"type": "function_call_output", "call_id": "c", "output": [responses_part(data_url(COLOURS["red"]))]}
    response = ask(service, "/v1/responses", {"input": [call, output], "max_output_tokens": 4})
    assert response.status_code == 200, response.text
    result = {"type": "tool_result", "tool_use_id": "c", "content": [block(COLOURS["red"])]}
    use = {"type": "tool_use", "id": "c", "name": "look", "input": {}}
    turns = [{"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}]
    message = ask(service, "/v1/messages", {"messages": turns, "max_tokens": 4})
    assert message.status_code == 200, message.text


def test_what_only_a_decoder_finds_is_told(service: Service) -> None:
    whole = picture(width=300, height=300)
    response = ask(service, "/v1/chat/completions", chat(whole[: len(whole) // 2], "image/png"))
    assert response.status_code == 400
    assert response.json()["error"]["message"].startswith("Could not process image: its data is damaged")


def test_the_engine_itself_fetches_nothing(service: Service) -> None:
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(service.socket_of(0))), timeout=60) as client:
        content = parts(chat_part("http://127.0.0.1:9/red.png"))
        body = {"model": MODEL, "messages": [{"role": "user", "content": content}], "max_tokens": 1}
        response = client.post("http://engine/v1/chat/completions", json=body)
    assert response.status_code == 400
    assert "must be from one of the allowed domains" in response.text
