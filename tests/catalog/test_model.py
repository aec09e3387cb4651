"""What follows from a catalogued model's figures."""

import pytest

from tests.support.fleets import CATALOG


@pytest.mark.parametrize(
    ("longest", "reason"),
    [(None, "its configuration declares no more"), (8192, "its authors support no more")],
)
def test_a_context_that_is_too_long_has_its_limit_and_the_reason(longest: int | None, reason: str) -> None:
    model = CATALOG.models["llama-2-7b"].model_copy(update={"longest": longest})
    limit = longest or 4096
    assert model.too_long(limit) is None
    assert model.too_long(limit + 1) == (
        f"max_model_len {limit + 1} is more than the {limit} tokens of 'llama-2-7b': {reason}"
    )


def test_without_a_known_context_no_length_is_too_long() -> None:
    model = CATALOG.models["llama-2-7b"].model_copy(update={"longest": None, "context": None})
    assert model.too_long(10**9) is None
