"""When a gate fails."""

import pytest

from service.evaluation.gate import failure, gate_of
from service.evaluation.statistics import Comparison
from tests.support.each import each


def found(low: float, high: float) -> Comparison:
    return Comparison("rouge-l", 20, 0.5, 0.5, (low + high) / 2, (low, high), 1, 1, 1)


# The gate, the interval, and what it fails with.
GATES = [
    ("rouge-l", (-0.1, 0.0), None),
    ("rouge-l", (0.1, 0.2), None),
    ("rouge-l", (-0.2, -0.1), "rouge-l is worse by 0.150 (0.100 to 0.200)"),
    ("rouge-l:0.1", (-0.1, 0.3), None),
    ("rouge-l:0.05", (-0.1, 0.3), "rouge-l may be worse by 0.100, more than 0.05"),
    ("rouge-l:0", (-0.001, 0.3), "rouge-l may be worse by 0.001, more than 0"),
    ("judge", (0.1, 0.3), "judge could not be measured"),
]


@each(("text", "interval", "said"), GATES)
def test_a_gate_fails_by_the_interval(text: str, interval: tuple[float, float], said: str | None) -> None:
    assert failure(gate_of(text), [found(*interval)], 20) == said
    assert str(gate_of(text)) == text


def test_what_is_not_known_passes_no_gate() -> None:
    few = Comparison("rouge-l", 5, 1.0, 0.0, 1.0, None, 5, 0, 0)
    assert failure(gate_of("rouge-l"), [few], 5) == "5 cases are too few to say anything about rouge-l"
    assert failure(gate_of("rouge-l"), [found(0.1, 0.2)], 22) == "rouge-l could not be measured for 2 of 22 cases"


@pytest.mark.parametrize("text", ["", "rouge", "rouge-l:", "rouge-l:x", "rouge-l:-1", "rouge-l:nan", "rouge-l:2"])
def test_what_is_no_gate_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"metric|margin"):
        gate_of(text)
