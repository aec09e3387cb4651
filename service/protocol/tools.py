"""The tools that a request brings, as far as they are read."""

from typing import Annotated

from msgspec import Meta, Raw, Struct

from service.protocol.parts import NOTHING

ToolName = Annotated[str, Meta(max_length=128)]


class Tool(Struct, gc=False):
    """A tool, or a choice of one; what tells tools of clients from tools of servers, and strict ones, is read."""

    type: str | None = None
    name: ToolName | None = None
    strict: Raw = NOTHING
    tools: Raw = NOTHING


class Function(Struct, gc=False):
    """The function of a tool of chat completions."""

    name: ToolName | None = None
    strict: Raw = NOTHING


class ChatTool(Struct, gc=False):
    """A tool of chat completions; only what tells whether engines compile its schema is read."""

    function: Function | None = None
    strict: Raw = NOTHING
    tools: Raw = NOTHING
