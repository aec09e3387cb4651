"""The seats of a shared memory: which engine holds which part, in one file of the run folder under a lock.

Every supervisor of the share makes the same decision from the same files, one at a time, and carries out its own part.
The kernel drops the lock of a process that dies. What an engine held is free once none of its processes is left: who
takes a seat holds a lock, whose descriptor the engine's processes get, so that at no moment it looks free.
"""

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from service.engine.process_files import start_time
from service.sharing.turns import AWAY, Place

Change = Literal["loaded", "stopped", "slept", "woken"]
CHANGES: tuple[Change, ...] = ("loaded", "stopped", "slept", "woken")


@dataclass
class Held:
    """What is known of one seat: times are seconds of this machine's monotonic clock.

    `owner` is the supervisor that answers for it, and `session` that of the engine's processes, each with the time of
    its start, as process_files has it. `back` is what it takes to bring it back.

    The rest is for the metrics: how often it was loaded, stopped to make room, put to sleep and woken, for how many
    seconds it waited for room in all, and since when it does, None where it does not.
    """

    place: Place = "out"
    came_at: float = 0.0
    left_at: float = 0.0
    back: float = 60.0
    owner: tuple[int, int | None] = (0, None)
    session: tuple[int, int | None] = (0, None)
    changes: dict[str, int] = field(default_factory=dict)
    waited: float = 0.0
    waits_since: float | None = None

    def count(self, change: Change) -> None:
        """Counts a change of what is in memory."""
        self.changes[change] = self.changes.get(change, 0) + 1

    def waits(self, does: bool, now: float) -> None:
        """Notes whether it waits for room at `now`."""
        if does:
            self.waits_since = now if self.waits_since is None else self.waits_since
        elif self.waits_since is not None:
            self.waited, self.waits_since = self.waited + max(0.0, now - self.waits_since), None

    def waited_until(self, now: float) -> float:
        """The seconds for which it has waited in all."""
        return self.waited + (0.0 if self.waits_since is None else max(0.0, now - self.waits_since))


class Seats:
    """The seats of the share called `name`, for the engines with these startup orders."""

    def __init__(self, run_dir: Path, name: str, orders: Iterable[int]) -> None:
        self._run_dir, self._orders = run_dir, tuple(orders)
        self._file, self._lock = run_dir / f"share-{name}.json", run_dir / f"share-{name}.lock"

    @contextmanager
    def locked(self, now: float) -> Iterator[dict[int, Held] | None]:
        """The seats, to be changed: they are written when the context ends. None while another process has them.

        Those whose supervisor is gone are out once their processes are. Raises OSError where it cannot write.
        """
        with self._lock.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
                return
            before, seats = self.read(), self.read()
            for order, seat in seats.items():
                self._reap(order, seat, now)
            yield seats
            if seats != before:
                temporary = self._file.with_suffix(".new")
                temporary.write_bytes(msgspec.json.encode({str(order): seat for order, seat in seats.items()}))
                temporary.replace(self._file)

    def read(self) -> dict[int, Held]:
        """The seats as they were written last, to be looked at."""
        found: dict[str, Held] = {}
        with suppress(OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            found = msgspec.json.decode(self._file.read_bytes(), type=dict[str, Held])
        return {order: found.get(str(order)) or Held() for order in self._orders}

    def take(self, order: int) -> int | None:
        """A descriptor that holds the lock of this seat as long as any process has a copy of it, to be closed.

        None while processes of an earlier engine have one. Only for whoever has the seats. Raises OSError.
        """
        descriptor = os.open(self._run_dir / f"seat{order}.lock", os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if isinstance(error, BlockingIOError):
                return None
            raise
        return descriptor

    def _reap(self, order: int, seat: Held, now: float) -> None:
        if seat.place == "out" or _alive(*seat.owner):
            return
        if self._is_taken(order) or _has_processes(*seat.session):
            seat.place = "going"
        else:
            seat.place, seat.left_at, seat.session = "out", now, (0, None)

    def _is_taken(self, order: int) -> bool:
        """Whether a process of the engine has the seat's lock, be it one that is about to be started."""
        descriptor = self.take(order)
        if descriptor is None:
            return True
        os.close(descriptor)
        return False


def held_by_others(seats: dict[int, Held], sizes: dict[int, tuple[int, int]], order: int) -> int:
    """The bytes that engines other than `order` hold; `sizes` has what each takes while it is there, and asleep."""
    return sum(sizes[other][seat.place in AWAY] for other, seat in seats.items() if other != order)


def _has_processes(session: int, started: int | None) -> bool:
    """Whether a process of this session is left, also of those to which their parent gave no descriptors."""
    leader = start_time(session) if session else None
    if not session or (leader is not None and leader != started):
        return False  # another process has that number now
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError):
            state, _, _, its_session, *_ = path.read_text(errors="replace").rsplit(")", 1)[1].split()
            if state not in "ZX" and int(its_session) == session:
                return True
    return False


def _alive(pid: int, started: int | None) -> bool:
    return bool(pid) and started is not None and start_time(pid) == started
