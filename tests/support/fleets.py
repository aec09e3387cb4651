"""Fleets for tests, written as an operator writes them."""

import re
from pathlib import Path

from service.catalog import catalog
from service.catalog.catalog import Catalog
from service.fleet import fleet
from service.fleet.fleet import Fleet
from service.fleet.served_model import ServedModel

ROOT = Path(__file__).parents[2]
CATALOG = catalog.load(ROOT / "models")


def write(folder: Path, text: str) -> Path:
    """A fleet file in `folder`, beside every `./path` that its text mentions."""
    for path in map(Path, re.findall(r"\./[\w./-]+", text)):
        place = folder / path
        if path.suffix == ".jinja":
            place.touch()
        else:
            place.mkdir(parents=True, exist_ok=True)
    file = folder / "fleet.yaml"
    file.write_text(text, encoding="utf-8")
    return file


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
