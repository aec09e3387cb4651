"""Commands before anything runs: what a model needs, and which models fit."""

import json
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click

from service.catalog.catalog import Catalog
from service.catalog.model import Model
from service.cli import plan_tables
from service.cli.configured import refused, settings_and_catalog
from service.config.paths import ROOT
from service.planner import gpus, ranking, wish
from service.planner import quantization as quantizations
from service.planner.cost import ANSWER, Prices
from service.planner.memory import UTILIZATION, Demand
from service.planner.plan import need, plan
from service.planner.wish import FORMS

GPUS = ROOT / "deploy/gpus.yaml"


@click.command(name="plan")
@click.argument("name", metavar="[MODEL]", required=False)
@click.option("--for", "wanted", metavar="WISH", help=f'Rank the catalogue instead, as in "{wish.EXAMPLES[0]}".')
@click.option("--gpu", "names", multiple=True, help="Only this GPU; may be given several times.")
@click.option("--context", type=click.IntRange(1), help="Tokens of a request, if not all that vLLM opens with.")
@click.option("--tensor-parallel", type=click.IntRange(1), help="GPUs to divide the model among, if not the fewest.")
@click.option("--quantization", type=click.Choice(list(FORMS)), help="Only this form of the weights.")
@click.option("--kv-cache-dtype", type=click.Choice(["auto", "fp8"]), default="auto", show_default=True)
@click.option(
    "--gpu-memory-utilization", "utilization", type=click.FloatRange(0, 1, min_open=True), default=UTILIZATION,
    show_default=True, help="As the engine's setting of that name.",
)  # fmt: skip
@click.option("--users", type=click.IntRange(1), help="Requests at the same time that must fit.")
@click.option("--price", type=click.FloatRange(0), help="Dollars that one GPU costs you in an hour.")
@click.option("--api-price", type=click.FloatRange(0), help="Dollars that an API takes for a million tokens it writes.")
@click.option("--api-input-price", type=click.FloatRange(0), help="Dollars for a million tokens that it reads.")
@click.option(
    "--answer", type=click.IntRange(1), default=ANSWER, show_default=True, help="Tokens of a request written."
)
@click.option("--gpus", "file", type=click.Path(path_type=Path), default=GPUS, help="Another table of GPUs.")
@click.option("--json", "as_json", is_flag=True, help="For a program.")
def plan_command(name: str | None, wanted: str | None, file: Path, as_json: bool, **options: Any) -> None:
    """Say what MODEL needs, how many requests fit, how fast it can be and what it costs, before anything runs."""
    _, catalog = settings_and_catalog()
    with refused():
        known = gpus.load(file)
    if (name is None) == (wanted is None):
        raise click.UsageError("give a MODEL, or what you want with --for")
    if wanted is not None:
        _rank(wanted, catalog, known, as_json)
    else:
        _plan(_model(name or "", catalog), known, as_json, **options)


def _rank(text: str, catalog: Catalog, known: dict[str, gpus.Gpu], as_json: bool) -> None:
    try:
        asked = wish.read(text, catalog.tasks, known)
    except wish.WishError as error:
        examples = "".join(f'\n  roundhouse plan --for "{example}"' for example in wish.EXAMPLES)
        raise click.UsageError("\n".join(error.problems) + f"\nexamples:{examples}") from None
    choices = ranking.rank(asked, catalog)
    if as_json:
        click.echo(json.dumps([plan_tables.choice_record(choice, catalog) for choice in choices], indent=2))
    else:
        plan_tables.print_ranking(asked, choices, catalog)


def _plan(
    model: Model,
    known: dict[str, gpus.Gpu],
    as_json: bool,
    *,
    names: tuple[str, ...],
    context: int | None,
    tensor_parallel: int | None,
    quantization: str | None,
    kv_cache_dtype: str,
    utilization: float,
    users: int | None,
    price: float | None,
    api_price: float | None,
    api_input_price: float | None,
    answer: int,
) -> None:
    if api_price is not None and price is None:
        raise click.UsageError("--api-price is compared with --price: give both")
    demand = Demand(_context(model, context), 1 if kv_cache_dtype == "fp8" else 2, utilization)
    prices = Prices(price, api_price, api_input_price, answer)
    forms = [FORMS[quantization]] if quantization else None
    if forms and forms[0] not in quantizations.forms(model):
        raise click.UsageError(f"the weights of {model.id} come as {', '.join(quantizations.forms(model))} only")
    cards = [_gpu(one, known) for one in names] or list(known.values())
    rows = plan(model, cards, demand, forms, degree=tensor_parallel, users=users, prices=prices)
    needed = need(model, demand)
    if as_json:
        record = {"model": model.id, "context": demand.context, "need": vars(needed)}
        click.echo(json.dumps(record | {"rows": [plan_tables.row_record(row) for row in rows]}, indent=2))
    else:
        plan_tables.print_plan(model, needed, rows, demand, users, prices)


def _model(name: str, catalog: Catalog) -> Model:
    found = catalog.find(name)
    if found is None:
        near = get_close_matches(name.lower(), catalog.models, n=3)
        hint = f" Did you mean {', '.join(near)}?" if near else ""
        raise click.UsageError(f"the catalogue has no model '{name}'.{hint}")
    return found


def _gpu(name: str, known: dict[str, gpus.Gpu]) -> gpus.Gpu:
    found = gpus.find(name, known)
    if found is None:
        raise click.UsageError(f"no GPU '{name}' is known; known are {', '.join(known)}")
    return found


def _context(model: Model, asked: int | None) -> int:
    """The tokens of a request: what was asked for, within what the model can."""
    longest = max(model.context or 0, model.longest or 0)
    if asked and longest and asked > longest:
        raise click.UsageError(f"{model.id} takes {longest:,} tokens at most, not {asked:,}")
    context = asked or model.opening_context
    if context is None:
        raise click.UsageError(f"the context of {model.id} is unknown: give --context")
    return context


COMMANDS = (plan_command,)
