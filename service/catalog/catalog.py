"""The catalogue: all known models, read from `models/*.yaml`. Any mistake in any file makes loading it fail."""

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
    """Families, models and tasks by id, as read from `folder`; `family_of` maps the id of a model to its family's."""

    folder: Path
    families: dict[str, Family]
    models: dict[str, Model]
    family_of: dict[str, str]
    tasks: dict[str, Task]

    def find(self, name: str) -> Model | None:
        """The model with this id or hub id, ignoring case; None if there is none.

        The hub id of a quantised copy gives the model with that `hub`, and without `revision`, `gated` and `dtype`,
        which are those of the original weights. vLLM reads the quantization from the copy's own configuration.
        """
        wanted = name.lower()
        for model in self.models.values():
            if wanted in (model.id, (model.hub or "").lower()):
                return model
            for copy in model.copies:
                if wanted == copy.hub.lower():
                    return model.model_copy(update={"hub": copy.hub, "revision": None, "gated": None, "dtype": None})
        return None

    def suggest(self, name: str) -> list[str]:
        """Up to three ids of models whose id or hub id resembles `name`, the closest first."""
        wanted = name.lower().rpartition("/")[2]
        ids = {text.lower().rpartition("/")[2]: model.id
               for model in self.models.values() for _, text in _lookup_names(model)}  # fmt: skip
        return list(dict.fromkeys(ids[text] for text in difflib.get_close_matches(wanted, ids, 8, 0.5)))[:3]

    def licence(self, model: Model) -> Licence:
        """The model's own licence, or else its family's."""
        return model.licence or self.families[self.family_of[model.id]].licence

    def tasks_of(self, model: Model) -> list[str]:
        """The tasks that the model is suited for."""
        return [name for name, task in self.tasks.items() if task.suited(model)]


def load(folder: Path) -> Catalog:
    """Reads every `*.yaml` in `folder`; raises ConfigError with all mistakes in all files."""
    problems: list[str] = []
    families: dict[str, Family] = {}
    documents: dict[str, Document] = {}
    tasks: dict[str, Task] = {}
    template_error = cache(_template_error)  # many models share a template
    files = sorted(folder.glob("*.yaml"))
    if not files:
        raise ConfigError([f"{folder}: has no *.yaml files, so it is not a catalogue"])
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
        problems += _problems_of(document, family, folder, families, template_error)
        families[family.family] = family
        documents[family.family] = document
    problems += _duplicates(documents, families)
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
    template_error: Callable[[Path], str | None],
) -> list[str]:
    problems = []
    if family.family != document.path.stem:
        problems.append(document.problem(("family",), f"must be the name of the file, '{document.path.stem}'"))
    if family.family in others:
        problems.append(document.problem(("family",), f"'{family.family}' is defined in another file too"))
    for index, model in enumerate(family.models):
        for key in ("template", "fallback"):
            template = getattr(model.chat, key, None)
            if template and (error := template_error(folder / "templates" / template)):
                problems.append(document.problem(("models", index, "chat", key), error))
        if model.path and not (folder / model.path).is_dir():
            problems.append(document.problem(("models", index, "path"), f"there is no folder {folder / model.path}"))
    return problems


def _duplicates(documents: dict[str, Document], families: dict[str, Family]) -> Iterator[str]:
    """A problem for each id and hub id that leads to more than one model."""
    models = [(name, index, model) for name, family in families.items() for index, model in enumerate(family.models)]
    count = Counter(text.lower() for _, _, model in models for _, text in _lookup_names(model))
    for name, index, model in models:
        for location, text in _lookup_names(model):
            if count[text.lower()] > 1:
                yield documents[name].problem(("models", index, *location), f"'{text}' is not unique")


def _template_error(template: Path) -> str | None:
    """Why a chat template cannot be used, or None; it is compiled as transformers compiles it for vLLM."""
    environment = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"])
    try:
        environment.compile(template.read_text(encoding="utf-8"), raw=True)
    except OSError:
        return f"there is no file {template}"
    except TemplateSyntaxError as error:
        return f"{template}:{error.lineno}: {error.message}"
    return None


def _lookup_names(model: Model) -> Iterator[tuple[Location, str]]:
    """Every name by which `find` finds the model, with its location in the entry."""
    yield ("id",), model.id
    if model.hub:
        yield ("hub",), model.hub
    yield from ((("copies", index, "hub"), copy.hub) for index, copy in enumerate(model.copies))


if __name__ == "__main__":
    json.dump(Family.model_json_schema(), sys.stdout, indent=2)
    print()
