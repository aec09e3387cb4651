"""A burst on this machine: on a fake engine, and through a gateway in front of it, by turns in one event loop."""

import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from socket import create_server
from statistics import median, quantiles
from typing import Any
from unittest import mock

from bench.load import Answer, load
from service.config.settings import Settings
from service.engine import state
from service.engine.state import EngineState
from service.gateway import app
from service.gateway.lifespan import with_lifespan
from tests.fake_engine import FakeEngine
from tests.support import fleets
from tests.support.servers import serving

MODEL = "pebble-chat"
STREAMS, EACH = 256, 2
PROMPT, ANSWER = 128, 16  # tokens; the engine echoes as many of the prompt
PREFILL, GAP = 80e-6, 0.5  # seconds for each token: so slow that the CPUs of this machine count little
ROUNDS = 2


async def measure() -> dict[str, Any]:
    """Prints a line for each round and the median ratios of the service to direct; returns them."""
    rows = []
    async with gateway() as (direct, service):
        for number in range(ROUNDS):
            found = {name: await burst(address) for name, address in (("direct", direct), ("service", service))}
            rows.append(found)
            parts = [
                f"{name} {row['tokens_per_s']:,.0f} tokens/s, TTFT p99 {row['p99']:.2f} s"
                for name, row in found.items()
            ]
            print(f"round {number + 1}: {'; '.join(parts)}", flush=True)
    ratio, p99 = (median(row["service"][key] / row["direct"][key] for row in rows) for key in ("tokens_per_s", "p99"))
    print(f"median ratio of tokens/s {ratio:.3f}, of the p99 TTFT {p99:.2f}")
    return {"rounds": rows, "ratio": round(ratio, 4), "p99_ratio": round(p99, 4)}


async def burst(address: str) -> dict[str, float]:
    """All streams at once, each with its requests one after the other."""
    content = " ".join(["word"] * (PROMPT - 1))
    fields = {"model": MODEL, "messages": [{"role": "user", "content": content}], "max_tokens": ANSWER}
    seconds, answers = await load(address, STREAMS, [fields] * STREAMS * EACH)
    return figures(seconds, answers)


def figures(seconds: float, answers: list[Answer]) -> dict[str, float]:
    """Tokens per second, and the p99 TTFT in seconds."""
    p99 = quantiles([one.ttft for one in answers], n=100, method="inclusive")[98]
    return {"tokens_per_s": round(sum(one.tokens for one in answers) / seconds, 1), "p99": round(p99, 3)}


@asynccontextmanager
async def gateway() -> AsyncIterator[tuple[str, str]]:
    """The addresses of a fake engine and of a gateway that serves it alone."""
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder)
        fleet = fleets.load(run_dir, f"models: [{{model: {MODEL}}}]")
        engine = FakeEngine(MODEL, gap=GAP, prefill=PREFILL)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(engine.listen(state.socket_path(run_dir, 0)))
            state.write(run_dir, EngineState(state.replica_id(MODEL, 0), MODEL, 0, "ready"))
            nowhere = os.open(os.devnull, os.O_WRONLY)  # takes the access log
            stack.callback(os.close, nowhere)
            stack.enter_context(mock.patch.object(app, "STANDARD_OUTPUT", nowhere))
            one = app.Gateway(Settings(run_dir=run_dir), fleets.CATALOG, fleet)
            one.upstreams.refresh()
            listener = stack.enter_context(create_server(("127.0.0.1", 0)))
            await stack.enter_async_context(serving(with_lifespan(one), listener))
            yield str(state.socket_path(run_dir, 0)), f"127.0.0.1:{listener.getsockname()[1]}"
