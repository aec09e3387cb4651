"""Commands about the catalogue: list its models, show one."""

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
from service.cli import portrait
from service.cli.configured import settings_and_catalog

LONG = 1024  # tokens
MARKS = {
    "gated": "the hub asks for consent",
    "non-commercial": "no money may be earned with it",
    "licence unknown": "nobody here has seen it",
    "not in vLLM": "no current vLLM serves it so",
    "infill": "fills in the middle of code",
}


@click.command("list")
@click.option("--family", help="Only this family.")
@click.option("--variant", type=click.Choice(get_args(Variant)), help="Only models of this variant.")
@click.option("--task", help="Only models that are good at this task.")
@click.option("--commercial", is_flag=True, help="Only models whose licence is known to allow commercial use.")
@click.option("--json", "as_json", is_flag=True, help="All that is known of each, for a machine.")
def list_models(family: str | None, variant: str | None, task: str | None, commercial: bool, as_json: bool) -> None:
    """List the models of the catalogue."""
    _, known = settings_and_catalog()
    _check("--family", family, known.families)
    _check("--task", task, known.tasks)
    chosen = [
        model
        for model in known.models.values()
        if family in (None, known.family_of[model.id])
        and variant in (None, model.variant)
        and (task is None or known.tasks[task].suited(model))
        and (not commercial or known.licence(model).commercial)
    ]
    if as_json:
        click.echo(json.dumps([portrait.data(known, model) for model in chosen], indent=2))
        return
    if not chosen:
        raise click.ClickException("no model is all of that at once; leave an option out.")
    if task:
        click.echo(f"{task}: {known.tasks[task].about}\n")
    Console(highlight=False).print(_listing(known, chosen))


@click.command()
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="All that is known of it, for a machine.")
def show(model: str, as_json: bool) -> None:
    """Show all that the catalogue knows of MODEL, an id or a hub id."""
    _, known = settings_and_catalog()
    found = known.find(model)
    if found is None:
        near = known.near(model)
        advice = f"Did you mean {' or '.join(near)}?" if near else "'roundhouse list' has them all."
        raise click.UsageError(f"the catalogue has no model '{model}'. {advice}")
    if as_json:
        click.echo(json.dumps(portrait.data(known, found), indent=2))
        return
    Console(highlight=False).print(_portrait(known, found))


COMMANDS = (list_models, show)


def _check(option: str, name: str | None, known: Iterable[str]) -> None:
    if name is not None and name not in known:
        raise click.UsageError(f"{option}: there is no '{name}'. There are {', '.join(sorted(known))}.")


def _listing(known: Catalog, chosen: list[Model]) -> RenderableType:
    """The chosen models under the names of their families, and below what the marks and the variants mean."""
    widths = [max(len(cell) for cell in column) for column in zip(*(_cells(model) for model in chosen), strict=True)]
    parts: list[RenderableType] = []
    for family in known.families.values():
        if members := [model for model in chosen if known.family_of[model.id] == family.family]:
            parts += [_heading(family), _members(known, members, widths), Text()]
    shown = {mark for model in chosen for mark in _marks(known, model)}
    notes = Table.grid(padding=(0, 2))
    for number, (mark, meaning) in enumerate((mark, MARKS[mark]) for mark in MARKS if mark in shown):
        notes.add_row(Text("" if number else "marks", "dim"), Text(mark, "yellow"), Text(meaning))
    for number, (kind, tasks) in enumerate(_strengths(known, chosen)):
        notes.add_row(Text("" if number else "good at", "dim"), Text(kind, "cyan"), Text(tasks))
    ending = Text(f"\n{len(chosen)} of {len(known.models)} models. 'roundhouse show MODEL' tells all about one.", "dim")
    return Group(*parts, notes, ending)


def _heading(family: Family) -> Text:
    return Text.assemble((family.title, "bold"), "  ", (family.licence.name or "", "dim"))


def _members(known: Catalog, members: list[Model], widths: list[int]) -> RenderableType:
    table = Table.grid(padding=(0, 1, 0, 0))
    for style, width, justify in zip(("", "cyan", "", ""), widths, ("left", "left", "right", "right"), strict=True):
        table.add_column(style=style, width=width, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    table.add_column(style="yellow")
    for model in members:
        table.add_row(*map(Text, _cells(model)), Text(", ".join(_marks(known, model))))
    return Padding(table, (0, 0, 0, 2))


def _cells(model: Model) -> tuple[str, str, str, str]:
    return model.id, portrait.kind(model), portrait.amount(model.parameters), _length(model.context)


def _length(context: int | None) -> str:
    if context is None:
        return "?"
    return str(context) if context < LONG else f"{context // LONG}k"


def _marks(known: Catalog, model: Model) -> Iterator[str]:
    licence = known.licence(model)
    if model.network and model.network.refused:
        yield "not in vLLM"
    if licence.commercial is False:
        yield "non-commercial"
    if licence.name is None and model.hub:
        yield "licence unknown"
    if portrait.gated(known, model):
        yield "gated"
    if model.infill:
        yield "infill"


def _strengths(known: Catalog, chosen: list[Model]) -> Iterator[tuple[str, str]]:
    """Each kind of model among the chosen, and the tasks that it is good at."""
    kinds = {portrait.kind(model): model for model in chosen}
    for kind, model in kinds.items():
        if tasks := known.good_at(model):
            yield kind, ", ".join(tasks)


def _portrait(known: Catalog, model: Model) -> RenderableType:
    family = known.families[known.family_of[model.id]]
    subtitle = "  ".join(part for part in (family.title, portrait.kind(model), model.size) if part)
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    warnings = ("vLLM", "unknown")
    for label, text in portrait.rows(known, model):
        table.add_row(Text(label), Text(text, "yellow" if label in warnings else ""))
    return Group(Text.assemble((model.id, "bold"), "   ", (subtitle, "cyan")), Text(), table)
