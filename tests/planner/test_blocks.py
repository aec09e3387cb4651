"""KV cache blocks, compared with vLLM's own planning and with running engines."""

import json
import random
import re
import subprocess
import sys

import httpx
import pytest

from service.architectures.registry import ARCHITECTURES
from service.architectures.shape import Shape
from service.catalog.model import Model
from service.fleet import fleet
from service.planner.blocks import Blocks, blocks, layers, missing, token_bytes
from tests.support.each import by_id, each
from tests.support.fleets import CATALOG, ROOT
from tests.support.services import Service

GIB = 2**30
CACHED = [model for model in CATALOG.models.values() if not missing(model) and model.network.attention != "encoder"]  # type: ignore[union-attr]
INFO = re.compile(r"vllm:cache_config_info\{(.*)\}")


def with_sizes(architecture: str = "LlamaForCausalLM", **sizes: int) -> Model:
    """A model of which only these sizes are known."""
    return Model(
        id="model", variant="base", hub="some/one", architecture=architecture, shape=Shape.model_validate(sizes)
    )


def hybrid(count: int, pattern: int | None, window: int | None, heads: int = 4, size: int = 64) -> Model:
    """A model of `count` layers, of which every `pattern`th has full attention and the others a sliding window."""
    return with_sizes(
        "GptOssForCausalLM",
        num_hidden_layers=count,
        num_attention_heads=8 * heads,
        num_key_value_heads=heads,
        head_dim=size,
        **({"sliding_window": window} if window else {}),
        **({"sliding_window_pattern": pattern} if pattern and window else {}),
    )


def test_block_has_a_page_per_layer() -> None:
    model = hybrid(32, None, None, heads=8, size=128)
    assert blocks(model, GIB, 16, 4096) == Blocks(GIB // (32 * 16 * 2 * 8 * 128 * 2), 256, 2.0, 8192)


def test_partly_filled_block_counts_in_full() -> None:
    full, partly = (blocks(hybrid(2, None, None), GIB, 16, context) for context in (4096, 4097))
    assert full
    assert partly
    assert (full.per_request, partly.per_request) == (256, 257)


def test_fp8_cache_has_twice_the_blocks() -> None:
    model = hybrid(2, None, None)
    in_16_bit, in_fp8 = blocks(model, GIB, 16, 4096), blocks(model, GIB, 16, 4096, kv_bytes=1)
    assert in_16_bit
    assert in_fp8
    assert in_fp8.number == 2 * in_16_bit.number


@pytest.mark.parametrize(("degree", "heads"), [(1, 8), (2, 4), (8, 1), (16, 1)])
def test_kv_heads_are_divided_then_replicated(degree: int, heads: int) -> None:
    network = ARCHITECTURES["LlamaForCausalLM"]
    shape = Shape(num_hidden_layers=2, num_attention_heads=64, num_key_value_heads=8, head_dim=128)
    assert token_bytes(network, shape, tensor_parallel=degree) == 2 * heads * 128 * 2


def test_latent_cache_is_replicated_on_every_gpu() -> None:
    model = with_sizes("DeepseekV2ForCausalLM", num_hidden_layers=27, kv_lora_rank=512, qk_rope_head_dim=64)
    on_one, on_four = (blocks(model, GIB, 64, 4096, tensor_parallel=degree) for degree in (1, 4))
    assert on_one == on_four
    assert on_one
    assert on_one.number == GIB // (27 * 64 * 576 * 2)


def test_sliding_window_layers_hold_the_window_and_tokens_in_flight() -> None:
    model = hybrid(24, 2, 128)
    idle, busy = (blocks(model, GIB, 16, 131072, in_flight=tokens) for tokens in (0, 4096))
    assert idle
    assert busy
    assert idle.per_request == 8192 + 8 + 1
    assert busy.per_request == 8192 + 264 + 1


def test_encoder_has_no_cache() -> None:
    model = with_sizes("BertModel", num_hidden_layers=12, num_attention_heads=12, num_key_value_heads=12, head_dim=32)
    assert model.network
    assert blocks(model, GIB, 16, 512) is None
    assert layers(model.network, model.shape) == (0, 0)
    assert not missing(model)


@pytest.mark.parametrize("key", ["num_hidden_layers", "num_key_value_heads", "head_dim"])
def test_missing_size_is_named_and_gives_no_blocks(key: str) -> None:
    sizes = {"num_hidden_layers": 2, "num_key_value_heads": 2, "head_dim": 64}
    del sizes[key]
    model = with_sizes(**sizes)  # type: ignore[arg-type]
    assert missing(model) == [key]
    assert blocks(model, GIB, 16, 4096) is None


@each("model", CACHED, ids=by_id)
def test_every_model_of_known_shape_has_blocks(model: Model) -> None:
    found = blocks(model, 64 * GIB, 16, model.opening_context or 4096)
    assert found
    assert found.requests > 0


@pytest.mark.engine
def test_blocks_equal_vllms_own_planning() -> None:
    """300 random layer patterns and every model of the catalogue, compared with vLLM's own functions."""
    rng = random.Random(3)
    models = [
        hybrid(
            rng.randint(1, 90),
            rng.choice([None, 2, 3, 4, 6, 7]),
            rng.choice([None, 1, 100, 128, 1024, 4096]),
            rng.choice([1, 2, 8]),
            rng.choice([32, 64, 128]),
        )
        for _ in range(300)
    ] + CACHED
    cases, expected = [], []
    for model in models:
        network, shape = model.network, model.shape
        assert network
        latent = network.attention == "latent"
        case = {
            "sliding": [not latent and shape.sliding(layer) for layer in range(shape.num_hidden_layers or 0)],
            "window": shape.sliding_window,
            "heads": 1 if latent else shape.num_key_value_heads,
            "size": (shape.kv_lora_rank or 0) + (shape.qk_rope_head_dim or 0) if latent else shape.head_dim,
            "latent": latent,
            "block": rng.choice([16, 64, 128]),
            "context": rng.choice([512, 1000, 4096, 40961]),
            "in_flight": rng.choice([0, 2048, 16384]),
            "bytes": 64 * GIB + rng.randint(0, GIB),
        }
        found = blocks(model, case["bytes"], case["block"], case["context"], in_flight=case["in_flight"])  # type: ignore[arg-type]
        assert found
        cases.append(case)
        expected.append([found.number, found.tokens, pytest.approx(found.requests)])
    command = [sys.executable, "-m", "tests.planner.reference"]
    process = subprocess.run(command, input=json.dumps(cases), capture_output=True, text=True, cwd=ROOT, check=True)
    assert json.loads(process.stdout.splitlines()[-1]) == expected


@pytest.mark.engine
def test_blocks_equal_what_engines_report(pebble: Service) -> None:
    """In the default fleet."""
    served = fleet.load(ROOT / "deploy/fleets/pebble.yaml", CATALOG).served
    for index, model in enumerate(served):
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(pebble.socket_of(index)))) as client:
            found = INFO.search(client.get("http://engine/metrics").text)
        assert found
        info = dict(re.findall(r'(\w+)="([^"]*)"', found[1]))
        assert model.context
        cache = int(model.env["VLLM_CPU_KVCACHE_SPACE"]) * GIB
        predicted = blocks(model.model, cache, int(info["block_size"]), model.context)
        assert predicted
        assert int(info["num_gpu_blocks"]) == pytest.approx(predicted.number, rel=0.02)
        assert int(info["kv_cache_size_tokens"]) == pytest.approx(predicted.tokens, rel=0.02)
        assert float(info["kv_cache_max_concurrency"]) == pytest.approx(predicted.requests, rel=0.02)
