"""The catalogue: what each known model is, read from `models/*.yaml` and refused whole if any of it is wrong."""

import json
import re
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from service.documents import ConfigError, Document, Frozen
from service.names import Specialty
from service.names import Variant as Variant

Capability = Literal["chat", "completion", "infill", "embedding"]
Identifier = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,95}$")]
EngineValue = str | int | float | bool | None | list[str | int] | dict[str, str | int | float | bool | list[int]]

TASKS = "tasks.yaml"


class Licence(Frozen):
    """Under which terms the weights may be used; `gated` where it is the same for the whole family."""

    name: str | None = None
    gated: bool | None = None
    note: str | None = None


class Shape(Frozen):
    """The sizes of the network, named as in `config.json`; null means unknown."""

    hidden_size: PositiveInt | None = None
    num_hidden_layers: PositiveInt | None = None
    num_attention_heads: PositiveInt | None = None
    num_key_value_heads: PositiveInt | None = None
    head_dim: PositiveInt | None = None
    intermediate_size: PositiveInt | None = None
    vocab_size: PositiveInt | None = None
    rope_theta: PositiveFloat | None = None
    sliding_window: PositiveInt | None = None
    tie_word_embeddings: bool | None = None


class Chat(Frozen):
    """How the model takes a conversation.

    `template` is a file under `models/templates/`, or null where the weights bring their own. `stop` and
    `stop_token_ids` end a turn beyond the tokenizer's EOS.
    """

    template: str | None = None
    system: Literal["native", "fold", "refuse"] | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()


class Infill(Frozen):
    """How the model fills in the middle: a prompt with `{prefix}` and `{suffix}`, and the token ids that end it."""

    prompt: str
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()

    @model_validator(mode="after")
    def _has_both_places(self) -> "Infill":
        for place in ("{prefix}", "{suffix}"):
            if self.prompt.count(place) != 1:
                raise ValueError(f"the infilling prompt must hold {place} exactly once")
        return self


class Model(Frozen):
    """One checkpoint. `context` is in tokens; null means unknown, and unknown is never guessed.

    `gated` says whether the hub asks for an access token, where the family's licence does not.
    """

    id: Identifier
    variant: Variant
    hub: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")] | None = None
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = None
    path: str | None = None
    gated: bool | None = None
    version: str | None = None
    size: str | None = None
    specialty: Specialty | None = None
    architecture: str | None = None
    parameters: PositiveInt | None = None
    context: PositiveInt | None = None
    shape: Shape = Shape()
    chat: Chat | None = None
    infill: Infill | None = None
    engine: dict[str, EngineValue] = Field(default_factory=dict)
    note: str | None = None

    @model_validator(mode="after")
    def _is_consistent(self) -> "Model":
        if (self.hub is None) == (self.path is None):
            raise ValueError("give either 'hub' (a repository) or 'path' (embedded weights), and not both")
        if self.chat and self.variant in ("base", "embedding"):
            raise ValueError(f"a model of variant '{self.variant}' has no 'chat' block")
        if self.specialty and self.variant != "code":
            raise ValueError("only a model of variant 'code' has a 'specialty'")
        return self

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What requests the model can answer."""
        if self.variant == "embedding":
            return frozenset({"embedding"})
        found: set[Capability] = {"completion"}
        if self.chat:
            found.add("chat")
        if self.infill:
            found.add("infill")
        return frozenset(found)


class Family(Frozen):
    """Models with one origin: one file."""

    family: Identifier
    title: str
    licence: Licence
    models: Annotated[tuple[Model, ...], Field(min_length=1)]


class Tasks(Frozen):
    """Which variants suit a task, best first."""

    tasks: dict[str, Annotated[tuple[Variant, ...], Field(min_length=1)]]


@dataclass(frozen=True)
class Catalog:
    """Every family by its id, every model by its id, and the task table."""

    folder: Path
    families: dict[str, Family]
    models: dict[str, Model]
    family_of: dict[str, str]
    tasks: dict[str, tuple[Variant, ...]]

    def find(self, name: str) -> Model | None:
        """The model with this id or hub id, in any case."""
        wanted = name.lower()
        for model in self.models.values():
            if wanted in (model.id, (model.hub or "").lower()):
                return model
        return None


def load(folder: Path) -> Catalog:
    """Reads all of `folder`; raises ConfigError with every mistake of every file."""
    problems: list[str] = []
    families: dict[str, Family] = {}
    documents: dict[str, Document] = {}
    tasks: dict[str, tuple[Variant, ...]] = {}
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
        problems += _problems_of(document, family, folder, families)
        families[family.family] = family
        documents[family.family] = document
    seen = Counter(model.id for family in families.values() for model in family.models)
    for name, family in families.items():
        for index, model in enumerate(family.models):
            if seen[model.id] > 1:
                problems.append(documents[name].problem(("models", index, "id"), f"'{model.id}' is not unique"))
    if problems:
        raise ConfigError(problems)
    models = {model.id: model for family in families.values() for model in family.models}
    family_of = {model.id: family.family for family in families.values() for model in family.models}
    return Catalog(folder, families, models, family_of, tasks)


def _problems_of(document: Document, family: Family, folder: Path, others: dict[str, Family]) -> list[str]:
    problems = []
    if family.family != document.path.stem:
        problems.append(document.problem(("family",), f"must be the file's name, '{document.path.stem}'"))
    if family.family in others:
        problems.append(document.problem(("family",), f"'{family.family}' is in another file too"))
    for index, model in enumerate(family.models):
        template = model.chat.template if model.chat else None
        if template and not (folder / "templates" / template).is_file():
            at = ("models", index, "chat", "template")
            problems.append(document.problem(at, f"there is no {folder / 'templates' / template}"))
        if model.path and not (folder / model.path).is_dir():
            problems.append(document.problem(("models", index, "path"), f"there is no folder {folder / model.path}"))
    return problems


def size_in_parameters(size: str) -> float:
    """`"13b"` → 13e9, `"8x7b"` → 56e9; 0 when it cannot be read. For ordering sizes only."""
    found = re.fullmatch(r"(?:(\d+)x)?(\d+(?:\.\d+)?)([mbt])", size.lower())
    if not found:
        return 0.0
    experts, number, unit = found.groups()
    return int(experts or 1) * float(number) * {"m": 1e6, "b": 1e9, "t": 1e12}[unit]


if __name__ == "__main__":
    json.dump(Family.model_json_schema(), sys.stdout, indent=2)
    print()
