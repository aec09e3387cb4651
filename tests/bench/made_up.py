"""Results that nobody measured, for tests of the report: every figure is recognisable."""

from dataclasses import replace
from typing import Any

from bench.gpu.results import Result

WHERE: dict[str, Any] = {
    "card": "NVIDIA H200", "driver": "580.95", "cards": 1, "memory_bytes": 150 * 10**9, "vllm": "0.32.0",
    "python": "3.12.1", "cpu": "16 cores, Some Processor", "rehearsal": False,
}  # fmt: skip
COMMAND = "bench/gpu/run --minutes 25"


def result(experiment: str, **figures: Any) -> Result:
    return Result(experiment, "measured", WHERE, COMMAND, "2026-12-24T10:00:00+00:00", 7.0, figures=figures)


def load(rate: float, ttft: float = 11.0) -> dict[str, Any]:
    times = {"p50": ttft, "p95": ttft + 1, "p99": ttft + 2}
    return {"requests": 40, "tokens": 512, "seconds": 1.0, "tokens_per_s": rate, "ttft_ms": times, "itl_ms": times}


def engine(name: str, blocks: int | None, planned: int | None) -> dict[str, Any]:
    return {"model": name, "form": "bf16", "context": 4096, "kv_blocks": blocks, "block_size": 16, "kv_bytes": 10**11,
            "first_token_ms": 12.5, "planned_kv_blocks": planned, "planned_kv_bytes": 10**11,
            "planned_weight_bytes": 13 * 10**9, "kv_blocks_for_its_bytes": blocks}  # fmt: skip


def pair(streams: int, direct: float, service: float, added: float) -> dict[str, Any]:
    return {"streams": streams, "direct": load(direct), "service": load(service, 11.0 + added),
            "ratio": round(service / direct, 4), "gateway_cpu_s_per_million": 31.5}  # fmt: skip


LOADS = [pair(1, 150.0, 149.0, 0.7), pair(32, 4000.0, 3960.0, 1.5), pair(256, 12000.0, 11000.0, 2.5)]
RESULTS = [
    result("llama-2-7b-chat/start", ready_s=61.5, memory_bytes=130 * 10**9, memory_before_bytes=10**9,
           engines=[engine("llama-2-7b-chat", 13000, 13130)]),
    result("falcon-7b-instruct/start", ready_s=41.5, memory_bytes=130 * 10**9, memory_before_bytes=10**9,
           engines=[engine("falcon-7b-instruct", 90000, 99000)]),
    result("llama-2-7b-chat/short", tool="bench.gpu.streams", prompt=128, shared=0, answer=128, loads=LOADS),
    result("llama-2-7b-chat/vllm-bench", tool="vllm bench serve", prompt=128, answer=128, loads=[
        {"streams": 8, "via": "direct", **load(1234.5)}, {"streams": 8, "via": "service", "error": "it broke"},
    ]),
    result("llama-2-7b-chat/batching", tool="x", streams=32, gain=27.15,
           one_at_a_time=load(151.0), together=load(4100.0)),
    result("llama-2-7b-chat/prefix", tool="x", streams=32, load=load(3333.0), enabled=True),
    result("llama-2-7b-chat+no-prefix-cache/prefix", tool="x", streams=32, load=load(2222.0), enabled=False),
    result("llama-2-7b-chat/chunked", tool="x", short=load(1.0, 21.5), long=load(1.0, 91.5), enabled=True),
    result("llama-2-7b-chat/bounds", tool="x", card_known=True,
           decode=[{"streams": 1, "tokens_per_s": 251.5, "bound": 340.5, "share": 0.739}],
           prefill={"prompt": 3072, "tokens_per_s": 40404.0, "bound": 70707.0, "share": 0.571}),
    result("llama-2-7b-chat+split/split", tool="x", streams=32, models=["llama-2-7b-chat", "llama-2-7b"],
           alone=[load(4444.0), load(4445.0)], together=[load(2444.0), load(2445.0)], switch_ttft_ms=13.75),
    result("llama-2-7b-chat+sleep/sleep", tool="x", first_sleep_s=2.5, memory_bytes={"awake": 1, "asleep": 1},
           both_started_s=99.5, switches=[
               {"to": "llama-2-7b", "level": 1, "woken_from": 2, "sleep_s": 2.25, "wake_s": 0.75,
                "first_token_ms": 14.0}]),
    result("llama-2-7b-chat/restart", tool="x", model="llama-2-7b-chat", stop_s=1.5, start_s=38.5, back_s=41.5,
           first_token_ms=15.0, memory_bytes={"awake": 2, "stopped": 1}),
    replace(result("mixtral-8x7b-instruct-v0.1/start"), outcome="failed", reason="no kernel for | this"),
]  # fmt: skip
