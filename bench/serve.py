"""What `make serve` costs and yields on this machine: `python -m bench.serve`.

Starts the embedded fleet as a newcomer would, and measures in one run
- the seconds to the first answered chat and until all four models are ready,
- total tokens/s at 1, 8 and 32 streams through the gateway and from the same engine directly, in turns, as a ratio,
- whether greedy answers through the gateway equal the engine's own, byte for byte,
- what continuous batching yields: tokens/s at 8 and 32 streams against 1.
"""

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvloop

from bench.load import Answer, load

ROOT = Path(__file__).parents[1]
MODEL = "pebble-chat"
TOKENS = 128


def main() -> None:
    """Runs all of it and prints the figures; `--json FILE` keeps them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=3210)
    parser.add_argument("--rounds", type=int, default=5, help="turns of gateway and engine at each number of streams")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    address = f"127.0.0.1:{asked.port}"
    with tempfile.TemporaryDirectory(prefix="rh-") as run_dir:
        environment = {
            **os.environ,
            "ROUNDHOUSE_FLEET": str(ROOT / "bench/fleet.yaml"),
            "ROUNDHOUSE_PORT": str(asked.port),
            "ROUNDHOUSE_RUN_DIR": run_dir,
        }
        began = time.perf_counter()
        service = subprocess.Popen(["make", "serve"], cwd=ROOT, env=environment, start_new_session=True)
        try:
            figures: dict[str, Any] = {"machine": machine(), "date": datetime.now(UTC).isoformat(timespec="seconds")}
            figures["first_chat_s"] = until(lambda: chats(address), began, service)
            figures["all_ready_s"] = until(lambda: all_ready(address), began, service)
            engine = f"{run_dir}/e0.sock"
            figures["equal_answers"] = uvloop.run(equal(address, engine))
            figures["throughput"] = uvloop.run(throughput(address, engine, asked.rounds))
        finally:
            os.killpg(service.pid, signal.SIGTERM)
            service.wait()
    report(figures)
    if asked.json:
        asked.json.write_text(json.dumps(figures, indent=2) + "\n")


def machine() -> str:
    """This machine in a line, and the version of Python, of which builds differ in speed."""
    model = next((row for row in Path("/proc/cpuinfo").read_text().splitlines() if row.startswith("model name")), ":")
    cpu = model.split(":")[1].strip() or platform.machine()
    return f"{os.cpu_count()} cores, {cpu}, Python {platform.python_version()}"


def until(done: Any, began: float, service: "subprocess.Popen[bytes]") -> float:
    """Seconds from `began` until `done()` holds."""
    while not done():
        if service.poll() is not None:
            raise SystemExit("the service ended before it was ready")
        time.sleep(0.25)
    return round(time.perf_counter() - began, 1)


def chats(address: str) -> bool:
    """Whether a chat is answered."""
    body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 8}).encode()
    request = urllib.request.Request(
        f"http://{address}/v1/chat/completions", body, {"content-type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def all_ready(address: str) -> bool:
    """Whether every model is ready."""
    with urllib.request.urlopen(f"http://{address}/v1/models", timeout=30) as answer:
        return all(row["state"] == "ready" for row in json.load(answer)["data"])


def question(number: int) -> dict[str, Any]:
    """The greedy chat number `number`; each has other words."""
    content = f"My name is Person{number}. I have {number} apples and {number * 7 % 13} pears."
    return {"model": MODEL, "messages": [{"role": "user", "content": content}], "temperature": 0, "max_tokens": TOKENS}


async def equal(gateway: str, engine: str, prompts: int = 100) -> dict[str, int]:
    """How many of `prompts` greedy answers are the same bytes from both, asked one at a time."""
    questions = [question(number) for number in range(prompts)]
    _, ours = await load(gateway, 1, questions)
    _, theirs = await load(engine, 1, questions)
    return {"prompts": prompts, "equal": sum(one.text == two.text for one, two in zip(ours, theirs, strict=True))}


async def throughput(gateway: str, engine: str, rounds: int) -> dict[str, Any]:
    """Tokens/s at each number of streams: the median of `rounds`, gateway and engine in turns."""
    found: dict[str, Any] = {}
    for streams in (1, 8, 32):
        rates: dict[str, list[float]] = {"gateway": [], "engine": []}
        ttfts: dict[str, list[float]] = {"gateway": [], "engine": []}
        for turn in range(rounds):
            for name, address in (("gateway", gateway), ("engine", engine)):
                requests = [{**question(turn * 1000 + n), "ignore_eos": True} for n in range(max(4, streams * 2))]
                took, answers = await load(address, streams, requests)
                rates[name].append(tokens(answers) / took)
                ttfts[name] += [answer.ttft for answer in answers]
        row = {f"{name}_tokens_per_s": round(statistics.median(values), 1) for name, values in rates.items()}
        ratios = [ours / theirs for ours, theirs in zip(rates["gateway"], rates["engine"], strict=True)]
        found[str(streams)] = {
            **row,
            "ratio": round(statistics.median(ratios), 3),
            "ratios": [round(ratio, 3) for ratio in ratios],
            **{f"{name}_ttft_p50_ms": round(statistics.median(values) * 1000, 1) for name, values in ttfts.items()},
        }
    return found


def tokens(answers: list[Answer]) -> int:
    """Tokens generated in all."""
    return sum(answer.tokens for answer in answers)


def report(figures: dict[str, Any]) -> None:
    """Prints the figures as the tables of bench/README.md."""
    print(f"\n{figures['machine']}, {figures['date']}\n")
    print(f"first chat answered after {figures['first_chat_s']} s, all models ready after {figures['all_ready_s']} s")
    same = figures["equal_answers"]
    print(f"greedy answers equal to the engine's own: {same['equal']} of {same['prompts']}\n")
    print("| streams | gateway tokens/s | engine tokens/s | ratio | batching | TTFT p50 gateway / engine, ms |")
    print("|---|---|---|---|---|---|")
    alone = figures["throughput"]["1"]["gateway_tokens_per_s"]
    for streams, row in figures["throughput"].items():
        ours, theirs = row["gateway_tokens_per_s"], row["engine_tokens_per_s"]
        ttft = f"{row['gateway_ttft_p50_ms']} / {row['engine_ttft_p50_ms']}"
        print(f"| {streams} | {ours} | {theirs} | {row['ratio']} | {ours / alone:.2f} | {ttft} |")


if __name__ == "__main__":
    main()
