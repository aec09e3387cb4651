"""What guards and classifiers answer, and what of it blocks."""

import json

import pytest

from service.fleet.guardrail import Guardrail
from service.guardrails.verdicts import (
    READERS,
    UnreadableVerdictError,
    Verdict,
    blocking,
    read_llama_guard,
    read_moderation,
    read_qwen3guard,
)
from tests.support.each import each


@each(
    ("format", "answer", "verdict"),
    [
        ("llama-guard", "\n\nsafe", Verdict(False)),
        ("llama-guard", "unsafe\nS1,S14", Verdict(True, ("S1", "S14"))),
        ("llama-guard", " unsafe \n S2 ", Verdict(True, ("S2",))),
        ("llama-guard", "unsafe", Verdict(True)),
        ("qwen3guard", "Safety: Safe\nCategories: None\nRefusal: No", Verdict(False)),
        ("qwen3guard", "Safety: Unsafe\nCategories: Violent, PII", Verdict(True, ("Violent", "PII"))),
        ("qwen3guard", "Safety: Controversial\nCategories: Unethical Acts", Verdict(True, ("Unethical Acts",))),
        ("qwen3guard", "<think>\n\n</think>\n\nSafety: Safe\nCategories: None", Verdict(False)),
        ("qwen3guard", "Safety: Unsafe", Verdict(True)),
    ],
)
def test_verdicts_of_guards(format: str, answer: str, verdict: Verdict) -> None:
    assert READERS[format](answer) == verdict  # type: ignore[index]


@each("answer", ["", "Safe.", "it is safe", "safe\nunsafe", "SAFE", "Safety: Safer", "{}", "safe, but unsafe"])
def test_what_is_not_understood_is_no_verdict(answer: str) -> None:
    for read in (read_llama_guard, read_qwen3guard):
        with pytest.raises(UnreadableVerdictError):
            read(answer)


def test_verdicts_of_classifiers() -> None:
    result = {"flagged": True, "categories": {"a": True, "b": False, "c": None}, "category_scores": {"a": 1, "c": None}}
    assert read_moderation(json.dumps({"results": [result]}).encode()) == Verdict(True, ("a",), {"a": 1.0})
    for body in (b"", b"[]", b"{}", b'{"results":[]}', b'{"results":[{"flagged":"no"}]}', b'{"results":[{}]}',
                 json.dumps({"results": [result, result]}).encode(), b"[" * 10**5):  # fmt: skip
        with pytest.raises(UnreadableVerdictError):
            read_moderation(body)


@each(
    ("verdict", "categories", "blocked"),
    [
        (Verdict(False), None, None),
        (Verdict(True, ("S1",)), None, "the guardrail 'g' (S1: violent crimes)"),
        (Verdict(True, ("S1", "S2")), {"S2"}, "the guardrail 'g' (S2: non-violent crimes)"),
        (Verdict(True, ("S1",)), {"S2"}, None),
        (Verdict(True), {"S2"}, "the guardrail 'g'"),  # flagged, and nobody knows as what
    ],
)
def test_what_blocks(verdict: Verdict, categories: set[str] | None, blocked: str | None) -> None:
    step = Guardrail("g", "x", "llama-guard", categories=frozenset(categories) if categories else None)
    block = blocking(step, verdict)
    assert (None if block is None else str(block)) == blocked
