"""LiteLLM: a loop with a tool as its documentation writes it, over two APIs. Usage: litellm_agent.py URL MODEL."""

import json
import sys
from pathlib import Path

import litellm

URL, MODEL = sys.argv[1:]
PARAMETERS = {"type": "object", "properties": {"path": {"type": "string"}, "content": {"type": "string"}}}
FUNCTION = {"name": "write_file", "description": "Write a file.", "parameters": PARAMETERS}
TOOL = {"type": "function", "function": FUNCTION}
PROVIDERS = {
    "chat": {"model": f"openai/{MODEL}", "api_base": f"{URL}/v1"},
    "vllm": {"model": f"hosted_vllm/{MODEL}", "api_base": f"{URL}/v1"},
    # Of a model that it does not know it asks for 128,000 tokens.
    "messages": {"model": f"anthropic/{MODEL}", "api_base": URL, "max_tokens": 1000},
}


def ask(messages: list, stream: bool, **provider: str | int) -> litellm.Message:
    """One turn, whatever way it comes."""
    answer = litellm.completion(messages=messages, tools=[TOOL], api_key="none", stream=stream, **provider)
    if stream:
        answer = litellm.stream_chunk_builder(list(answer), messages=messages)
    return answer.choices[0].message


for name, provider in PROVIDERS.items():
    for stream in (False, True):
        messages = [{"role": "user", "content": "Write the word hello into hello.txt."}]
        while True:
            message = ask(messages, stream, **provider)
            messages.append(message)
            if not message.tool_calls:
                break
            for call in message.tool_calls:
                arguments = json.loads(call.function.arguments)
                Path(arguments["path"]).write_text(arguments["content"])
                messages.append({"role": "tool", "tool_call_id": call.id, "content": "written"})
        print(name, "streamed:" if stream else "whole:", message.content)
    messages.append({"role": "user", "content": "And now?"})
    print(name, "again:", ask(messages, False, **provider).content)
