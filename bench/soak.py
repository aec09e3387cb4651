"""Mixed traffic through the gateway while its engines die, hang, crawl and come back: `bench/soak --minutes 10`.

Prints how many requests failed, whether any was lost or answered twice, and whether the gateway takes more memory or
files over time. A lost request has no ending or two, or words that were not requested. The seed repeats the faults.
"""

import argparse
import asyncio
import json
import secrets
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvloop
import yaml

from bench import processes
from bench.processes import MB, Usage
from bench.serve import machine
from bench.soaking.answers import availability
from bench.soaking.faults import Fault, Station, befall, schedule, stations
from bench.soaking.traffic import Traffic

MODEL = "pebble-chat"
START = 120.0  # seconds that the service may take until it answers
SETTLED = 0.2  # the share of the time after which memory and files should not grow any more
WAITS = {"queue": 10, "first_token": 8, "idle": 4, "total": 60}
UNCLEAN = ("lost", "duplicated", "generated_twice", "in_flight_at_rest", "tracebacks")
HANG = 6  # seconds without progress after which an engine counts as hung


@dataclass(frozen=True)
class Soak:
    """What to do for `seconds`: so many `clients` and `engines`, and a fault about every `every` seconds."""

    seconds: float
    seed: int
    clients: int = 24
    engines: int = 3
    every: float = 10.0


