"""Whether the gateway's memory grows: its RSS during a million requests.

`bench/cost/memory`; nothing is on a core of its own but the gateway, and what it logs is thrown away.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import processes
from bench.cost import peers
from bench.cost.load import Load
from bench.cost.peers import PEERS, PeerError, Place
from bench.cost.run import loaded
from bench.processes import MB
from bench.serve import machine

SETTLED = 0.2  # the share of the requests after which memory should not grow any more
ALLOWED = 2 * MB  # bytes of growth that are noise


@dataclass(frozen=True)
class Sample:
    """The memory in bytes after so many `requests`: of the gateway's largest process, and of all of them."""

    requests: int
    largest: int
    all: int


def main() -> None:
    """Measures and prints; `--json FILE` keeps the samples. Ends with status 1 where memory grows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10**6)
    parser.add_argument("--slice", type=float, default=5.0, help="seconds of load between two samples")
    parser.add_argument("--peer", choices=[name for name in PEERS if name != "direct"], default="roundhouse")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    try:
        samples = sampled(asked.peer, asked.requests, asked.slice)
    except PeerError as error:
        sys.exit(str(error))
    figures = {"machine": machine(), "date": datetime.now(UTC).isoformat(timespec="seconds"), "peer": asked.peer,
               **judged(samples), "samples": [vars(one) for one in samples]}  # fmt: skip
    print(f"{figures['machine']}, {figures['date']}: {asked.peer} after {figures['requests']} requests")
    print(f"RSS {figures['rss_mb']} MB, of which its largest process {figures['largest_mb']} MB")
    print(f"since {figures['settled_after']} requests {figures['growth_mb']} MB more: {figures['verdict']}")
    if asked.json:
        asked.json.write_text(json.dumps(figures, indent=2) + "\n")
    if figures["verdict"] != "flat":
        sys.exit(1)


def sampled(peer: str, requests: int, seconds: float) -> list[Sample]:
    """Loads the peer, a slice of some seconds after another, until it has answered so many requests."""
    ours, others = sorted(os.sched_getaffinity(0))[:2]
    load = Load("whole", 32, seconds=seconds, warm=0.1)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rh-memory-")))
        stub, _ = stack.enter_context(peers.stub(others, folder))
        one = stack.enter_context(PEERS[peer](Place(stub, ours, folder, log=Path(os.devnull))))
        assert one.pid is not None
        samples: list[Sample] = []
        done = 0
        while done < requests:
            found = loaded(one.port, stub, replace(load, seconds=seconds), {}, others)
            if not found["done"]:
                raise PeerError(f"{peer} answers nothing any more: {found['error_kinds']}")
            done += found["done"]
            usage = processes.usage(one.pid)
            samples.append(Sample(done, usage.largest, usage.rss))
            print(f"{done} requests, {samples[-1].all / MB:.1f} MB", file=sys.stderr, flush=True)
        return samples


def judged(samples: list[Sample]) -> dict[str, Any]:
    """Whether the memory is flat once it has settled: the median of the last fifth against that of the one after it."""
    last = samples[-1].requests
    settled = [one for one in samples if one.requests >= SETTLED * last]
    part = max(1, len(settled) // 5)
    growth = statistics.median(one.all for one in settled[-part:]) - statistics.median(
        one.all for one in settled[:part]
    )
    return {
        "requests": last,
        "rss_mb": round(samples[-1].all / MB, 1),
        "largest_mb": round(samples[-1].largest / MB, 1),
        "settled_after": settled[0].requests,
        "growth_mb": round(growth / MB, 2),
        "verdict": "flat" if growth <= ALLOWED else "it grows",
    }


if __name__ == "__main__":
    main()
