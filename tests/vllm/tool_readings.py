"""vLLM's parsers read tool calls and thoughts, whole and streamed, without an engine and without weights.

`tool_formats` has what the models write; stubs of their tokenizers have the tokens that mark it.
"""

import importlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.vllm.thinking_formats import Thinking
from tests.vllm.tool_formats import Call, Format, to_json
from tests.vllm.tool_streams import Outcome, Parsed, broken, by_token, characters, difference, expected, few, many

TEXT, INTEGER = {"type": "string"}, {"type": "integer"}
RANGE = {"type": "object", "properties": {"from": INTEGER, "to": {"type": "number"}}}
FILTER = {
    "type": "object",
    "properties": {"tags": {"type": "array", "items": TEXT}, "range": RANGE, "exact": {"type": "boolean"}},
}
SCHEMAS: dict[str, dict[str, Any]] = {
    "get_weather": {"city": TEXT, "days": INTEGER},
    "search": {"query": TEXT, "filter": FILTER},
    "write_file": {"path": TEXT, "text": TEXT},
    "now": {},
}
END = "\ue001"  # stands for the format's own marker
WEATHER = Call("get_weather", {"city": "Paris", "days": 3})
NESTED = {"tags": ["new", "old"], "range": {"from": 1, "to": 2.5}, "exact": True}
SAID = "Let me look that up."
ESCAPED = 'say "hi"\n\tvon 東京 🙂, it\'s {1}'
ANSWER = "It is sunny in Paris: 21 °C."


@dataclass(frozen=True)
class Case:
    """What a model writes: text, then calls; `choice` is the request's `tool_choice`."""

    name: str
    content: str
    calls: tuple[Call, ...] = ()
    choice: str = "auto"


CASES = (
    Case("no call", ANSWER),
    Case("code, no call", 'Write `if (a < b) { return [f(x), {"k": 1}]; }` there.'),
    Case("one call", "", (WEATHER,)),
    Case("two calls", "", (WEATHER, Call("search", {"query": "hotels"}))),
    Case("text, then a call", SAID, (WEATHER,)),
    Case("nested", "", (Call("search", {"query": "a", "filter": NESTED}),)),
    Case(
        "escapes", "", (Call("write_file", {"path": "C:\\new\\é.txt", "text": 'say "hi"\n\tvon 東京 🙂, it\'s {1}'}),)
    ),
    Case("outer line breaks", "", (Call("write_file", {"path": "a.py", "text": "\ndef f():\n    return 1\n"}),)),
    Case("digits as text", "", (Call("get_weather", {"city": "75001", "days": 1}),)),
    Case("no arguments", "", (Call("now", {}),)),
    Case("end marker", "", (Call("write_file", {"path": "a", "text": f"before {END} after"}),)),
    Case("required", "", (WEATHER, Call("search", {"query": "hotels"})), "required"),
    Case("named", "", (WEATHER,), "get_weather"),
)
THOUGHT = "The user asks for the weather.\n\nI should look it up."


class StubTokenizer:
    """Has a model's special tokens, and makes every other piece of text a token of its own."""

    chat_template = None

    def __init__(self, tokens: Sequence[str]) -> None:
        self.tokens = tokens
        self.pieces: list[str] = []
        self.ids: dict[str, int] = {}
        for token in ("<eos>", *tokens):
            self.number(token)

    def number(self, piece: str) -> int:
        """The id of a token, which is made if there is none."""
        if piece not in self.ids:
            self.ids[piece] = len(self.pieces)
            self.pieces.append(piece)
        return self.ids[piece]

    def get_vocab(self) -> dict[str, int]:
        return {token.replace(" ", "Ġ"): self.ids[token] for token in self.tokens}  # as byte-level vocabularies have it

    def encode(self, text: str, **_: Any) -> list[int]:
        return [self.number(piece) for piece in characters(text, self.tokens)]

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        return "".join(self.pieces[one] for one in ids)


