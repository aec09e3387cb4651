"""The cases of an evaluation: a file of JSON lines, each a prompt with its reference answer."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from service.config.strict_yaml import ConfigError
from service.protocol.validation_errors import api_error, is_unknown_field

MOST_PROBLEMS = 20  # lines of a broken file that are named
Text = Annotated[str, msgspec.Meta(min_length=1)]


class Message(msgspec.Struct):
    """One message, as far as it is checked here; the service checks the rest."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[dict[str, Any]] | None = None


class Line(msgspec.Struct, forbid_unknown_fields=True):
    """One line of the file. Exactly one of `messages` and `prompt` is there."""

    reference: Text | Annotated[list[Text], msgspec.Meta(min_length=1)]
    id: str | int | None = None
    messages: Annotated[list[Message], msgspec.Meta(min_length=1)] | None = None
    prompt: Text | None = None
    split: Text | None = None
    category: Text | None = None
    metadata: dict[str, Any] | None = None


@dataclass(frozen=True)
class Case:
    """A prompt and its `references`, of which an answer's best score counts.

    `prompt` is what the request has of it: `messages`, or `prompt` for a plain completion. `split` and `category` are
    what the report groups by. `line` is its line in the file.
    """

    id: str
    line: int
    prompt: dict[str, Any]
    references: tuple[str, ...]
    split: str | None = None
    category: str | None = None

    @property
    def is_chat(self) -> bool:
        """Whether it is a conversation, which needs a model with a chat template."""
        return "messages" in self.prompt

    @property
    def turns(self) -> list[tuple[str, str]]:
        """The prompt for a reader: role and text of each message."""
        if not self.is_chat:
            return [("prompt", self.prompt["prompt"])]
        return [(one["role"], _text_of(one.get("content"))) for one in self.prompt["messages"]]


def load(path: Path) -> list[Case]:
    """The cases of a file; raises ConfigError with file, line and key of every mistake."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from None
    return parse(data, str(path))


def parse(data: bytes, name: str) -> list[Case]:
    """The cases of a file's bytes; `name` is what mistakes call it."""
    cases: list[Case] = []
    problems: list[str] = []
    lines: dict[str, int] = {}
    for number, row in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if not row.strip():
            continue
        try:
            case = _case(row, number)
        except _Problem as problem:
            problems.append(f"{name}:{number}: {problem}")
            continue
        if (first := lines.setdefault(case.id, number)) != number:
            problems.append(f"{name}:{number}: id: '{case.id:.60}' is the id of line {first} already")
        cases.append(case)
    if len(problems) > MOST_PROBLEMS:
        problems[MOST_PROBLEMS:] = [f"{name}: {len(problems) - MOST_PROBLEMS} more lines are wrong"]
    if problems:
        raise ConfigError(problems)
    if not cases:
        raise ConfigError([f"{name}: has no cases: a JSON object a line, with 'messages' or 'prompt', and 'reference'"])
    return cases


def of_splits(cases: list[Case], splits: tuple[str, ...]) -> list[Case]:
    """Those of these splits, or all where none is named; raises ValueError for one that no case has."""
    known = {case.split for case in cases} - {None}
    if missing := [split for split in splits if split not in known]:
        have = f"; they are {', '.join(sorted(filter(None, known)))}" if known else ""
        raise ValueError(f"no case is of the split '{missing[0]}'{have}")
    return [case for case in cases if case.split in splits] if splits else cases


class _Problem(Exception):
    """`key: what is wrong with it`."""


def _case(row: bytes, number: int) -> Case:
    try:
        line = msgspec.json.decode(row, type=Line)
        raw = msgspec.json.decode(row)
    except (ValueError, RecursionError) as error:
        said = api_error(error, Line)
        key = said.param or "line"
        if isinstance(error, msgspec.ValidationError) and is_unknown_field(error):
            raise _Problem(f"{key}: unknown key; there are {', '.join(Line.__struct_fields__)}") from None
        raise _Problem(f"{key}: {_plain(said.message, key)}") from None
    if (line.messages is None) == (line.prompt is None):
        raise _Problem("messages: give either 'messages' or 'prompt'")
    if line.messages and line.messages[-1].role == "assistant":
        raise _Problem("messages: the last one is the assistant's; what it should say is the 'reference'")
    references = (line.reference,) if isinstance(line.reference, str) else tuple(line.reference)
    prompt = {name: raw[name] for name in ("messages", "prompt") if raw.get(name) is not None}
    name = f"line {number}" if line.id is None else str(line.id)
    return Case(name, number, prompt, references, line.split, line.category)


def _text_of(content: Any) -> str:
    if isinstance(content, list):
        return "\n".join(str(part.get("text", f"[{part.get('type', 'part')}]")) for part in content)
    return content or ""


def _plain(message: str, key: str) -> str:
    return message.removeprefix(f"'{key}' ").replace("The body", "it", 1)
