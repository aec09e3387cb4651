"""Commands before anything runs: what a model needs, and which models fit."""

import json
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

import click
from click.core import ParameterSource

from service.catalog.catalog import Catalog
from service.catalog.model import Model, Task
from service.catalog.names import Variant
from service.cli import plan_tables
from service.cli.configured import refused, settings_and_catalog
from service.config.paths import ROOT
from service.fleet.adapters import RANKS
from service.planner import gpus, ranking
from service.planner import quantization as quantizations
from service.planner.cost import ANSWER, Prices
from service.planner.gpus import Gpu
from service.planner.memory import UTILIZATION, Demand
from service.planner.plan import memory_requirement, plan
from service.planner.quantization import FORMATS
from service.planner.ranking import RankingCriteria

GPUS = ROOT / "deploy/gpus.yaml"
EXAMPLE = "roundhouse plan --variant chat --context 8192 --users 50 --gpu H100"
# The options that go with a MODEL only, and those that only rank the catalogue.
OF_MODEL = (
    "tensor_parallel", "kv_cache_dtype", "gpu_memory_utilization", "price", "api_price", "api_input_price", "answer",
    "adapters", "adapter_rank",
)  # fmt: skip
OF_RANKING = ("task", "variant", "gpu_count", "commercial")


@click.command(name="plan")
@click.argument("name", metavar="[MODEL]", required=False)
@click.option("--task", metavar="NAME", help="Rank the models for this task of the catalogue.")
@click.option("--variant", type=click.Choice(get_args(Variant)), help="Rank the models for what this variant does.")
@click.option("--gpu", "gpu_names", multiple=True, metavar="NAME", help="Only this GPU; with MODEL also several times.")
@click.option("--gpu-count", type=click.IntRange(1), default=1, help="How many of that GPU there are, if not one.")
@click.option("--context", type=click.IntRange(1), help="Tokens of a request.")
@click.option("--users", type=click.IntRange(1), help="Requests at the same time that must fit.")
@click.option("--quantization", type=click.Choice(list(FORMATS)), help="Only this form of the weights.")
@click.option("--commercial", is_flag=True, help="Only models whose licence is known to allow commercial use.")
@click.option("--tensor-parallel", type=click.IntRange(1), help="GPUs to divide the model among, if not the fewest.")
@click.option("--kv-cache-dtype", type=click.Choice(["auto", "fp8"]), default="auto", show_default=True)
@click.option(
    "--gpu-memory-utilization", type=click.FloatRange(0, 1, min_open=True), default=UTILIZATION,
    show_default=True, help="As the engine's setting of that name.",
)  # fmt: skip
@click.option("--price", type=click.FloatRange(0), help="Dollars that one GPU costs you in an hour.")
@click.option("--api-price", type=click.FloatRange(0), help="Dollars that an API takes for a million tokens it writes.")
@click.option("--api-input-price", type=click.FloatRange(0), help="Dollars for a million tokens that it reads.")
@click.option(
    "--answer", type=click.IntRange(1), default=ANSWER, show_default=True, help="Tokens of a request written."
)
@click.option("--adapters", type=click.IntRange(0), default=0, help="LoRA adapters at once, as the engine's max_loras.")
@click.option(
    "--adapter-rank", type=click.Choice(list(map(str, RANKS))), default="16", show_default=True,
    help="The highest rank of an adapter, as the engine's max_lora_rank.",
)  # fmt: skip
@click.option("--gpus", "file", type=click.Path(path_type=Path), default=GPUS, help="Another table of GPUs.")
@click.option("--json", "as_json", is_flag=True, help="For a program.")
@click.pass_context
def plan_command(given: click.Context, /, name: str | None, file: Path, as_json: bool, **options: Any) -> None:
    """Say what MODEL needs, how many requests fit, how fast it can be and what it costs, before anything runs.

    Without MODEL, rank the models of the catalogue that suit a task or variant on a GPU.
    """
    _, catalog = settings_and_catalog()
    with refused():
        known = gpus.load(file)
    if name is None:
        _refuse(given, OF_MODEL, "plans a single model: give a MODEL")
        _rank(catalog, known, as_json, **_without(options, OF_MODEL))
    else:
        _refuse(given, OF_RANKING, "ranks the catalogue: leave out MODEL")
        _plan(find_model(name, catalog), known, as_json, **_without(options, OF_RANKING))


