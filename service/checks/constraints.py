"""What of a request an engine would compile: its schemas, regular expressions and grammars."""

from typing import Any

import msgspec
from msgspec import Raw

from service.protocol.parse_body import MEMBERS
from service.protocol.parts import NOTHING
from service.protocol.requests import Body

FORMATS = ("response_format", "structured_outputs", "text", "output_config", "output_format")
TOOLS = ("tools", "tool_choice")


def constraints_of(request: Body, payload: bytes) -> bytes:
    """The members of the body `payload` that an engine of `request` might compile, as a JSON object; empty if none.

    Engines compile the tools that the model has to call and those that are strict, so others are left out.
    """
    if not request.format_fields:
        return b""
    names = TOOLS if getattr(request, "tools", None) and _may_compile_tools(request) else ()
    if not names and not _has_format(request):
        return b""
    members = MEMBERS.decode(payload)
    return msgspec.json.encode({name: members[name] for name in (*FORMATS, *names) if name in members})


def _has_format(request: Body) -> bool:
    for name in request.format_fields:  # noqa: SIM110  twice as fast as any(), for every request
        if getattr(request, name) is not None:
            return True
    return False


def _may_compile_tools(request: Any) -> bool:
    if request.tool_choice not in (None, "auto", "none"):
        return True
    for tool in request.tools:
        function = getattr(tool, "function", None)
        if _is_set(tool.strict) or _is_set(tool.tools) or (function and _is_set(function.strict)):
            return True
    return False


def _is_set(member: Raw) -> bool:
    return member is not NOTHING and bytes(member) not in (b"false", b"null")
