"""`roundhouse list` and `roundhouse show`: the models of the catalogue."""

import json
from collections.abc import Iterable, Iterator
from typing import get_args

import click
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from service.catalog.catalog import Catalog
from service.catalog.model import Family, Model
from service.catalog.names import Variant
from service.cli import model_details
from service.cli.configured import settings_and_catalog

K = 1024  # tokens
MARKS = {
    "gated": "the hub requires its terms to be accepted",
    "non-commercial": "the licence forbids commercial use",
    "licence unknown": "the catalogue has no licence for it",
    "not in vLLM": "current vLLM versions cannot serve it",
    "infill": "supports fill-in-the-middle completion",
    "vision": "takes images",
}


@click.command("list")
@click.option("--family", help="Only models of this family.")
@click.option("--variant", type=click.Choice(get_args(Variant)), help="Only models of this variant.")
@click.option("--task", help="Only models that are suited for this task.")
@click.option("--commercial", is_flag=True, help="Only models whose licence allows commercial use.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with all details.")
def list_models(family: str | None, variant: str | None, task: str | None, commercial: bool, as_json: bool) -> None:
    """List the models of the catalogue."""
    _, catalog = settings_and_catalog()
    _check("--family", family, catalog.families)
    _check("--task", task, catalog.tasks)
    chosen = [
        model
        for model in catalog.models.values()
        if family in (None, catalog.family_of[model.id])
        and variant in (None, model.variant)
        and (task is None or catalog.tasks[task].suited(model))
        and (not commercial or catalog.licence(model).commercial)
    ]
    if as_json:
        click.echo(json.dumps([model_details.data(catalog, model) for model in chosen], indent=2))
        return
    if not chosen:
        raise click.ClickException("no model matches all of these options.")
    if task:
        click.echo(f"{task}: {catalog.tasks[task].about}\n")
    Console(highlight=False).print(_listing(catalog, chosen))


@click.command()
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(model: str, as_json: bool) -> None:
    """Show all details of MODEL, given by id or hub id."""
    _, catalog = settings_and_catalog()
    found = catalog.find(model)
    if found is None:
        similar = catalog.suggest(model)
        advice = f"Did you mean {' or '.join(similar)}?" if similar else "'roundhouse list' shows all models."
        raise click.UsageError(f"the catalogue has no model '{model}'. {advice}")
    if as_json:
        click.echo(json.dumps(model_details.data(catalog, found), indent=2))
        return
    Console(highlight=False).print(_details(catalog, found))


COMMANDS = (list_models, show)


def _check(option: str, name: str | None, choices: Iterable[str]) -> None:
    if name is not None and name not in choices:
        raise click.UsageError(f"{option}: '{name}' is unknown. Choose from {', '.join(sorted(choices))}.")


def _listing(catalog: Catalog, chosen: list[Model]) -> RenderableType:
    """The chosen models by family, then the meaning of the marks and the tasks of each variant."""
    widths = [max(len(cell) for cell in column) for column in zip(*(_cells(model) for model in chosen), strict=True)]
    parts: list[RenderableType] = []
    for family in catalog.families.values():
        if members := [model for model in chosen if catalog.family_of[model.id] == family.family]:
            parts += [_heading(family), _members(catalog, members, widths), Text()]
    shown = {mark for model in chosen for mark in _marks(catalog, model)}
    notes = Table.grid(padding=(0, 2))
    for number, (mark, meaning) in enumerate((mark, MARKS[mark]) for mark in MARKS if mark in shown):
        notes.add_row(Text("" if number else "marks", "dim"), Text(mark, "yellow"), Text(meaning))
    for number, (kind, tasks) in enumerate(_tasks_by_kind(catalog, chosen)):
        notes.add_row(Text("" if number else "suited for", "dim"), Text(kind, "cyan"), Text(tasks))
    count = f"{len(chosen)} of {len(catalog.models)} models."
    ending = Text(f"\n{count} 'roundhouse show MODEL' shows the details of one.", "dim")
    return Group(*parts, notes, ending)


def _heading(family: Family) -> Text:
    return Text.assemble((family.title, "bold"), "  ", (family.licence.name or "", "dim"))


def _members(catalog: Catalog, members: list[Model], widths: list[int]) -> RenderableType:
    table = Table.grid(padding=(0, 1, 0, 0))
    for style, width, justify in zip(("", "cyan", "", ""), widths, ("left", "left", "right", "right"), strict=True):
        table.add_column(style=style, width=width, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    table.add_column(style="yellow")
    for model in members:
        table.add_row(*map(Text, _cells(model)), Text(", ".join(_marks(catalog, model))))
    return Padding(table, (0, 0, 0, 2))


def _cells(model: Model) -> tuple[str, str, str, str]:
    return model.id, model_details.kind(model), model_details.amount(model.parameters), _length(model.context)


def _length(context: int | None) -> str:
    if context is None:
        return "?"
    if context >= K * K:
        return f"{context // K // K}M"
    return str(context) if context < K else f"{context // K}k"


def _marks(catalog: Catalog, model: Model) -> Iterator[str]:
    licence = catalog.licence(model)
    if model.network and model.network.refused:
        yield "not in vLLM"
    if licence.commercial is False:
        yield "non-commercial"
    if licence.name is None and model.hub:
        yield "licence unknown"
    if model_details.gated(catalog, model):
        yield "gated"
    if model.infill:
        yield "infill"
    if model.vision:
        yield "vision"


def _tasks_by_kind(catalog: Catalog, chosen: list[Model]) -> Iterator[tuple[str, str]]:
    """Each kind of model among the chosen, and the tasks that it is suited for."""
    kinds = {model_details.kind(model): model for model in chosen}
    for kind, model in kinds.items():
        if tasks := catalog.tasks_of(model):
            yield kind, ", ".join(tasks)


def _details(catalog: Catalog, model: Model) -> RenderableType:
    family = catalog.families[catalog.family_of[model.id]]
    subtitle = "  ".join(part for part in (family.title, model_details.kind(model), model.size) if part)
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    warnings = ("vLLM", "unknown")
    for label, text in model_details.rows(catalog, model):
        table.add_row(Text(label), Text(text, "yellow" if label in warnings else ""))
    return Group(Text.assemble((model.id, "bold"), "   ", (subtitle, "cyan")), Text(), table)
