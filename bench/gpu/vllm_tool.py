"""Runs vLLM's own `bench serve` and converts its figures to our schema."""

import asyncio
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.gpu.streams import PERCENTILES, LoadError, Workload

PROGRAM = "bench.gpu.vllm_program"


@dataclass(frozen=True)
class Job:
    """One load of `requests` requests, `streams` at a time.

    `via` says whether directly to the engine or through the service, `address` where that is; `tokenizer` is a folder.
    """

    via: str
    address: str
    model: str
    tokenizer: str
    streams: int
    requests: int
    workload: Workload
    seed: int

    def arguments(self) -> list[str]:
        """The arguments of `vllm bench serve`."""
        url = "http://localhost" if self.address.startswith("/") else f"http://{self.address}"
        options = {
            "backend": "openai", "base-url": url, "endpoint": "/v1/completions", "model": self.model,
            "served-model-name": self.model, "tokenizer": self.tokenizer, "dataset-name": "random",
            "random-input-len": self.workload.prompt, "random-output-len": self.workload.answer,
            "num-prompts": self.requests, "max-concurrency": self.streams, "seed": self.seed,
            "temperature": 0, "percentile-metrics": "ttft,itl",
            "metric-percentiles": ",".join(map(str, PERCENTILES)),
        }  # fmt: skip
        return [*(word for name, value in options.items() for word in (f"--{name}", str(value))), "--disable-tqdm"]


async def run(jobs: list[Job], program: str = PROGRAM) -> list[dict[str, Any]]:
    """The figures of every job, in order; raises LoadError where vLLM's tool is not there or fails at all of them.

    `program` is the module that does the jobs. It gives its figures in a file, because vLLM prints on standard output.
    """
    asked = "".join(json.dumps({"address": one.address, "arguments": one.arguments()}) + "\n" for one in jobs)
    with tempfile.TemporaryDirectory(prefix="roundhouse-bench-") as folder:
        results = Path(folder) / "figures.jsonl"
        results.touch()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", program, str(results),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        errors = (await process.communicate(asked.encode()))[1]
        lines = results.read_text(encoding="utf-8").splitlines()
    found = [_figures(job, json.loads(line)) for job, line in zip(jobs, lines, strict=False)]
    if not any("tokens_per_s" in one for one in found):
        last = errors.decode(errors="replace").strip().splitlines()[-1:]
        raise LoadError(
            f"vLLM's bench serve does not work here: {next((one['error'] for one in found), ' '.join(last))}"
        )
    return found


def _figures(job: Job, said: dict[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {"streams": job.streams, "via": job.via}
    if "error" in said or not said.get("completed"):
        return row | {"error": said.get("error", "no request was answered")}
    return row | {
        "requests": said["completed"],
        "tokens": said["total_output_tokens"],
        "seconds": round(said["duration"], 3),
        "tokens_per_s": round(said["output_throughput"], 1),
        **{f"{kind}_ms": {f"p{one}": round(said.get(f"p{one}_{kind}_ms", 0.0), 2) for one in PERCENTILES}
           for kind in ("ttft", "itl")},
    }  # fmt: skip
