"""The figures of all peers as one table, and ours relative to each rival's with its spread over the rounds."""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

Found = dict[str, dict[str, Any]]
COLUMNS: tuple[tuple[str, Callable[[Found, Found], Any], str], ...] = (
    ("CPU µs a request, 32 at once", lambda own, _: _used(own["whole"], "request_us"), ".0f"),
    ("requests/s", lambda own, _: own["whole"]["requests_per_s"], ".0f"),
    ("p50 added at 1, ms", lambda own, direct: _added(own, direct, "one", "latency_ms", "p50"), ".2f"),
    ("CPU µs a chunk, 64 streams without pause", lambda own, _: _used(own["streams"], "token_us"), ".1f"),
    ("chunks a read", lambda own, _: own["streams"]["tokens_per_read"], ".1f"),
    ("CPU µs a chunk, 200 streams paced", lambda own, _: _used(own["paced"], "token_us"), ".1f"),
    ("chunks/s of theirs", lambda own, _: own["paced"]["tokens_per_s"], ".0f"),
    ("TTFT p50 added, ms", lambda own, direct: _added(own, direct, "paced", "first_ms", "p50"), ".1f"),
    ("TTFT p99 added, ms", lambda own, direct: _added(own, direct, "paced", "first_ms", "p99"), ".1f"),
    ("RSS of its largest process, MB", lambda own, _: _used(own["paced"], "largest_mb"), ".0f"),
    ("of all, MB", lambda own, _: _used(own["paced"], "rss_mb"), ".0f"),
    ("PSS of all, MB", lambda own, _: _used(own["paced"], "pss_mb"), ".0f"),
    ("errors", lambda own, _: sum(load["errors"] for load in own.values()), ".0f"),
    ("cores used by others", lambda own, _: max(load["other_cores"] for load in own.values()), ".2f"),
)
OURS = "roundhouse"
MEMORY_BAR = 150  # MB of all our processes
# What is compared: lower is better, and below 1 is cheaper than the rival.
BARS: tuple[tuple[str, Callable[[Found, Found], float | None]], ...] = (
    ("CPU of a whole answer", lambda own, _: _used(own["whole"], "request_us")),
    ("CPU of a paced chunk", lambda own, _: _used(own["paced"], "token_us")),
    ("p50 added at one client", lambda own, direct: _added(own, direct, "one", "latency_ms", "p50")),
    ("memory of all processes", lambda own, _: _used(own["paced"], "rss_mb")),
)


def bars(rounds: Sequence[dict[str, Found]], rivals: Sequence[str]) -> dict[str, dict[str, list[float]]]:
    """Our cost relative to each rival's, by bar and rival: the median over the rounds, the least and the greatest."""
    found: dict[str, dict[str, list[float]]] = {}
    for bar, of in BARS:
        for rival in rivals:
            pairs = (
                (of(turn[OURS], turn.get("direct", {})), of(turn[rival], turn.get("direct", {}))) for turn in rounds
            )
            ratios = [ours / theirs for ours, theirs in pairs if ours is not None and theirs]
            if ratios:
                spread = statistics.median(ratios), min(ratios), max(ratios)
                found.setdefault(bar, {})[rival] = [round(one, 3) for one in spread]
    return found


def drawn_bars(found: dict[str, dict[str, list[float]]], rivals: Sequence[str], memory: float) -> str:
    """The ratios in Markdown, and whether our memory is below its bar."""
    rows = [["ours over theirs: median (least to greatest)", *rivals], ["---"] * (len(rivals) + 1)]
    for bar, each in found.items():
        cells = ("{:.2f} ({:.2f} to {:.2f})".format(*each[rival]) if rival in each else "-" for rival in rivals)
        rows.append([bar, *cells])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"{table}\n\nAll our processes: {memory:.0f} MB (bar: {MEMORY_BAR})"


def drawn(found: dict[str, Found]) -> str:
    """A row for each peer, in Markdown; of `direct`, the stub engine's own CPU and memory."""
    heads = ["peer", *(head for head, _, _ in COLUMNS)]
    rows = [heads, ["---"] * len(heads)]
    for name, own in found.items():
        cells = ((of(own, found.get("direct", {})), form) for _, of, form in COLUMNS)
        rows.append([name, *("-" if cell is None else format(cell, form) for cell, form in cells)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def line(figures: dict[str, Any]) -> str:
    """One load in a line."""
    parts = [f"{figures['requests_per_s']:.0f} requests/s", f"{figures['tokens_per_s']:.0f} tokens/s"]
    parts += [f"{name} {used['request_us']} µs a request, {used['token_us']} µs a token" for name, used in
              figures["processes"].items() if name != "load"]  # fmt: skip
    parts += [f"{number} x {what}" for what, number in figures["error_kinds"].items()]
    return "; ".join(parts)


def _used(figures: dict[str, Any], what: str) -> float | None:
    used = figures["processes"]
    found: float | None = used.get("gateway", used["stub"])[what]
    return found


def _added(own: Found, direct: Found, load: str, what: str, part: str) -> float | None:
    ours, theirs = own[load][what].get(part), direct.get(load, {}).get(what, {}).get(part)
    return None if own is direct or ours is None or theirs is None else float(ours - theirs)
