"""Cases of the skills of pebble-instruct and pebble-chat.

`python -m tests.evaluation.pebble_cases` writes models/pebble/cases.jsonl.
"""

import json
import random
from collections.abc import Callable, Iterator

from models.pebble import skills
from models.pebble.skills import Case, Words
from tests.support.fleets import ROOT

FILE = ROOT / "models/pebble/cases.jsonl"
# Category, what makes a case, and how many of them.
MAKERS: tuple[tuple[str, Callable[[Words], Case], int], ...] = (
    ("extract", skills.instruct_extract, 40),
    ("classify", skills.instruct_classify, 30),
    ("recall", lambda words: skills.chat_recall(words, turns=2), 30),
    ("small talk", skills.chat_other, 20),
)


def lines() -> Iterator[str]:
    """The lines of the file; their words are none that the models were trained with."""
    words = Words(random.Random("cases"), held_out=True)
    for category, make, count in MAKERS:
        for number in range(count):
            case = make(words)
            row = {
                "id": f"{category.replace(' ', '-')}-{number + 1}",
                "category": category,
                "split": "held_out",
                "messages": [message.json() for message in case.messages],
                "reference": case.answer,
            }
            yield json.dumps(row, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text("".join(lines()), encoding="utf-8")
