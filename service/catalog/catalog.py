"""The catalogue: what each known model is, read from `models/*.yaml` and refused whole if any of it is wrong."""

import difflib
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jinja2 import TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from service.catalog.model import Family, Licence, Model, Task, Tasks
from service.config.strict_yaml import ConfigError, Document, Location

TASKS = "tasks.yaml"


@dataclass(frozen=True)
class Catalog:
    """Every family by its id, every model by its id, and the task table."""

    folder: Path
    families: dict[str, Family]
    models: dict[str, Model]
    family_of: dict[str, str]
    tasks: dict[str, Task]

    def find(self, name: str) -> Model | None:
        """The model with this id or hub id, in any case.

        A copy's hub id gives the model with that hub: nothing is known of a copy's revision, its gate, and the type
        that its weights were published in. How it is quantised vLLM reads from its own configuration.
        """
        wanted = name.lower()
        for model in self.models.values():
            if wanted in (model.id, (model.hub or "").lower()):
                return model
            for copy in model.copies:
                if wanted == copy.hub.lower():
                    return model.model_copy(update={"hub": copy.hub, "revision": None, "gated": None, "dtype": None})
        return None

    def near(self, name: str) -> list[str]:
        """Up to three ids of models that look like `name`, the nearest first."""
        wanted = name.lower().rpartition("/")[2]
        spelled = {text.lower().rpartition("/")[2]: model.id
                   for model in self.models.values() for _, text in _names(model)}  # fmt: skip
        return list(dict.fromkeys(spelled[text] for text in difflib.get_close_matches(wanted, spelled, 8, 0.5)))[:3]

    def licence(self, model: Model) -> Licence:
        """The terms for a model: its own, or else its family's."""
        return model.licence or self.families[self.family_of[model.id]].licence

    def good_at(self, model: Model) -> list[str]:
        """The tasks that the model does well."""
        return [name for name, task in self.tasks.items() if task.suited(model)]


def load(folder: Path) -> Catalog:
    """Reads all of `folder`; raises ConfigError with every mistake of every file."""
    problems: list[str] = []
    families: dict[str, Family] = {}
    documents: dict[str, Document] = {}
    tasks: dict[str, Task] = {}
    examined = cache(_wrong_with)  # many models share a template
    files = sorted(folder.glob("*.yaml"))
    if not files:
        raise ConfigError([f"{folder}: holds no *.yaml; is it the catalogue's folder?"])
    for path in files:
        try:
            document = Document(path)
            if path.name == TASKS:
                tasks = document.read(Tasks).tasks
                continue
            family = document.read(Family)
        except ConfigError as error:
            problems += error.problems
            continue
        problems += _problems_of(document, family, folder, families, examined)
        families[family.family] = family
        documents[family.family] = document
    seen = Counter(text.lower() for family in families.values() for model in family.models for _, text in _names(model))
    for name, family in families.items():
        for index, model in enumerate(family.models):
            for at, text in _names(model):
                if seen[text.lower()] > 1:
                    problems.append(documents[name].problem(("models", index, *at), f"'{text}' is not unique"))
    if problems:
        raise ConfigError(problems)
    models = {model.id: model for family in families.values() for model in family.models}
    family_of = {model.id: family.family for family in families.values() for model in family.models}
    return Catalog(folder, families, models, family_of, tasks)


def _problems_of(
    document: Document,
    family: Family,
    folder: Path,
    others: dict[str, Family],
    wrong_with: Callable[[Path], str | None],
) -> list[str]:
    problems = []
    if family.family != document.path.stem:
        problems.append(document.problem(("family",), f"must be the file's name, '{document.path.stem}'"))
    if family.family in others:
        problems.append(document.problem(("family",), f"'{family.family}' is in another file too"))
    for index, model in enumerate(family.models):
        for key in ("template", "fallback"):
            template = getattr(model.chat, key, None)
            if template and (wrong := wrong_with(folder / "templates" / template)):
                problems.append(document.problem(("models", index, "chat", key), wrong))
        if model.path and not (folder / model.path).is_dir():
            problems.append(document.problem(("models", index, "path"), f"there is no folder {folder / model.path}"))
    return problems


def _wrong_with(template: Path) -> str | None:
    """Why the chat template cannot be used, compiled as vLLM's renderer compiles it."""
    environment = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"])
    try:
        environment.compile(template.read_text(encoding="utf-8"), raw=True)
    except OSError:
        return f"there is no {template}"
    except TemplateSyntaxError as error:
        return f"{template}:{error.lineno}: {error.message}"
    return None


def _names(model: Model) -> Iterator[tuple[Location, str]]:
    """Every name that leads to the model, and its place in the entry."""
    yield ("id",), model.id
    if model.hub:
        yield ("hub",), model.hub
    yield from ((("copies", index, "hub"), copy.hub) for index, copy in enumerate(model.copies))


if __name__ == "__main__":
    json.dump(Family.model_json_schema(), sys.stdout, indent=2)
    print()
