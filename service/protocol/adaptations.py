"""What is changed in a body of today's clients so that vLLM takes it: fields to replace, and what was left out.

Clients are written for OpenAI's and Anthropic's own servers, which run some tools themselves and fill in what is
missing. Only a body that has such a part is taken apart. Pure.
"""

import json
from functools import cached_property
from typing import Any, NamedTuple

from service.protocol import validation_errors
from service.protocol.anthropic import CountRequest, MessagesRequest
from service.protocol.parts import any_list, images_without_detail
from service.protocol.requests import Body, ResponsesRequest
from service.protocol.scoring import RerankRequest, engine_documents

# What a client can be given beside the output; vLLM refuses other values, which ask for nothing that is here.
INCLUDE = frozenset(
    (
        "code_interpreter_call.outputs", "computer_call_output.output.image_url", "file_search_call.results",
        "message.input_image.image_url", "message.output_text.logprobs", "reasoning.encrypted_content",
    )
)  # fmt: skip
ADDITIONAL = "additional_tools"  # an input item that brings tools
CLIENT_TOOLS = (None, "custom")  # the types of Anthropic's tools that the client runs and describes by a schema


class Members:
    """The members of a body, which is decoded once, and only if they are asked for."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    @cached_property
    def decoded(self) -> dict[str, Any]:
        """All of them."""
        members: dict[str, Any] = json.loads(self._body)
        return members


class Adapted(NamedTuple):
    """Fields to replace in the body, and the paths of what is left out of it."""

    fields: dict[str, Any]
    ignored: tuple[str, ...] = ()


UNCHANGED = Adapted({})


def unchanged(request: Body, body: bytes, reasons: bool) -> Adapted:
    """No changes: engines take such bodies as they are."""
    return UNCHANGED


def adapt_ranking(request: RerankRequest, body: bytes, reasons: bool) -> Adapted:
    """Documents that are objects become texts."""
    return Adapted(engine_documents(request))


def adapt_messages(request: CountRequest, body: bytes, reasons: bool) -> Adapted:
    """The changes to the `body` of a request; `reasons` says whether the engine separates reasoning from its output."""
    members = Members(body)
    fields: dict[str, Any] = {}
    ignored: list[str] = []
    if request.thinking and request.thinking.type != "disabled" and not reasons:
        fields["thinking"] = None  # vLLM refuses it without a reasoning parser
        ignored.append("thinking")
    if any(tool.type not in CLIENT_TOOLS for tool in request.tools or ()):
        tools = members.decoded["tools"]
        kept = [tool for tool in tools if tool.get("type") in CLIENT_TOOLS]
        ignored += [f"tools[{index}]" for index, tool in enumerate(tools) if tool.get("type") not in CLIENT_TOOLS]
        fields["tools"] = kept or None
        chosen = request.tool_choice
        if chosen and (not kept or (chosen.name and chosen.name not in [tool.get("name") for tool in kept])):
            fields["tool_choice"] = None
            ignored.append("tool_choice")
    if isinstance(request, MessagesRequest) and request.output_format is not None:
        # The name that structured outputs had in their beta.
        config = members.decoded.get("output_config") or {}
        fields["output_config"] = config | {"format": members.decoded["output_format"]}
        fields["output_format"] = None
    return Adapted(fields, tuple(ignored))


def adapt_responses(request: ResponsesRequest, body: bytes, reasons: bool) -> Adapted:
    """The changes to the `body` of a request; raises the 400 for an item that refers to a stored one."""
    members = Members(body)
    # An engine that stores responses, by its own environment, would keep them for ever and for everybody.
    fields: dict[str, Any] = {} if request.store is False else {"store": False}
    ignored: list[str] = []
    include = request.include or []
    if not INCLUDE.issuperset(include):
        fields["include"] = [value for value in include if value in INCLUDE]
        ignored += [f"include[{index}]" for index, value in enumerate(include) if value not in INCLUDE]
    items = request.input if isinstance(request.input, list) else []
    for index, item in enumerate(items):
        if item.type == "item_reference":
            raise validation_errors.invalid_value(
                f"input[{index}]",
                "nothing is stored, because the service was started without ROUNDHOUSE_RESPONSES_DIR; "
                "send the item itself, as clients do with store: false",
            )
    outputs = []
    if any_list([item.output for item in items]):
        outputs = [index for index, item in enumerate(items) if images_without_detail(item.output)]
    lifted: list[dict[str, Any]] = []
    if outputs or any(item.type is None or item.type == ADDITIONAL for item in items):
        given = members.decoded["input"]
        for index in outputs:  # vLLM knows the default only for images in messages
            given[index]["output"] = [_with_detail(part) for part in given[index]["output"]]
        lifted = [tool for item in given if item.get("type") == ADDITIONAL for tool in item.get("tools") or ()]
        fields["input"] = [
            {"type": "message", **item} if "role" in item else item for item in given if item.get("type") != ADDITIONAL
        ]
    if lifted or any(tool.type in ("custom", "namespace") for tool in request.tools or ()):
        tools = [*(members.decoded.get("tools") or ()), *lifted]
        stripped = [_without_grammar(tool) for tool in tools]
        ignored += [f"tools[{index}].format" for index, tool in enumerate(tools) if stripped[index] != tool]
        if lifted or stripped != tools:
            fields["tools"] = stripped
    return Adapted(fields, tuple(ignored))


def _with_detail(part: dict[str, Any]) -> dict[str, Any]:
    return {"detail": "auto", **part} if part.get("type") == "input_image" else part


def _without_grammar(tool: dict[str, Any]) -> dict[str, Any]:
    """A custom tool, or a namespace of tools, whose input is free text: vLLM has no grammars for the input of tools."""
    if tool.get("type") == "namespace" and isinstance(tool.get("tools"), list):
        return {
            **tool,
            "tools": [_without_grammar(inner) if isinstance(inner, dict) else inner for inner in tool["tools"]],
        }
    grammar = tool.get("type") == "custom" and isinstance(tool.get("format"), dict)
    return {name: value for name, value in tool.items() if name != "format"} if grammar else tool
