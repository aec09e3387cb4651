"""Upper bounds of speed, and what they make tokens cost."""

import pytest

from service.catalog.model import Model
from service.planner.cost import Prices, cost
from service.planner.memory import Demand, Fit, smallest
from service.planner.quantization import forms, parts, unknown
from service.planner.speed import Speed, speed
from tests.planner.test_gpus import KNOWN
from tests.support.fleets import CATALOG

MODELS = CATALOG.models
DEMAND = Demand(4096)


def placed(name: str, gpu: str = "H100", demand: Demand = DEMAND, users: int | None = None) -> tuple[Fit, Speed]:
    """A model in its first form on the fewest GPUs, and its bounds."""
    found = smallest(MODELS[name], KNOWN[gpu], forms(MODELS[name])[0], demand)
    assert found
    bound = speed(MODELS[name], found, demand, users)
    assert bound
    return found, bound


def test_one_stream_reads_all_weights_and_its_cache_for_a_token() -> None:
    _, bound = placed("llama-2-13b-chat")
    found = parts(MODELS["llama-2-13b-chat"])
    assert found
    read = 2 * (found.total - found.lookup) + 819_200 * 4096
    assert bound.alone == pytest.approx(KNOWN["H100"].bandwidth / read)


def test_a_mixture_of_experts_reads_what_a_token_passes_through() -> None:
    _, dense = placed("code-llama-34b", "H200")
    _, mixture = placed("mixtral-8x7b-v0.1", "H200")
    assert dense.alone
    assert mixture.alone
    assert mixture.alone > 2 * dense.alone


@pytest.mark.parametrize("model", MODELS.values(), ids=lambda model: model.id)
def test_more_streams_are_slower_each_and_faster_together(model: Model) -> None:
    demand = Demand(min(model.context or 1024, 2048))
    found = smallest(model, KNOWN["B200"], forms(model)[0], demand)
    if unknown(model) or not found:
        assert not found or speed(model, found, demand) is None
        return
    bound = speed(model, found, demand)
    assert bound
    assert bound.prefill
    if bound.alone is None or bound.each is None or bound.together is None:
        assert model.variant == "embedding"
        return
    assert bound.each <= bound.alone <= bound.together * 1.000001
    assert bound.together == pytest.approx(bound.each * bound.batch)


def test_no_more_streams_than_vllm_takes_into_a_batch() -> None:
    _, bound = placed("llama-3.2-1b-instruct", "A100-80", Demand(64))
    assert bound.batch == 256


def test_no_more_streams_than_users_or_than_fit() -> None:
    found, bound = placed("llama-2-13b-chat", users=5)
    assert bound.batch == 5
    found, bound = placed("llama-2-13b-chat", users=500)
    assert bound.batch == int(found.requests or 0)


def test_large_batches_are_bound_by_arithmetic() -> None:
    _, bound = placed("llama-3.2-1b-instruct", "T4", Demand(16))
    weights = parts(MODELS["llama-3.2-1b-instruct"])
    assert weights
    assert bound.together == pytest.approx(65e12 / (2 * weights.active))


def test_a_gpu_of_unknown_arithmetic_has_no_prompt_speed() -> None:
    model = MODELS["llama-2-7b"]
    found = smallest(model, KNOWN["L4"].model_copy(update={"tflops_16bit": None}), "bf16", Demand(1024))
    assert found
    bound = speed(model, found, Demand(1024))
    assert bound
    assert bound.prefill is None
    assert bound.alone


def test_cost_is_the_time_of_the_gpus_at_their_price() -> None:
    found, bound = placed("llama-2-13b-chat")
    own = cost(found, bound, DEMAND, Prices(gpu_hour=3.6, answer=96))
    assert own
    assert bound.together
    assert bound.prefill
    seconds = 96 / bound.together + 4000 / bound.prefill
    assert own.own == pytest.approx(seconds * 0.001 * 1e6 / 96)
    assert own.api is own.break_even is None


def test_an_api_is_matched_at_the_share_where_both_cost_the_same() -> None:
    found, bound = placed("llama-2-13b-chat")
    compared = cost(found, bound, DEMAND, Prices(gpu_hour=2, output=1, input=0.5, answer=1024))
    assert compared
    assert compared.api == pytest.approx(1 + 0.5 * 3)
    assert compared.break_even
    assert compared.own / compared.break_even == pytest.approx(compared.api)


def test_an_answer_is_no_longer_than_the_request() -> None:
    found, bound = placed("llama-2-13b-chat", demand=Demand(256))
    compared = cost(found, bound, Demand(256), Prices(gpu_hour=2, output=1, input=1, answer=500))
    assert compared
    assert compared.api == 1


def test_without_a_price_there_is_no_cost() -> None:
    found, bound = placed("llama-2-13b-chat")
    assert cost(found, bound, DEMAND, Prices(output=1)) is None
