"""Questions to the usage ledger: since when, grouped by what, and the answer as rows. Pure but for reading the file."""

import re
import time
from calendar import timegm
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, get_args

from service.observability.ledger_file import DAY, FILE, Group, LedgerFile, Usage

GROUPS: tuple[Group, ...] = get_args(Group)
DEFAULT_GROUPS: tuple[Group, ...] = ("tenant", "model")
DEFAULT_SINCE = "30d"
HOURS = {"h": 1, "d": 24, "w": 7 * 24}
COUNTS = (
    "requests", "refused", "prompt_tokens", "cached_tokens", "completion_tokens", "total_tokens", "estimated_tokens",
)  # fmt: skip


def read_usage(folder: Path, by: Iterable[Group], since: float, tenant: str | None = None) -> list[Usage]:
    """The usage of one tenant or of all, from a moment in Unix seconds on; empty where nothing was recorded yet.

    Raises sqlite3.Error and OSError.
    """
    if not (folder / FILE).exists():
        return []
    with closing(LedgerFile(folder)) as file:
        return file.usage(by, since, tenant)


def groups_of(names: Sequence[str]) -> tuple[Group, ...]:
    """The columns with these names; raises ValueError, which lists those that there are."""
    found = tuple(group for name in dict.fromkeys(names) for group in GROUPS if group == name)
    if len(found) < len(set(names)) or not found:
        raise ValueError(f"it should be one or more of {', '.join(GROUPS)}, separated by commas")
    return found


def since_of(text: str, now: float) -> float:
    """The moment that is meant by a date (`2026-11-01`, at its begin, in UTC) or a span before now (`24h`, `7d`, `2w`).

    In Unix seconds; of spans of days it is a midnight, so that whole days count. Raises ValueError.
    """
    if found := re.fullmatch(r"([1-9]\d{0,3})([hdw])", text):
        begun = now - int(found[1]) * HOURS[found[2]] * 3600
        return begun if found[2] == "h" else begun // DAY * DAY
    try:
        return float(timegm(time.strptime(text, "%Y-%m-%d")))
    except ValueError:
        raise ValueError("it should be a date such as 2026-11-01, or a span such as 24h, 7d or 2w") from None


def as_row(by: Sequence[Group], usage: Usage) -> dict[str, Any]:
    """A group as it is shown: its columns, then COUNTS."""
    total = usage.prompt + usage.completion
    counts = (
        usage.requests, usage.requests - usage.admitted, usage.prompt, usage.cached, usage.completion, total,
        usage.estimated,
    )  # fmt: skip
    return {**dict(zip(by, usage.group, strict=True)), **dict(zip(COUNTS, counts, strict=True))}
