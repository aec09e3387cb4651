"""One engine's place in a memory that it shares: whether it may come in, whether it must go, how long it will take."""

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from service.config.settings import Settings
from service.engine import share_demand
from service.engine.process_files import start_time
from service.engine.seats import Held, Seats, held_by_others
from service.engine.start_times import StartTimes, Way
from service.fleet.fleet import Fleet
from service.fleet.served_model import ServedModel
from service.sharing.parts import Part
from service.sharing.turns import AWAY, Decision, Seat, decide

WAITS = "waiting for room in the memory that it shares"


@dataclass(frozen=True)
class Outlook:
    """Whether it may be there; and if not, in how many seconds it may be ready, None where nobody waits for it."""

    there: bool
    ready_in: float | None = None


class Turn:
    """The turns of the engine with startup order `order`; it has a `part` of a share. `clock` is monotonic seconds.

    `say` is told whom it waits for and makes room for, which is for operators alone: others may not know those models.

    An unwritable run folder never raises here: then nobody comes in and nobody goes.
    """

    def __init__(
        self, served: ServedModel, order: int, fleet: Fleet, settings: Settings,
        say: Callable[[str], None] = lambda _: None, clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        assert served.part
        assert settings.run_dir
        self._say, self._said = say, ""
        self._models = {number: model.id for number, (model, _) in enumerate(fleet.replicas())}
        self.part, self._order, self._run_dir, self._clock = served.part, order, settings.run_dir, clock
        self._parts: dict[int, Part] = {
            number: model.part
            for number, (model, _) in enumerate(fleet.replicas())
            if model.part and model.part.share.name == served.part.share.name
        }
        self._seats = Seats(settings.run_dir, served.part.share.name, self._parts)
        self._sizes = {number: (part.memory, part.asleep) for number, part in self._parts.items()}
        self._times = StartTimes(settings.start_times, served.weights)
        self._asleep = self._owned = self._going = False
        self._lock: int | None = None
        self.ready_in: float | None = None

    @property
    def lock(self) -> tuple[int, ...]:
        """The descriptor that the engine's processes get, so that its part is taken until the last of them has gone."""
        return () if self._lock is None else (self._lock,)

    @property
    def back(self) -> float:
        """The seconds that it takes to bring it back from where it is."""
        return self._times.seconds("wake" if self._asleep else "load")

    def needed(self, wanted: bool, running: bool) -> bool:
        """Whether it is to be there, where it is `wanted` at all: for one that runs, whether it may stay.

        One that may come in has its part from then on. `ready_in` says how long one that waits may still have to.
        """
        if running:
            if not wanted:
                self.leaves()
            return wanted and not self.must_go()
        if not wanted:
            if self.ready_in is not None:
                self._change(lambda mine: mine.waits(False, self._clock()))
            self.ready_in = None
            if not self._asleep:
                self.gone()
            return False
        outlook = self.comes()
        self.ready_in = outlook.ready_in
        return outlook.there

    def comes(self) -> Outlook:
        """Whether it may come in now; if so its part is taken."""
        now = self._clock()
        try:
            with self._seats.locked(now) as seats:
                if seats is None:  # for microseconds; what was known still holds
                    return Outlook(self._is_coming(), self.ready_in)
                mine = self._mine(seats)
                if mine.place not in ("out", "asleep"):
                    return Outlook(self._owned and mine.place == "coming")
                decision = self._decide(seats, now)
                fits = held_by_others(seats, self._sizes, self._order) + self.part.memory <= self.part.share.memory
                if self._order in decision.there and fits and self._take():
                    mine.place, mine.owner, self._owned = "coming", self._me(), True
                    mine.waits(False, now)
                    return Outlook(True)
                ready_in = decision.ready_in.get(self._order)
                mine.waits(ready_in is not None, now)
                if ready_in is not None:
                    self._tell("waits for room", "after", decision.after.get(self._order, ()))
                return Outlook(False, ready_in)
        except OSError:
            return Outlook(self._is_coming(), self.ready_in)

    def _is_coming(self) -> bool:
        """Whether its part was taken for a start that has not begun."""
        return self._owned and not self._asleep

    def must_go(self) -> bool:
        """Whether it has to make room; from then on it is going."""
        now = self._clock()
        try:
            with self._seats.locked(now) as seats:
                if seats is None:
                    return self._going
                mine = self._mine(seats)
                decision = self._decide(seats, now)
                if mine.place == "in" and self._order not in decision.there:
                    mine.place = "going"
                    coming = [order for order in decision.there if seats[order].place in AWAY]
                    self._tell("makes room", "for", coming)
                self._going = mine.place == "going"
        except OSError:
            pass
        return self._going

    def started(self, session: int) -> None:
        """Its processes are those of this session."""
        self._change(lambda mine: setattr(mine, "session", (session, start_time(session))))

    def ready(self, seconds: float) -> None:
        """It is there, `seconds` after it began to come in: its turn begins."""
        way: Way = "wake" if self._asleep else "load"
        self._times.measured(way, seconds)
        self._asleep, self._going, now = False, False, self._clock()

        def come(mine: Held) -> None:
            mine.place, mine.came_at, mine.back = "in", now, self._times.seconds("load")
            mine.count("woken" if way == "wake" else "loaded")

        self._change(come)

    def leaves(self) -> None:
        """It goes although nobody needs its room."""
        self._going = True
        self._change(lambda mine: setattr(mine, "place", "going"))

    def sleeps(self) -> None:
        """It sleeps, and holds no more than that takes."""
        self._asleep, self._going, now = True, False, self._clock()

        def sleep(mine: Held) -> None:
            mine.place, mine.left_at, mine.back = "asleep", now, self.back
            mine.count("slept")

        self._change(sleep)

    def gone(self) -> None:
        """Nobody answers for its processes any more: what it held is free once there are none."""
        if not self._owned:
            return
        made_room = self._going
        self._asleep = self._owned = self._going = False
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

        def leave(mine: Held) -> None:
            mine.owner, mine.back = (0, None), self.back
            if made_room:
                mine.count("stopped")

        self._change(leave)

    def drained(self) -> bool:
        """Whether no gateway has a request that was admitted to it."""
        return share_demand.read(self._run_dir, self._clock()).get(self._order, share_demand.Wanted()).running == 0

    def _tell(self, does: str, link: str, others: Iterable[int]) -> None:
        names = ", ".join(self._models[order] for order in sorted(others))
        text = f"{does} in share {self.part.share.name}" + (f", {link} {names}" if names else "")
        if text != self._said:
            self._said = text
            self._say(text)

    def _take(self) -> bool:
        """Whether it has the lock of its seat, which processes of an earlier engine may still hold."""
        if self._lock is None:
            self._lock = self._seats.take(self._order)
        return self._lock is not None

    def _change(self, change: Callable[[Held], None]) -> None:
        """Changes its own seat, as soon as no other process has the lock; they hold it for microseconds."""
        for _ in range(1000):
            try:
                with self._seats.locked(self._clock()) as seats:
                    if seats is not None:
                        change(seats[self._order])
                        return
            except OSError:
                return
            time.sleep(0.001)

    def _mine(self, seats: dict[int, Held]) -> Held:
        mine = seats[self._order]
        if mine.place == "out":
            mine.back = self.back
        return mine

    def _me(self) -> tuple[int, int | None]:
        return os.getpid(), start_time(os.getpid())

    def _decide(self, seats: dict[int, Held], now: float) -> Decision:
        wanted = share_demand.read(self._run_dir, now)
        nothing = share_demand.Wanted()
        known = [
            Seat(
                order, self._parts[order].memory, self._parts[order].keep, self._parts[order].asleep, held.place,
                min(held.came_at, now), min(held.left_at, now), want.since, want.queued + want.running, want.used_at,
                held.back,
            )
            for order, held in seats.items()
            if (want := wanted.get(order, nothing))
        ]  # fmt: skip
        return decide(known, self.part.share.memory, self.part.share.turn, now)
