"""Ways to cut a model's output into the pieces of a stream, and what two readings of it differ in. Pure."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tests.vllm.tool_formats import BROKEN, Call

SIZES = (2, 3, 5)  # tokens in a delta, as with speculative decoding
SHOWN = 32  # characters of a value that differs
TOKEN = re.compile(r" ?\w{1,4}|[^\w\s]+\n*|\s+")  # cuts ordinary text much as byte-pair vocabularies do


@dataclass(frozen=True)
class Parsed:
    """A reading of an output: calls are pairs of a name and JSON; an error is one that the parser raised."""

    reasoning: str = ""
    content: str = ""
    calls: tuple[tuple[str, str], ...] = ()
    error: str = ""


@dataclass(frozen=True)
class Outcome:
    """What is wrong with each reading, empty if nothing: of the whole, token by token, in larger pieces.

    There are as many `few` and `many` as there are ways to stream it with a few tokens, or with many, at a time.
    """

    whole: str
    by_token: str
    few: tuple[str, ...]
    many: tuple[str, ...]

    @property
    def letters(self) -> str:
        """For a table: ok, or W, S, F and M for the readings that are wrong."""
        wrong = {"W": self.whole, "S": self.by_token, "F": any(self.few), "M": any(self.many)}
        return " ".join(letter for letter, one in wrong.items() if one) or "ok"

    @property
    def sentence(self) -> str:
        """What differs."""
        if self.whole and {self.by_token, *self.few, *self.many} == {self.whole}:
            return f"always: {self.whole}"
        parts = [f"whole: {self.whole}"] if self.whole else []
        parts += [f"token by token: {self.by_token}"] if self.by_token else []
        parts += [*mistakes("few tokens", self.few), *mistakes("many tokens", self.many)]
        return "; ".join(parts)


def mistakes(title: str, found: Sequence[str]) -> list[str]:
    """At most one sentence: what is wrong mostly, and how often anything is."""
    counted = Counter(words for words in found if words)
    if not counted:
        return []
    words = min(counted, key=lambda one: (-counted[one], one))
    more = " (or another mistake)" if len(counted) > 1 else ""
    return [f"{title}, {often(counted.total(), len(found))}: {words}{more}"]


def often(some: int, of: int) -> str:
    """How many ways that are, in words: a page with the numbers would differ in every row."""
    if some == of:
        return "always"
    return "mostly" if some * 2 > of else "rarely" if some * 10 < of else "sometimes"


def characters(text: str, tokens: Sequence[str]) -> list[str]:
    """Its pieces: `tokens` whole, everything else by character. What `BROKEN` cuts is no token, and the mark goes."""
    return [piece for part in split(text, tokens) for piece in ([part] if part in tokens else part) if piece != BROKEN]


def words(text: str, tokens: Sequence[str]) -> list[str]:
    """Its pieces: `tokens` whole, everything else about as a tokenizer cuts it."""
    pieces: list[str] = []
    for part in split(text, tokens):
        pieces += [part] if part in tokens else [one for run in part.split(BROKEN) for one in TOKEN.findall(run)]
    return pieces


def broken(text: str, tokens: Sequence[str]) -> str:
    """The same characters, none of which are one of `tokens`."""
    return "".join(part[:1] + BROKEN + part[1:] if part in tokens else part for part in split(text, tokens))


def split(text: str, tokens: Sequence[str]) -> list[str]:
    if not tokens:
        return [text] if text else []
    longest_first = sorted(tokens, key=len, reverse=True)
    return [part for part in re.split("(" + "|".join(map(re.escape, longest_first)) + ")", text) if part]


def by_token(text: str, tokens: Sequence[str]) -> list[list[list[str]]]:
    """The deltas of a stream with one token each, for two tokenizers. The end of the stream has a delta of its own."""
    return [[*([piece] for piece in pieces), []] for pieces in (words(text, tokens), characters(text, tokens))]


def few(text: str, tokens: Sequence[str]) -> list[list[list[str]]]:
    """The deltas with a few tokens at a time."""
    cut = words(text, tokens)
    return [[cut[at : at + size] for at in range(0, len(cut), size)] for size in SIZES]


def many(text: str, tokens: Sequence[str]) -> list[list[list[str]]]:
    """The deltas of all at once, and of every way to make two of it."""
    single = characters(text, tokens)
    return [[single], *([single[:place], single[place:]] for place in range(1, len(single)))]


def expected(content: str, calls: Sequence[Call], reasoning: str = "") -> Parsed:
    """The reading that is right."""
    written = ((call.name, json.dumps(call.arguments, ensure_ascii=False).replace(BROKEN, "")) for call in calls)
    return Parsed(reasoning, content, tuple(written))


def difference(wanted: Parsed, got: Parsed) -> str:
    """What is wrong with `got`, in a few words; empty if nothing is. White space around texts does not count."""
    if got.error:
        return got.error
    found = [*calls_difference(wanted.calls, got.calls)]
    for name in ("reasoning", "content"):
        want, have = getattr(wanted, name).strip(), getattr(got, name).strip()
        if want != have:
            found.append(text_difference(name, want, have))
    return ", ".join(found)


def text_difference(name: str, want: str, have: str) -> str:
    if not have:
        return f"{name} lost"
    if want and have.startswith(want):
        return f"{name} has {quoted(have[len(want) :])} more"
    if want and have.endswith(want):
        return f"{name} has {quoted(have[: -len(want)])} before it"
    return f"{name} is {quoted(have)}"


def calls_difference(wanted: Sequence[tuple[str, str]], got: Sequence[tuple[str, str]]) -> Iterator[str]:
    if len(wanted) != len(got):
        yield "no call" if not got else f"{len(got)} call{'s' * (len(got) > 1)} instead of {len(wanted) or 'none'}"
    for (name, text), (got_name, got_text) in zip(wanted, got, strict=False):
        if name != got_name:
            yield f"the name is {quoted(got_name)}"
        yield from arguments_difference(json.loads(text), got_text)


def arguments_difference(wanted: dict[str, Any], text: str) -> Iterator[str]:
    try:
        got = json.loads(text)
    except ValueError:
        yield f"arguments are not JSON: {quoted(text)}" if text else "arguments are empty"
        return
    if not isinstance(got, dict):
        yield f"arguments are {quoted(text)}"
        return
    for key in {**wanted, **got}:
        if key not in got:
            yield f"`{key}` is missing"
        elif key not in wanted or not same(got[key], wanted[key]):
            yield f"`{key}` is {quoted(json.dumps(got[key], ensure_ascii=False))}"


def same(one: Any, other: Any) -> bool:
    """Equal as JSON, in which true is not 1."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def quoted(text: str) -> str:
    """Markdown for the beginning of it."""
    short = text.replace("\n", "\\n").replace("\t", "\\t")
    short = short if len(short) <= SHOWN else short[: SHOWN - 1] + "…"
    return f"`` {short} ``" if "`" in short else f"`{short}`"
