"""Reloads the fleet file when it changes: a valid one is applied as a whole, any other is rejected as a whole."""

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

from service.config.file_watch import FileWatch
from service.fleet.adapters import Room
from service.fleet.fleet import Fleet
from service.fleet.served_model import ServedModel

# Fields of ServedModel that only the gateway uses, so that they may change while engines run.
RELOADABLE = (
    "family", "scale_down_after", "policy", "max_in_flight", "max_queued", "timeouts", "aliases", "weight", "fallback",
    "request_bounds", "guardrails", "adapters",
)  # fmt: skip


class Reload(FileWatch[Fleet]):
    """Watches the fleet file; `fleet` is the one in use. A change that engines would have to restart for is refused."""

    def __init__(
        self, path: Path, fleet: Fleet, load: Callable[[], Fleet], apply: Callable[[Fleet], None],
        report: Callable[[list[str]], None],
    ) -> None:  # fmt: skip
        super().__init__(path, load, self._use, report)
        self._fleet = self._started = fleet
        self._apply_to_gateway = apply

    def refused(self, found: Fleet) -> list[str]:
        """The changes that need a restart, one message each."""
        return [f"{self._path}: {problem}" for problem in needs_restart(self._fleet, found, self._started)]

    def _use(self, fleet: Fleet) -> None:
        self._apply_to_gateway(fleet)
        self._fleet = fleet


def needs_restart(old: Fleet, new: Fleet, started: Fleet | None = None) -> list[str]:
    """The changes that running engines rule out, one message each; removing a model is none of them. Pure.

    `started` is the fleet that the engines were started with, if that is not `old`: it says how much room they have
    for adapters.
    """
    rooms = {served.id: served.adapter_room for served in (started or old).served}
    engines = {served.id: served for served in old.served if not served.addresses}
    problems = []
    for served in new.served:
        if served.addresses:
            if served.id in engines:
                problems.append(f"'{served.id}' moves from an engine of this service to 'addresses'")
        elif served.id not in engines:
            problems.append(f"'{served.id}' needs a new engine")
        elif changed := _engine_changes(engines[served.id], served):
            problems.append(f"'{served.id}' changes {changed}, with which its engines were started")
        elif no_room := _why_no_room(served, rooms.get(served.id)):
            problems.append(f"'{served.id}' {no_room}")
    for name in ("startup", "auth"):
        if getattr(old, name) != getattr(new, name):
            problems.append(f"'{name}' takes effect only when the service starts")
    if (old.sign_on is None) != (new.sign_on is None):
        problems.append("whether there is a 'sign_on' takes effect only when the service starts")
    return [f"{problem}: restart the service to apply the file" for problem in problems]


def _why_no_room(served: ServedModel, room: Room | None) -> str | None:
    if not served.adapters:
        return None
    if room is None:
        return (
            "has adapters, and its engines were started without room for any (they have some after a start with an "
            "adapter, or with 'engine: {max_loras: 2}')"
        )
    problem = room.why_not(served.adapters)
    return f"has adapters for which its engines have no room: {problem}" if problem else None


def _engine_changes(old: ServedModel, new: ServedModel) -> str:
    if old.adapters != new.adapters:  # the room for them is that of the start, which `_why_no_room` judges
        new = replace(new, part=old.part)
    names = (field.name for field in fields(ServedModel) if field.init and field.name not in RELOADABLE)
    return ", ".join(f"'{name}'" for name in names if getattr(new, name) != getattr(old, name))
