"""`docs/scaling.md`: its text is written by hand, and this fills in what its commands print, its tables and pictures.

`python -m tests.autoscaling.scaling` writes the page and its pictures anew.
"""

import json
import os
import random
import re
import shlex
from collections.abc import Iterator
from contextlib import chdir
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

from click.testing import CliRunner

from service.autoscaling.capacity import Capacity, Size
from service.autoscaling.demand import HEADROOM
from service.autoscaling.traffic import DAY, daily, made
from service.cli import simulating, simulation_inputs
from service.config.settings import Settings
from service.planner.memory import Demand
from service.planner.plan import plan
from service.planner.quantization import Form
from tests.autoscaling.experiment import ROWS, simulated
from tests.planner.test_gpus import KNOWN
from tests.support.fleets import CATALOG, ROOT

PAGE = ROOT / "docs/scaling.md"
IMAGES = "docs/images"
BLOCK = re.compile(r"```console\n\$ ((?:.*\\\n)*.*)\n[\s\S]*?```")
PART = re.compile(r"(<!-- (\w+): written by a command -->\n)[\s\S]*?(?=<!-- end -->)")

SIZED: tuple[tuple[str, Form], ...] = (
    ("llama-2-70b-chat", "bf16"), ("llama-2-70b-chat", "fp8"), ("llama-2-70b-chat", "int4"),
    ("mixtral-8x7b-instruct-v0.1", "bf16"), ("mixtral-8x7b-instruct-v0.1", "fp8"),
    ("code-llama-34b-instruct", "bf16"), ("code-llama-34b-instruct", "fp8"),
)  # fmt: skip
GPUS = ("L40S", "A100-80", "H100", "H200")
SIZE, USERS, RATES = Size(1000, 250), 32, (1, 10, 100)


def rendered(page: str) -> tuple[str, dict[str, str]]:
    """The page as it should be, and its pictures by name."""
    with TemporaryDirectory() as folder, chdir(folder):
        Path(IMAGES).mkdir(parents=True)
        Path("requests.jsonl").write_text("\n".join(log()), encoding="utf-8")
        page = BLOCK.sub(lambda block: f"```console\n$ {block[1]}\n{output(block[1])}```", page)
        pictures = {path.name: path.read_text(encoding="utf-8") for path in Path(IMAGES).iterdir()}
    tables = {"measured": measured, "sizes": sizes}
    return PART.sub(lambda part: part[1] + "\n".join(tables[part[2]]()) + "\n", page), pictures


def output(command: str) -> str:
    """What the command prints, without spaces at the ends of its lines."""
    words = shlex.split(command.replace("\\\n", " "))
    assert words[:2] == ["roundhouse", "simulate"], command
    (simulate,) = simulating.COMMANDS
    with (
        patch.object(simulation_inputs, "settings_and_catalog", lambda: (Settings(), CATALOG)),
        patch.dict(os.environ, COLUMNS="120"),
    ):
        result = CliRunner().invoke(simulate, words[2:])
    assert result.exit_code == 0, (result.output, result.exception)
    return "".join(f"{line.rstrip()}\n" for line in result.output.splitlines())


def log() -> Iterator[str]:
    """The log of a day that was made up: a service for people in one time zone, with answers of all lengths."""
    chance = random.Random(7)
    day = datetime(2026, 11, 24, tzinfo=UTC).timestamp()
    for arrival in made(daily(0.05, 0.85), DAY, (0.0, 0.0), chance):
        for _ in range(arrival.number):
            tokens = max(8, round(chance.lognormvariate(5.9, 0.7)))
            seconds = 1.0 + tokens / 14
            ended = datetime.fromtimestamp(day + arrival.at + seconds, UTC)
            fields = {"event": "request", "model": "llama-2-70b-chat", "outcome": "complete", "prompt_tokens": 900}
            times = {"time_to_admission_s": 0.0, "ttft_s": 0.6, "duration_s": round(seconds, 3)}
            yield json.dumps({"time": f"{ended:%Y-%m-%dT%H:%M:%SZ}", **fields, "completion_tokens": tokens, **times})


def measured() -> Iterator[str]:
    """The rows of the measured comparison beside the simulated ones."""
    yield "| signal | peak, measured | simulated | pod-seconds | simulated | most queued | simulated |"
    yield "|---|--:|--:|--:|--:|--:|--:|"
    for row in ROWS:
        found = simulated(row)
        yield (
            f"| {row.name} | {row.peak} | {found.peak_replicas} | {row.pod_seconds:,} | {found.replica_seconds:,.0f} "
            f"| {row.most_queued} | {found.peak_queued} |"
        )


def sizes() -> Iterator[str]:
    """What replicas of some models can take on some GPUs, and how many GPUs rates need."""
    heads = " | ".join(f"{rate}/s" for rate in RATES)
    yield f"| model | as | GPU | GPUs of a replica | at a time | requests/s | GPUs for {heads} |"
    yield "|---|---|---|--:|--:|--:|" + "--:|" * len(RATES)
    for name, form in SIZED:
        for gpu in GPUS:
            demand = Demand(int(SIZE.prompt + SIZE.output))
            (row,) = plan(CATALOG.models[name], [KNOWN[gpu]], demand, [form], users=USERS)
            if row.why:
                continue
            one = Capacity.of_plan(row, SIZE)
            needed = (-int(-rate // (HEADROOM * one.requests_per_second)) * one.gpus for rate in RATES)
            yield (
                f"| `{name}` | {form} | {gpu} | {one.gpus} | {one.concurrency} | {one.requests_per_second:.2f} "
                f"| {' | '.join(map(str, needed))} |"
            )


def write() -> None:
    """Writes the page and its pictures."""
    page, pictures = rendered(PAGE.read_text(encoding="utf-8"))
    PAGE.write_text(page, encoding="utf-8")
    for name, picture in pictures.items():
        (ROOT / IMAGES / name).write_text(picture, encoding="utf-8")


if __name__ == "__main__":
    write()
