"""Which requests are refused because engines died of them."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import ApiError
from service.relay.quarantine import FEW, LARGEST_PARSED, Quarantine, fingerprint

POISON, HARMLESS = b"poison", b"harmless"
WINDOW = 600.0


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def quarantine(clock: Clock) -> Quarantine:
    return Quarantine(clock)


def refusal(quarantine: Quarantine, request: bytes = POISON) -> ApiError | None:
    try:
        quarantine.check(request)
    except ApiError as error:
        return error
    return None


def test_two_deaths_are_enough(quarantine: Quarantine) -> None:
    quarantine.died(POISON, "chat-0", 0)
    assert not refusal(quarantine)
    quarantine.died(POISON, "chat-1", 0)
    error = refusal(quarantine)
    assert error
    assert (error.status, error.code) == (422, "request_quarantined")
    assert not refusal(quarantine, HARMLESS)


@pytest.mark.parametrize(
    ("second", "guilty"), [(("chat-0", 0), False), (("chat-0", 1), True), (("chat-1", 0), True)], ids=str
)
def test_one_death_counts_once(quarantine: Quarantine, second: tuple[str, int], guilty: bool) -> None:
    quarantine.died(POISON, "chat-0", 0)
    quarantine.died(POISON, *second)
    assert (refusal(quarantine) is not None) is guilty


def test_it_stays_guilty_whatever_else_is_reported(quarantine: Quarantine) -> None:
    quarantine.died(POISON, "chat-0", 0)
    for life in (1, 1, 0, 2, 3, 4):
        quarantine.died(POISON, "chat-0", life)
        assert refusal(quarantine)


@pytest.mark.parametrize(("later", "guilty"), [(WINDOW - 1, True), (WINDOW, False)])
def test_deaths_far_apart_are_chance(quarantine: Quarantine, clock: Clock, later: float, guilty: bool) -> None:
    quarantine.died(POISON, "chat-0", 0)
    clock.now += later
    quarantine.died(POISON, "chat-1", 0)
    assert (refusal(quarantine) is not None) is guilty


def test_the_refusal_says_for_how_long_and_ends_then(quarantine: Quarantine, clock: Clock) -> None:
    quarantine.died(POISON, "chat-0", 0)
    quarantine.died(POISON, "chat-0", 1)
    clock.now += 99.5
    error = refusal(quarantine)
    assert error
    assert "another 501 s" in error.message
    assert error.headers == {"retry-after": "501"}
    clock.now += WINDOW - 99.5
    assert not refusal(quarantine)
    assert not quarantine


def test_a_request_refused_for_long_enough_starts_anew(quarantine: Quarantine, clock: Clock) -> None:
    quarantine.died(POISON, "chat-0", 0)
    quarantine.died(POISON, "chat-0", 1)
    clock.now += WINDOW
    quarantine.died(POISON, "chat-0", 2)
    assert not refusal(quarantine)


def test_a_death_reported_late_again_lengthens_nothing(quarantine: Quarantine, clock: Clock) -> None:
    quarantine.died(HARMLESS, "chat-0", 0)
    clock.now += 10
    quarantine.died(POISON, "chat-0", 0)
    quarantine.died(HARMLESS, "chat-0", 0)
    clock.now += WINDOW - 10
    quarantine.died(HARMLESS, "chat-0", 1)
    assert not refusal(quarantine, HARMLESS)


@pytest.mark.parametrize("deaths", [1, 2])
def test_success_clears(quarantine: Quarantine, deaths: int) -> None:
    for life in range(deaths):
        quarantine.died(POISON, "chat-0", life)
    quarantine.succeeded(POISON)
    assert not refusal(quarantine)
    assert not quarantine
    quarantine.died(POISON, "chat-0", 9)
    assert not refusal(quarantine)


def test_it_is_truthy_while_anybody_is_suspected(quarantine: Quarantine, clock: Clock) -> None:
    assert not quarantine
    quarantine.died(POISON, "chat-0", 0)
    assert quarantine
    clock.now += WINDOW
    assert not quarantine


def test_it_remembers_the_newest_deaths_only(clock: Clock) -> None:
    quarantine = Quarantine(clock, most=3)
    names = [str(number).encode() for number in range(4)]
    for name in names:
        quarantine.died(name, "chat-0", 0)
    for name in names[1:]:
        quarantine.died(name, "chat-0", 1)
    quarantine.died(names[0], "chat-0", 1)
    assert [refusal(quarantine, name) is not None for name in names] == [False, False, True, True]
    assert sum(quarantine._crowds.values()) == 3


@pytest.mark.parametrize("crowd", [1, FEW, FEW + 1, 10 * FEW])
def test_a_crowd_that_came_again_together_takes_one_death_more(crowd: int, quarantine: Quarantine) -> None:
    names = [str(number).encode() for number in range(crowd)]
    for life in range(2):
        for name in names:
            quarantine.died(name, "chat-0", life)
    assert all((refusal(quarantine, name) is not None) is (crowd <= FEW) for name in names)
    quarantine.died(names[0], "chat-0", 2)
    error = refusal(quarantine, names[0])
    assert error
    assert "died 3 times" in error.message


def test_a_crowd_shrinks_as_requests_succeed(quarantine: Quarantine) -> None:
    names = [str(number).encode() for number in range(FEW + 1)]
    for life in range(2):
        for name in names:
            quarantine.died(name, "chat-0", life)
    assert not refusal(quarantine, names[0])
    quarantine.succeeded(names[-1])
    assert refusal(quarantine, names[0])


def test_who_was_at_one_death_only_belongs_to_no_crowd(quarantine: Quarantine) -> None:
    for number in range(10 * FEW):
        quarantine.died(str(number).encode(), "chat-0", 0)
    for life in range(2):
        quarantine.died(POISON, "chat-0", life)
    assert refusal(quarantine)


deaths = st.tuples(st.integers(0, 3), st.sampled_from(["a", "b"]), st.floats(0, 400))


@given(st.lists(deaths, max_size=30))
def test_it_refuses_exactly_who_was_at_two_deaths_in_time(events: list[tuple[int, str, float]]) -> None:
    """Against a plain list of what happened. Deaths happen once each: the life goes up with the time."""
    clock = Clock()
    quarantine = Quarantine(clock)
    history: list[tuple[bytes, float]] = []
    for number, (request, replica, later) in enumerate(events):
        clock.now += later
        name = bytes([request])
        quarantine.died(name, replica, number)
        quarantine.died(name, replica, number)
        history.append((name, clock.now))
    for name in {name for name, _ in history}:
        times = [at for other, at in history if other == name]
        close = len(times) > 1 and times[-1] - times[-2] < WINDOW
        assert (refusal(quarantine, name) is not None) is (close and clock.now - times[-1] < WINDOW)


BODY: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "é \ud83d\ude00"}], "n": 1}


@pytest.mark.parametrize("write", [json.dumps, lambda body: json.dumps(body, indent=2, ensure_ascii=False)])
def test_how_json_is_written_does_not_matter(write: Callable[[Any], str]) -> None:
    other = dict(reversed(BODY.items())) | {"messages": [dict(reversed(BODY["messages"][0].items()))]}
    text = write(other).encode("utf-8", "surrogatepass")
    assert fingerprint("/v1/x", text) == fingerprint("/v1/x", json.dumps(BODY).encode())


OTHERS = [BODY | {"n": 2}, BODY | {"n": "1"}, BODY | {"messages": []}, BODY | {"seed": 1}, [BODY], {}]


def test_what_is_asked_and_where_does() -> None:
    prints = [fingerprint("/v1/x", json.dumps(body).encode()) for body in (BODY, *OTHERS)]
    prints.append(fingerprint("/v1/y", json.dumps(BODY).encode()))
    assert len(set(prints)) == len(prints)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff", b"[" * 100_000, b'"' + b"x" * LARGEST_PARSED + b'"'], ids=lambda body: repr(body[:3])
)
def test_any_body_has_one(body: bytes) -> None:
    assert fingerprint("/", body) == fingerprint("/", body) != fingerprint("/", body + b" x")


@pytest.mark.parametrize(("size", "alike"), [(10, True), (LARGEST_PARSED, False)])
def test_a_large_body_counts_as_it_is_written(size: int, alike: bool) -> None:
    text = "x" * size
    bodies = [json.dumps({"prompt": text}, separators=pair).encode() for pair in ((",", ":"), (", ", ": "))]
    assert (fingerprint("/", bodies[0]) == fingerprint("/", bodies[1])) is alike
