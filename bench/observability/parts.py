"""What each part of observability does for one request. It imports little, as valgrind takes long for that."""

import argparse
import itertools
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench import instructions
from service.admission.budgets import openai_headers
from service.admission.rate_limits import TenantLimiter
from service.auth.tenants import Tenant
from service.observability.ledger import Ledger
from service.observability.ledger_file import LedgerFile
from service.observability.log_lines import encoded
from service.observability.log_writer import LogWriter
from service.observability.metrics import Metrics
from service.observability.record import Record, log_fields

Run = Callable[[], object]
ROUNDS, MODELS, TENANTS = 9, 40, 200
ENDPOINTS = "/v1/chat/completions", "/v1/messages"
LARGE = 10**12  # a limit that is never reached
COUNTED = 200  # requests, of which instructions are counted


def record(model: str, tenant: str, endpoint: str, outputs: int) -> Record:
    """A streamed response that was observed to its end."""
    made = Record(f"{0:032x}", endpoint, 0.0, tenant=tenant, model=model, variant="chat", streamed=True, attempts=1)
    made.admitted, made.ended, made.status, made.route_reason = 0.01, 3.0, 200, "id"
    made.requested, made.replica, made.finish_reason = model, f"{model}-0", "stop"
    made.prompt_tokens, made.completion_tokens, made.cached_tokens = 500, outputs, 400
    made.output_times = [0.1 + 0.02 * number + number % 7 / 1000 for number in range(outputs)]
    made.gpu_seconds = 1.0
    return made


def parts(outputs: int, folder: Path) -> dict[str, Run]:
    """What each part does for one request."""
    made = record("m", "t", ENDPOINTS[0], outputs)
    plain, both = Metrics(genai=False), Metrics()
    writer = LogWriter(os.open(os.devnull, os.O_WRONLY), encode=encoded)
    ledger = Ledger(LedgerFile(folder), lambda: None, lambda: None, max_waiting=10**9)
    limiter = TenantLimiter(Tenant("t", requests_per_minute=LARGE, tokens_per_minute=LARGE), 1, 0.0)

    def keep_account() -> None:
        ledger.begin(made, 500.0, 100.0)
        ledger.end(made)

    def limit() -> list[tuple[bytes, bytes]]:
        limiter.exceeded(600.0, time.monotonic())
        charge = limiter.charge(600.0)
        headers = openai_headers(charge.states(time.monotonic()))
        charge.settle(600.0)
        return headers

    return {
        "metrics": lambda: plain.observe(made),
        "metrics with gen_ai_": lambda: both.observe(made),
        "log line": lambda: writer.write(log_fields(made, "2026-01-01T00:00:00Z")),
        "usage ledger": keep_account,
        "budgets and their headers": limit,
    }


def repeat(run: Run, count: int) -> None:
    """So many requests."""
    for _ in itertools.repeat(None, count):
        run()


def least(run: Run) -> float:
    """The least processor time of a run, in seconds."""
    times = []
    for _ in range(ROUNDS):
        began = time.thread_time()
        run()
        times.append(time.thread_time() - began)
    return min(times)


def run_each(outputs: int) -> None:
    """Runs each part between two marks, for valgrind."""
    with tempfile.TemporaryDirectory() as folder:
        for run in parts(outputs, Path(folder)).values():
            repeat(run, 20)
            instructions.mark()
            repeat(run, COUNTED)
            instructions.mark()


def counted(outputs: int) -> list[float]:
    """The instructions of one request in each part."""
    found = instructions.between_marks("bench.observability.parts", str(outputs))
    return [count / COUNTED for count in found[::2]]


def large() -> Metrics:
    """The metrics of a fleet whose tenants use every model."""
    metrics = Metrics()
    metrics.models = [f"model-{number}" for number in range(MODELS)]
    for number in range(MODELS):
        for tenant in range(TENANTS):
            metrics.observe(record(f"model-{number}", f"tenant-{tenant}", ENDPOINTS[tenant % 2], 3))
    return metrics


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("outputs", type=int)
    run_each(parser.parse_args().outputs)
