"""10,000 requests that nobody would write, for a service and its engines to survive: `python -m bench.fuzz`.

Starts a gateway with fake engines, or takes the service at `--url` with the key `--key`. Prints how often which status
was answered, what a response had that must not be, restarts of engines, and how the memory of the gateway grew after a
first part of the requests. The seed repeats the requests. Exits with 1 if anything is wrong.
"""

import argparse
import json
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml

from bench import processes
from bench.fuzzing import PATIENCE, Fuzz
from bench.processes import MB

ENGINES = (
    ("pebble-chat", "chat"), ("pebble-base", "base"), ("pebble-code", "code"), ("acme/tiny-embedding", "embedding"),
)  # fmt: skip
WARM = 0.2  # the share of the requests after which memory should not grow any more
GROWTH = 20 * MB  # bytes of it that are none to speak of: the idempotency cache keeps responses for a while
START = 60.0  # seconds


def main() -> None:
    """Sends the requests and prints what came of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--url", help="a service that runs, instead of one with fake engines")
    parser.add_argument("--key", default="", help="its API key")
    parser.add_argument("--patience", type=float, default=PATIENCE, help="seconds for one response")
    asked = parser.parse_args()
    with ExitStack() as stack:
        url, pid = (asked.url, None) if asked.url else stack.enter_context(service())
        fuzz = Fuzz(url, {"x-api-key": asked.key} if asked.key else {}, patience=asked.patience)
        restarts = restarts_at(fuzz)
        began, warm = time.monotonic(), int(asked.requests * WARM)
        fuzz.run(warm, asked.seed)
        before = resident(pid)
        fuzz.run(asked.requests - warm, asked.seed + 1)
        after, restarted = resident(pid), restarts_at(fuzz) - restarts
    statuses = ", ".join(f"{count} {status}" for status, count in sorted(fuzz.statuses.items()))
    print(f"{fuzz.statuses.total()} requests in {time.monotonic() - began:.0f} s, seed {asked.seed}: {statuses}")
    print(f"engines restarted {restarted} times; responses that must not be: {len(fuzz.failures)}")
    print("slowest: {:.1f} s, {}".format(*fuzz.slowest))
    if pid:
        print(f"memory of the gateway {before / MB:.1f} → {after / MB:.1f} MB ({(after - before) / MB:+.1f})")
    print("\n".join(fuzz.failures[:20]))
    sys.exit(bool(fuzz.failures or restarted or after - before > GROWTH))


def resident(pid: int | None) -> int:
    """The memory of a process and its descendants, in bytes; 0 where it is not ours."""
    time.sleep(1.0)  # for what ends in the background
    return processes.usage(pid).rss if pid else 0


def restarts_at(fuzz: Fuzz) -> int:
    """How often the engines of the service have been restarted so far."""
    return sum(replica["restarts"] for row in _models(fuzz.url, fuzz.headers) for replica in row["replicas"])


@contextmanager
def service() -> Iterator[tuple[str, int]]:
    """The URL and the process of a gateway with fake engines."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rh-fuzz-")))
        for number, (model, variant) in enumerate(ENGINES):
            command = [sys.executable, "-m", "bench.soaking.engine", "--socket", str(folder / f"{number}.sock")]
            arguments = ["--model", model.rpartition("/")[2], "--variant", variant, "--gap", "0"]
            stack.enter_context(processes.running([*command, *arguments], folder / "engines.log"))
        models = [
            {"model": model, "id": model.rpartition("/")[2], "addresses": [str(folder / f"{number}.sock")]}
            for number, (model, _) in enumerate(ENGINES)
        ]
        fleet, port, log = folder / "fleet.yaml", processes.free_port(), folder / "gateway.log"
        fleet.write_text(yaml.safe_dump({"models": models, "tenants": {"default": {}}}))
        environment = {"ROUNDHOUSE_RUN_DIR": str(folder / "run"), "ROUNDHOUSE_RESPONSES_DIR": str(folder / "stored")}
        process = stack.enter_context(processes.running(processes.serve(fleet, port), log, environment=environment))
        url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + START
        while not _is_ready(url):
            if time.monotonic() > deadline:
                raise SystemExit(f"The service does not start: {log.read_text(errors='replace')[-800:]}")
            time.sleep(0.2)
        yield url, process.pid
        if traces := log.read_text(errors="replace").count("Traceback (most recent call last)"):
            raise SystemExit(f"{traces} tracebacks in the log: {log.read_text(errors='replace')[-3000:]}")


def _is_ready(url: str) -> bool:
    try:
        return all(row["state"] == "ready" for row in _models(url, {}))
    except (OSError, ValueError):
        return False


def _models(url: str, headers: dict[str, str]) -> list[dict[str, Any]]:
    with urllib.request.urlopen(urllib.request.Request(f"{url}/v1/models", headers=headers), timeout=10) as answer:
        rows: list[dict[str, Any]] = json.loads(answer.read())["data"]
        return rows


if __name__ == "__main__":
    main()
