"""The fleet file: which models this installation serves, how, and under which names."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from service.auth.tenants import Tenant
from service.catalog.catalog import Catalog
from service.catalog.names import Variant
from service.config.strict_yaml import ConfigError, Document
from service.fleet.entries import EntryError, served_model
from service.fleet.schema import RESERVED, FleetFile
from service.fleet.served_model import ServedModel


@dataclass(frozen=True)
class Fleet:
    """What is served, in the file's order, and the names that lead there."""

    served: tuple[ServedModel, ...]
    aliases: dict[str, str]
    defaults: dict[Variant, str]
    startup: str
    extra_fields: frozenset[str]
    tenants: dict[str, Tenant] = field(default_factory=dict)

    def __getitem__(self, model_id: str) -> ServedModel:
        for served in self.served:
            if served.id == model_id:
                return served
        raise KeyError(model_id)

    def replicas(self) -> Iterator[tuple[ServedModel, int]]:
        """Every replica that runs here as (served model, number from 0), in starting order."""
        return (
            (served, number) for served in self.served if not served.addresses for number in range(served.max_replicas)
        )


def load(path: Path, catalog: Catalog, store: Path | None = None) -> Fleet:
    """Reads the fleet file; raises ConfigError with every mistake in it. Touches the file system, starts nothing.

    `store` is where pulled weights live; without one every model of a hub comes from the hub.
    """
    document = Document(path)
    written = document.read(FleetFile)
    problems: list[str] = []
    served: dict[int, ServedModel] = {}
    for index, entry in enumerate(written.models):
        try:
            served[index] = served_model(entry, written, catalog, path.parent, store)
        except EntryError as error:
            problems.append(document.problem(("models", index, error.key), error.message))
    aliases = _aliases(document, written, served, problems)
    ids = {one.id for one in served.values()}
    for variant, target in written.defaults.items():
        if target not in ids:
            problems.append(document.problem(("defaults", variant), f"'{target}' is not the id of a served model"))
    for index, name in enumerate(written.optional_flags):
        if not problems and not any(name in one.engine for one in served.values()):
            problems.append(
                document.problem(("optional_flags", index), f"'{name}' is not an 'engine' setting of any model")
            )
    if problems:
        raise ConfigError(problems)
    return Fleet(
        served=tuple(served.values()),
        aliases=aliases,
        defaults=dict(written.defaults),
        startup=written.startup,
        extra_fields=frozenset(written.extra_fields),
        tenants={name: Tenant(id=name, **entry.model_dump()) for name, entry in written.tenants.items()},
    )


def _aliases(
    document: Document, written: FleetFile, served: dict[int, ServedModel], problems: list[str]
) -> dict[str, str]:
    """Every other name of a served model; each name of the fleet must lead to one place."""
    taken: set[str] = set(RESERVED)
    aliases: dict[str, str] = {}

    def take(name: str, at: tuple[str | int, ...]) -> None:
        if name in taken:
            why = "is a word of the routing rules" if name in RESERVED else "is another model's id or alias already"
            problems.append(document.problem(at, f"'{name}' {why}"))
        taken.add(name)

    for index, one in served.items():
        take(one.id, ("models", index, "id"))
        for adapter in one.adapters:
            take(adapter.id, ("models", index, "adapters"))
    for index, one in served.items():
        for alias in one.aliases:
            take(alias, ("models", index, "aliases"))
            aliases[alias] = one.id
    targets = {one.id for one in served.values()} | {adapter.id for one in served.values() for adapter in one.adapters}
    for alias, target in written.aliases.items():
        take(alias, ("aliases", alias))
        aliases[alias] = target
        if target not in targets:
            problems.append(document.problem(("aliases", alias), f"'{target}' is not the id of a served model"))
    return aliases
