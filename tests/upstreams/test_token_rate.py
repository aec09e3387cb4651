"""The measured token rate of a model."""

import pytest

from service.upstreams.token_rate import PRIOR, WINDOW, TokenRate


def test_a_model_never_measured_has_the_prior_rate() -> None:
    assert TokenRate().value == PRIOR


def test_the_first_response_outweighs_the_prior() -> None:
    rate = TokenRate()
    rate.observe(100, 10.0)
    assert rate.value == pytest.approx(10.0, rel=0.1)


def test_tokens_count_and_not_responses() -> None:
    rate = TokenRate()
    for _ in range(50):
        rate.observe(1, 1.0)
    rate.observe(5000, 50.0)
    assert rate.value == pytest.approx(50.0, rel=0.1)


def test_it_adapts_to_a_change() -> None:
    rate = TokenRate()
    for _ in range(100):
        rate.observe(1000, WINDOW / 10)
    for _ in range(60):
        rate.observe(10 * WINDOW / 10, WINDOW / 10)
    assert rate.value == pytest.approx(10.0, rel=0.1)
