"""How far an upgrade is, in a file beside the fleet file: what is needed to go on with it, or to take it back."""

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from service.config.strict_yaml import ConfigError

SUFFIX = ".upgrade"


@dataclass(frozen=True)
class Progress:
    """An upgrade from `old` to `new`, whose gate was passed: `total` is the weight of both, `steps` are per cent."""

    old: str
    new: str
    total: int
    steps: tuple[int, ...]


def path_of(fleet_file: Path) -> Path:
    """Where the progress of an upgrade in this fleet file stands."""
    target = fleet_file.resolve()
    return target.with_name(target.name + SUFFIX)


def read(fleet_file: Path) -> Progress | None:
    """The upgrade that has begun; None if there is none. Raises ConfigError for a file that says nothing of one."""
    path = path_of(fleet_file)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return Progress(str(found["old"]), str(found["new"]), int(found["total"]), tuple(map(int, found["steps"])))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        text = f"{path}: does not say how far an upgrade is ({error}). Set the weights in {fleet_file} and remove it."
        raise ConfigError([text]) from None


def write(fleet_file: Path, progress: Progress) -> None:
    """Says that the upgrade has begun; a reader finds all of it or nothing."""
    path = path_of(fleet_file)
    new = path.with_name(f".{path.name}.new")
    try:
        with new.open("w", encoding="utf-8") as file:
            file.write(json.dumps(asdict(progress)) + "\n")
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError as error:
        raise ConfigError([f"{path}: cannot be written: {error.strerror}"]) from None
    finally:
        with suppress(OSError):
            new.unlink()


def end(fleet_file: Path) -> None:
    """Says that no upgrade is under way."""
    path_of(fleet_file).unlink(missing_ok=True)
