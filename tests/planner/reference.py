"""What vLLM's own cache planning says. A program of its own, for it imports vLLM: `python -m tests.planner.reference`.

Reads a JSON list of cases from standard input and writes a list of `[blocks, tokens, requests]`. A case has `sliding`
(for each layer whether it slides), `window`, `heads`, `size` and `latent` (sizes of one layer's cache), `block`,
`context`, `in_flight` (tokens) and `bytes` (of the cache).
"""

import importlib
import json
import sys
from types import SimpleNamespace
from typing import Any


def report(case: dict[str, Any], vllm: Any, kinds: Any, layout: Any, dtype: Any) -> tuple[int, int, float]:
    """The plan of one case."""
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
    for number, slides in enumerate(case["sliding"]):
        sizes = {"block_size": case["block"], "num_kv_heads": case["heads"], "head_size": case["size"], "dtype": dtype}
        if case["latent"]:
            kind = kinds.MLAAttentionSpec(**sizes)
        elif slides:
            kind = kinds.SlidingWindowSpec(**sizes, sliding_window=case["window"])
        else:
            kind = kinds.FullAttentionSpec(**sizes)
        layers[f"layers.{number}"] = kind
    planned = vllm.get_kv_cache_configs(config, [layers], [case["bytes"]])[0]
    tokens, requests = vllm.get_kv_cache_capacity(config, planned)
    return planned.num_blocks, tokens, requests


def main() -> None:
    """Answers every case."""
    vllm = importlib.import_module("vllm.v1.core.kv_cache_utils")
    kinds = importlib.import_module("vllm.v1.kv_cache_interface")
    layout = importlib.import_module("vllm.v1.kv_cache_layout").KVCacheLayout.LBHNC
    dtype = importlib.import_module("torch").bfloat16
    print(json.dumps([report(case, vllm, kinds, layout, dtype) for case in json.load(sys.stdin)]))


if __name__ == "__main__":
    main()
