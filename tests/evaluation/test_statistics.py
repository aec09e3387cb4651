"""Intervals and verdicts of paired differences."""

import random
from statistics import fmean

import pytest

from service.evaluation.statistics import FEWEST, Sampling, compare, interval, signed

SAMPLING = Sampling(resamples=2000)


def test_the_interval_is_where_the_mean_of_normal_differences_is_expected() -> None:
    draw = random.Random(7)
    differences = [draw.gauss(0.1, 0.5) for _ in range(400)]
    found = interval(differences, SAMPLING)
    assert found == interval(differences, SAMPLING) != interval(differences, Sampling(resamples=2000, seed=1))
    low, high = found or (0, 0)
    assert low == pytest.approx(fmean(differences) - 1.96 * 0.5 / 20, abs=0.01)
    assert high == pytest.approx(fmean(differences) + 1.96 * 0.5 / 20, abs=0.01)
    narrow = interval(differences, Sampling(0.5, 2000)) or (0, 0)
    assert low < narrow[0] < narrow[1] < high


def test_verdicts_come_from_the_interval() -> None:
    def verdict(*pairs: tuple[float, float]) -> str:
        return compare("rouge-l", pairs, SAMPLING).verdict

    assert verdict(*[(1, 0)] * 10) == "better"
    assert verdict(*[(0, 1)] * 10) == "worse"
    assert verdict(*[(0.3, 0.3)] * 10) == "equal"
    assert verdict(*[(0, 1), (1, 0)] * 5) == "unclear"
    assert verdict(*[(1, 0)] * (FEWEST - 1)) == "too few"


def test_wins_ties_and_losses_are_counted() -> None:
    found = compare("similarity", [(0.9, 0.5), (0.505, 0.5), (0.1, 0.2)], SAMPLING)
    assert (found.wins, found.ties, found.losses) == (1, 1, 1)
    assert [found.new, found.against] == pytest.approx([1.505 / 3, 0.4])
    assert compare("rouge-l", [(0.505, 0.5)], SAMPLING).wins == 1
    assert (signed(-0.0004), signed(0.1234), signed(-1)) == ("+0.000", "+0.123", "-1.000")
