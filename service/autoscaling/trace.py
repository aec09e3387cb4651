"""Requests that happened: from a gateway's log of requests, or from a file of arrivals."""

import csv
import json
import math
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, NamedTuple

from service.autoscaling.capacity import Capacity, Size
from service.autoscaling.simulation import Arrival
from service.autoscaling.traffic import DAY, LONGEST

COLUMNS = ("time", "prompt_tokens", "completion_tokens", "seconds")
OVERLOAD = ("overloaded", "model_loading", "model_unavailable")  # refused, but it was demand


class Request(NamedTuple):
    """One request: when it came, in seconds of any clock; its tokens, and how long it ran, where known."""

    at: float
    size: Size | None
    seconds: float | None
    first: float | None


def read_log(lines: Iterable[str]) -> Iterator[tuple[str, Request]]:
    """The models and requests among a gateway's log lines.

    Lines that are no requests are passed over, and so are requests that no engine would have run: refused for what they
    were, replayed, or over a tenant's limit.
    """
    for line in lines:
        if '"request"' not in line:
            continue
        try:
            entry = json.loads(line[line.index("{") :])
        except (ValueError, RecursionError):
            continue
        if isinstance(entry, dict) and entry.get("event") == "request" and isinstance(entry.get("model"), str):
            request = _logged(entry)
            if request and entry["model"]:
                yield entry["model"], request


def _logged(entry: dict[str, Any]) -> Request | None:
    duration, waited = _amount(entry, "duration_s"), _amount(entry, "time_to_admission_s")
    ran = waited is not None and not entry.get("replayed")
    if duration is None or not (ran or entry.get("code") in OVERLOAD):
        return None
    try:
        at = moment(entry.get("time", "")) - duration
    except ValueError:
        return None
    if waited is None or not ran or entry.get("outcome") != "complete":
        return Request(at, None, None, None)
    size = Size(_amount(entry, "prompt_tokens") or 0, _amount(entry, "completion_tokens") or 0)
    first = _amount(entry, "ttft_s")
    return Request(at, size, max(0.0, duration - waited), max(0.0, first - waited) if first is not None else None)


def _amount(entry: dict[str, Any], name: str) -> float | None:
    """A field that is a number from 0 on."""
    value = entry.get(name)
    return value if isinstance(value, int | float) and 0 <= value < math.inf else None


def read_csv(lines: Iterable[str]) -> Iterator[Request]:
    """Requests of a CSV file with a column `time` and some of the others of `COLUMNS`; raises ValueError."""
    rows = csv.DictReader(lines)
    try:
        yield from _rows(rows)
    except csv.Error as error:
        raise ValueError(f"line {rows.line_num + 1}: {error}") from None


def _rows(rows: "csv.DictReader[str]") -> Iterator[Request]:
    names = rows.fieldnames or ()
    if "time" not in names:
        raise ValueError(f"line 1: no column 'time'; columns are {', '.join(COLUMNS)}, of which only time is needed")
    for row in rows:
        yield _request(row, rows.line_num)


def read_jsonl(lines: Iterable[str]) -> Iterator[Request]:
    """Requests of a file with a JSON object in each line, whose keys are `COLUMNS`; raises ValueError."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"line {number}: not JSON: {error}") from None
        if not isinstance(row, dict) or "time" not in row:
            raise ValueError(f"line {number}: no object with a key 'time'")
        yield _request(row, number)


def _request(row: dict[str, Any], line: int) -> Request:
    try:
        values = {name: float(row[name]) for name in COLUMNS[1:] if row.get(name) not in (None, "")}
        if any(not 0 <= value < math.inf for value in values.values()):
            raise ValueError("numbers must be 0 or more")
        size = (
            Size(values.get("prompt_tokens", 0.0), values["completion_tokens"])
            if "completion_tokens" in values
            else None
        )
        return Request(moment(row["time"]), size, values.get("seconds"), None)
    except (ValueError, TypeError) as error:
        raise ValueError(f"line {line}: {error}") from None


def moment(text: str | float) -> float:
    """Seconds, or an ISO 8601 date and time, as seconds; raises ValueError."""
    for read in (float, lambda text: datetime.fromisoformat(str(text)).timestamp()):
        try:
            found = read(text)
        except (ValueError, TypeError):
            continue
        if math.isfinite(found):
            return found
    raise ValueError(f"'{text}' is neither seconds nor a date such as 2026-11-20T09:30:00Z")


def mean_size(requests: Iterable[Request]) -> Size | None:
    """The average of the sizes that are known."""
    sizes = [one.size for one in requests if one.size and one.size.output]
    if not sizes:
        return None
    return Size(sum(one.prompt for one in sizes) / len(sizes), sum(one.output for one in sizes) / len(sizes))


def mean_seconds(requests: Iterable[Request]) -> float | None:
    """The average time that requests ran, of those of which it is known."""
    known = [one.seconds for one in requests if one.seconds]
    return sum(known) / len(known) if known else None


def arrivals(requests: Iterable[Request], capacity: Capacity, *, as_measured: bool) -> list[Arrival]:
    """The requests in the order of time, from second 0 on; raises ValueError for more than a year.

    Each runs as long as it did (`as_measured`), or as the capacity says for its size; where that is unknown, as long as
    one of the average size.
    """
    ordered = sorted(requests, key=lambda one: one.at)
    days = (ordered[-1].at - ordered[0].at) / DAY
    if days > LONGEST / DAY:
        raise ValueError(
            f"the requests span {days:,.0f} days, more than {LONGEST / DAY:g}: are all times of one clock?"
        )
    found = []
    for one in ordered:
        seconds, first = capacity.times(one.size if one.size and one.size.output else None)
        if as_measured and one.seconds is not None:
            seconds, first = one.seconds, one.first if one.first is not None else first
        found.append(Arrival(one.at - ordered[0].at, 1, seconds, min(first, seconds)))
    return found
