"""What the Pebble adapters learn: two skills of a help desk that their base, pebble-instruct, does not have.

Both are cases in pebble-instruct's own format, made of the same letters as its own, and split in the same way: names
and order numbers of `held_out` are never seen in training. `write_cases` makes the file of them that
`roundhouse evaluate` takes.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from models.pebble.skills import (
    FILLERS,
    INSTRUCT_SYSTEMS,
    LETTER_PARTS,
    PRODUCTS,
    Case,
    Words,
    _joined,
    _system,
    _turns,
    instruct_classify,
    instruct_extract,
    instruct_other,
)  # fmt: skip

BASE = "pebble-instruct"
# What people write about → the team that reads it.
LETTERS: Final = {
    "delivery": (
        "My {p} has not arrived.",
        "Where is my {p}?",
        "Order {n} is late.",
        "Order {n} has not arrived.",
        "The parcel with my {p} is lost.",
        "I am still waiting for order {n}.",
        "When will my {p} come?",
        "The parcel went to the wrong street.",
    ),
    "billing": (
        "I was charged twice for the {p}.",
        "The invoice of order {n} is wrong.",
        "Please send me an invoice for the {p}.",
        "I paid too much for order {n}.",
        "I want my money back.",
        "The price on my invoice is too high.",
        "My card was charged for order {n}.",
        "How can I pay for the {p}?",
    ),
    "repairs": (
        "My {p} is broken.",
        "The {p} does not work.",
        "My {p} fell and has a crack.",
        "Can you repair my {p}?",
        "The {p} of order {n} is damaged.",
        "The {p} stopped working yesterday.",
        "A part of my {p} is loose.",
        "I need a new part for the {p}.",
    ),
}
TRIAGE: Final = (
    "Which team should read this? {}",
    "Which team is this for? {}",
    "Choose the team, delivery, billing or repairs: {}",
    "Delivery, billing or repairs? {}",
)
REPLIES: Final = ("Write a reply to: {}", "Reply to this letter: {}", "Answer this letter: {}", "Write back to: {}")


def triage(words: Words) -> Case:
    """A letter, and which of three teams it is for."""
    team = words.pick(tuple(LETTERS))
    said = words.pick(LETTERS[team]).format(p=words.pick(PRODUCTS), n=words.number())
    parts = [said, *([words.pick(LETTER_PARTS["name"]).format(words.name())] if words.chance(0.6) else [])]
    words.rng.shuffle(parts)
    return _case(words, "triage", words.pick(TRIAGE), parts, team)


def reply(words: Words) -> Case:
    """A letter, and a polite reply that repeats the writer's name and order number."""
    name, number = words.name(), words.number()
    parts = [words.pick(LETTER_PARTS["name"]).format(name), words.pick(LETTER_PARTS["order number"]).format(number)]
    words.rng.shuffle(parts)
    return _case(words, "reply", words.pick(REPLIES), parts, f"Dear {name}, we will look after order {number}.")


def _case(words: Words, skill: str, request: str, parts: list[str], answer: str) -> Case:
    if words.chance(0.2):
        parts.append(words.pick([filler for filler in FILLERS if "broken" not in filler]))
    system = _system(words, INSTRUCT_SYSTEMS)
    return Case("instruct", skill, answer, system + _turns(request.format(_joined(words, parts))))


@dataclass(frozen=True, slots=True)
class Adapter:
    """One fine-tune of pebble-instruct: how its cases are made, its rank, and the modules that it changes."""

    make: Callable[[Words], Case]
    rank: int
    modules: tuple[str, ...]


ATTENTION: Final = ("q_proj", "k_proj", "v_proj", "o_proj")
ADAPTERS: Final = {
    "pebble-triage": Adapter(triage, 8, (*ATTENTION, "gate_proj", "up_proj", "down_proj")),
    "pebble-reply": Adapter(reply, 16, (*ATTENTION, "gate_proj", "up_proj", "down_proj")),
}


def training(name: str, rng: random.Random) -> Iterator[Case]:
    """Endless training cases of an adapter; one in eight is the base's own, so that it forgets less."""
    words, make = Words(rng, held_out=False), ADAPTERS[name].make
    while True:
        if words.chance(1 / 8):
            yield words.pick((instruct_extract, instruct_classify))(words)
        else:
            yield make(words)


def held_out(name: str, count: int, seed: int = 0) -> list[Case]:
    """`count` cases of an adapter's skill, made of names and numbers that training never shows."""
    words = Words(random.Random(f"{name}-{seed}"), held_out=True)
    return [ADAPTERS[name].make(words) for _ in range(count)]


# Of the base's own skills the adapters were shown the first two again while they learnt theirs, and not the third.
KINDS: Final[dict[str, Callable[[Words], Case]]] = {
    "triage": triage, "reply": reply, "extract": instruct_extract, "classify": instruct_classify,
    "anything else": instruct_other,
}  # fmt: skip
HELD_OUT, TRAINING = 24, 8  # cases of each kind, by split


def case_lines() -> Iterator[str]:
    """The lines of a file of cases: both skills, and what the base can; most made of words that nobody has seen."""
    for split, count in (("held_out", HELD_OUT), ("training", TRAINING)):
        words = Words(random.Random(f"cases of {split}"), held_out=split == "held_out")
        for kind, make in KINDS.items():
            for number in range(1, count + 1):
                case = make(words)
                name = f"{kind.replace(' ', '-')}-{split.replace('_', '-')}-{number}"
                row = {
                    "id": name, "category": kind, "split": split,
                    "messages": [message.json() for message in case.messages], "reference": case.answer,
                }  # fmt: skip
                yield json.dumps(row, ensure_ascii=False) + "\n"


def write_cases(folder: Path) -> None:
    """Writes cases.jsonl into the folder of the adapters."""
    (folder / "cases.jsonl").write_text("".join(case_lines()), encoding="utf-8")
