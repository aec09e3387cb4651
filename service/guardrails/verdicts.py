"""What guards and classifiers answer, read as verdicts. Pure; what is not understood is no verdict."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import msgspec

from service.fleet.guardrail import Format, Guardrail
from service.fleet.guardrails import CATEGORIES

LLAMA_GUARD_CATEGORY = re.compile(r"\bS\d{1,2}\b")
QWEN_SAFETY = re.compile(r"^Safety: *(Safe|Unsafe|Controversial) *$", re.MULTILINE)
QWEN_CATEGORIES = re.compile(r"^Categories: *(.*)$", re.MULTILINE)
THOUGHTS = re.compile(r"<think>.*?</think>", re.DOTALL)


class UnreadableVerdictError(ValueError):
    """An answer that is no verdict."""


@dataclass(frozen=True)
class Verdict:
    """Whether a text was flagged, as which categories, and the scores from 0 to 1 of a judge that has some."""

    flagged: bool
    categories: tuple[str, ...] = ()
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Block:
    """A text that must not pass: the step that says so, and the categories by which."""

    guardrail: str
    categories: tuple[str, ...]

    def __str__(self) -> str:
        found = f" ({', '.join(self.categories)})" if self.categories else ""
        return f"the guardrail '{self.guardrail}'{found}"


def blocking(step: Guardrail, verdict: Verdict) -> Block | None:
    """The block that follows from a verdict; None if the text passes, flagged or not.

    A text that was flagged without a category is blocked whatever categories the step is for.
    """
    chosen = step.categories
    found = tuple(name for name in verdict.categories if chosen is None or name in chosen)
    if not verdict.flagged or (verdict.categories and not found):
        return None
    titles = CATEGORIES[step.format] if step.format else {}
    return Block(step.name, tuple(f"{name}: {titles[name]}" if titles.get(name) else name for name in found))


def read_llama_guard(answer: str) -> Verdict:
    """Llama Guard says `safe`, or `unsafe` and in the next line the categories. Raises UnreadableVerdictError."""
    first, _, rest = answer.strip().partition("\n")
    if first.strip() == "safe" and not rest.strip():
        return Verdict(False)
    if first.strip() == "unsafe":
        return Verdict(True, tuple(dict.fromkeys(LLAMA_GUARD_CATEGORY.findall(rest))))
    raise UnreadableVerdictError("its answer is neither 'safe' nor 'unsafe'")


def read_qwen3guard(answer: str) -> Verdict:
    """Qwen3Guard says `Safety: …` and `Categories: …`; `Controversial` is flagged. Raises UnreadableVerdictError."""
    answer = THOUGHTS.sub("", answer)
    safety, listed = QWEN_SAFETY.search(answer), QWEN_CATEGORIES.search(answer)
    if safety is None:
        raise UnreadableVerdictError("its answer has no line 'Safety: Safe', 'Unsafe' or 'Controversial'")
    if safety[1] == "Safe":
        return Verdict(False)
    found = listed[1] if listed else ""
    return Verdict(True, tuple(name for name in CATEGORIES["qwen3guard"] if name in found))


READERS: Mapping[Format, Callable[[str], Verdict]] = MappingProxyType(
    {"llama-guard": read_llama_guard, "qwen3guard": read_qwen3guard}
)


class Result(msgspec.Struct):
    """One result of OpenAI's moderation endpoint, as far as it is read."""

    flagged: bool
    categories: dict[str, bool | None] = {}
    category_scores: dict[str, float | None] = {}


class Moderation(msgspec.Struct):
    """The answer of OpenAI's moderation endpoint, as far as it is read."""

    results: list[Result]


MODERATION = msgspec.json.Decoder(Moderation)


def read_moderation(body: bytes) -> Verdict:
    """A classifier's answer to one input. Raises UnreadableVerdictError."""
    try:
        results = MODERATION.decode(body).results
    except (msgspec.MsgspecError, ValueError, RecursionError):
        results = []
    if len(results) != 1:
        raise UnreadableVerdictError("its answer is not that of OpenAI's moderation endpoint to one input")
    result = results[0]
    scores = {name: score for name, score in result.category_scores.items() if score is not None}
    found = tuple(name for name, is_so in result.categories.items() if is_so)
    return Verdict(result.flagged, found, scores)
