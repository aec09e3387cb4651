"""Throughput bounds, and the cost per token that follows from them."""

import pytest

from service.catalog.model import Model
from service.catalog.names import POOLING
from service.planner.cost import Prices, cost
from service.planner.memory import Demand, Fit, smallest
from service.planner.quantization import forms, parts, unknown
from service.planner.speed import Speed, speed
from tests.planner.test_gpus import KNOWN
from tests.support.each import by_id, each
from tests.support.fleets import CATALOG

MODELS = CATALOG.models
DEMAND = Demand(4096)


def bounds(name: str, gpu: str = "H100", demand: Demand = DEMAND, users: int | None = None) -> tuple[Fit, Speed]:
    """A model in its most exact form on the fewest GPUs, and its throughput bounds."""
    found = smallest(MODELS[name], KNOWN[gpu], forms(MODELS[name])[0], demand)
    assert found
    bound = speed(MODELS[name], found, demand, users)
    assert bound
    return found, bound


def test_single_stream_is_bound_by_reading_weights_and_cache() -> None:
    _, bound = bounds("llama-2-13b-chat")
    found = parts(MODELS["llama-2-13b-chat"])
    assert found
    read = 2 * (found.total - found.lookup) + 819_200 * 4096
    assert bound.alone == pytest.approx(KNOWN["H100"].bandwidth / read)


def test_mixture_of_experts_reads_only_the_active_experts() -> None:
    _, dense = bounds("code-llama-34b", "H200")
    _, mixture = bounds("mixtral-8x7b-v0.1", "H200")
    assert dense.alone
    assert mixture.alone
    assert mixture.alone > 2 * dense.alone


@each("model", MODELS.values(), ids=by_id)
def test_batching_slows_each_stream_and_raises_the_total(model: Model) -> None:
    demand = Demand(min(model.context or 1024, 2048))
    found = smallest(model, KNOWN["B200"], forms(model)[0], demand)
    if unknown(model) or not found or found.why:
        assert not found or speed(model, found, demand) is None
        return
    bound = speed(model, found, demand)
    assert bound
    assert bound.prefill
    if bound.alone is None or bound.each is None or bound.together is None:
        assert model.variant in POOLING
        return
    assert bound.each <= bound.alone <= bound.together * 1.000001
    assert bound.together == pytest.approx(bound.each * bound.batch)


def test_batch_is_limited_by_max_num_seqs() -> None:
    _, bound = bounds("llama-3.2-1b-instruct", "A100-80", Demand(64))
    assert bound.batch == 256


def test_batch_is_limited_by_users_and_by_the_cache() -> None:
    found, bound = bounds("llama-2-13b-chat", users=5)
    assert bound.batch == 5
    found, bound = bounds("llama-2-13b-chat", users=500)
    assert bound.batch == int(found.requests or 0)


def test_large_batch_is_compute_bound() -> None:
    _, bound = bounds("llama-3.2-1b-instruct", "T4", Demand(16))
    weights = parts(MODELS["llama-3.2-1b-instruct"])
    assert weights
    assert bound.together == pytest.approx(65e12 / (2 * weights.active))


def test_no_prefill_bound_without_known_flops() -> None:
    model = MODELS["llama-2-7b"]
    found = smallest(model, KNOWN["L4"].model_copy(update={"tflops_16bit": None}), "bf16", Demand(1024))
    assert found
    bound = speed(model, found, Demand(1024))
    assert bound
    assert bound.prefill is None
    assert bound.alone


def test_own_cost_is_gpu_time_at_its_price() -> None:
    found, bound = bounds("llama-2-13b-chat")
    own = cost(found, bound, DEMAND, Prices(gpu_hour=3.6, answer=96))
    assert own
    assert bound.together
    assert bound.prefill
    seconds = 96 / bound.together + 4000 / bound.prefill
    assert own.own == pytest.approx(seconds * 0.001 * 1e6 / 96)
    assert own.api is own.break_even is None


def test_break_even_is_where_both_cost_the_same() -> None:
    found, bound = bounds("llama-2-13b-chat")
    compared = cost(found, bound, DEMAND, Prices(gpu_hour=2, output=1, input=0.5, answer=1024))
    assert compared
    assert compared.api == pytest.approx(1 + 0.5 * 3)
    assert compared.break_even
    assert compared.own / compared.break_even == pytest.approx(compared.api)


def test_output_is_no_longer_than_the_context() -> None:
    found, bound = bounds("llama-2-13b-chat", demand=Demand(256))
    compared = cost(found, bound, Demand(256), Prices(gpu_hour=2, output=1, input=1, answer=500))
    assert compared
    assert compared.api == 1


def test_no_cost_without_a_gpu_price() -> None:
    found, bound = bounds("llama-2-13b-chat")
    assert cost(found, bound, DEMAND, Prices(output=1)) is None