def _refuse(given: click.Context, names: tuple[str, ...], why: str) -> None:
    """Ends the command where one of these options was given."""
    for name in names:
        if given.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--{name.replace('_', '-')} {why}")


def _without(options: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in names}


def _rank(
    catalog: Catalog,
    known: dict[str, Gpu],
    as_json: bool,
    *,
    task: str | None,
    variant: Variant | None,
    gpu_names: tuple[str, ...],
    gpu_count: int,
    context: int | None,
    users: int | None,
    quantization: str | None,
    commercial: bool,
) -> None:
    wanted = _task(task, variant, catalog)
    if len(gpu_names) != 1:
        raise click.UsageError(f"rank the models on one GPU: give --gpu once; known are {', '.join(known)}")
    required = RankingCriteria(
        subject=task or variant or "",
        task=wanted,
        gpu=find_gpu(gpu_names[0], known),
        gpu_count=gpu_count,
        context=context or RankingCriteria.context,
        users=users or RankingCriteria.users,
        form=FORMATS[quantization] if quantization else None,
        commercial=commercial,
    )
    models = ranking.rank(required, catalog)
    if as_json:
        click.echo(json.dumps([plan_tables.ranking_record(one, catalog) for one in models], indent=2))
    else:
        plan_tables.print_ranking(required, models, catalog)


def _task(name: str | None, variant: Variant | None, catalog: Catalog) -> Task:
    """The task that is asked for, by its own name or by that of a variant."""
    if name and variant:
        raise click.UsageError("give --task or --variant, not both")
    if variant:
        return ranking.task_of(variant)
    tasks = ", ".join(catalog.tasks)
    if name is None:
        raise click.UsageError(
            f"give a MODEL; or, to rank the catalogue, a --variant ({', '.join(get_args(Variant))}) or a --task "
            f"({tasks}), as in\n  {EXAMPLE}"
        )
    if name not in catalog.tasks:
        raise click.UsageError(f"there is no task '{name}'; tasks are {tasks}")
    return catalog.tasks[name]


def _plan(
    model: Model,
    known: dict[str, Gpu],
    as_json: bool,
    *,
    gpu_names: tuple[str, ...],
    context: int | None,
    tensor_parallel: int | None,
    quantization: str | None,
    kv_cache_dtype: str,
    gpu_memory_utilization: float,
    users: int | None,
    price: float | None,
    api_price: float | None,
    api_input_price: float | None,
    answer: int,
    adapters: int,
    adapter_rank: str,
) -> None:
    if api_price is not None and price is None:
        raise click.UsageError("--api-price is compared with --price: give both")
    kv_bytes = 1 if kv_cache_dtype == "fp8" else 2
    demand = Demand(_context(model, context), kv_bytes, gpu_memory_utilization, adapters, int(adapter_rank))
    prices = Prices(price, api_price, api_input_price, answer)
    forms = [FORMATS[quantization]] if quantization else None
    if forms and forms[0] not in quantizations.forms(model):
        raise click.UsageError(f"the weights of {model.id} come as {', '.join(quantizations.forms(model))} only")
    chosen = [find_gpu(one, known) for one in gpu_names] or list(known.values())
    rows = plan(model, chosen, demand, forms, degree=tensor_parallel, users=users, prices=prices)
    needed = memory_requirement(model, demand)
    if as_json:
        record = {"model": model.id, "context": demand.context, "need": vars(needed)}
        click.echo(json.dumps(record | {"rows": [plan_tables.row_record(row) for row in rows]}, indent=2))
    else:
        plan_tables.print_plan(model, needed, rows, demand, users, prices)


def find_model(name: str, catalog: Catalog) -> Model:
    """The model of this id, hub id or name; ends the command where there is none."""
    found = catalog.find(name)
    if found is None:
        near = get_close_matches(name.lower(), catalog.models, n=3)
        hint = f" Did you mean {', '.join(near)}?" if near else ""
        raise click.UsageError(f"the catalogue has no model '{name}'.{hint}")
    return found


def find_gpu(name: str, known: dict[str, Gpu]) -> Gpu:
    """The GPU of this name; ends the command where there is none."""
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
