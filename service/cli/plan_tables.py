"""Plans as a person reads them and as a program does."""

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.table import Table

from service.catalog.catalog import Catalog
from service.catalog.model import Model
from service.planner import memory
from service.planner.cost import Prices
from service.planner.memory import Demand
from service.planner.plan import MemoryRequirement, Row
from service.planner.quantization import GROUP, SCALE_BITS, ZERO_BITS
from service.planner.ranking import READABLE, RankedModel, RankingCriteria

WIDTH = 120  # columns where there is no terminal

BOUNDS = (
    "tokens/s are upper bounds, from the vendor's memory bandwidth and FLOPs: real engines stay below them. "
    "'alone' is one stream, 'each' one of all that are held, 'all' those together, 'prompt' tokens read."
)


def console() -> Console:
    """Where tables are printed; wide enough for them where nobody watches."""
    found = Console()
    return found if found.is_terminal else Console(width=max(found.width, WIDTH))


def print_plan(
    model: Model, needed: MemoryRequirement, rows: list[Row], demand: Demand, users: int | None, prices: Prices
) -> None:
    """The plan of one model: its needs, a row for each GPU and form, and what was assumed."""
    out = console()
    for line in _needs(model, needed, demand):
        out.print(line, highlight=False)
    table = Table("GPU", "as", box=None, header_style="bold", pad_edge=False)
    for column in ("GPUs", "weights", "other", "cache", "blocks", "holds", "alone", "each", "all", "prompt"):
        table.add_column(column, justify="right")
    priced = any(row.cost for row in rows)
    for column in ("own $/M", "API $/M", "even at") if priced else ():
        table.add_column(column, justify="right")
    table.add_column("why not", overflow="fold")
    for row in rows:
        table.add_row(*_cells(row, priced))
    out.print()
    out.print(table)
    out.print()
    for line in _assumptions(rows, demand, users, prices):
        out.print(line, style="dim", highlight=False)


def _needs(model: Model, needed: MemoryRequirement, demand: Demand) -> Iterable[str]:
    size = f"{needed.parameters / 1e9:.2f} B parameters" if needed.parameters else "parameters unknown"
    if needed.active:
        size += f" ({needed.active / 1e9:.2f} B for each token)"
    context = f"context {model.context:,}" if model.context else "context unknown"
    yield f"[bold]{model.id}[/bold]  {size}, {model.architecture or 'architecture unknown'}, {context}"
    weights = ", ".join(
        f"{form} {_gb(size)} GB" if size else f"{form} unknown" for form, size in needed.weights.items()
    )
    published = f"; published in {model.dtype}, {_gb(needed.published)} GB" if needed.published else ""
    yield f"weights   {weights}{published}"
    if needed.request is None:
        yield "KV cache  unknown"
    elif needed.request == 0:
        yield "KV cache  none: an encoder"
    else:
        yield (
            f"KV cache  {needed.token:,} bytes for a token in every layer, "
            f"{_gb(needed.request)} GB for a request of {demand.context:,} tokens"
        )
    if demand.adapters:
        size = "unknown" if needed.adapters is None else f"{_gb(needed.adapters)} GB on one GPU"
        yield (
            f"adapters  {size} for {demand.adapters} at once of rank {demand.adapter_rank} (max_loras, max_lora_rank), "
            "loaded or not; 'other' has it"
        )
    if needed.unknown:
        yield f"unknown   {', '.join(needed.unknown)}: what depends on them is left out, not guessed"
    for remark in needed.remarks:
        yield f"note      {remark}"


def _cells(row: Row, priced: bool) -> list[str]:
    fit, speed, cost = row.fit, row.speed, row.cost
    blocks = fit.blocks if fit else None
    form = "fp16" if row.form == "bf16" and not row.gpu.bf16 else row.form
    cells = [
        row.gpu.name,
        form,
        str(fit.degree) if fit else "",
        _gb(fit.weights) if fit else "",
        _gb(fit.overhead) if fit else "",
        _gb(fit.cache) if blocks and fit else "",
        f"{blocks.number:,}" if blocks else "",
        _count(blocks.requests) if blocks else "",
        *(_rate(getattr(speed, name, None)) for name in ("alone", "each", "together", "prefill")),
    ]
    if priced:
        cells += [
            f"{cost.own:.2f}" if cost else "",
            f"{cost.api:.2f}" if cost and cost.api is not None else "",
            _share(cost.break_even) if cost and cost.break_even is not None else "",
        ]
    return [*cells, row.why or ""]


