"""The figures of all peers as one table."""

from collections.abc import Callable
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
    ("errors", lambda own, _: sum(load["errors"] for load in own.values()), ".0f"),
    ("cores used by others", lambda own, _: max(load["other_cores"] for load in own.values()), ".2f"),
)


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
