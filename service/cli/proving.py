"""`roundhouse prove`: runs the conformance cases of the catalogue on the real engine."""

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
from service.conformance.cases import Case, Skipped, cases
from service.conformance.run import ConformanceError, Verdict
from service.gateway.prerequisites import wrong_platform

# For vLLM's CPU build: one core and one GiB of KV cache per engine, as in the default fleet. A GPU build ignores it.
ENVIRONMENT = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
CAPTION = "weights, KV blocks: deviation of the planner's figure"
COLOURS = {"equal": "green", "different": "red", "refused": "yellow"}


@click.command()
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option("--at-once", default=1, show_default=True, help="Number of engines to run at a time.")
@click.option("--keep", type=click.Path(path_type=Path), help="Keep the scaled-down weights in this folder.")
@click.option("--list", "only_list", is_flag=True, help="List the cases, but run nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
def prove(models: tuple[str, ...], at_once: int, keep: Path | None, only_list: bool, as_json: bool) -> None:
    """Check that the engine computes the network structure of each MODEL (default: the whole catalogue) correctly.

    For each structure, the engine is started on a scaled-down network with random weights, with the settings that a
    fleet would use, and its output is compared with that of transformers. Exits with 1 if they differ.
    """
    settings, catalog = settings_and_catalog()
    found, skipped = cases(catalog, [_id(catalog, name) for name in models] or None)
    if only_list:
        _print_list(found, skipped)
        return
    if wrong := wrong_platform(sys.platform, "Proving"):
        raise click.ClickException(wrong)
    with ExitStack() as stack:
        folder = keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="roundhouse-prove-")))
        if keep:
            _create_empty(keep)
        try:
            verdicts = asyncio.run(_run(found, folder, settings, at_once, quiet=as_json))
            skipped = asyncio.run(_with_engine_errors(catalog, skipped, folder, settings))
        except ConformanceError as error:
            raise click.ClickException(str(error)) from None
    if as_json:
        rows = [_row(case, verdict) for case, verdict in zip(found, verdicts, strict=True)]
        rows += [{"model": model.model, "outcome": "not run", "detail": model.why} for model in skipped]
        click.echo(json.dumps(rows, indent=2))
    else:
        _print(found, verdicts, skipped)
    if any(verdict.outcome == "different" for verdict in verdicts):
        raise SystemExit(1)


def _id(catalog: Catalog, name: str) -> str:
    model = catalog.find(name)
    if model is None:
        raise click.ClickException(f"the catalogue has no model '{name}'. 'roundhouse list' shows all models.")
    return model.id


def _create_empty(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise click.ClickException(f"{folder} is not empty; give a new folder")


async def _run(found: list[Case], folder: Path, settings: Settings, at_once: int, quiet: bool) -> list[Verdict]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=quiet) as progress:
        building = progress.add_task("computing the reference output", total=len(found))
        requests = {case.name: run.scaled_down_request(case) for case in found}
        await run.build_references(requests, folder, lambda _: progress.advance(building))
        proving = progress.add_task("running the engine", total=len(found))
        engines = asyncio.Semaphore(at_once)

        async def run_case(case: Case) -> Verdict:
            async with engines:
                progress.update(proving, description=f"running the engine on {case.name}")
                verdict = await run.run(case, folder, ENVIRONMENT, settings)
                progress.console.print(f"{case.name}: {verdict.outcome} {verdict.detail}".rstrip(), markup=False)
                progress.advance(proving)
                return verdict

        return list(await asyncio.gather(*(run_case(case) for case in found)))


async def _with_engine_errors(
    catalog: Catalog, skipped: list[Skipped], folder: Path, settings: Settings
) -> list[Skipped]:
    """The skipped models, with the engine's own error as the reason for those whose class vLLM has removed."""
    result = []
    for entry in skipped:
        model = catalog.models[entry.model]
        if model.network and model.network.removed:
            entry = Skipped(entry.model, await run.removal_reason(model, folder, ENVIRONMENT, settings))
        result.append(entry)
    return result


def _print_list(found: list[Case], skipped: list[Skipped]) -> None:
    table = Table("structure of", "architecture", "covers", box=SIMPLE)
    table.columns[0].no_wrap = True
    for case in found:
        table.add_row(case.name, case.model.architecture, ", ".join(case.models))
    Console().print(table)
    _print_skipped(skipped)


def _print(found: list[Case], verdicts: list[Verdict], skipped: list[Skipped]) -> None:
    table = Table("structure of", "models", "output", "weights", "KV blocks", "detail", box=SIMPLE, caption=CAPTION)
    table.columns[0].no_wrap = True
    for case, verdict in zip(found, verdicts, strict=True):
        colour = COLOURS[verdict.outcome]
        weights, blocks = _planned(case, verdict)
        table.add_row(
            case.name, str(len(case.models)), f"[{colour}]{verdict.outcome}[/]", _ratio(weights, verdict.weight_bytes),
            _ratio(blocks, verdict.blocks), escape(verdict.detail),
        )  # fmt: skip
    Console().print(table)
    _print_skipped(skipped)
    equal = sum(verdict.outcome == "equal" for verdict in verdicts)
    click.echo(f"\n{equal} of {len(verdicts)} structures give the same output as transformers.")


def _planned(case: Case, verdict: Verdict) -> tuple[int | None, int | None]:
    """Bytes of weights and KV cache blocks as the planner computes them."""
    count, cache = case.scaled_down().parameters, run.planned_blocks(case.scaled_down(), verdict)
    return count and count * run.FLOAT32_BYTES, cache.number if cache else None


def _ratio(planned: int | None, found: int | None) -> str:
    return f"{planned / found - 1:+.1%}" if planned and found else "-"


def _row(case: Case, verdict: Verdict) -> dict[str, object]:
    weights, blocks = _planned(case, verdict)
    return {
        "model": case.name, "stands_for": case.models, "architecture": case.model.architecture,
        "outcome": verdict.outcome, "detail": verdict.detail,
        "weight_bytes": verdict.weight_bytes, "planned_weight_bytes": weights,
        "kv_blocks": verdict.blocks, "planned_kv_blocks": blocks, "block_size": verdict.block_size,
    }  # fmt: skip


def _print_skipped(skipped: list[Skipped]) -> None:
    if skipped:
        click.echo("Not run:")
    for entry in skipped:
        click.echo(f"  {entry.model}: {entry.why}")


COMMANDS = (prove,)
