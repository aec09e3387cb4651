"""vLLM's own KV cache planning. It runs as a process of its own, since it imports vLLM.

`python -m tests.planner.reference` reads a JSON list of cases from standard input and writes a list of
`[blocks, tokens, requests]`. A case has `sliding` (per layer, whether its attention has a sliding window), `window`
(tokens), `heads` (KV heads), `size` (of a head), `latent` (whether attention is latent), `block`, `context` and
`in_flight` (tokens) and `bytes` (of the cache).
"""

import importlib
import json
import sys
from types import SimpleNamespace
from typing import Any


def plan(case: dict[str, Any], vllm: Any, specs: Any, layout: Any, dtype: Any) -> tuple[int, int, float]:
    """vLLM's plan for one case."""
    config = SimpleNamespace(
        scheduler_config=SimpleNamespace(disable_hybrid_kv_cache_manager=False),
        attention_config=SimpleNamespace(hisparse_config=None),
        model_config=SimpleNamespace(max_model_len=case["context"], original_max_model_len=case["context"]),
        parallel_config=SimpleNamespace(decode_context_parallel_size=1, tensor_parallel_size=1),
        cache_config=SimpleNamespace(
            get_resolved_kv_cache_layout=lambda: layout,
            num_gpu_blocks_override=None,
            prefix_cache_retention_interval=None,
        ),
        speculative_config=None,
        num_prefill_lookahead_tokens=0,
        max_in_flight_tokens=case["in_flight"],
    )
    layers = {}
    for number, sliding in enumerate(case["sliding"]):
        sizes = {"block_size": case["block"], "num_kv_heads": case["heads"], "head_size": case["size"], "dtype": dtype}
        if case["latent"]:
            spec = specs.MLAAttentionSpec(**sizes)
        elif sliding:
            spec = specs.SlidingWindowSpec(**sizes, sliding_window=case["window"])
        else:
            spec = specs.FullAttentionSpec(**sizes)
        layers[f"layers.{number}"] = spec
    planned = vllm.get_kv_cache_configs(config, [layers], [case["bytes"]])[0]
    tokens, requests = vllm.get_kv_cache_capacity(config, planned)
    return planned.num_blocks, tokens, requests


def main() -> None:
    """Plans every case."""
    vllm = importlib.import_module("vllm.v1.core.kv_cache_utils")
    specs = importlib.import_module("vllm.v1.kv_cache_interface")
    layout = importlib.import_module("vllm.v1.kv_cache_layout").KVCacheLayout.LBHNC
    dtype = importlib.import_module("torch").bfloat16
    print(json.dumps([plan(case, vllm, specs, layout, dtype) for case in json.load(sys.stdin)]))


if __name__ == "__main__":
    main()