@dataclass
class Reader:
    """A pair of vLLM's parsers as its server puts them together, for requests with one `tool_choice`.

    `schema` is that of the JSON which vLLM then has the model write instead of its own format, or None.
    """

    tool_parser: str | None
    reasoning_parser: str | None
    tokens: tuple[str, ...]
    hidden: tuple[str, ...] = ()
    grammar: bool = False
    prompt: str = ""
    template_arguments: dict[str, bool] = field(default_factory=dict)
    choice: str = "auto"

    def __post_init__(self) -> None:
        self.tokenizer = StubTokenizer(self.tokens)
        manager = importlib.import_module("vllm.parser").ParserManager
        self.parsers = manager.get_parser(self.tool_parser, self.reasoning_parser, enable_auto_tools=True)
        self.request = self.parsers(self.tokenizer).adjust_request(self._request())
        self.schema = self.request.structured_outputs and self.request.structured_outputs.json
        if self.request.skip_special_tokens is False:
            self.hidden = ()

    def _request(self) -> Any:
        protocol = importlib.import_module("vllm.entrypoints.openai.chat_completion.protocol")
        body: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "?"}]}
        body["chat_template_kwargs"] = self.template_arguments
        if self.tool_parser:
            one = {"type": "function", "function": {"name": self.choice}}
            body |= {"tools": TOOLS, "tool_choice": self.choice if self.choice in ("auto", "required") else one}
        request = protocol.ChatCompletionRequest(**body)
        request._grammar_from_parser = self.grammar
        return request

    def outcome(self, text: str, wanted: Parsed) -> Outcome:
        """Reads `text` whole, and in every way of streaming it."""
        whole = difference(wanted, self.read(text, None))
        token, character = self._differences(by_token(text, self.tokens), wanted)
        one_of_two = " (with one of two tokenizers)" if bool(token) != bool(character) else ""
        some, more = (self._differences(ways(text, self.tokens), wanted) for ways in (few, many))
        return Outcome(whole, (token or character) + one_of_two, some, more)

    def _differences(self, ways: list[list[list[str]]], wanted: Parsed) -> tuple[str, ...]:
        return tuple(difference(wanted, self.read("", way)) for way in ways)

    def read(self, text: str, deltas: list[list[str]] | None) -> Parsed:
        """One reading: of the whole if there are no deltas."""
        try:
            tools = self.request.tools
            parser = self.parsers(self.tokenizer, tools, chat_template_kwargs=self.template_arguments)
            prompt = self.tokenizer.encode(self.prompt)
            parser.set_prompt_token_ids(prompt)
            return self._whole(parser, text) if deltas is None else self._stream(parser, deltas, prompt)
        except Exception as error:  # noqa: BLE001 - whatever a parser raises is a result
            return Parsed(error=f"{type(error).__name__} raised")

    def _whole(self, parser: Any, text: str) -> Parsed:
        shown, ids = self._delta(characters(text, self.tokens), last=True)
        reasoning, content, calls = parser.parse(shown, self.request, True, ids)
        return Parsed(reasoning or "", content or "", tuple((call.name, call.arguments) for call in calls or ()))

    def _stream(self, parser: Any, deltas: list[list[str]], prompt: list[int]) -> Parsed:
        """What a client that puts the deltas together has."""
        reasoning, content, calls = "", "", dict[int, list[str]]()
        for place, pieces in enumerate(deltas):
            last = place == len(deltas) - 1
            delta = parser.parse_delta(*self._delta(pieces, last), self.request, prompt, finished=last)
            if delta is None:
                continue
            reasoning, content = reasoning + (delta.reasoning or ""), content + (delta.content or "")
            for part in delta.tool_calls:
                call = calls.setdefault(part.index, ["", ""])
                call[0] += (part.function and part.function.name) or ""
                call[1] += (part.function and part.function.arguments) or ""
        return Parsed(reasoning, content, tuple((name, arguments) for name, arguments in calls.values()))

    def _delta(self, pieces: list[str], last: bool) -> tuple[str, list[int]]:
        """Its text and token ids; the last has the token that ends the output, which has no text."""
        text = "".join(piece for piece in pieces if piece not in self.hidden)
        return text, [*map(self.tokenizer.number, pieces), *([self.tokenizer.number("<eos>")] if last else [])]


TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": properties}}}
    for name, properties in SCHEMAS.items()
]


def written(form: Format, case: Case, schema: dict[str, Any] | None) -> tuple[str, Parsed]:
    """What a model of this format writes in a case, or JSON by a schema, and the reading that is right."""
    end = broken(form.end, form.tokens)
    calls = [
        Call(call.name, {key: value.replace(END, end) if isinstance(value, str) else value
                         for key, value in call.arguments.items()})
        for call in case.calls
    ]  # fmt: skip
    right = expected(case.content, calls)
    if schema and schema["type"] == "array":
        key = "arguments" if "arguments" in to_json(schema) else "parameters"
        return to_json([{"name": call.name, key: call.arguments} for call in calls]), right
    if schema:
        return to_json(calls[0].arguments), right
    return "\n\n".join(part for part in (case.content, form.write(calls) if calls else "") if part), right


def tool_outcomes(form: Format) -> Iterator[tuple[str, Outcome]]:
    """What vLLM makes of each case in this format."""
    for case in CASES:
        reader = Reader(form.tool_parser, None, form.tokens, form.hidden, form.grammar, choice=case.choice)
        yield case.name, reader.outcome(*written(form, case, reader.schema))


def thinking_outcomes(one: Thinking) -> Iterator[tuple[str, Outcome]]:
    """What vLLM makes of each case that models of this kind have."""
    name, form_tokens = (one.format.tool_parser, one.format.tokens) if one.format else (None, ())
    hidden = one.format.hidden if one.format else ()
    parsers = (name, one.reasoning_parser, one.tokens + form_tokens, hidden, False)
    thinks = Reader(*parsers, one.start if one.opened else "", one.think)
    thought = ("" if one.opened else one.start) + THOUGHT
    call = one.format.write([WEATHER]) if one.format else None
    yield "thought, answer", thinks.outcome(thought + one.end + ANSWER, expected(ANSWER, (), THOUGHT))
    if call:
        yield "thought, call", thinks.outcome(thought + one.end + call, expected("", [WEATHER], THOUGHT))
    yield "cut off", thinks.outcome(thought, expected("", (), THOUGHT))
    if one.closed is not None:
        answers = Reader(*parsers, one.closed, one.switch)
        yield "no thought, answer", answers.outcome(ANSWER, expected(ANSWER, ()))
        if call:
            yield "no thought, call", answers.outcome(call, expected("", [WEATHER]))


@contextmanager
def quiet() -> Iterator[None]:
    """Without the log of vLLM, which goes to standard output and tells of each text that is not understood."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
