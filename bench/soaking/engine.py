"""One engine of a soak test, as a process: a fake that echoes, and drains on SIGTERM as vLLM does."""

import argparse
import asyncio
import signal
from pathlib import Path

import uvloop

from tests.fake_engine import FakeEngine
from tests.support.waiting import until


async def main() -> None:
    """Serves until SIGTERM, and then what runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--socket", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--variant", default="chat")
    parser.add_argument("--gap", type=float, default=0.01, help="seconds for each token")
    asked = parser.parse_args()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with FakeEngine(asked.model, asked.variant, gap=asked.gap).listen(asked.socket) as engine:
        await stop.wait()
        engine.die("drain")
        await until(lambda: not engine.running + engine.waiting)


if __name__ == "__main__":
    uvloop.run(main())
