"""The official SDKs against the whole service: what a user's program does, streamed and not.

They take seconds to import, which is left to the process that uses them.
"""

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.services import Service

if TYPE_CHECKING:
    import anthropic
    import openai

pytestmark = pytest.mark.engine
NODE = Path(__file__).parents[1] / "node"
QUESTION = "Hello! My name is Zorvina."


@pytest.fixture
def client(pebble: Service) -> "openai.OpenAI":
    import openai

    return openai.OpenAI(base_url=f"{pebble.url}/v1", api_key="none", max_retries=0)


@pytest.fixture
def claude(pebble: Service) -> "anthropic.Anthropic":
    import anthropic

    return anthropic.Anthropic(base_url=pebble.url, api_key="none", max_retries=0)


def conversation() -> list[Any]:
    return [{"role": "user", "content": QUESTION}]


def test_chat_streamed_and_whole_are_the_same(client: "openai.OpenAI") -> None:
    whole = client.chat.completions.create(model="pebble-chat", messages=conversation(), temperature=0, max_tokens=40)
    stream = client.chat.completions.create(
        model="pebble-chat",
        messages=conversation(),
        temperature=0,
        max_tokens=40,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content != ""
    assert chunks[-1].usage
    assert whole.usage
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert whole.model == "pebble-chat"


def test_usage_stays_away_from_those_who_did_not_ask(client: "openai.OpenAI") -> None:
    stream = client.chat.completions.create(model="chat", messages=conversation(), max_tokens=5, stream=True)
    assert all(chunk.choices and chunk.usage is None for chunk in stream)


def test_an_answer_goes_back_into_the_conversation(client: "openai.OpenAI") -> None:
    first = client.chat.completions.create(model="chat", messages=conversation(), temperature=0, max_tokens=40)
    messages = [*conversation(), first.choices[0].message.model_dump(), {"role": "user", "content": "What is my name?"}]
    second = client.chat.completions.create(model="chat", messages=messages, temperature=0, max_tokens=40)
    assert "Zorvina" in (second.choices[0].message.content or "")


@pytest.mark.parametrize("streamed", [False, True])
def test_completions_and_infilling(client: "openai.OpenAI", streamed: bool) -> None:
    prompt, suffix = "def add_price(price, tax):\n    return ", "\n"
    request: dict[str, Any] = {
        "model": "pebble",
        "prompt": prompt,
        "suffix": suffix,
        "temperature": 0,
        "max_tokens": 20,
    }
    answer: Any = client.completions.create(**request, stream=streamed)
    text = "".join(chunk.choices[0].text for chunk in answer) if streamed else answer.choices[0].text
    assert text.strip() == "price + tax"


@pytest.mark.parametrize("streamed", [False, True])
def test_responses(client: "openai.OpenAI", streamed: bool) -> None:
    if streamed:
        events = list(client.responses.create(model="pebble-chat", input=QUESTION, max_output_tokens=20, stream=True))
        assert events[-1].type == "response.completed"
        assert events[-1].response.usage
    else:
        answer = client.responses.create(model="pebble-chat", input=QUESTION, max_output_tokens=20, store=False)
        assert answer.output_text
        assert answer.usage


def test_responses_reach_a_template_with_one_bos(client: "openai.OpenAI") -> None:
    question = "Extract the city from: My name is Ada and I live in London."
    answer = client.responses.create(model="pebble-instruct", input=question, temperature=0, max_output_tokens=20)
    assert answer.output_text == "London"


def test_models(client: "openai.OpenAI") -> None:
    listed = {model.id for model in client.models.list()}
    assert listed == {"pebble-chat", "pebble-instruct", "pebble-code", "pebble-base", "gpt-4o-mini", "claude-haiku"}
    alias = client.models.retrieve("gpt-4o-mini")
    assert (alias.id, (alias.model_extra or {})["alias_of"]) == ("gpt-4o-mini", "pebble-chat")


def test_anthropic_models(claude: "anthropic.Anthropic") -> None:
    listed = {model.id: model.display_name for model in claude.models.list()}
    assert listed["claude-haiku"] == "claude-haiku (pebble-chat)"
    assert claude.models.retrieve("claude-haiku").id == "claude-haiku"


def test_errors_are_the_sdk_s_own_classes(client: "openai.OpenAI") -> None:
    import openai

    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="pebble-chatt", messages=conversation())
    assert missing.value.code == "model_not_found"
    assert "pebble-chat" in missing.value.message
    with pytest.raises(openai.BadRequestError) as wrong:
        client.chat.completions.create(model="pebble-code", messages=conversation())
    assert wrong.value.code == "unsupported_for_model"
    with pytest.raises(openai.BadRequestError) as long:
        client.completions.create(model="pebble-base", prompt="x" * 5000)
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="pebble-instruct", messages=[*conversation(), *conversation()])
    assert refused.value.code == "invalid_conversation"
    with pytest.raises(openai.BadRequestError) as none:
        client.embeddings.create(model="pebble-chat", input="x")
    assert none.value.code == "unsupported_for_model"


def test_anthropic_messages(claude: "anthropic.Anthropic") -> None:
    import anthropic

    request: dict[str, Any] = {"model": "claude-haiku", "max_tokens": 40, "messages": conversation()}
    request["extra_body"] = {"temperature": 0}
    whole = claude.messages.create(**request)
    assert whole.content[0].type == "text"
    with claude.messages.stream(**request) as stream:
        streamed = "".join(stream.text_stream)
        usage = stream.get_final_message().usage
    assert streamed == whole.content[0].text != ""
    assert usage.output_tokens == whole.usage.output_tokens
    counted = claude.messages.count_tokens(model="claude-haiku", messages=conversation())
    assert counted.input_tokens == whole.usage.input_tokens
    with pytest.raises(anthropic.NotFoundError):
        claude.messages.create(**(request | {"model": "nothing"}))


def test_node(pebble: Service) -> None:
    command = ["node", "chat.mjs", f"{pebble.url}/v1", "chat", QUESTION]
    done = subprocess.run(command, cwd=NODE, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["whole"] == answer["streamed"] != ""
    assert answer["model"] == "pebble-chat"
    assert answer["usage"]["completion_tokens"] > 0
    assert answer["refused"] == {"status": 404, "code": "model_not_found", "type": "invalid_request_error"}
