"""YAML files read strictly: every mistake is reported with file, line and key, all of them at once."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

NOT_TEXT = re.compile(r"[\0\ud800-\udfff]")
Location = tuple[str | int, ...]
T = TypeVar("T", bound=BaseModel)


class Frozen(BaseModel):
    """A record of a file: immutable, and an unknown key is a mistake."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class ConfigError(Exception):
    """What is wrong in a file the operator wrote: one line `file:line: key: what` for each mistake."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Document:
    """A parsed YAML file that remembers on which line each key stands."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines: dict[Location, int] = {(): 1}
        self._problems: list[str] = []
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from None
        except UnicodeDecodeError as error:
            raise ConfigError([f"{path}: is not UTF-8 text (byte {error.start})"]) from None
        try:
            loader = yaml.SafeLoader(text)
            node = loader.get_single_node()
            self.data: Any = {} if node is None else self._build(loader, node, ())
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise ConfigError([f"{path}:{line}: {error.problem or error.context}"]) from None
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            raise ConfigError([f"{path}:{line}: {error.reason}"]) from None
        except RecursionError:
            raise ConfigError([f"{path}:1: is nested too deeply, or holds itself through an alias"]) from None
        if self._problems:
            raise ConfigError(self._problems)

    def _build(self, loader: yaml.SafeLoader, node: yaml.Node, at: Location) -> Any:
        if isinstance(node, yaml.MappingNode):
            # Repetitions are looked for before merging: a merged key may stand in both mappings.
            written: set[object] = set()
            for key_node, _ in node.value:
                if (identity := _identity(key_node)) in written:
                    self._refuse(key_node, (*at, key_node.value), "stands twice in one mapping")
                written.add(identity)
            loader.flatten_mapping(node)
            # Only the last of each counts. The node forgets the others, for an alias may lead here a second time.
            node.value = list({_identity(pair[0]): pair for pair in node.value}.values())
            result: dict[Any, Any] = {}
            for key_node, value_node in node.value:
                if not isinstance(key_node, yaml.ScalarNode):
                    self._refuse(key_node, at, "has a key that is not plain text")
                    continue
                key = self._scalar(loader, key_node, at)
                self._lines[(*at, key)] = key_node.start_mark.line + 1
                result[key] = self._build(loader, value_node, (*at, key))
            return result
        if isinstance(node, yaml.SequenceNode):
            items = []
            for index, item in enumerate(node.value):
                self._lines[(*at, index)] = item.start_mark.line + 1
                items.append(self._build(loader, item, (*at, index)))
            return items
        return self._scalar(loader, node, at)

    def _scalar(self, loader: yaml.SafeLoader, node: yaml.Node, at: Location) -> Any:
        try:
            value = loader.construct_object(node)
            hash(value)  # a tag can make a list or a mapping of plain text
        except (ArithmeticError, LookupError, TypeError, ValueError):
            self._refuse(node, at, f"{node.value!r:.60} is no valid {node.tag.rpartition(':')[2]}")
            return None
        if isinstance(value, str) and NOT_TEXT.search(value):
            # Neither can stand in a file's name, in an argument or in a variable of a process.
            self._refuse(node, at, f"{value!r:.60} holds a NUL character or half of a surrogate pair")
        return value

    def _refuse(self, node: yaml.Node, at: Location, message: str) -> None:
        self._problems.append(f"{self.path}:{node.start_mark.line + 1}: {dotted(at) or 'document'}: {message}")

    def line(self, at: Location) -> int:
        """The line on which the key at `at` stands, or the nearest one around it."""
        while at not in self._lines:
            at = at[:-1]
        return self._lines[at]

    def problem(self, at: Location, message: str) -> str:
        """One mistake in the form `file:line: key: what`."""
        # Pydantic marks a wrong key, as opposed to a wrong value, at the end of its location.
        known = at = at[:-1] if at[-1:] == ("[key]",) else at
        while known not in self._lines:
            known = known[:-1]
        # Pydantic adds union tags to a location; a missing key has no line of its own but must be named.
        key = at if len(at) - len(known) <= 1 else known
        return f"{self.path}:{self._lines[known]}: {dotted(key) or 'document'}: {message}"

    def read(self, model: type[T]) -> T:
        """The document as a `model`, or ConfigError with every mistake in it."""
        try:
            return model.model_validate(self.data)
        except ValidationError as error:
            found = error.errors()
            raise ConfigError(
                [self.problem(item["loc"], plain(item)) for item in found if not _is_echo(item, found)]
            ) from None


def _identity(key: yaml.Node) -> object:
    return key.value if isinstance(key, yaml.ScalarNode) else key


def dotted(at: Location) -> str:
    """A place in a file as a key: `models[0].weight`."""
    parts = ""
    for part in at:
        parts += f"[{part}]" if isinstance(part, int) else f".{part}" if parts else str(part)
    return parts


def _is_echo(item: Any, found: Sequence[Any]) -> bool:
    """Pydantic calls a list too short once an item of it is wrong; then only what is wrong with the item is news."""
    at = item["loc"]
    return item["type"] == "too_short" and any(other["loc"][: len(at)] == at for other in found if other is not item)


def plain(item: Any) -> str:
    """What pydantic has against a value, in one sentence; `item` is one of `ValidationError.errors()`."""
    if item["type"] == "extra_forbidden":
        return "unknown key; see the documentation for the keys that exist"
    if item["type"] == "missing":
        return "is missing"
    message: str = item["msg"].removeprefix("Value error, ")
    return message if item["type"] == "value_error" else f"{message} (found {item['input']!r:.60})"
