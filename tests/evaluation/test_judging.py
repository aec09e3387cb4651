"""What a judge is asked, and what its two verdicts amount to."""

from service.evaluation.calls import verdict_calls
from service.evaluation.cases import Case
from service.evaluation.judging import Word, contradicts, preference, verdict_of
from tests.support.each import each

CASE = Case("a", 1, {"messages": [{"role": "user", "content": "Which town?"}]}, ("Kiln",))
# New as the first one, new as the second one; the preference; whether only the place was chosen.
PREFERENCES: list[tuple[Word, Word, float, bool]] = [
    ("first", "second", 1, False),
    ("second", "first", -1, False),
    ("first", "first", 0, True),
    ("second", "second", 0, True),
    ("tie", "tie", 0, False),
    ("first", "tie", 0.5, False),
    ("tie", "first", -0.5, False),
]


@each(("as_first", "as_second", "value", "biased"), PREFERENCES)
def test_both_orders_count_the_same(as_first: Word, as_second: Word, value: float, biased: bool) -> None:
    assert preference((as_first, as_second)) == value
    assert contradicts((as_first, as_second)) == biased


def test_the_two_questions_differ_in_the_order_alone() -> None:
    one, other = verdict_calls(CASE, "judge", "Kiln town", "River town")
    asked, turned = (call.body["messages"][1]["content"] for call in (one, other))
    assert asked.index("Kiln town") < asked.index("River town")
    assert turned == asked.replace("Kiln town", "#").replace("River town", "Kiln town").replace("#", "River town")
    schema = one.body["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["verdict"]["enum"] == ["first", "second", "tie"] and one.key != other.key


def test_only_a_verdict_is_one() -> None:
    assert verdict_of(' {"verdict":\n "tie"}') == "tie"
    others = ("first", "[]", '{"verdict": "both"}', '{"verdict": ["tie"]}', "")
    assert not any(map(verdict_of, others))
