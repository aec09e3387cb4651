"""Reads what somebody wants to serve: "chat, 8k context, 50 users, one H100". What cannot be read is named."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import get_args

from service.catalog.model import Task
from service.catalog.names import Variant
from service.planner import gpus as hardware
from service.planner.gpus import Gpu
from service.planner.quantization import Form

EXAMPLES = (
    "chat, 8k context, 50 users, one H100",
    "code-completion, 16k, 20 users, 2 x L40S, int4",
    "summarization, 32768 tokens, 8 streams, four A100-80, commercial",
)
NUMBERS: Mapping[str, int] = MappingProxyType(
    {"a": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8}
)
FORMS: Mapping[str, Form] = MappingProxyType(
    {"bf16": "bf16", "fp16": "bf16", "fp8": "fp8", "int4": "int4", "awq": "int4", "gptq": "int4", "mxfp4": "mxfp4"}
)
# Who may stand in for whom: a model that follows instructions converses too.
STANDS_IN: Mapping[Variant, tuple[Variant, ...]] = MappingProxyType(
    {"chat": ("chat", "instruct"), "instruct": ("instruct", "chat")}
)
COUNT = rf"\d+|{'|'.join(NUMBERS)}"
CONTEXT = re.compile(r"(?P<before>context(?: of)? )?(\d+) ?(?P<k>k)?(?P<after> (?:tokens|context|tokens of context))?")
USERS = re.compile(rf"({COUNT}) (?:concurrent )?(?:users?|streams?|requests?)")
CARDS = re.compile(rf"(?:({COUNT})(?: ?[x×] ?| ))?([a-z][a-z0-9 -]*)")


@dataclass(frozen=True)
class Wish:
    """What is wanted. `word` is the variant or task as it was said, `task` who does it well.

    `context` is in tokens, `users` are requests at the same time, `cards` how many of `gpu` there are. `form` None
    leaves the choice open. `commercial` rules out licences not known to allow earning money.
    """

    word: str
    task: Task
    gpu: Gpu
    cards: int = 1
    context: int = 4096
    users: int = 1
    form: Form | None = None
    commercial: bool = False


class WishError(Exception):
    """What of a wish cannot be read, or is missing: one sentence each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


def read(text: str, tasks: Mapping[str, Task], gpus: dict[str, Gpu]) -> Wish:
    """The wish that `text` tells, phrases parted by commas; raises WishError with every phrase it cannot read."""
    said: dict[str, object] = {}
    problems = []
    for phrase in filter(None, (part.strip() for part in text.split(","))):
        meaning = _meaning(phrase, tasks, gpus)
        if isinstance(meaning, str):
            problems.append(meaning)
        elif twice := next((key for key in meaning if key in said), None):
            problems.append(f"'{phrase}' tells the {twice} a second time")
        else:
            said |= meaning
    understood = not problems
    if understood and "task" not in said:
        problems.append(f"say what for: a variant ({', '.join(get_args(Variant))}) or a task ({', '.join(tasks)})")
    if understood and "gpu" not in said:
        problems.append(f"say on which GPU: {', '.join(gpus)}")
    if problems:
        raise WishError(problems)
    return Wish(**said)  # type: ignore[arg-type]


def _meaning(phrase: str, tasks: Mapping[str, Task], gpus: dict[str, Gpu]) -> dict[str, object] | str:
    """The fields that a phrase tells, or what is wrong with it."""
    said, phrase = phrase, phrase.lower()
    name = phrase.replace(" ", "-").replace("isation", "ization")
    if name in tasks:
        return {"word": name, "task": tasks[name]}
    if variant := next((one for one in get_args(Variant) if one == name), None):
        return {"word": name, "task": Task(about=name, suits=STANDS_IN.get(variant, (variant,)))}
    if phrase in FORMS:
        return {"form": FORMS[phrase]}
    if phrase in ("commercial", "commercial use"):
        return {"commercial": True}
    found = CONTEXT.fullmatch(phrase)
    if found and (found["before"] or found["k"] or found["after"]):
        return _counted("context", int(found[2]) * (1024 if found["k"] else 1), said)
    if found := USERS.fullmatch(phrase):
        return _counted("users", _number(found[1]), said)
    if found := CARDS.fullmatch(phrase):
        gpu = hardware.find(found[2], gpus) or hardware.find(found[2].removesuffix("s"), gpus)
        if gpu:
            return _counted("cards", _number(found[1] or "one"), said, gpu=gpu)
        near = [one for one in gpus if found[2].upper().rstrip("S") in one]
        return f"'{said}' is neither a variant, a task nor a known GPU ({', '.join(near or gpus)})"
    return f"'{said}' cannot be read"


def _counted(key: str, count: int, phrase: str, **also: object) -> dict[str, object] | str:
    return {key: count, **also} if count else f"'{phrase}' must be more than none"


def _number(word: str) -> int:
    return int(word) if word.isdigit() else NUMBERS[word]
