"""Which requests are refused because engines crashed while they were in flight."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import ApiError
from service.relay.quarantine import LARGEST_PARSED, Quarantine, fingerprint

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


def test_two_crashes_are_enough(quarantine: Quarantine) -> None:
    quarantine.crashed(POISON, "chat-0", 0)
    assert not refusal(quarantine)
    quarantine.crashed(POISON, "chat-1", 0)
    error = refusal(quarantine)
    assert error
    assert (error.status, error.code) == (422, "request_quarantined")
    assert not refusal(quarantine, HARMLESS)


@pytest.mark.parametrize(
    ("second", "refused"), [(("chat-0", 0), False), (("chat-0", 1), True), (("chat-1", 0), True)], ids=str
)
def test_one_crash_counts_once(quarantine: Quarantine, second: tuple[str, int], refused: bool) -> None:
    quarantine.crashed(POISON, "chat-0", 0)
    quarantine.crashed(POISON, *second)
    assert (refusal(quarantine) is not None) is refused


def test_it_stays_refused_whatever_else_is_reported(quarantine: Quarantine) -> None:
    quarantine.crashed(POISON, "chat-0", 0)
    for incarnation in (1, 1, 0, 2, 3, 4):
        quarantine.crashed(POISON, "chat-0", incarnation)
        assert refusal(quarantine)


@pytest.mark.parametrize(("later", "refused"), [(WINDOW - 1, True), (WINDOW, False)])
def test_crashes_far_apart_are_chance(quarantine: Quarantine, clock: Clock, later: float, refused: bool) -> None:
    quarantine.crashed(POISON, "chat-0", 0)
    clock.now += later
    quarantine.crashed(POISON, "chat-1", 0)
    assert (refusal(quarantine) is not None) is refused


def test_the_refusal_says_for_how_long_and_ends_then(quarantine: Quarantine, clock: Clock) -> None:
    quarantine.crashed(POISON, "chat-0", 0)
    quarantine.crashed(POISON, "chat-0", 1)
    clock.now += 99.5
    error = refusal(quarantine)
    assert error
    assert "another 501 s" in error.message
    assert error.headers == {"retry-after": "501"}
    clock.now += WINDOW - 99.5
    assert not refusal(quarantine)
    assert not quarantine.suspects


def test_a_request_refused_for_long_enough_starts_anew(quarantine: Quarantine, clock: Clock) -> None:
    quarantine.crashed(POISON, "chat-0", 0)
    quarantine.crashed(POISON, "chat-0", 1)
    clock.now += WINDOW
    quarantine.crashed(POISON, "chat-0", 2)
    assert not refusal(quarantine)


def test_a_crash_reported_again_lengthens_nothing(quarantine: Quarantine, clock: Clock) -> None:
    quarantine.crashed(HARMLESS, "chat-0", 0)
    clock.now += 10
    quarantine.crashed(POISON, "chat-0", 0)
    quarantine.crashed(HARMLESS, "chat-0", 0)
    clock.now += WINDOW - 10
    quarantine.crashed(HARMLESS, "chat-0", 1)
    assert not refusal(quarantine, HARMLESS)


def test_the_newest_crash_reported_again_lengthens_nothing(quarantine: Quarantine, clock: Clock) -> None:
    for incarnation in (0, 1, 2, 2):
        clock.now += 100
        quarantine.crashed(POISON, "chat-0", incarnation)
    error = refusal(quarantine)
    assert error
    assert error.headers == {"retry-after": "500"}


@pytest.mark.parametrize("crashes", [1, 2])
def test_success_clears(quarantine: Quarantine, crashes: int) -> None:
    for incarnation in range(crashes):
        quarantine.crashed(POISON, "chat-0", incarnation)
    quarantine.succeeded(POISON)
    assert not refusal(quarantine)
    assert not quarantine.suspects
    quarantine.crashed(POISON, "chat-0", 9)
    assert not refusal(quarantine)


def test_no_request_is_suspected_of_a_crash_long_ago(quarantine: Quarantine, clock: Clock) -> None:
    assert not quarantine.suspects
    quarantine.crashed(POISON, "chat-0", 0)
    assert quarantine.suspects
    clock.now += WINDOW
    assert not refusal(quarantine, HARMLESS)
    assert not quarantine.suspects


def test_it_remembers_the_newest_crashes_only(clock: Clock) -> None:
    quarantine = Quarantine(clock, most=3)
    names = [str(number).encode() for number in range(4)]
    for name in names:
        quarantine.crashed(name, "chat-0", 0)
    for name in names[1:]:
        quarantine.crashed(name, "chat-0", 1)
    quarantine.crashed(names[0], "chat-0", 1)
    assert [refusal(quarantine, name) is not None for name in names] == [False, False, True, True]
    assert len(quarantine.suspects) == 3


@pytest.mark.parametrize("crowd", [2, 100])
def test_every_request_that_was_in_flight_at_both_is_refused(crowd: int, quarantine: Quarantine) -> None:
    names = [str(number).encode() for number in range(crowd)]
    for incarnation in range(2):
        for name in names:
            quarantine.crashed(name, "chat-0", incarnation)
    quarantine.succeeded(names[0])
    assert [refusal(quarantine, name) is not None for name in names] == [False, *[True] * (crowd - 1)]


crashes = st.tuples(st.integers(0, 3), st.sampled_from(["a", "b"]), st.floats(0, 400))


@given(st.lists(crashes, max_size=30))
def test_it_refuses_exactly_what_was_in_flight_at_two_crashes_in_time(events: list[tuple[int, str, float]]) -> None:
    """Against a plain list of what happened. Crashes happen once each: the incarnation goes up with the time."""
    clock = Clock()
    quarantine = Quarantine(clock)
    history: list[tuple[bytes, float]] = []
    for number, (request, replica, later) in enumerate(events):
        clock.now += later
        name = bytes([request])
        quarantine.crashed(name, replica, number)
        quarantine.crashed(name, replica, number)
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
