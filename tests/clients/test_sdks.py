"""The SDKs of OpenAI and Anthropic run a loop with a tool: it is called, a file is written, an answer ends the loop."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fake_engine import Call, FakeEngine, Script
from tests.support.gateways import RunningGateway

QUESTION = {"role": "user", "content": "Write the word hello into hello.txt."}
END = "The file hello.txt is written."
SCHEMA = {"type": "object", "properties": {"path": {"type": "string"}, "content": {"type": "string"}}}
LIMIT = 1000  # tokens
# Without it each client reads all the certificates of the system, which takes longer than its test.
QUICK: dict[str, Any] = {"verify": False, "trust_env": False}

Write = Callable[[str], str]
"""Runs the tool: its arguments as JSON, and what comes of it."""


async def chat(url: str, stream: bool, write: Write) -> str:
    import openai

    http = openai.DefaultAsyncHttpxClient(**QUICK)
    messages: list[Any] = [QUESTION]
    tools: list[Any] = [{"type": "function", "function": {"name": "write_file", "parameters": SCHEMA}}]
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", http_client=http) as client:
        while True:
            request: dict[str, Any] = {"model": "qwen3-8b", "messages": messages, "tools": tools}
            if stream:
                async with client.chat.completions.stream(**request) as events:
                    answer: Any = await events.get_final_completion()
            else:
                answer = await client.chat.completions.create(**request)
            message = answer.choices[0].message
            messages.append(message)
            if not message.tool_calls:
                return str(message.content)
            for call in message.tool_calls:
                done = write(call.function.arguments)
                messages.append({"role": "tool", "tool_call_id": call.id, "content": done})


async def responses(url: str, stream: bool, write: Write) -> str:
    import openai

    http = openai.DefaultAsyncHttpxClient(**QUICK)
    items: list[Any] = [QUESTION]
    tools: list[Any] = [{"type": "function", "name": "write_file", "parameters": SCHEMA, "strict": False}]
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", http_client=http) as client:
        while True:
            request: dict[str, Any] = {"model": "qwen3-8b", "input": items, "tools": tools, "store": False}
            if stream:
                async with client.responses.stream(**request) as events:
                    answer: Any = await events.get_final_response()
            else:
                answer = await client.responses.create(**request)
            items += answer.output
            calls = [item for item in answer.output if item.type == "function_call"]
            if not calls:
                return str(answer.output_text)
            for call in calls:
                done = write(call.arguments)
                items.append({"type": "function_call_output", "call_id": call.call_id, "output": done})


async def messages(url: str, stream: bool, write: Write) -> str:
    import anthropic

    http = anthropic.DefaultAsyncHttpxClient(**QUICK)
    turns: list[Any] = [QUESTION]
    tools: list[Any] = [{"name": "write_file", "input_schema": SCHEMA}]
    async with anthropic.AsyncAnthropic(base_url=url, api_key="none", http_client=http) as client:
        while True:
            request: dict[str, Any] = {
                "model": "qwen3-8b", "max_tokens": LIMIT, "messages": turns, "tools": tools,
            }  # fmt: skip
            if stream:
                async with client.messages.stream(**request) as events:
                    answer: Any = await events.get_final_message()
            else:
                answer = await client.messages.create(**request)
            turns.append({"role": "assistant", "content": answer.content})
            if answer.stop_reason != "tool_use":
                return str(answer.content[0].text)
            calls = [block for block in answer.content if block.type == "tool_use"]
            results = [
                {"type": "tool_result", "tool_use_id": call.id, "content": write(json.dumps(call.input))}
                for call in calls
            ]
            turns.append({"role": "user", "content": results})


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("loop", [chat, responses, messages], ids=lambda loop: loop.__name__)
async def test_an_sdk_runs_a_loop(
    loop: Callable[[str, bool, Write], Awaitable[str]],
    stream: bool,
    gateway: RunningGateway,
    engine: FakeEngine,
    tmp_path: Path,
) -> None:
    def write(arguments: str) -> str:
        given = json.loads(arguments)
        (tmp_path / given["path"]).write_text(given["content"])
        return "written"

    engine.agent = Script((Call("write_file", json.dumps({"path": "hello.txt", "content": "hello\n"})),), END)
    assert await loop(f"http://127.0.0.1:{gateway.port}", stream, write) == END
    assert (tmp_path / "hello.txt").read_text() == "hello\n"
    assert [line["outcome"] for line in gateway.lines] == ["complete"] * 2
