"""What budgets and the usage ledger cost a request: `python -m bench.budgets` compares with a tenant without any."""

import asyncio
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from service.admission.budgets import openai_headers
from service.admission.gate import Admission
from service.auth.tenants import Tenant
from service.config.settings import Settings
from service.fleet.served_model import ServedModel
from service.observability.ledger import Ledger
from service.observability.ledger_file import LedgerFile
from service.observability.record import Record
from tests.support.fleets import load

ROUNDS, REQUESTS = 9, 5_000
LARGE = 10**12  # a limit that is never reached
TENANTS = {
    "no limits": Tenant("none"),
    "per minute": Tenant("minute", requests_per_minute=LARGE, tokens_per_minute=LARGE),
    "per minute and day": Tenant(
        "day", requests_per_minute=LARGE, tokens_per_minute=LARGE, requests_per_day=LARGE, tokens_per_day=LARGE
    ),
}


def microseconds(one: Callable[[], object]) -> float:
    """The CPU time of one call: the least of some rounds. Threads of this process count."""
    times = []
    for _ in range(ROUNDS):
        started = time.process_time()
        for _ in range(REQUESTS):
            one()
        times.append((time.process_time() - started) / REQUESTS)
    return min(times) * 1e6


def admission_of(served: ServedModel, tenant: Tenant) -> Callable[[], object]:
    """One request from its admission to its settlement, with the headers that tell what remains."""
    admission = Admission(Settings(), time.monotonic, random.random)

    def one() -> object:
        with admission.acquire(served, tenant, "default", 300.0, lambda now: 1, time.monotonic()) as slot:
            budgets = slot.budgets()
            slot.tokens = 250.0
            return openai_headers(budgets) if budgets else None

    return one


async def ledger_costs() -> tuple[float, float]:
    """The ledger's part in a request, in µs: what the event loop does for it, and what its thread does."""
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(LedgerFile(Path(folder), 86400.0, 2**30), lambda: None, lambda: None)
        number = 0

        def one() -> None:
            nonlocal number
            number += 1
            record = Record(f"{number:032x}", "/v1/chat/completions", 0.0, tenant="t", key="t-1", model="m")
            ledger.begin(record, 100.0, 256.0)
            ledger.end(record)

        ahead = microseconds(one)
        lines = len(ledger._waiting) // 2
        started = time.process_time()
        await asyncio.get_running_loop().run_in_executor(ledger._worker, ledger._write)
        behind = (time.process_time() - started) / lines * 1e6
        await ledger.close()
    return ahead, behind


def main() -> None:
    """Prints a line for each."""
    with tempfile.TemporaryDirectory() as folder:
        (served,) = load(Path(folder), "models: [{model: pebble-chat}]").served
    base = None
    for name, tenant in TENANTS.items():
        cost = microseconds(admission_of(served, tenant))
        base = base or cost
        print(f"admission, {name:19} {cost:6.2f} µs, {cost - base:+6.2f}")
    ahead, behind = asyncio.run(ledger_costs())
    print(f"ledger, in the event loop      {ahead:6.2f} µs; in its thread {behind:.2f} µs")


if __name__ == "__main__":
    main()
