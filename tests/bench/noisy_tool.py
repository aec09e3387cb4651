"""A stand-in for `bench.gpu.vllm_program` whose imports print, as vLLM's do: a program."""

import json
import sys
from pathlib import Path

print("INFO 01-01 00:00:00 [__init__.py:1] a line that is no figure")
for line in sys.stdin:
    job = json.loads(line)
    print("============ Serving Benchmark Result ============")
    if "broken" in job["arguments"]:
        sys.exit("ImportError: no such tool")
    figures = {
        "completed": 30,
        "total_output_tokens": 60,
        "duration": 2.0,
        "output_throughput": 30.0,
        "p50_ttft_ms": 7.0,
    }
    with Path(sys.argv[1]).open("a") as file:
        file.write(json.dumps(figures) + "\n")
