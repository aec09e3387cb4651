"""Which engines of a share can be there together, by arithmetic."""

import pytest

from service.planner.gpus import GIB
from service.sharing.fitting import misfits, table
from service.sharing.parts import Keep, Part, Share

SHARE = Share("card", 10 * GIB, (0,))


def part(size: float, keep: Keep = "cold", asleep: float = 0.0) -> Part:
    return Part(SHARE, keep, int(size * GIB) - GIB, GIB // 2, GIB // 2, 4.0, int(asleep * GIB))


def test_what_fits_alone_beside_those_that_always_are_there_is_fine() -> None:
    parts = {"a": part(4, "always"), "b": part(6), "c": part(6)}
    assert not list(misfits(SHARE, parts))
    assert table(SHARE, parts)[1] == (
        "  a   4.00 GiB = weights 3.00 GiB + processes 0.50 GiB + KV cache 0.50 GiB for 4 whole requests, keep: always"
    )


def test_what_never_fits_is_named_with_the_arithmetic() -> None:
    ((name, why),) = misfits(SHARE, {"a": part(4, "always"), "b": part(6.5), "c": part(6)})
    assert name == "b"
    assert "it takes 6.50 GiB and can never be there: share 'card' has 10.0 GiB - a 4.00 GiB = 6.00 GiB" in why
    assert "What helps: 'memory: 6GiB' for b, with" not in why  # its weights and processes alone are as large
    assert "a quantised copy of b, whose weights and processes take 6.00 GiB" in why
    assert "'keep: cold' instead of 'always' for a" in why


@pytest.mark.parametrize(
    ("weights", "cache", "help_"),
    [
        (5.0, 10.0, "'memory: 9GiB' for b, with a KV cache for 1.4 whole requests; without a 'memory', a smaller "
                    "'max_in_flight' or 'max_model_len' (its KV cache is 10.0 GiB)"),
        (7.0, 10.0, "a smaller 'max_model_len' of b: 1.50 GiB are left for its KV cache, of which one request takes "
                    "2.50 GiB"),
    ],
)  # fmt: skip
def test_what_helps_is_of_the_model_itself(weights: float, cache: float, help_: str) -> None:
    """Another's KV cache, be it ever so large, is not there while this one is."""
    large = part(9)
    one = Part(SHARE, "cold", int(weights * GIB), GIB // 2, int(cache * GIB), 4.0)
    ((name, why),) = misfits(SHARE, {"a": part(1, "always"), "b": one, "c": large})
    assert (name, help_ in why) == ("b", True), why


def test_those_that_always_are_there_must_fit_together() -> None:
    ((name, why),) = misfits(SHARE, {"a": part(6, "always"), "b": part(1), "c": part(5, "always")})
    assert name == "c"
    assert "a 6.00 GiB + c 5.00 GiB = 11.0 GiB are more than the 10.0 GiB of share 'card'" in why


def test_engines_that_sleep_take_some_of_the_card() -> None:
    ((name, why),) = misfits(SHARE, {"a": part(9.5), "b": part(8, "warm", 1.5), "c": part(8, "warm", 1)})
    assert name == "a"
    assert "10.0 GiB - b 1.50 GiB - c 1.00 GiB = 7.50 GiB" in why
