"""Validation of a shape, and which of its layers have sliding-window attention."""

from typing import Any

import pytest
from pydantic import ValidationError

from service.architectures.shape import Shape


@pytest.mark.parametrize(
    ("sizes", "problem"),
    [
        ({"num_attention_heads": 32, "num_key_value_heads": 5}, "32 attention heads cannot share 5"),
        ({"num_local_experts": 8}, "give both 'num_local_experts' and 'num_experts_per_tok'"),
        ({"num_local_experts": 2, "num_experts_per_tok": 4}, "4 experts per token are more than the 2 experts"),
        ({"sliding_window_pattern": 2}, "needs a 'sliding_window'"),
        ({"hidden_size": 0}, "greater than 0"),
        ({"partial_rotary_factor": 1.5}, "less than or equal to 1"),
    ],
)
def test_contradictory_or_impossible_sizes_are_rejected(sizes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        Shape(**sizes)


@pytest.mark.parametrize(
    ("window", "pattern", "sliding"),
    [
        (None, None, [False] * 4),
        (64, None, [True] * 4),
        (64, 2, [True, False, True, False]),
        (64, 4, [True] * 3 + [False]),
    ],
)
def test_sliding_window_pattern(window: int | None, pattern: int | None, sliding: list[bool]) -> None:
    shape = Shape(sliding_window=window, sliding_window_pattern=pattern)
    assert [shape.sliding(layer) for layer in range(4)] == sliding
