"""The request that has an engine count the tokens of a prompt in Anthropic's format, which is too long for it.

vLLM's own `count_tokens` rejects such a prompt as its other endpoints do; `/tokenize` takes prompts of any length, in
OpenAI's format. The conversion is the one that vLLM makes.
"""

import json
from typing import Any

BILLING_HEADER = "x-anthropic-billing-header"  # vLLM leaves this block of Claude Code's system prompt out

Fields = dict[str, Any]


class NotTextError(Exception):
    """The conversation has a part that cannot be counted here, such as an image."""


def tokenize_request(fields: Fields, model: str) -> Fields | None:
    """The body for `/tokenize` of the engine that serves `model`; None if the prompt is malformed or not text alone.

    `fields` is the decoded body of a request to `/v1/messages`.
    """
    try:
        messages = [message for given in fields["messages"] for message in _messages(given)]
        tools = [_tool(tool) for tool in fields.get("tools") or ()]
    except (NotTextError, KeyError, TypeError, AttributeError):
        return None
    if system := _system(fields.get("system")):
        messages.insert(0, {"role": "system", "content": system})
    request: Fields = {"model": model, "messages": messages}
    return request | ({"tools": tools} if tools else {})


def _system(given: str | list[Fields] | None) -> str:
    if given is None or isinstance(given, str):
        return given or ""
    texts = (part["text"] for part in given if part.get("text"))
    return "".join(text for text in texts if not text.startswith(BILLING_HEADER))


def _tool(tool: Fields) -> Fields:
    schema = {"type": "object", **tool.get("input_schema", {})}
    function = {"name": tool.get("name"), "description": tool.get("description"), "parameters": schema}
    return {"type": "function", "function": function}


def _messages(message: Fields) -> list[Fields]:
    """One message as those of a chat: the results of tools are messages of their own, and come first."""
    role, content = message["role"], message["content"]
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    if role == "system":
        return [{"role": role, "content": text}] if (text := _system(content)) else []
    results: list[Fields] = []
    parts: list[Fields] = []
    converted: Fields = {"role": role}
    for block in content:
        match block.get("type"):
            case "text":
                parts += [{"type": "text", "text": block["text"]}] if block.get("text") else []
            case "tool_use":
                converted.setdefault("tool_calls", []).append(_tool_call(block))
            case "tool_result" if role == "user":
                results.append(_tool_result(block))
            case "thinking":
                converted["reasoning"] = converted.get("reasoning", "") + block.get("thinking", "")
            case "redacted_thinking":
                pass
            case _:
                raise NotTextError
    if parts:
        converted["content"] = parts[0]["text"] if len(parts) == 1 else parts
    return results if role == "user" and not parts else [*results, converted]


def _tool_call(block: Fields) -> Fields:
    call = {"name": block.get("name", ""), "arguments": json.dumps(block.get("input") or {})}
    return {"id": block.get("id") or "call", "type": "function", "function": call}


def _tool_result(block: Fields) -> Fields:
    content = block.get("content") or ""
    if not isinstance(content, str):
        if any(part.get("type") != "text" for part in content):
            raise NotTextError
        content = "\n".join(part.get("text", "") for part in content)
    return {"role": "tool", "tool_call_id": block.get("tool_use_id") or "", "content": content}
