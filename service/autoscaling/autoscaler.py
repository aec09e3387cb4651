"""Who sets the number of replicas: nobody, a Horizontal Pod Autoscaler, or KEDA, which adds the step to zero.

Each is asked at its own times by the simulator, and remembers what the real one remembers.
"""

from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from service.autoscaling import behavior, hpa
from service.autoscaling.behavior import Entry, Rules
from service.autoscaling.demand import Seen, Signal
from service.autoscaling.hpa import Tolerance

SYNC = 15.0  # kube-controller-manager's --horizontal-pod-autoscaler-sync-period, in seconds
Fallback = Literal["static", "currentReplicas", "currentReplicasIfHigher", "currentReplicasIfLower"]


class Autoscaler(Protocol):
    """What a simulation asks for the number of replicas every `period` seconds."""

    period: float

    def replicas(self, now: float, seen: Seen | None, current: int) -> int:
        """The replicas that there shall be, where `current` were ordered; `seen` is None where metrics are missing."""
        ...


@dataclass
class Fixed:
    """Always the same number."""

    number: int
    period: float = float("inf")

    def replicas(self, now: float, seen: Seen | None, current: int) -> int:
        """The number."""
        return self.number


@dataclass(frozen=True)
class Spec:
    """A Horizontal Pod Autoscaler's spec. `sync` is the controller's period in seconds."""

    signals: tuple[Signal, ...]
    minimum: int = 1
    maximum: int = 10
    up: Rules = behavior.UP
    down: Rules = behavior.DOWN
    tolerance: Tolerance = Tolerance()
    sync: float = SYNC


@dataclass
class Hpa:
    """One HorizontalPodAutoscaler with External metrics."""

    spec: Spec
    period: float = field(init=False)
    _wanted: list[Entry] = field(default_factory=list)
    _added: list[Entry] = field(default_factory=list)
    _removed: list[Entry] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.period = self.spec.sync

    def replicas(self, now: float, seen: Seen | None, current: int) -> int:
        """One synchronization; without metrics nothing changes."""
        spec = self.spec
        return self.settle(
            now, hpa.largest(current, (_wanted(one, seen, current, spec) for one in spec.signals)), current
        )

    def settle(self, now: float, wanted: int, current: int) -> int:
        """What becomes of `wanted` within bounds, windows and rates. Zero replicas stay zero, unless 0 is allowed."""
        spec = self.spec
        if current == 0 and spec.minimum:
            return 0
        found = min(max(current, spec.minimum), spec.maximum)
        if found == current:
            self._forget(now)
            self._wanted = self._wanted or [(now, current)]
            stable = behavior.stabilize(current, wanted, self._wanted, spec.up, spec.down, now)
            self._wanted.append((now, wanted))
            found = behavior.limited(current, stable, self._added, self._removed, spec.up, spec.down, now)
            found = min(max(found, spec.minimum), spec.maximum)
        if found > current:
            self._added.append((now, found - current))
        elif found < current:
            self._removed.append((now, current - found))
        return found

    def _forget(self, now: float) -> None:
        """Drops what no window or period reaches."""
        up, down = self.spec.up, self.spec.down
        kept = now - max(up.window, down.window)
        period = now - max(one.period for one in (*up.limits, *down.limits))
        self._wanted = [one for one in self._wanted if one[0] > kept]
        self._added = [one for one in self._added if one[0] > period]
        self._removed = [one for one in self._removed if one[0] > period]


def _wanted(signal: Signal, seen: Seen | None, current: int, spec: Spec) -> int | None:
    if seen is None:
        return None
    tolerance = spec.tolerance
    value = signal.value(seen)
    if signal.kind == "Value":
        return hpa.by_value(current, seen.ready, value, signal.target, tolerance)
    return hpa.by_average_value(current, value, signal.target, tolerance)


@dataclass(frozen=True)
class Zero:
    """What a ScaledObject adds. Seconds: `polling`, `cooldown` and `initial_cooldown`.

    After `failures` polls without metrics the signals count as those of `fallback` replicas.
    """

    polling: float = 30.0
    cooldown: float = 300.0
    initial_cooldown: float = 0.0
    failures: int | None = None
    fallback: int = 0
    behavior: Fallback = "static"


class Keda:
    """One ScaledObject: a Horizontal Pod Autoscaler from one replica on, and the steps from zero and to it.

    Kubernetes has the HPA ask KEDA for the metrics at its own period; `zero.polling` is how often KEDA asks on its own,
    for the step from zero, the one to it, and the failures.
    """

    def __init__(self, spec: Spec, zero: Zero) -> None:
        self._to_zero = spec.minimum == 0
        self._hpa = Hpa(replace(spec, minimum=max(1, spec.minimum)))
        self._zero = zero
        self._polled = self._synced = float("-inf")
        self._active = 0.0  # when it last was
        self._failures = 0
        self.period = min(spec.sync, zero.polling)

    def replicas(self, now: float, seen: Seen | None, current: int) -> int:
        """What is due at this moment: a poll, a synchronization of the HPA, both or neither."""
        if now >= self._polled + self._zero.polling:
            self._polled = now
            current = self._poll(now, seen, current)
        if now >= self._synced + self._hpa.spec.sync:
            self._synced = now
            if seen is None and self._fell_back():
                return self._hpa.settle(now, self._fallback(current), current)
            current = self._hpa.replicas(now, seen, current)
        return current

    def _poll(self, now: float, seen: Seen | None, current: int) -> int:
        zero = self._zero
        self._failures = self._failures + 1 if seen is None else 0
        if seen is None:
            active = self._fell_back()
        else:
            active = any(one.value(seen) > one.activation for one in self._hpa.spec.signals)
        if active:
            self._active = now
            return current or 1
        if seen is None or not self._to_zero or now < zero.initial_cooldown:
            return current
        return 0 if now >= self._active + zero.cooldown else current

    def _fell_back(self) -> bool:
        failures = self._zero.failures
        return failures is not None and self._failures >= failures

    def _fallback(self, current: int) -> int:
        number = self._zero.fallback
        match self._zero.behavior:
            case "currentReplicas":
                return current
            case "currentReplicasIfHigher":
                return max(current, number)
            case "currentReplicasIfLower":
                return min(current, number)
            case _:
                return number
