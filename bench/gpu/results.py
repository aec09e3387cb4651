"""Results on disk: one JSON file for each experiment, written when it ends."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

Outcome = Literal["measured", "failed"]


@dataclass(frozen=True)
class Result:
    """What came of one experiment.

    `where` says on what: card, driver, vLLM and so on. `command` is the kit's own command line, `engines` those of the
    engines. `reason` is the engine's own where the outcome is "failed". `date` is ISO 8601, UTC; `seconds` is how long
    it took, without the start of the engines.
    """

    experiment: str
    outcome: Outcome
    where: dict[str, Any]
    command: str
    date: str
    seconds: float
    reason: str | None = None
    engines: list[list[str]] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def setup(self) -> str:
        """The setup's name."""
        return self.experiment.rpartition("/")[0]

    @property
    def measure(self) -> str:
        """What was measured."""
        return self.experiment.rpartition("/")[2]


def write_result(folder: Path, result: Result) -> Path:
    """Puts the result into its place, whole."""
    path = folder / f"{result.experiment}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".new")
    scratch.write_text(json.dumps(asdict(result), indent=1) + "\n", encoding="utf-8")
    scratch.replace(path)
    return path


def read_results(folder: Path) -> list[Result]:
    """Every result under `folder`, by name; a file that is none is named in the ValueError."""
    return sorted(_found(folder), key=lambda one: one.experiment)


def _found(folder: Path) -> Iterator[Result]:
    for path in sorted(folder.rglob("*.json")):
        try:
            yield Result(**json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} is no result of the kit: {error}") from None


def done(folder: Path, again: bool) -> set[str]:
    """The experiments that need no other run: all that have a result, or only what was measured where `again`."""
    return {one.experiment for one in read_results(folder) if not (again and one.outcome == "failed")}
