"""Reloads the fleet file when it changes: a valid one is applied as a whole, any other is rejected as a whole."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

from service.config.file_watch import FileWatch
from service.fleet.fleet import Fleet
from service.fleet.served_model import ServedModel

# Fields of ServedModel that only the gateway uses, so that they may change while engines run.
RELOADABLE = (
    "family", "scale_down_after", "policy", "max_in_flight", "max_queued", "timeouts", "aliases", "request_bounds",
    "guardrails",
)  # fmt: skip


class Reload(FileWatch[Fleet]):
    """Watches the fleet file; `fleet` is the one in use. A change that engines would have to restart for is refused."""

    def __init__(
        self, path: Path, fleet: Fleet, load: Callable[[], Fleet], apply: Callable[[Fleet], None],
        report: Callable[[list[str]], None],
    ) -> None:  # fmt: skip
        super().__init__(path, load, self._use, report)
        self._fleet, self._apply_to_gateway = fleet, apply

    def refused(self, found: Fleet) -> list[str]:
        """The changes that need a restart, one message each."""
        return [f"{self._path}: {problem}" for problem in needs_restart(self._fleet, found)]

    def _use(self, fleet: Fleet) -> None:
        self._apply_to_gateway(fleet)
        self._fleet = fleet


def needs_restart(old: Fleet, new: Fleet) -> list[str]:
    """The changes that running engines rule out, one message each; removing a model is none of them. Pure."""
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
    for name in ("startup", "auth"):
        if getattr(old, name) != getattr(new, name):
            problems.append(f"'{name}' takes effect only when the service starts")
    if (old.sign_on is None) != (new.sign_on is None):
        problems.append("whether there is a 'sign_on' takes effect only when the service starts")
    return [f"{problem}: restart the service to apply the file" for problem in problems]


def _engine_changes(old: ServedModel, new: ServedModel) -> str:
    names = (field.name for field in fields(ServedModel) if field.name not in RELOADABLE)
    return ", ".join(f"'{name}'" for name in names if getattr(new, name) != getattr(old, name))
