"""GPU memory: tensor-parallel degrees, and what fits on which GPUs."""

import json

import pytest

from service.catalog.model import Model
from service.planner.adapters import adapter_bytes
from service.planner.memory import COMMUNICATION_BYTES, Demand, degrees, fit, overhead_bytes, smallest, why_indivisible
from service.planner.quantization import Form, forms, unknown
from tests.planner.test_gpus import KNOWN
from tests.support.each import by_id, each
from tests.support.fleets import CATALOG, ROOT

MODELS = CATALOG.models


@pytest.mark.parametrize(
    ("name", "form", "most", "expected"),
    [
        ("llama-2-7b", "bf16", 8, [1, 2, 4, 8]),
        ("llama-2-7b", "int4", 8, [1, 2]),  # 11008 / 4 is no multiple of 128
        ("llama-2-70b", "bf16", 16, [1, 2, 4, 8, 16]),  # beyond 8, the key-value heads are replicated
        ("phi-3-medium-4k-instruct", "bf16", 8, [1, 2, 5]),  # 40 heads, 10 key-value heads
        ("falcon-7b", "bf16", 8, [1]),  # 71 heads
    ],
)
def test_tensor_parallel_degrees(name: str, form: Form, most: int, expected: list[int]) -> None:
    assert degrees(MODELS[name], form, most) == expected


def test_reason_why_a_model_cannot_be_divided() -> None:
    assert why_indivisible(MODELS["falcon-7b"], "bf16", 2) == "71 attention heads cannot be divided by 2"
    assert "multiple of the 128 weights" in (why_indivisible(MODELS["llama-2-7b"], "int4", 4) or "")


def test_weights_overhead_and_cache_add_up_to_the_usable_memory() -> None:
    gpu = KNOWN["H100"]
    found = fit(MODELS["llama-2-13b-chat"], gpu, "bf16", 1, Demand(4096))
    assert found
    assert found.why is None
    assert found.weights + found.overhead + found.cache == int(gpu.memory * Demand(4096).utilization)
    assert found.requests == pytest.approx(found.cache / (819_200 * 4096), rel=0.01)


def test_planned_cache_is_within_two_percent_of_what_vllm_had_on_an_h100() -> None:
    measured = json.loads((ROOT / "bench/results/nvidia-h100-80gb-hbm3/llama-2-7b-chat/start.json").read_text())
    (engine,) = measured["figures"]["engines"]
    found = fit(MODELS[engine["model"]], KNOWN["H100"], engine["form"], 1, Demand(engine["context"]))
    assert found and found.blocks
    assert found.cache == pytest.approx(engine["kv_bytes"], rel=0.02)
    assert found.blocks.number == pytest.approx(engine["kv_blocks"], rel=0.02)


def test_several_gpus_also_need_buffers_to_communicate() -> None:
    model, gpu = MODELS["llama-2-70b"], KNOWN["H100"]
    assert model.network
    shape = model.shape.model_copy(update={"intermediate_size": 0})  # of which each GPU would have a part
    one, two = (overhead_bytes(model.network, shape, gpu, degree) for degree in (1, 2))
    assert two - one == COMMUNICATION_BYTES


def test_higher_utilization_gives_a_larger_cache() -> None:
    small, large = (
        fit(MODELS["llama-2-7b"], KNOWN["L4"], "bf16", 1, Demand(1024, utilization=share)) for share in (0.8, 0.95)
    )
    assert small
    assert large
    assert large.cache - small.cache == pytest.approx(0.15 * KNOWN["L4"].memory, rel=1e-6)


def test_weights_that_do_not_fit() -> None:
    found = fit(MODELS["llama-2-70b"], KNOWN["H100"], "bf16", 1, Demand(4096))
    assert found
    assert found.why
    assert found.why.startswith("weights of 138.0 GB on each GPU exceed the 7")


def test_cache_that_holds_no_request() -> None:
    found = fit(MODELS["llama-2-13b"], KNOWN["L40S"], "bf16", 1, Demand(32768))
    assert found
    assert found.why
    assert "cannot hold one request of 32,768 tokens" in found.why


def test_smallest_takes_the_fewest_gpus_that_hold_the_users() -> None:
    model, gpu, demand = MODELS["llama-2-13b-chat"], KNOWN["L40S"], Demand(4096)
    for users in (1, 4, 20, 60):
        found = smallest(model, gpu, "bf16", demand, users)
        assert found
        assert (found.requests or 0) >= users
        fewer = [degree for degree in degrees(model, "bf16", 8) if degree < found.degree]
        assert all((few := fit(model, gpu, "bf16", degree, demand)) and (few.requests or 0) < users for degree in fewer)


def test_smallest_takes_a_whole_node_if_none_holds_the_users() -> None:
    found = smallest(MODELS["llama-2-13b-chat"], KNOWN["T4"], "bf16", Demand(4096), 1000)
    assert found
    assert found.degree == 4
    assert found.why is None
    assert (found.requests or 0) < 1000


@each("model", MODELS.values(), ids=by_id)
def test_every_model_of_known_shape_fits_some_gpu(model: Model) -> None:
    demand = Demand(min(model.context or 1024, 4096))
    for form in forms(model):
        found = [smallest(model, gpu, form, demand) for gpu in KNOWN.values()]
        # How its weights are published is not known, and a trillion of them in bfloat16 fits no node.
        if not unknown(model) and model.id != "kimi-k2.6":
            assert any(one and one.why is None for one in found)
        assert all(one is None or one.overhead > 0 for one in found)


def test_encoder_fits_without_a_cache() -> None:
    encoder = next(model for model in MODELS.values() if model.network and model.network.attention == "encoder")
    found = fit(encoder, KNOWN["T4"], "bf16", 1, Demand(512))
    assert found
    assert (found.why, found.requests) == (None, None)


def test_larger_batch_limits_need_more_overhead() -> None:
    model = MODELS["llama-2-13b"]
    assert model.network
    small, large = (overhead_bytes(model.network, model.shape, KNOWN[name], 1) for name in ("A100-80", "H100"))
    assert small < large


def test_room_for_adapters_is_taken_from_the_cache() -> None:
    model, gpu = MODELS["llama-2-7b"], KNOWN["H100"]
    layers = 32 * (4 * (4096 + 4096) + 3 * (4096 + 11008)) + 2 * (4096 + 32000)
    assert adapter_bytes(model.shape, 2, 16) == 2 * 16 * 2 * layers
    without, room = (fit(model, gpu, "bf16", 1, Demand(4096, adapters=slots)) for slots in (0, 2))
    assert without and room
    assert without.cache - room.cache == room.overhead - without.overhead == 2 * 16 * 2 * layers
    halved = 32 * (3 * (4096 + 2048) + 2 * (4096 + 5504) + (2048 + 4096) + (5504 + 4096)) + 2 * (4096 + 32000)
    assert adapter_bytes(model.shape, 2, 16, 2) == 2 * 16 * 2 * halved
    latent = next(one for one in MODELS.values() if one.shape.kv_lora_rank)
    assert adapter_bytes(latent.shape, 1, 16) is None, "its layers are not known, and nothing is guessed"
