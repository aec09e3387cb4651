"""Who may enter, and how long those refused are told to wait."""

from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.admission.bound import Admission, retry_after
from service.errors import ApiError
from service.fleet import Served
from tests.fleets import load, only


@pytest.fixture
def served(tmp_path: Path) -> Served:
    return only(tmp_path, "model: pebble-chat\nmax_in_flight: 2\nreplicas: 2")


def refusal(admission: Admission, served: Served) -> ApiError:
    with pytest.raises(ApiError) as caught, admission.enter(served):
        pass
    return caught.value


def test_as_many_enter_as_all_replicas_hold(served: Served) -> None:
    admission = Admission()
    with ExitStack() as stack:
        for taken in range(4):
            assert admission.load(served.id) == taken
            stack.enter_context(admission.enter(served))
        error = refusal(admission, served)
        assert (error.status, error.code, error.type) == (503, "overloaded", "overloaded_error")
        assert error.message == "'pebble-chat' has 4 requests in hand, its limit. Try again later."
        assert admission.load(served.id) == 4
    assert admission.load(served.id) == 0


def test_a_place_is_given_back_however_the_request_ends(served: Served) -> None:
    admission = Admission()
    with pytest.raises(RuntimeError), admission.enter(served):
        raise RuntimeError
    assert admission.load(served.id) == 0


def test_a_full_model_keeps_nobody_from_another(tmp_path: Path) -> None:
    full, free = load(tmp_path, "models:\n  - {model: pebble-chat, max_in_flight: 1}\n  - model: pebble-base\n").served
    admission = Admission()
    with admission.enter(full):
        refusal(admission, full)
        with admission.enter(free):
            assert admission.load(free.id) == 1


@pytest.mark.parametrize(
    ("durations", "seconds"), [([], "1"), ([80.0], "20"), ([0.01], "1"), ([40.0, 80.0], "11"), ([80.0, 40.0], "19")]
)
def test_the_wait_follows_from_how_long_answers_took(served: Served, durations: list[float], seconds: str) -> None:
    admission = Admission()
    for duration in durations:
        admission.ended(served, duration)
    with ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(admission.enter(served))
        assert refusal(admission, served).headers == {"retry-after": seconds}


@given(st.floats(0, 1e4), st.integers(0, 1000))
def test_more_places_never_make_the_wait_longer(mean: float, places: int) -> None:
    assert 0 <= retry_after(mean, places + 1) <= retry_after(mean, places)
