"""A KV cache in blocks, as vLLM cuts it."""

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
from tests.support.fleets import CATALOG, ROOT
from tests.support.services import Service

GIB = 2**30
CACHED = [model for model in CATALOG.models.values() if not missing(model) and model.network.attention != "encoder"]  # type: ignore[union-attr]
INFO = re.compile(r"vllm:cache_config_info\{(.*)\}")


def made(architecture: str = "LlamaForCausalLM", **sizes: int) -> Model:
    """A model of which only the sizes that a cache depends on are known."""
    return Model(
        id="made", variant="base", hub="some/one", architecture=architecture, shape=Shape.model_validate(sizes)
    )


def hybrid(count: int, pattern: int | None, window: int | None, heads: int = 4, size: int = 64) -> Model:
    """A model whose layers take turns in sliding."""
    return made(
        "GptOssForCausalLM",
        num_hidden_layers=count,
        num_attention_heads=8 * heads,
        num_key_value_heads=heads,
        head_dim=size,
        **({"sliding_window": window} if window else {}),
        **({"sliding_window_pattern": pattern} if pattern and window else {}),
    )


def test_a_block_is_a_page_for_every_layer() -> None:
    model = hybrid(32, None, None, heads=8, size=128)
    assert blocks(model, GIB, 16, 4096) == Blocks(GIB // (32 * 16 * 2 * 8 * 128 * 2), 256, 2.0, 8192)


def test_the_last_part_of_a_request_takes_a_whole_block() -> None:
    whole, more = (blocks(hybrid(2, None, None), GIB, 16, context) for context in (4096, 4097))
    assert whole
    assert more
    assert (whole.each, more.each) == (256, 257)


def test_an_fp8_cache_has_twice_the_blocks() -> None:
    model = hybrid(2, None, None)
    plain, small = blocks(model, GIB, 16, 4096), blocks(model, GIB, 16, 4096, kv_bytes=1)
    assert plain
    assert small
    assert small.number == 2 * plain.number


@pytest.mark.parametrize(("degree", "heads"), [(1, 8), (2, 4), (8, 1), (16, 1)])
def test_more_gpus_than_heads_repeat_them(degree: int, heads: int) -> None:
    network = ARCHITECTURES["LlamaForCausalLM"]
    shape = Shape(num_hidden_layers=2, num_attention_heads=64, num_key_value_heads=8, head_dim=128)
    assert token_bytes(network, shape, tensor_parallel=degree) == 2 * heads * 128 * 2


def test_a_latent_cache_is_whole_on_every_gpu() -> None:
    model = made("DeepseekV2ForCausalLM", num_hidden_layers=27, kv_lora_rank=512, qk_rope_head_dim=64)
    alone, divided = (blocks(model, GIB, 64, 4096, tensor_parallel=degree) for degree in (1, 4))
    assert alone == divided
    assert alone
    assert alone.number == GIB // (27 * 64 * 576 * 2)


def test_sliding_layers_keep_their_window_and_what_is_under_way() -> None:
    model = hybrid(24, 2, 128)
    idle, busy = (blocks(model, GIB, 16, 131072, in_flight=flying) for flying in (0, 4096))
    assert idle
    assert busy
    assert idle.each == 8192 + 8 + 1
    assert busy.each == 8192 + 264 + 1


def test_an_encoder_keeps_nothing() -> None:
    model = made("BertModel", num_hidden_layers=12, num_attention_heads=12, num_key_value_heads=12, head_dim=32)
    assert model.network
    assert blocks(model, GIB, 16, 512) is None
    assert layers(model.network, model.shape) == (0, 0)
    assert not missing(model)


@pytest.mark.parametrize("key", ["num_hidden_layers", "num_key_value_heads", "head_dim"])
def test_what_is_unknown_is_named_and_not_guessed(key: str) -> None:
    sizes = {"num_hidden_layers": 2, "num_key_value_heads": 2, "head_dim": 64}
    del sizes[key]
    model = made(**sizes)  # type: ignore[arg-type]
    assert missing(model) == [key]
    assert blocks(model, GIB, 16, 4096) is None


@pytest.mark.parametrize("model", CACHED, ids=lambda model: model.id)
def test_every_known_model_has_a_cache(model: Model) -> None:
    found = blocks(model, 64 * GIB, 16, model.opening_context or 4096)
    assert found
    assert found.requests > 0


@pytest.mark.engine
def test_vllm_plans_the_same() -> None:
    """Hundreds of layerings, and every model of the catalogue, against the functions that vLLM itself plans with."""
    chance = random.Random(3)
    models = [
        hybrid(
            chance.randint(1, 90),
            chance.choice([None, 2, 3, 4, 6, 7]),
            chance.choice([None, 1, 100, 128, 1024, 4096]),
            chance.choice([1, 2, 8]),
            chance.choice([32, 64, 128]),
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
            "block": chance.choice([16, 64, 128]),
            "context": chance.choice([512, 1000, 4096, 40961]),
            "in_flight": chance.choice([0, 2048, 16384]),
            "bytes": 64 * GIB + chance.randint(0, GIB),
        }
        found = blocks(model, case["bytes"], case["block"], case["context"], in_flight=case["in_flight"])  # type: ignore[arg-type]
        assert found
        cases.append(case)
        expected.append([found.number, found.tokens, pytest.approx(found.requests)])
    command = [sys.executable, "-m", "tests.planner.reference"]
    answer = subprocess.run(command, input=json.dumps(cases), capture_output=True, text=True, cwd=ROOT, check=True)
    assert json.loads(answer.stdout.splitlines()[-1]) == expected


@pytest.mark.engine
def test_real_engines_report_the_same(pebble: Service) -> None:
    """The default fleet: each engine says of its own cache what was predicted."""
    served = fleet.load(ROOT / "deploy/fleets/pebble.yaml", CATALOG).served
    for order, one in enumerate(served):
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(pebble.socket_of(order)))) as client:
            found = INFO.search(client.get("http://engine/metrics").text)
        assert found
        info = dict(re.findall(r'(\w+)="([^"]*)"', found[1]))
        assert one.context
        cache = int(one.env["VLLM_CPU_KVCACHE_SPACE"]) * GIB
        predicted = blocks(one.model, cache, int(info["block_size"]), one.context)
        assert predicted
        assert int(info["num_gpu_blocks"]) == pytest.approx(predicted.number, rel=0.02)
        assert int(info["kv_cache_size_tokens"]) == pytest.approx(predicted.tokens, rel=0.02)
        assert float(info["kv_cache_max_concurrency"]) == pytest.approx(predicted.requests, rel=0.02)
