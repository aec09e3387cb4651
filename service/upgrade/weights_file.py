"""Changes the weights of two models in a fleet file: nothing else of its text, and never so that it is not valid."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path

import yaml

from service.config.strict_yaml import ConfigError, Location, dotted
from service.fleet.alternatives import named
from service.fleet.fleet import Fleet

Load = Callable[[Path], Fleet]


def with_weights(text: str, weights: Mapping[Location, int], path: Path) -> str:
    """The text of a fleet file with these weights, by the places of their entries, such as `("models", 0)`. Pure.

    Raises ConfigError where an entry has no `weight` of its own in the file.
    """
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    places = []
    for place, weight in weights.items():
        entry = _entry(node, place)
        found = dict(_members(entry)).get("weight")
        if not isinstance(found, yaml.ScalarNode):
            line = entry.start_mark.line + 1 if entry else 1
            what = "is missing: write it into the entry itself, where the upgrade can change it"
            raise ConfigError([f"{path}:{line}: {dotted((*place, 'weight'))}: {what}"])
        places.append((found.start_mark.index, found.end_mark.index, str(weight)))
    for start, end, number in sorted(places, reverse=True):
        text = text[:start] + number + text[end:]
    return text


def _entry(node: yaml.Node | None, place: Location) -> yaml.Node | None:
    """The node at this place; None where there is none."""
    for part in place:
        if isinstance(part, int):
            items = node.value if isinstance(node, yaml.SequenceNode) else []
            node = items[part] if part < len(items) else None
        else:
            node = dict(_members(node)).get(part)
    return node


def _members(node: yaml.Node | None) -> Iterator[tuple[str, yaml.Node]]:
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        yield key.value, value


class WeightsFile:
    """A fleet file whose weights are changed while a service reads it. `load` reads one, or raises ConfigError."""

    def __init__(self, path: Path, load: Load) -> None:
        self.path, self._load = path, load

    def read(self) -> Fleet:
        """The fleet as the file has it now."""
        return self._load(self.path)

    def write(self, weights: Mapping[str, int]) -> None:
        """Gives models these weights, by their ids, in one step: a reader finds the old file or the new one.

        Raises ConfigError, and changes nothing, where the file would not be valid then.
        """
        places = {entry.one.id: entry.at for entry in named(dict(enumerate(self.read().served)))}
        text = self.path.read_text(encoding="utf-8")
        text = with_weights(text, {places[id]: weight for id, weight in weights.items()}, self.path)
        target = self.path.resolve()  # a symbolic link stays one
        new = target.with_name(f".{target.name}.new")
        mode = target.stat().st_mode & 0o777
        try:
            with new.open("w", encoding="utf-8") as file:
                os.fchmod(file.fileno(), mode)
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            self._load(new)
            new.replace(target)
        except OSError as error:
            raise ConfigError([f"{target}: cannot be written: {error.strerror}"]) from None
        except ConfigError as error:
            raise ConfigError([problem.replace(str(new), str(self.path)) for problem in error.problems]) from None
        finally:
            new.unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """While it lasts no other upgrade changes this folder's files; raises ConfigError where one does already."""
        folder = os.open(self.path.resolve().parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            try:
                flock(folder, LOCK_EX | LOCK_NB)
            except OSError:
                raise ConfigError([f"{self.path}: another upgrade is changing it. Wait for it, or stop it."]) from None
            yield
        finally:
            os.close(folder)
