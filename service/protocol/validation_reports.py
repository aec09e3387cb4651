"""The validation reports of an engine: which field of the client's body is wrong, and what it should be.

vLLM validates bodies with pydantic and reports the errors of every alternative that a field could be, at places that
hold the names of its own types. Here one of them is chosen, and its place is found again in the client's body.
"""

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

# Two forms: a list of errors, each as a Python literal on a line of its own; and pydantic's own text.
REPORT = re.compile(r"^(\d+) validation errors?\b")
LISTED = re.compile(
    r"""^  \{'type': '(\w+)', 'loc': '([^'\n]*)', 'msg': ('(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*")""", re.MULTILINE
)
WRITTEN = re.compile(r"^([\w.\[\]-]+)\n  (.*?) \[type=(\w+),", re.MULTILINE)
# Their texts come from validators, which may quote the value; all others follow from the schema.
FREE_TEXT = ("value_error", "assertion_error")
DISCRIMINATORS = ("role", "type")
LISTS = ("tool_calls", "content")

Path = tuple[str | int, ...]


class Problem(NamedTuple):
    """What is wrong: the field as the client wrote it (`""` for the body as a whole), and a clause that says why.

    `free` says that the clause is a validator's own, so that it may quote the request.
    """

    field: str
    reason: str
    free: bool = False


@dataclass(frozen=True)
class Entry:
    """One error of a report. `path` leads to it in the client's body.

    `alternatives` are the types that the engine tried on the way, each with the path where it did.
    """

    kind: str
    message: str
    path: Path
    alternatives: frozenset[tuple[Path, str]]


def problem(message: str, body: Any) -> Problem | None:
    """The problem that a report names, if the message is one; `body` is the client's decoded body."""
    report = REPORT.match(message)
    entries = [_entry(kind, place, text, body) for kind, place, text in _found(message)] if report else []
    if not report or not entries:
        return None
    wrong, is_cut = [entry for entry in entries if _is_discriminator(entry)], int(report[1]) > len(entries)
    # A type whose own discriminator is wrong is not the one that the client meant; of the last one of a report that was
    # cut short, that is not known.
    excluded = {pair for entry in wrong for pair in entry.alternatives if pair[0] == entry.path[:-1]}
    excluded |= set(sorted(entries[-1].alternatives, key=lambda pair: len(pair[0]))[-1:] if is_cut else ())
    meant = [entry for entry in entries if not entry.alternatives & excluded] or entries
    best = max(meant, key=lambda entry: (len(entry.path), not entry.kind.endswith("_type")))
    deepest = max(wrong, key=lambda entry: len(entry.path), default=best)
    if len(deepest.path) > len(best.path) and deepest.alternatives:
        options = [entry.message.removeprefix("Input should be ") for entry in wrong if entry.path == deepest.path]
        such_as = "one such as " if is_cut else ""
        return Problem(_written(deepest.path), f"it should be {such_as}{' or '.join(dict.fromkeys(options))}")
    return Problem(_written(best.path), _reason(best), best.kind in FREE_TEXT)


def _found(message: str) -> Iterator[tuple[str, str, str]]:
    """Kind, place and text of each error in the report."""
    for kind, place, text in LISTED.findall(message):
        yield kind, place.removeprefix("body").removeprefix("."), str(ast.literal_eval(text))
    for place, text, kind in WRITTEN.findall(message):
        yield kind, place, text


def _entry(kind: str, place: str, message: str, body: Any) -> Entry:
    steps = place.split(".") if place else []
    path: Path = ()
    alternatives: set[tuple[Path, str]] = set()
    value = body
    if steps and steps[0].isdigit():  # vLLM reads some lists late, and then no longer knows where they were
        path, value = _lost_list(steps, body)
    for number, step in enumerate(steps):
        if isinstance(value, list) and step.isdigit() and int(step) < len(value):
            path, value = (*path, int(step)), value[int(step)]
        elif isinstance(value, dict) and step in value:
            path, value = (*path, step), value[step]
        elif number == len(steps) - 1 and kind == "missing":
            path = (*path, step)
        else:
            alternatives.add((path, step))
    return Entry(kind, message, path, frozenset(alternatives))


def _lost_list(steps: Sequence[str], body: Any) -> tuple[Path, Any]:
    """The list in a message to which a place without a beginning belongs, or the body where there is none.

    Of several it is the first whose item lacks the field at the end of the place.
    """
    index, field = int(steps[0]), steps[-1]
    messages = body.get("messages") if isinstance(body, dict) else None
    lists = [
        (("messages", number, name), message[name])
        for number, message in enumerate(messages if isinstance(messages, list) else ())
        for name in LISTS
        if isinstance(message, dict) and isinstance(message.get(name), list) and index < len(message[name])
    ]
    lacking = [found for found in lists if isinstance(found[1][index], dict) and field not in found[1][index]]
    return next(iter(lacking or lists), ((), body))


def _is_discriminator(entry: Entry) -> bool:
    return entry.kind == "literal_error" and bool(entry.path) and entry.path[-1] in DISCRIMINATORS


def _written(path: Path) -> str:
    """`("messages", 0, "content")` → `messages[0].content`, as our own errors spell it."""
    written = "".join(f"[{step}]" if isinstance(step, int) else f".{step[:64]}" for step in path)
    return written.removeprefix(".")


def _reason(entry: Entry) -> str:
    """Pydantic's text as a clause about the field."""
    if entry.kind == "missing":
        return "it is required"
    text = entry.message.removeprefix("Value error, ").removeprefix("Assertion failed, ")
    text = re.sub(r"^(?:Input|List|String|Dictionary|Tuple|Set)\b", "it", text)
    text = re.sub(r", unable to parse.*|(?<= items) after validation", "", text)
    text = text.replace("a valid ", "a ").replace("be iterable", "be a list").replace("a boolean", "true or false")
    text = re.sub(r"a dictionary\b.*", "an object", text).replace("a integer", "an integer")
    return text[:1].lower() + text[1:]
