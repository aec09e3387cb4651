"""What the fake engine says where it plays the model behind an agent: calls of the client's tools, then a text."""

from dataclasses import dataclass
from typing import Any

from tests.fake_engine.bodies import Json

FORBIDDEN = "forbidden"
RESULTS = {"tool_result", "function_call_output", "custom_tool_call_output"}


@dataclass(frozen=True)
class Call:
    """A call of a tool. `arguments` is JSON."""

    name: str
    arguments: str


@dataclass(frozen=True)
class Script:
    """The calls of one task, one a turn, and the `text` that ends it.

    A turn is known by the number of results that the conversation has. A request without the tool that is due, as
    programs send them for titles and summaries, gets the text.
    """

    calls: tuple[Call, ...]
    text: str

    def reply(self, request: Json) -> Call | str:
        """What a model would say to the request."""
        turn = results(request)
        due = self.calls[turn] if turn < len(self.calls) else None
        return due if due and due.name in tools(request) else self.text


@dataclass(frozen=True)
class Verdicts(Script):
    """What Llama Guard would say: `unsafe` of a text with the word FORBIDDEN, of any other `safe`."""

    calls: tuple[Call, ...] = ()
    text: str = "\n\nsafe"
    unsafe: str = "\n\nunsafe\nS1,S9"

    def reply(self, request: Json) -> Call | str:
        """The verdict on the last message."""
        judged = request["messages"][-1]["content"]
        return self.unsafe if isinstance(judged, str) and FORBIDDEN in judged else self.text


def tools(request: Json) -> set[str]:
    """The names of the tools that the model may call, in the form of any endpoint."""
    given = [tool.get("function", tool) for tool in request.get("tools") or ()]
    return {tool["name"] for tool in given if "name" in tool}


def results(request: Json) -> int:
    """How many results of tools the conversation has."""
    given = request.get("messages") or request.get("input")
    return sum(map(_results, given)) if isinstance(given, list) else 0


def _results(item: Json) -> int:
    parts: Any = item.get("content") if isinstance(item.get("content"), list) else ()
    own = item.get("role") == "tool" or item.get("type") in RESULTS
    return own + sum(part.get("type") in RESULTS for part in parts)