def main() -> None:
    """Runs it and prints; `--json FILE` keeps the figures. Ends with status 1 where anything was lost or left over."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=None, help="of the faults; a new one where not given")
    parser.add_argument("--clients", type=int, default=Soak.clients)
    parser.add_argument("--engines", type=int, default=Soak.engines, help="two or more: one is always spared")
    parser.add_argument("--every", type=float, default=Soak.every, help="seconds between faults, about")
    parser.add_argument("--keep", type=Path, help="a folder for the logs of gateway and engines")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    seed = secrets.randbelow(10**6) if asked.seed is None else asked.seed
    soak = Soak(asked.minutes * 60, seed, asked.clients, asked.engines, asked.every)
    figures = uvloop.run(run(soak, asked.keep))
    print(report(figures))
    if asked.json:
        asked.json.write_text(json.dumps(figures, indent=2) + "\n")
    if not clean(figures):
        sys.exit(1)


async def run(soak: Soak, keep: Path | None = None) -> dict[str, Any]:
    """The figures of one soak; SystemExit where the service does not start. `keep` is a folder for the logs."""
    faults = schedule(soak.seed, soak.seconds, soak.engines, soak.every)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rh-soak-")))
        logs = keep or folder
        logs.mkdir(parents=True, exist_ok=True)
        engines = await stack.enter_async_context(stations(MODEL, soak.engines, folder))
        port, log = processes.free_port(), logs / "gateway.log"
        command = processes.serve(_fleet(folder, engines), port)
        environment = {"ROUNDHOUSE_RUN_DIR": str(folder), "ROUNDHOUSE_HANG_TIMEOUT": str(HANG)}
        service = stack.enter_context(processes.running(command, log, environment=environment))
        await _until_ready(port, soak.engines, log)
        traffic = Traffic(port, MODEL, soak.clients, soak.seed)
        async with traffic.flowing():
            began = time.monotonic()
            befalling = asyncio.create_task(befall(faults, engines))
            await asyncio.sleep(soak.seconds * SETTLED)
            settled = await _at_rest(traffic, service.pid, port)
            traffic.resume()
            await asyncio.sleep(max(0.0, began + soak.seconds - time.monotonic()))
            await befalling
            ended = await _at_rest(traffic, service.pid, port)
        in_flight = await asyncio.to_thread(_sample, port, "roundhouse_requests_in_flight")
        return figures(soak, faults, traffic, settled, ended) | {
            "in_flight_at_rest": in_flight,
            "tracebacks": _text(log).count("Traceback (most recent call last)"),
        }


def figures(
    soak: Soak, faults: list[Fault], traffic: Traffic, settled: tuple[Usage, float], ended: tuple[Usage, float]
) -> dict[str, Any]:
    """What a soak found; memory in 10^6 bytes, `kept_mb` the part of it that is the idempotency cache."""
    return {
        "machine": machine(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        **asdict(soak),
        "faults": dict(Counter(fault.kind for fault in faults)),
        "schedule": [asdict(fault) for fault in faults],
        "requests": traffic.endings.total(),
        "availability": round(availability(traffic.endings), 5),
        "lost": traffic.endings["lost"],
        "duplicated": traffic.endings["duplicated"],
        "generated_twice": traffic.twice,
        "endings": dict(traffic.endings),
        "reasons": dict(traffic.reasons),
        "rss_mb": [round(usage.rss / MB, 1) for usage, _ in (settled, ended)],
        "kept_mb": [round(kept / MB, 1) for _, kept in (settled, ended)],
        "files": [usage.files for usage, _ in (settled, ended)],
    }


def clean(figures: dict[str, Any]) -> bool:
    """Whether nothing was lost, answered twice or left over."""
    return not any(figures[what] for what in UNCLEAN)


def report(figures: dict[str, Any]) -> str:
    """The figures for a reader."""
    befell = ", ".join(f"{count} {kind}" for kind, count in sorted(figures["faults"].items())) or "none"
    (rss, rss_end), (kept, kept_end), (files, files_end) = (figures[one] for one in ("rss_mb", "kept_mb", "files"))
    rows = [
        f"{figures['machine']}, {figures['date']}: {figures['seconds']:g} s, {figures['clients']} clients, "
        f"{figures['engines']} engines, seed {figures['seed']}",
        f"faults: {befell}",
        f"{figures['requests']} requests, availability {figures['availability']:.3%}, lost {figures['lost']}, "
        f"duplicated {figures['duplicated']}, keys generated twice {figures['generated_twice']}",
        *(f"  {count:7d}  {what}" for what, count in sorted(figures["reasons"].items(), key=lambda row: -row[1])),
        f"gateway at rest, from {SETTLED:.0%} of the time to its end: RSS {rss} → {rss_end} MB "
        f"({rss_end - rss:+.1f}), idempotency cache {kept} → {kept_end} MB ({kept_end - kept:+.1f}), "
        f"files {files} → {files_end} ({files_end - files:+d})",
        f"requests in flight at rest: {figures['in_flight_at_rest']:g}; tracebacks in its log: {figures['tracebacks']}",
    ]
    return "\n".join(rows)


def _fleet(folder: Path, engines: list[Station]) -> Path:
    entry = {"model": MODEL, "addresses": [one.proxy.address for one in engines], "timeouts": WAITS}
    path = folder / "fleet.yaml"
    path.write_text(yaml.safe_dump({"models": [entry]}))
    return path


async def _at_rest(traffic: Traffic, service: int, port: int) -> tuple[Usage, float]:
    """What the service uses when nobody asks anything, and the bytes of it that are the idempotency cache."""
    await traffic.rest()
    await asyncio.sleep(1)
    return processes.usage(service), await asyncio.to_thread(_sample, port, "roundhouse_idempotency_cache_bytes")


async def _until_ready(port: int, engines: int, log: Path) -> None:
    deadline = time.monotonic() + START
    while time.monotonic() < deadline:
        try:
            rows = json.loads(await asyncio.to_thread(_fetch, port, "/v1/models"))["data"]
        except (OSError, ValueError):
            rows = []
        if rows and rows[0]["state"] == "ready":
            return
        await asyncio.sleep(0.2)
    raise SystemExit(f"The service does not answer: {_text(log)[-500:]}")


def _sample(port: int, name: str) -> float:
    """The sum of a metric's series."""
    lines = _fetch(port, "/metrics").decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((f"{name}{{", f"{name} ")))


def _text(log: Path) -> str:
    return log.read_text(errors="replace")


def _fetch(port: int, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        found: bytes = answer.read()
        return found


if __name__ == "__main__":
    main()
