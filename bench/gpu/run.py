"""Measures a fleet on this machine's GPU: `bench/gpu/run --minutes 25`.

Most valuable first within the minutes given; each result is written when it is there, and a second run does what the
first one left.
"""

import argparse
import asyncio
import os
import shlex
import sys
import tempfile
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import uvloop

from bench.gpu import experiments, lab, machine, results, schedule
from bench.gpu.lab import StartError
from bench.gpu.measures import MEASURES, Bench, Scale
from bench.gpu.results import Result
from bench.gpu.schedule import Experiment, Setup
from bench.gpu.streams import LoadError
from service.catalog import catalog
from service.config.paths import ROOT
from service.planner import gpus
from service.planner.gpus import Gpu
from service.transport.pool import TransportError

LONGEST_START = 15.0  # minutes for one setup, however much time there is
SMALL = Scale(streams=(1, 4), batch=4, rounds=1, requests=2, shrink=8)
# What a measurement may end with that is not the kit's own mistake.
EXPECTED = (ExceptionGroup, LoadError, LookupError, OSError, StartError, TransportError, ValueError, psutil.Error)


@dataclass
class Session:
    """One run of the kit: what there is to do, where results go, and when it must be over by the monotonic clock."""

    experiments: list[Experiment]
    folder: Path
    deadline: float
    where: dict[str, Any]
    command: str
    gpu: Gpu | None
    scale: Scale
    done: set[str]
    failed: list[str] = field(default_factory=list)

    @property
    def left(self) -> float:
        """Minutes."""
        return (self.deadline - time.monotonic()) / 60

    async def run(self) -> None:
        """Measures until nothing fits any more."""
        while one := schedule.choose(self.experiments, self.done, self.left, None):
            await self._setup(one)

    async def _setup(self, first: Experiment) -> None:
        """One setup from its start, and all of it that is worth its minutes."""
        setup, limit = first.setup, min(self.left, LONGEST_START) * 60
        _say(f"starting {setup.name}, estimated {setup.minutes:.1f} min of {self.left:.1f} left")
        began = time.monotonic()
        try:
            alone = 1 if "enable_sleep_mode" in setup.engine else None
            async with lab.started(setup, 1 if self.where["card"] else 0, limit, alone) as running:
                bench = Bench(running, self.gpu, self.scale)
                one: Experiment | None = first
                while one:
                    await self._measure(one, bench)
                    one = self._next(setup)
        except StartError as error:
            if self.left <= 0:
                _say(f"{setup.name}: {error}, and this run is over")
                return
            for sibling in self.experiments:
                if sibling.setup.name == setup.name and sibling.id not in self.done:
                    self._keep(sibling, began, error.engines, str(error))

    def _next(self, setup: Setup) -> Experiment | None:
        one = schedule.choose(self.experiments, self.done, self.left, setup.name)
        return one if one and one.setup.name == setup.name else None

    async def _measure(self, one: Experiment, bench: Bench) -> None:
        began = time.monotonic()
        try:
            async with asyncio.timeout(max(1.0, self.left * 60)):
                figures = await MEASURES[one.measure](bench)
        except TimeoutError as error:
            if self.left <= 0:
                _say(f"{one.id}: broken off, this run is over")
                return
            self._keep(one, began, bench.running.commands(), f"{type(error).__name__}: {error}")
        except EXPECTED as error:
            self._keep(one, began, bench.running.commands(), f"{type(error).__name__}: {error}")
        else:
            self._keep(one, began, bench.running.commands(), None, figures)

    def _keep(self, one: Experiment, began: float, engines: list[list[str]], reason: str | None,
              figures: dict[str, Any] | None = None) -> None:  # fmt: skip
        result = Result(
            experiment=one.id, outcome="failed" if reason else "measured", where=self.where, command=self.command,
            date=datetime.now(UTC).isoformat(timespec="seconds"), seconds=round(time.monotonic() - began, 1),
            reason=reason, engines=engines, figures=figures or {},
        )  # fmt: skip
        results.write_result(self.folder, result)
        self.done.add(one.id)
        if reason:
            self.failed.append(one.id)
        _say(f"{one.id}: {reason or 'measured'}, {result.seconds:.0f} s")


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    asked = _parser().parse_args(arguments)
    known, card = catalog.load(ROOT / "models"), machine.card()
    if card is None and not asked.rehearse:
        sys.exit("nvidia-smi shows no card here, so there is nothing to measure; --rehearse tries the kit on the CPU.")
    gpu, planned, unfit = None, experiments.scaled_down(known), list[experiments.Unfit]()
    if card and not asked.rehearse:
        gpu = machine.known(card, gpus.load(ROOT / "deploy/gpus.yaml"))
        planned, unfit = experiments.on_card(known, gpu or machine.assumed(card))
        if gpu is None:
            _say(f"{card.name} is not in deploy/gpus.yaml: what is planned and its bounds are left out")
    planned = [one for one in planned if not asked.only or any(word in one.id for word in asked.only)]
    if asked.out or card is None or asked.rehearse:
        folder = asked.out or Path(tempfile.mkdtemp(prefix="roundhouse-rehearsal-"))
    else:
        folder = ROOT / "bench/results" / card.slug
    try:
        done = results.done(folder, asked.again)
    except ValueError as error:
        sys.exit(str(error))
    session = Session(
        planned, folder, time.monotonic() + asked.minutes * 60,
        machine.describe(None if asked.rehearse else card, asked.rehearse), _command(arguments), gpu,
        SMALL if asked.rehearse else Scale(), done,
    )  # fmt: skip
    before = set(session.done)
    for shape in unfit:
        _say(f"{shape.model} is left out: {shape.why}")
    if asked.list:
        for one in schedule.expected(planned, session.done, asked.minutes):
            print(f"{one.id:50} {one.minutes:5.1f} min, start {one.setup.minutes:.1f} min")
        return
    uvloop.run(session.run())
    _say(f"{len(session.done - before)} results in {folder}, {len(session.failed)} of them failures")
    rest = [one.id for one in planned if one.id not in session.done]
    if rest:
        _say(f"left for another run, for want of time: {', '.join(rest)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench/gpu/run", description=__doc__)
    parser.add_argument("--minutes", type=float, default=25.0, help="how long it may take (default: 25)")
    parser.add_argument("--out", type=Path, help="folder of the results, if not bench/results/CARD")
    parser.add_argument("--only", action="append", help="only experiments whose name holds this; may be repeated")
    parser.add_argument("--again", action="store_true", help="repeat what failed in an earlier run")
    parser.add_argument("--list", action="store_true", help="show what would be done, and do nothing")
    parser.add_argument("--rehearse", action="store_true", help="two small networks on the CPU: tries the kit itself")
    return parser


def _command(arguments: list[str] | None) -> str:
    return shlex.join(["bench/gpu/run", *(sys.argv[1:] if arguments is None else arguments)])


def _say(line: str) -> None:
    print(f"gpu kit  {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
    main()
