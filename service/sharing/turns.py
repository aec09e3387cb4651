"""Who is in a memory that engines share: they take turns where not all fit. Pure: times are seconds of one clock.

The models that wait come in one after the other, in the order in which they began to. One that has left begins to wait
anew, so that each of the others comes in at most once before a model that waits: nobody starves. Room is made by those
that have nothing to do, the cheapest to bring back and longest unused first, and by those whose turn is over.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from service.sharing.parts import Keep

Place = Literal["out", "asleep", "coming", "in", "going"]
RESIDENT: tuple[Place, ...] = ("coming", "in")
AWAY: tuple[Place, ...] = ("out", "asleep")
# An engine without requests stays for this part of the seconds that bring it back, in these bounds: its clients may be
# reading what they got.
LINGER, LEAST_LINGER, MOST_LINGER = 0.1, 1.0, 10.0


@dataclass(frozen=True)
class Seat:
    """One engine of a share, by its startup order. Sizes are bytes of each card.

    It takes `memory` while it is there, and `asleep` while it sleeps. It came in at `came_at` and went at `left_at`.
    `waits_since` is when requests began to wait for it, None if none do; `demand` counts those that wait and run, and
    `used_at` is when there last was one. To bring it back takes `back` seconds.
    """

    order: int
    memory: int
    keep: Keep = "cold"
    asleep: int = 0
    place: Place = "out"
    came_at: float = 0.0
    left_at: float = 0.0
    waits_since: float | None = None
    demand: int = 0
    used_at: float = 0.0
    back: float = 0.0

    @property
    def held(self) -> int:
        """The bytes that it takes now."""
        return self.asleep if self.place in AWAY else self.memory

    @property
    def gains(self) -> int:
        """The bytes that are free once it has gone; room for its sleep is kept from the beginning."""
        return self.memory - self.asleep


@dataclass(frozen=True)
class Decision:
    """Which engines are to be there, by order.

    For one that waits, `ready_in` are the seconds until it may be ready, as things stand, and `after` are those that
    must make room first.
    """

    there: frozenset[int]
    ready_in: Mapping[int, float]
    after: Mapping[int, tuple[int, ...]]


def decide(seats: Collection[Seat], memory: int, turn: float, now: float) -> Decision:
    """Who is to be there: all that are and may stay, and those that wait as far as there is room."""
    there = {seat.order: seat for seat in seats if seat.keep == "always" or seat.place in RESIDENT}
    room = memory - sum(seat.asleep for seat in seats)
    ready_in = {seat.order: seat.back for seat in there.values() if seat.place != "in"}
    after: dict[int, tuple[int, ...]] = {}
    blocked: list[Seat] = []
    later: dict[int, Seat] = {}  # who will be there once the first that is blocked is
    for seat in waiting(seats):
        leaving = make_room(seat, there.values(), room, turn, now)
        if blocked and (leaving or _over(seat, (*there.values(),), room) or _over(seat, later.values(), room)):
            leaving = None  # it may come in only where it delays nobody before it
        if leaving is not None:
            for one in leaving:
                del there[one.order]
            there[seat.order] = later[seat.order] = seat
            going = [one for one in seats if one.place == "going"]
            after[seat.order] = tuple(one.order for one in (*leaving, *going))
            ready_in[seat.order] = seat.back
            continue
        if not blocked:
            goers = _soonest(seat, there.values(), room, turn, now)
            later = {order: one for order, one in there.items() if one not in goers} | {seat.order: seat}
            after[seat.order] = tuple(one.order for one in goers)
            ready_in[seat.order] = max((leaves_in(one, turn, now) for one in goers), default=0.0) + seat.back
        else:
            first = blocked[-1]
            after[seat.order] = (first.order,)
            ready_in[seat.order] = ready_in[first.order] + turn + seat.back
        blocked.append(seat)
    return Decision(frozenset(there), ready_in, after)


def waiting(seats: Iterable[Seat]) -> list[Seat]:
    """Those that are not there and are waited for, in the order in which they come in."""
    found = (seat for seat in seats if seat.waits_since is not None and seat.place in AWAY and seat.keep != "always")
    return sorted(found, key=lambda seat: (max(seat.waits_since or 0.0, seat.left_at), seat.order))


def make_room(seat: Seat, there: Iterable[Seat], room: int, turn: float, now: float) -> list[Seat] | None:
    """The fewest and cheapest of those there that go so that `seat` fits; None where too few may go now."""
    present = list(there)
    missing = _over(seat, present, room)
    leaving: list[Seat] = []
    for one in sorted((one for one in present if leaves_in(one, turn, now) <= 0), key=lambda one: _worth(one, now)):
        if missing <= 0:
            break
        leaving.append(one)
        missing -= one.gains
    if missing > 0:
        return None
    for one in reversed(leaving[:]):  # a large one after several small ones may do alone
        if missing + one.gains <= 0:
            leaving.remove(one)
            missing += one.gains
    return leaving


def leaves_in(seat: Seat, turn: float, now: float) -> float:
    """In how many seconds it makes room for others at the latest; infinite for one that is always there."""
    if seat.keep == "always":
        return float("inf")
    if seat.place != "in":  # its turn has not begun
        return seat.back + turn
    ends = seat.came_at + turn - now
    if seat.demand:
        return max(0.0, ends)
    return max(0.0, min(ends, max(seat.used_at, seat.came_at) + linger(seat.back) - now))


def linger(back: float) -> float:
    """How long an engine that takes `back` seconds to bring back stays without requests while others wait."""
    return min(MOST_LINGER, max(LEAST_LINGER, LINGER * back))


def longest_wait(seats: Collection[Seat], turn: float, answer: float, change: float) -> float:
    """The bound: within so many seconds a model that is waited for is there, whatever the others do.

    `answer` is what the longest running answer may still take, which nobody cuts, and `change` what an engine takes at
    most to leave and another to come in. Each other model comes in at most once before it.
    """
    return len(seats) * (turn + answer + change)


def _over(seat: Seat, there: Iterable[Seat], room: int) -> int:
    """By how many bytes `seat` and those there exceed the room; 0 where they fit."""
    return max(0, sum(one.gains for one in there) + seat.gains - room)


def _worth(seat: Seat, now: float) -> tuple[bool, float]:
    """What speaks for leaving it there: requests, then the seconds to bring it back for those since its last use."""
    return seat.demand > 0, seat.back / (1.0 + max(0.0, now - seat.used_at))


def _soonest(seat: Seat, there: Iterable[Seat], room: int, turn: float, now: float) -> list[Seat]:
    """Those that will make room for `seat`, the soonest first."""
    present = list(there)
    missing = _over(seat, present, room)
    found: list[Seat] = []
    for one in sorted((one for one in present if one.keep != "always"), key=lambda one: leaves_in(one, turn, now)):
        if missing <= 0:
            break
        found.append(one)
        missing -= one.gains
    return found
