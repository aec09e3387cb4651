"""ROUGE-L, exact match and similarity."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.evaluation.scoring import common_subsequence, cosine, exact_match, rouge_l, tokens
from tests.support.each import each

# What rouge_score 0.1.2 says (rougeL, F1, no stemmer).
ROUGE = [
    ("the cat sat on the mat", "the cat lay on a mat", 0.666666666667),
    ("Your name is Ada.", "Your name is Ada Lovelace.", 0.888888888889),
    ("42", "forty-two", 0.0),
    ("It's 3 o'clock, don't go!", "it is 3 o clock do not go", 0.625),
    ("a b c d e f", "f e d c b a", 0.166666666667),
    ("one two one two one", "two one two", 0.75),
    ("", "nothing", 0.0),
    ("def add(a_b, c): return a_b + c", "def add(a_b, c):\n    return c + a_b", 0.888888888889),
]


@each(("answer", "reference", "value"), ROUGE)
def test_rouge_l_is_that_of_the_usual_library(answer: str, reference: str, value: float) -> None:
    assert rouge_l(answer, reference) == pytest.approx(value)


def test_words_are_those_of_any_script() -> None:
    assert rouge_l("Über die Brücke", "über die brücke!") == 1
    assert tokens("北京 ประ Ко́т") == ["北", "京", "ป", "ร", "ะ", *tokens("Ко́т")]
    assert rouge_l("我爱北京", "我爱上海") == 0.5


@given(st.lists(st.sampled_from("abc"), max_size=40), st.lists(st.sampled_from("abcd"), max_size=40))
def test_the_common_subsequence_is_the_longest(left: list[str], right: list[str]) -> None:
    row = [0] * (len(right) + 1)
    for one in left:
        row = [0, *row[1:]] if not right else _next(row, one, right)
    assert common_subsequence(left, right) == row[-1]


def _next(above: list[int], one: str, right: list[str]) -> list[int]:
    """The next row of the table that everyone knows."""
    row = [0]
    for index, other in enumerate(right):
        row.append(above[index] + 1 if one == other else max(above[index + 1], row[-1]))
    return row


def test_exact_match_forgives_case_and_blanks_alone() -> None:
    assert exact_match(" Berlin\n", "berlin") == exact_match("a  b", "a b") == exact_match("ﬁt", "FIT") == 1
    assert exact_match("Berlin.", "Berlin") == exact_match("", "x") == 0


def test_similarity_is_the_cosine() -> None:
    assert cosine([3, 4], [6, 8]) == pytest.approx(1)
    assert cosine([1, 0], [0, 2]) == 0 == cosine([0, 0], [1, 1])
    assert cosine([1, 0], [-1, 0]) == -1
