"""What somebody wants, read strictly."""

from typing import Any

import pytest

from service.planner.wish import EXAMPLES, FORMS, WishError, read
from tests.planner.test_gpus import KNOWN
from tests.support.fleets import CATALOG


def understood(text: str) -> dict[str, Any]:
    """The fields of the wish, the GPU by its name."""
    found = read(text, CATALOG.tasks, KNOWN)
    return vars(found) | {"gpu": found.gpu.name, "task": found.task.suits}


def test_reads_the_sentence_of_the_documentation() -> None:
    assert understood("chat, 8k context, 50 users, one H100") == {
        "word": "chat", "task": ("chat", "instruct"), "context": 8192, "users": 50, "gpu": "H100", "cards": 1,
        "form": None, "commercial": False,
    }  # fmt: skip


@pytest.mark.parametrize("text", EXAMPLES)
def test_reads_its_own_examples(text: str) -> None:
    read(text, CATALOG.tasks, KNOWN)


@pytest.mark.parametrize("task", CATALOG.tasks)
def test_knows_every_task(task: str) -> None:
    for said in (task, task.replace("-", " ").upper(), task.replace("ization", "isation")):
        assert understood(f"{said}, T4")["task"] == CATALOG.tasks[task].suits


@pytest.mark.parametrize("word", FORMS)
def test_knows_every_form(word: str) -> None:
    assert understood(f"code, L4, {word}")["form"] == FORMS[word]


@pytest.mark.parametrize(
    ("phrase", "field", "value"),
    [
        ("32768 tokens", "context", 32768),
        ("8k", "context", 8192),
        ("context 16k", "context", 16384),
        ("128k tokens of context", "context", 131072),
        ("one user", "users", 1),
        ("20 concurrent requests", "users", 20),
        ("7 streams", "users", 7),
        ("commercial use", "commercial", True),
    ],
)
def test_reads_each_kind_of_phrase(phrase: str, field: str, value: object) -> None:
    assert understood(f"chat, H100, {phrase}")[field] == value


@pytest.mark.parametrize(
    ("phrase", "name", "cards"),
    [
        ("2 x L40S", "L40S", 2),
        ("four A100-80", "A100-80", 4),
        ("2×h200s", "H200", 2),
        ("8 L4s", "L4", 8),
        ("a T4", "T4", 1),
    ],
)
def test_reads_how_many_of_which_gpu(phrase: str, name: str, cards: int) -> None:
    found = understood(f"chat, {phrase}")
    assert (found["gpu"], found["cards"]) == (name, cards)


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("chat, 8k cntext, H100", ["'8k cntext' cannot be read"]),
        ("chat, two A100", ["'two A100' is neither a variant, a task nor a known GPU (A100-40, A100-80)"]),
        ("chat, H100, 50", ["'50' cannot be read"]),
        ("chat, 0 users, H100", ["'0 users' must be more than none"]),
        ("chat, code, H100", ["'code' tells the word a second time"]),
        ("chat, H100, L4", ["'L4' tells the cards a second time"]),
        ("8k, H100", ["say what for"]),
        ("chat", ["say on which GPU: T4, L4"]),
        ("", ["say what for", "say on which GPU"]),
        ("chit, many users, H100", ["'chit' is neither", "'many users' is neither"]),
    ],
)
def test_names_what_it_cannot_read(text: str, problems: list[str]) -> None:
    with pytest.raises(WishError) as refusal:
        read(text, CATALOG.tasks, KNOWN)
    assert len(refusal.value.problems) == len(problems)
    for problem, beginning in zip(refusal.value.problems, problems, strict=True):
        assert problem.startswith(beginning)
