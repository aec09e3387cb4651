"""Results as Markdown tables and as data series for plots."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from bench.gpu.charts import chart
from bench.gpu.drawing import Picture
from bench.gpu.experiments import REFERENCE
from bench.gpu.results import Result

Rows = Iterator[Sequence[Any]]
WORKLOADS = ("short", "long", "shared")
RATIO_TARGET, TTFT_TARGET, BLOCKS_TARGET = 0.98, 2.0, 0.02
ENOUGH = 30  # requests for a median of times to be compared
BUSY = (32, 128, 256)  # the numbers of streams that the ratio's target is for


@dataclass(frozen=True)
class Table:
    """A table of what some of the measures gave: `rows` makes its rows from one result."""

    title: str
    measures: tuple[str, ...]
    head: tuple[str, ...]
    rows: Callable[[Result], Rows]


def _starts(one: Result) -> Rows:
    for engine in one.figures["engines"]:
        found, planned, given = engine["kv_blocks"], engine["planned_kv_blocks"], engine["kv_blocks_for_its_bytes"]
        used, before = one.figures["memory_bytes"], one.figures["memory_before_bytes"] or 0
        yield (one.setup, engine["model"], engine["form"], engine["context"], one.figures["ready_s"],
               engine["first_token_ms"], used and round((used - before) / 1e9, 1), found, planned,
               _deviation(planned, found), _deviation(given, found))  # fmt: skip


def _loads(one: Result) -> Rows:
    for row in one.figures["loads"]:
        for via in ("direct", "service"):
            of = row[via]
            yield (one.setup, one.measure, row["streams"], via, of["requests"], of["tokens_per_s"],
                   *of["ttft_ms"].values(), *of["itl_ms"].values(), row["ratio"] if via == "service" else None,
                   row["gateway_cpu_s_per_million"] if via == "service" else None)  # fmt: skip


def _theirs(one: Result) -> Rows:
    for row in one.figures["loads"]:
        times = [*row["ttft_ms"].values(), *row["itl_ms"].values()] if "ttft_ms" in row else [None] * 6
        yield one.setup, row["streams"], row["via"], row.get("tokens_per_s", row.get("error")), *times


def _batching(one: Result) -> Rows:
    of = one.figures
    yield (one.setup, of["streams"], of["one_at_a_time"]["tokens_per_s"], of["together"]["tokens_per_s"], of["gain"])


def _prefix(one: Result) -> Rows:
    of = one.figures
    yield (one.setup, _on(of["enabled"]), of["streams"], of["load"]["tokens_per_s"], *of["load"]["ttft_ms"].values())


def _chunked(one: Result) -> Rows:
    of = one.figures
    yield one.setup, _on(of["enabled"]), *of["short"]["itl_ms"].values(), of["long"]["ttft_ms"]["p50"]


def _bounds(one: Result) -> Rows:
    for row in one.figures["decode"]:
        yield one.setup, f"decode, streams: {row['streams']}", row["tokens_per_s"], row["bound"], row["share"]
    of = one.figures["prefill"]
    yield one.setup, f"prefill, {of['prompt']} tokens", of["tokens_per_s"], of["bound"], of["share"]


def _split(one: Result) -> Rows:
    of = one.figures
    for model, alone, together in zip(of["models"], of["alone"], of["together"], strict=True):
        yield (one.setup, model, of["streams"], alone["tokens_per_s"], together["tokens_per_s"], of["switch_ttft_ms"])


def _sleep(one: Result) -> Rows:
    for row in one.figures["switches"]:
        whole = row["sleep_s"] + row["wake_s"] + row["first_token_ms"] / 1000
        yield (
            one.setup,
            row["to"],
            row["level"],
            row["sleep_s"],
            row["woken_from"],
            row["wake_s"],
            row["first_token_ms"],
            round(whole, 3),
        )


def _restart(one: Result) -> Rows:
    of = one.figures
    yield one.setup, of["model"], of["stop_s"], of["start_s"], of["first_token_ms"], of["back_s"]


PERCENTILES = ("TTFT p50", "p95", "p99", "ITL p50", "p95", "p99")
TABLES = (
    Table("Starts, memory and KV cache", ("start",),
          ("setup", "model", "weights", "context", "ready, s", "first token, ms", "memory, GB", "KV blocks",
           "planned", "planned against vLLM's", "the same for vLLM's own bytes"), _starts),
    Table("Loads, direct to vLLM and through the service (times in ms)", WORKLOADS,
          ("setup", "workload", "streams", "via", "requests", "tokens/s", *PERCENTILES, "ratio",
           "gateway CPU s per million tokens"), _loads),
    Table("The short chat by vLLM's own `bench serve` (times in ms)", ("vllm-bench",),
          ("setup", "streams", "via", "tokens/s", *PERCENTILES), _theirs),
    Table("Continuous batching against one at a time (tokens/s)", ("batching",),
          ("setup", "streams", "one at a time", "together", "gain"), _batching),
    Table("Prefix cache, prompts with a common beginning", ("prefix",),
          ("setup", "prefix cache", "streams", "tokens/s", "TTFT p50, ms", "p95", "p99"), _prefix),
    Table("Chunked prefill: streams being written while long prompts arrive", ("chunked",),
          ("setup", "chunked prefill", "ITL p50, ms", "p95", "p99", "TTFT p50 of the long prompts, ms"), _chunked),
    Table("Rates against bounds (tokens/s)", ("bounds",),
          ("setup", "what", "measured", "bound", "share of it"), _bounds),
    Table("Two models on one card, memory split", ("split",),
          ("setup", "model", "streams each", "tokens/s alone", "tokens/s at the same time", "TTFT p50 in turns, ms"),
          _split),
    Table("Two models on one card, taking turns by sleep and wake", ("sleep",),
          ("setup", "switch to", "sleep level", "sleep, s", "woken from level", "wake, s", "first token, ms",
           "together, s"), _sleep),
    Table("One model stopped and started again", ("restart",),
          ("setup", "model", "stop, s", "start, s", "first token, ms", "until it is back, s"), _restart),
)  # fmt: skip


def markdown(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table; what is None is a dash."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines) + "\n"


def targets(found: Sequence[Result]) -> str:
    """The targets that were set for an H200, and what was measured on this card."""
    rows: list[Sequence[Any]] = []
    short = next((one for one in found if one.experiment == f"{REFERENCE}/short" and one.figures), None)
    for row in short.figures["loads"] if short else ():
        if row["streams"] in BUSY:
            rows.append((f"tokens/s through the service, streams: {row['streams']}", f"≥ {RATIO_TARGET} of direct",
                         row["ratio"], _verdict(row["ratio"] >= RATIO_TARGET)))  # fmt: skip
        added = round(row["service"]["ttft_ms"]["p50"] - row["direct"]["ttft_ms"]["p50"], 2)
        requests = min(row[via]["requests"] for via in ("direct", "service"))
        verdict = _verdict(added <= TTFT_TARGET) if requests >= ENOUGH else f"too few requests: {requests}"
        rows.append((f"TTFT p50 added, streams: {row['streams']}", f"≤ {TTFT_TARGET:g} ms", added, verdict))
    if not short:
        rows.append(
            (f"service against direct, {REFERENCE}", f"≥ {RATIO_TARGET}, ≤ {TTFT_TARGET:g} ms", None, "not measured")
        )
    for one in found:
        for engine in one.figures.get("engines", ()) if one.measure == "start" else ():
            ours, theirs = engine["planned_kv_blocks"], engine["kv_blocks"]
            met = _verdict(abs(ours / theirs - 1) <= BLOCKS_TARGET) if ours and theirs else "not known"
            rows.append((f"planned KV blocks, {one.setup}: {engine['model']}", f"± {BLOCKS_TARGET:.0%}",
                         _deviation(ours, theirs), met))  # fmt: skip
    return markdown(("target", "wanted", "measured", ""), rows)


def plots(found: Sequence[Result]) -> Mapping[str, Picture]:
    """Plots by file name, of what there is."""
    drawn: dict[str, Picture] = {}
    by_name = {one.experiment: one for one in found if one.outcome == "measured"}
    for one in found:
        if one.outcome == "measured" and one.measure in WORKLOADS:
            rows = one.figures["loads"]
            streams, name = [str(row["streams"]) for row in rows], f"{one.setup}-{one.measure}"
            vias = ("direct", "service")
            rates = {via: [row[via]["tokens_per_s"] for row in rows] for via in vias}
            times = {via: [row[via]["ttft_ms"]["p50"] for row in rows] for via in vias}
            title = f"{one.setup}, {one.measure}"
            drawn[f"{name}-tokens"] = chart("lines", title, "streams", "tokens/s", streams, rates)
            drawn[f"{name}-ttft"] = chart("lines", title, "streams", "TTFT p50, ms", streams, times)
    starts = [engine for one in by_name.values() if one.measure == "start" for engine in one.figures["engines"]]
    if cached := [one for one in starts if one["kv_blocks"] and one["planned_kv_blocks"]]:
        series = {"vLLM": [one["kv_blocks"] for one in cached], "planned": [one["planned_kv_blocks"] for one in cached]}
        names = [f"{one['model']} {one['form']}" for one in cached]
        drawn["kv-blocks"] = chart("bars", "KV cache", "", "blocks", names, series)
    return MappingProxyType(drawn)


def _deviation(ours: int | None, theirs: int | None) -> str | None:
    return f"{ours / theirs - 1:+.1%}" if ours and theirs else None


def _verdict(met: bool) -> str:
    return "met" if met else "missed"


def _on(enabled: bool) -> str:
    return "on" if enabled else "off"


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float) or (isinstance(value, int) and value >= 10_000):
        return f"{value:,}"
    return str(value).replace("|", "\\|").replace("\n", " ")