def _assumptions(rows: list[Row], demand: Demand, users: int | None, prices: Prices) -> Iterable[str]:
    cached = "fp8" if demand.kv_bytes == 1 else "16-bit"
    yield (
        f"GB are 10^9 bytes on each GPU; 'other' is an estimate: {memory.RUNTIME_BYTES / 1e9:.2f} for the runtime, "
        f"{memory.GRAPH_BYTES / 1e9:.2f} for CUDA graphs, {memory.COMMUNICATION_BYTES / 1e9:.2f} for communication "
        "between several GPUs, and activations or logits of vLLM's largest batch. "
        f"gpu_memory_utilization {demand.utilization:g}. int4: groups of {GROUP} weights with {SCALE_BITS + ZERO_BITS} "
        "bits of scale and zero point; tables and output layer stay in 16 bits."
    )
    yield (
        f"'holds': requests of {demand.context:,} tokens each in a {cached} cache, counted as vLLM does: in blocks, "
        "and with the batches under way before a sliding window frees what is behind it."
        + (f" The GPUs are the fewest of a machine that hold {users}." if users else "")
    )
    yield BOUNDS
    if plain := sorted({row.gpu.name for row in rows if row.form == "fp8" and row.gpu.fp8 == "weights"}):
        yield f"fp8 on {', '.join(plain)} keeps weights in 8 bits and computes in 16."
    if any(row.cost for row in rows):
        answer = min(prices.answer, demand.context)
        yield (
            f"$/M: dollars for a million tokens written, with the prompts before them ({demand.context - answer:,} "
            f"tokens read for {answer:,} written), at your price of ${prices.gpu_hour:g} for a GPU and hour, always "
            "busy at the bound. 'even at': the share of that throughput from which on your own GPUs cost no more "
            "than the API."
        )


def print_ranking(required: RankingCriteria, models: list[RankedModel], catalog: Catalog) -> None:
    """The models that fit in their order, then those that do not, and why."""
    out = console()
    gpus = f"{required.gpu_count} x {required.gpu.name}"
    users = "one user" if required.users == 1 else f"{required.users} users"
    out.print(
        f"[bold]{required.subject}[/bold]: {' or '.join(required.task.suits)} models for {users} with "
        f"{required.context:,} tokens each, on {gpus}",
        highlight=False,
    )
    out.print()
    fitting = [one for one in models if one.grade != "unfit"]
    table = Table("", "model", "as", "engines", box=None, header_style="bold", pad_edge=False)
    for column in ("parameters", "active", "holds", "each"):
        table.add_column(column, justify="right")
    table.add_column("remarks", overflow="fold")
    for rank, one in enumerate(fitting, 1):
        table.add_row(*_ranking_cells(rank, one, catalog))
    out.print(table if fitting else "None fits.")
    out.print()
    if unfit := [one for one in models if one.grade == "unfit"]:
        others = Table("out of the question", "why", box=None, header_style="bold", pad_edge=False)
        for one in unfit:
            others.add_row(one.model.id, one.why)
        out.print(others)
        out.print()
    out.print(
        f"First those that hold every user at {READABLE:g} tokens/s or more for each, then those that are slower, then "
        "those that hold fewer; in each group the largest first, since size is all that the catalogue knows of "
        "quality. Each is shown in the most exact form that does as well. 'engines': how many, times the GPUs of each.",
        style="dim",
        highlight=False,
    )
    out.print(BOUNDS, style="dim", highlight=False)


def _ranking_cells(rank: int, one: RankedModel, catalog: Catalog) -> list[str]:
    assert one.fit is not None, "it fits"
    terms = catalog.licence(one.model)
    remarks = [one.why] if one.why else []
    if terms.commercial is False:
        remarks.append(f"not for commercial use ({terms.name})")
    elif terms.name is None and terms.note is None:
        remarks.append("licence unknown")
    return [
        str(rank) if one.grade == "meets" else "-",
        one.model.id,
        one.fit.form,
        f"{one.replicas} x {one.fit.degree}",
        _size(one.parameters or 0),
        _size(one.active) if one.active else "",
        f"{one.held:,}" if one.held is not None else "",
        _rate(one.speed.each if one.speed else None),
        "; ".join(remarks),
    ]


def row_record(row: Row) -> dict[str, Any]:
    """A row for a program: bytes, tokens per second, dollars."""
    fit, speed, cost = row.fit, row.speed, row.cost
    return {
        "gpu": row.gpu.name,
        "form": row.form,
        "in_the_way": row.why,
        "gpus": fit.degree if fit else None,
        "weight_bytes": fit.weights if fit else None,
        "overhead_bytes": fit.overhead if fit else None,
        "cache_bytes": fit.cache if fit else None,
        "blocks": fit.blocks.number if fit and fit.blocks else None,
        "requests": fit.blocks.requests if fit and fit.blocks else None,
        "tokens_per_second_at_most": vars(speed) if speed else None,
        "dollars_per_million": vars(cost) if cost else None,
    }


def ranking_record(one: RankedModel, catalog: Catalog) -> dict[str, Any]:
    """A ranked model for a program."""
    fit = one.fit
    return {
        "model": one.model.id,
        "grade": one.grade,
        "why": one.why,
        "parameters": one.parameters,
        "active": one.active,
        "form": fit.form if fit else None,
        "engines": one.replicas,
        "gpus_each": fit.degree if fit else None,
        "holds": one.held,
        "tokens_per_second_at_most": vars(one.speed) if one.speed else None,
        "licence": catalog.licence(one.model).model_dump(),
    }


def _gb(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 1e9:,.1f}" if size >= 5e7 else f"{size / 1e9:,.4f}"


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} B" if count >= 1e9 else f"{count / 1e6:.0f} M"


def _count(requests: float) -> str:
    return f"{int(requests):,}" if requests >= 1 else f"{requests:.2f}"


def _rate(rate: float | None) -> str:
    return "" if rate is None else f"{rate:,.0f}"


def _share(share: float) -> str:
    return f"{share:.0%}" if share <= 1 else "never"
