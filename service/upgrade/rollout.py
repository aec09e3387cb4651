"""Moves the traffic of an alias from one model to another in steps, and takes it back when an alarm rings."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from service.config.strict_yaml import ConfigError
from service.fleet.fleet import Fleet
from service.upgrade import progress
from service.upgrade.alarms import Counts, alarm, counts
from service.upgrade.progress import Progress
from service.upgrade.service import Service, ServiceError
from service.upgrade.weights_file import WeightsFile

LOOK = 1.0  # seconds between two looks at the service, at most
APPLIED_WITHIN = 60.0  # seconds for the service to have read the file
EXTENSIONS = 10  # watch times for which a step goes on while there are too few requests
Say = Callable[[str], None]


class UpgradeError(Exception):
    """The upgrade cannot go on; what the message says has been done."""


@dataclass(frozen=True)
class Watch:
    """How each step is watched: for `seconds` at least, and until the new model has had `least` requests.

    `errors` and `ttft` are those of `alarm`.
    """

    seconds: float = 300.0
    least: int = 20
    errors: float = 0.01
    ttft: float = 1.5


def check(fleet: Fleet, old: str, new: str, steps: tuple[int, ...]) -> Progress:
    """What an upgrade from one model to the other begins with; raises UpgradeError where it cannot."""
    for id in (old, new):
        if id not in fleet.ids:
            raise UpgradeError(f"'{id}' is not the id of a model of the fleet file: {', '.join(sorted(fleet.ids))} are")
    if not any({old, new} <= weights.keys() for weights in fleet.shares.values()):
        raise UpgradeError(
            f"'{old}' and '{new}' share no alias: list one under both, '{old}' with 'weight: 100' and '{new}' with 0"
        )
    total, begun = fleet.weight(old) or 0, fleet.weight(new) or 0
    if begun:
        raise UpgradeError(f"'{new}' has the weight {begun} already: an upgrade begins with 'weight: 0'")
    parts = [round(total * step / 100) for step in (0, *steps)]
    if len({*parts}) < len(parts):
        listed = ", ".join(map(str, steps))
        raise UpgradeError(f"the weight {total} of '{old}' cannot be divided into {listed} per cent: write 100")
    return Progress(old, new, total, steps)


class Rollout:
    """An upgrade whose gate was passed. `clock` and `sleep` are in seconds."""

    def __init__(
        self, service: Service, file: WeightsFile, watch: Watch, say: Say,
        clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep,
    ) -> None:  # fmt: skip
        self._service, self._file, self._watch, self._say = service, file, watch, say
        self._clock, self._sleep = clock, sleep

    def run(self, begun: Progress) -> str:
        """Makes the steps that are to come; returns the alarm that rang, after which all is as it was, or nothing.

        Raises UpgradeError, ServiceError or ConfigError where neither is possible: then nothing more has been changed.
        """
        progress.write(self._file.path, begun)
        at = self._percent(begun)
        for step in begun.steps:
            if step < at:
                continue
            self.give(begun, step)
            if why := self._observe(begun, step):
                self._say(f"alarm at {step} %: {why}")
                self.give(begun, 0)
                progress.end(self._file.path)
                return why
        progress.end(self._file.path)
        return ""

    def give(self, begun: Progress, step: int) -> None:
        """Gives the new model so many per cent of the traffic that both have, and waits until the service does so."""
        self._percent(begun)
        part = round(begun.total * step / 100)
        self._file.write({begun.old: begun.total - part, begun.new: part})
        self._say(f"{begun.new} {step} %, {begun.old} {100 - step} %: written")
        until = self._clock() + APPLIED_WITHIN
        while (self._weight(begun.old), self._weight(begun.new)) != (begun.total - part, part):
            if self._clock() > until:
                raise UpgradeError(
                    f"the service has not taken {self._file.path} within {APPLIED_WITHIN:g} s: its log says why under "
                    "'reload'. Is it the file that it was started with?"
                )
            self._sleep(LOOK / 2)
        self._say(f"{begun.new} {step} %: in use")

    def _percent(self, begun: Progress) -> int:
        """The part of the new model by the file, in per cent; raises UpgradeError where others changed the weights."""
        fleet = self._file.read()
        if {begun.old, begun.new} <= fleet.ids:
            old, new = fleet.weight(begun.old), fleet.weight(begun.new)
            if old is not None and new is not None and old + new == begun.total:
                return round(100 * new / begun.total)
        raise UpgradeError(f"somebody else changed the weights of '{begun.old}' or '{begun.new}' in {self._file.path}")

    def _weight(self, id: str) -> object:
        return self._service.model(id).get("weight")

    def _observe(self, begun: Progress, step: int) -> str:
        """Watches the service; returns the alarm that rang, if one did."""
        rows = [self._service.model(id) for id in (begun.old, begun.new)]
        engines = {row["id"]: row["parent"] or row["id"] for row in rows}  # an adapter is on those of its base
        before, began = self._counts(engines), self._clock()
        while True:
            self._sleep(min(LOOK, self._watch.seconds / 5))
            try:
                old, new = (now.since(then) for now, then in zip(self._counts(engines), before, strict=True))
                row = self._service.model(begun.new)
            except ServiceError as error:
                return f"the service cannot be watched: {error}"
            if row["state"] not in ("ready", "scaled_to_zero"):
                return f"it is {row['state']}: {row['reason']}"
            if why := alarm(old, new, errors=self._watch.errors, ttft=self._watch.ttft):
                return why
            lasted = self._clock() - began
            if lasted >= self._watch.seconds and new.requests >= self._watch.least:
                self._say(f"{begun.new} {step} %: {new.requests:g} requests, {new.failed:g} failed; no alarm")
                return ""
            if lasted >= EXTENSIONS * self._watch.seconds:
                return f"only {new.requests:g} requests in {lasted:.0f} s: too few to judge by"

    def _counts(self, engines: dict[str, str]) -> list[Counts]:
        """What was counted of the old model and of the new one, each with the model whose engines it is on."""
        families = self._service.metrics()
        return [counts(families, *row) for row in engines.items()]


def problems_of(error: ConfigError | UpgradeError | ServiceError) -> str:
    """What is wrong, for a person."""
    return "\n".join(error.problems) if isinstance(error, ConfigError) else str(error)
