"""Fleets for tests, written as an operator writes them."""

import re
from pathlib import Path

from service.architectures.linear_layers import linear_layers
from service.catalog import catalog
from service.catalog.catalog import Catalog
from service.fleet import fleet
from service.fleet.fleet import Fleet
from service.fleet.served_model import ServedModel
from tests.support.adapters import Q_PROJ, write_adapter

ROOT = Path(__file__).parents[2]
CATALOG = catalog.load(ROOT / "models")
# The model of an entry, or the folder of an adapter on the last one before it.
MODEL_OR_ADAPTER = re.compile(r"\bmodel: (?P<model>[\w./-]+)|\{id: [\w-]+, path: (?P<path>\./[\w./-]+)")


def write(folder: Path, text: str) -> Path:
    """A fleet file in `folder`, beside every `./path` that its text mentions; adapters fit the model before them."""
    for path in map(Path, re.findall(r"\./[\w./-]+", text)):
        place = folder / path
        if path.suffix == ".jinja":
            place.touch()
        else:
            place.mkdir(parents=True, exist_ok=True)
    base = ""
    for found in MODEL_OR_ADAPTER.finditer(text):
        base = found["model"] or base
        if found["path"]:
            write_adapter_of(folder / found["path"], base)
    file = folder / "fleet.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def write_adapter_of(folder: Path, base: str) -> None:
    """An adapter on one layer of a model of the catalogue."""
    known = CATALOG.find(base)
    layers = {one.name: one for one in (linear_layers(known.shape) if known else None) or ()}
    query = layers.get("q_proj")
    write_adapter(folder, base, {Q_PROJ: (query.inputs, query.outputs)} if query else None)


def read(file: Path, known: Catalog = CATALOG) -> Fleet:
    """The fleet that a file describes."""
    return fleet.load(file, known)


def load(folder: Path, text: str, known: Catalog = CATALOG) -> Fleet:
    """The fleet that `text` describes."""
    return read(write(folder, text), known)


def only(folder: Path, entry: str) -> ServedModel:
    """The one model of a fleet that serves `entry`, given as lines of YAML without their indentation."""
    first, *others = entry.strip().splitlines()
    text = "\n".join(["models:", f"  - {first}", *(f"    {line}" for line in others)])
    (served,) = load(folder, text + "\n").served
    return served
