"""How the requests to an alias are divided among its models."""

from hypothesis import given
from hypothesis import strategies as st

from service.routing.weights import choose
from tests.support.each import each

KEYS = st.integers(0, 2**64 - 1)
WEIGHTS = st.dictionaries(st.sampled_from("abcde"), st.integers(0, 1000), min_size=1).filter(lambda w: any(w.values()))


@given(WEIGHTS, KEYS)
def test_a_key_always_leads_to_one_model_that_has_a_weight(weights: dict[str, int], key: int) -> None:
    chosen = choose(weights, key, "alias")
    assert weights[chosen] > 0
    assert choose(weights, key, "alias") == chosen


@each("weights", [{"a": 95, "b": 5}, {"a": 1, "b": 1}, {"a": 0, "b": 7}, {"a": 50, "b": 30, "c": 20}])
def test_models_get_their_part_of_the_keys(weights: dict[str, int]) -> None:
    count, total = 20_000, sum(weights.values())
    chosen = [choose(weights, key << 32 | key, "alias") for key in range(count)]
    for id, weight in weights.items():
        expected = count * weight / total
        # Five standard deviations of a binomial draw.
        assert abs(chosen.count(id) - expected) <= 5 * (expected * (1 - weight / total)) ** 0.5


@given(st.integers(0, 100), st.integers(0, 100), KEYS)
def test_of_two_models_the_one_that_grows_keeps_its_keys(one: int, other: int, key: int) -> None:
    fewer, more = sorted((one, other))
    before, after = ({"old": 100 - part, "new": part} for part in (fewer, more))
    if choose(before, key, "alias") == "new":
        assert choose(after, key, "alias") == "new"


def test_aliases_divide_their_keys_apart_from_each_other() -> None:
    weights = {"a": 1, "b": 1}
    same = sum(choose(weights, key, "x") == choose(weights, key, "y") for key in range(1000))
    assert 400 < same < 600
