"""`roundhouse prove`: the catalogue's models in small, on the real engine."""

import asyncio
import json
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import click
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from service.catalog.catalog import Catalog
from service.cli.configured import settings_and_catalog
from service.config.settings import Settings
from service.conformance import run
from service.conformance.cases import Case, Unproven, cases
from service.conformance.run import ProofError, Verdict
from service.gateway.prerequisites import wrong_platform

# One core and one gibibyte for each engine, as in the embedded fleet; a GPU build ignores all of it.
ENVIRONMENT = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
CAPTION = "weights and KV blocks: the planner's count beside the file's and the engine's own"
COLOURS = {"equal": "green", "different": "red", "refused": "yellow"}


@click.command()
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option("--at-once", default=1, show_default=True, help="Engines that run at the same time.")
@click.option("--keep", type=click.Path(path_type=Path), help="Folder for the small weights and the engines' logs.")
@click.option("--list", "only_list", is_flag=True, help="Show what would be proven, and run nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the verdicts as JSON.")
def prove(models: tuple[str, ...], at_once: int, keep: Path | None, only_list: bool, as_json: bool) -> None:
    """Run the structure of each MODEL (all of the catalogue if none is named) in small on the real engine.

    For each structure a network with random weights is made; the engine starts on it with the settings a fleet would
    give, and must produce the same tokens as transformers does. Exits with 1 if one of them differs.
    """
    settings, known = settings_and_catalog()
    found, unproven = cases(known, [_id(known, name) for name in models] or None)
    if only_list:
        _print_list(found, unproven)
        return
    if wrong := wrong_platform(sys.platform, "Proving"):
        raise click.ClickException(wrong)
    with ExitStack() as stack:
        folder = keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="roundhouse-prove-")))
        if keep:
            _take(keep)
        try:
            verdicts = asyncio.run(_run(found, folder, settings, at_once, quiet=as_json))
            unproven = asyncio.run(_asked(known, unproven, folder, settings))
        except ProofError as error:
            raise click.ClickException(str(error)) from None
    if as_json:
        rows = [_row(case, one) for case, one in zip(found, verdicts, strict=True)]
        rows += [{"model": one.model, "outcome": "not run", "detail": one.why} for one in unproven]
        click.echo(json.dumps(rows, indent=2))
    else:
        _print(found, verdicts, unproven)
    if any(one.outcome == "different" for one in verdicts):
        raise SystemExit(1)


def _id(known: Catalog, name: str) -> str:
    model = known.find(name)
    if model is None:
        raise click.ClickException(f"'{name}' is not in the catalogue; `roundhouse list` shows what is")
    return model.id


def _take(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise click.ClickException(f"{folder} is not empty; name a new folder")


async def _run(found: list[Case], folder: Path, settings: Settings, at_once: int, quiet: bool) -> list[Verdict]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=quiet) as progress:
        building = progress.add_task("building in small", total=len(found))
        requests = {case.name: run.scaled_down(case) for case in found}
        await run.build(requests, folder, lambda _: progress.advance(building))
        proving = progress.add_task("proving", total=len(found))
        room = asyncio.Semaphore(at_once)

        async def one(case: Case) -> Verdict:
            async with room:
                progress.update(proving, description=f"proving {case.name}")
                verdict = await run.run(case, folder, ENVIRONMENT, settings)
                progress.console.print(f"{case.name}: {verdict.outcome} {verdict.detail}".rstrip(), markup=False)
                progress.advance(proving)
                return verdict

        return list(await asyncio.gather(*(one(case) for case in found)))


async def _asked(known: Catalog, unproven: list[Unproven], folder: Path, settings: Settings) -> list[Unproven]:
    """The models that have no case, with the engine's own words for those whose class it has no more."""
    said = []
    for one in unproven:
        model = known.models[one.model]
        if model.network and model.network.removed:
            one = Unproven(one.model, await run.refusal(model, folder, ENVIRONMENT, settings))
        said.append(one)
    return said


def _print_list(found: list[Case], unproven: list[Unproven]) -> None:
    table = Table("made from", "architecture", "stands for", box=SIMPLE)
    table.columns[0].no_wrap = True
    for case in found:
        table.add_row(case.name, case.model.architecture, ", ".join(case.models))
    Console().print(table)
    _print_unproven(unproven)


def _print(found: list[Case], verdicts: list[Verdict], unproven: list[Unproven]) -> None:
    table = Table(
        "structure of", "models", "answers", "weights", "KV blocks", "what it said", box=SIMPLE, caption=CAPTION
    )
    table.columns[0].no_wrap = True
    for case, one in zip(found, verdicts, strict=True):
        colour = COLOURS[one.outcome]
        weights, blocks = _planned(case, one)
        table.add_row(
            case.name, str(len(case.models)), f"[{colour}]{one.outcome}[/]", _ratio(weights, one.weight_bytes),
            _ratio(blocks, one.blocks), escape(one.detail),
        )  # fmt: skip
    Console().print(table)
    _print_unproven(unproven)
    equal = sum(one.outcome == "equal" for one in verdicts)
    click.echo(f"\n{equal} of {len(verdicts)} structures give the same tokens as transformers.")


def _planned(case: Case, one: Verdict) -> tuple[int | None, int | None]:
    """Bytes of weights and blocks of the KV cache as the planner counts them."""
    count, cache = case.scaled_down().parameters, run.planned(case.scaled_down(), one)
    return count and count * run.NUMBER, cache.number if cache else None


def _ratio(planned: int | None, found: int | None) -> str:
    return f"{planned / found - 1:+.1%}" if planned and found else "-"


def _row(case: Case, one: Verdict) -> dict[str, object]:
    weights, blocks = _planned(case, one)
    return {
        "model": case.name, "stands_for": case.models, "architecture": case.model.architecture,
        "outcome": one.outcome, "detail": one.detail, "weight_bytes": one.weight_bytes, "planned_weight_bytes": weights,
        "kv_blocks": one.blocks, "planned_kv_blocks": blocks, "block_size": one.block_size,
    }  # fmt: skip


def _print_unproven(unproven: list[Unproven]) -> None:
    if unproven:
        click.echo("Not run:")
    for one in unproven:
        click.echo(f"  {one.model}: {one.why}")


COMMANDS = (prove,)
