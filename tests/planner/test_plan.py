"""The plan for a model: a row for each GPU and form."""

import pytest

from service.architectures.shape import Shape
from service.catalog.model import Copy, Model
from service.planner.cost import Prices
from service.planner.memory import Demand
from service.planner.plan import memory_requirement, plan
from service.planner.quantization import forms, unknown
from tests.planner.test_gpus import KNOWN
from tests.support.each import by_id, each
from tests.support.fleets import CATALOG

MODELS = CATALOG.models
every_model = each("model", MODELS.values(), ids=by_id)


@every_model
def test_plan_has_a_row_with_figures_or_a_reason_for_each_gpu_and_form(model: Model) -> None:
    demand = Demand(min(model.context or 1024, 2048))
    rows = plan(model, KNOWN.values(), demand, prices=Prices(2, 1, 1))
    assert [(row.gpu.name, row.form) for row in rows] == [(name, form) for name in KNOWN for form in forms(model)]
    for row in rows:
        assert row.why or (row.fit and (unknown(model) or row.speed))


@every_model
def test_unknown_sizes_are_named(model: Model) -> None:
    found = memory_requirement(model, Demand(1024))
    assert set(found.unknown) >= set(unknown(model))
    if found.unknown:
        assert None in (found.token, *found.weights.values())
    else:
        assert found.token is not None
        assert None not in found.weights.values()


# 2 (keys and values) x layers x KV heads x head size x 2 bytes.
@each(
    ("name", "token"),
    [
        ("llama-2-13b", 819_200),
        ("mistral-7b-v0.1", 131_072),
        ("phi-3-mini-4k-instruct", 393_216),
        ("falcon-7b", 8_192),
        ("deepseek-coder-v2-lite-base", 31_104),
        ("gpt-2", 36_864),
        ("glm-4.5", 376_832),
        ("glm-4.7-flash", 54_144),
        ("deepseek-v3-0324", 70_272),
        ("kimi-k2.5", 70_272),
        ("minimax-m2", 253_952),
        ("olmo-3-7b-instruct", 524_288),
        ("smollm3-3b", 73_728),
        ("ministral-3-8b-instruct-2512", 139_264),
    ],
)
def test_kv_cache_bytes_per_token(name: str, token: int) -> None:
    assert memory_requirement(MODELS[name], Demand(1024)).token == token


def test_sliding_window_layers_keep_only_the_window() -> None:
    found = memory_requirement(MODELS["mistral-7b-v0.1"], Demand(32768))
    assert found.request == 131_072 * 4096


def test_unsupported_architecture_is_planned_with_the_reason() -> None:
    model = MODELS["grok-1"]
    assert any(
        "does not run it" in remark and "JAX" in remark for remark in memory_requirement(model, Demand(8192)).remarks
    )
    rows = plan(model, [KNOWN["H200"]], Demand(8192))
    assert {row.why for row in rows} == {"vLLM does not run it"}
    assert all(row.fit and row.fit.degree > 1 for row in rows)


def test_unknown_architecture_is_the_reason_although_the_weights_are_known() -> None:
    (row, *_) = plan(MODELS["qwen3.5-27b"], [KNOWN["H100"]], Demand(8192))
    assert row.why == "its architecture is unknown"
    assert memory_requirement(MODELS["qwen3.5-27b"], Demand(8192)).weights["bf16"] == 2 * 27_356_728_560


def test_an_unknown_size_is_the_reason_although_the_architecture_is_known() -> None:
    model = MODELS["llama-2-7b"].model_copy(update={"shape": Shape(), "parameters": None})
    (row, *_) = plan(model, [KNOWN["H100"]], Demand(4096))
    assert row.why == "the size of the weights is unknown"


def test_remarks_name_quantised_copies_or_their_absence() -> None:
    model = MODELS["llama-2-7b"].model_copy(update={"copies": (Copy(hub="some/copy", quantization="awq"),)})
    assert "Quantised with awq: some/copy." in memory_requirement(model, Demand(1024)).remarks
    bare = model.model_copy(update={"copies": ()})
    assert any("int4 needs an AWQ or GPTQ copy" in remark for remark in memory_requirement(bare, Demand(1024)).remarks)


def test_weights_published_in_mxfp4_have_no_other_form() -> None:
    model = MODELS["gpt-oss-20b"]
    assert {row.form for row in plan(model, KNOWN.values(), Demand(4096))} == {"mxfp4"}
    assert plan(model, KNOWN.values(), Demand(4096), ["int4"]) == []
    (row,) = plan(model, [KNOWN["T4"]], Demand(4096))
    assert row.why
    assert "MXFP4" in row.why


def test_fp8_cache_needs_fp8_arithmetic() -> None:
    demand = Demand(4096, kv_bytes=1)
    old, new = plan(MODELS["llama-2-7b"], [KNOWN["A100-80"], KNOWN["H100"]], demand, ["bf16"])
    assert old.why
    assert new.why is None
    (plain,) = plan(MODELS["llama-2-7b"], [KNOWN["H100"]], Demand(4096), ["bf16"])
    assert plain.fit
    assert new.fit
    assert (new.fit.requests or 0) == pytest.approx(2 * (plain.fit.requests or 0), rel=0.01)


def test_fixed_tensor_parallel_degree() -> None:
    kept, refused = (
        plan(MODELS["falcon-7b"], [KNOWN["L4"]], Demand(1024), ["bf16"], degree=degree)[0] for degree in (1, 2)
    )
    assert kept.fit
    assert kept.why is None
    assert refused.fit is None
    assert refused.why == "71 attention heads cannot be divided by 2"


def test_row_says_how_many_of_the_users_fit() -> None:
    (row,) = plan(MODELS["llama-2-13b-chat"], [KNOWN["T4"]], Demand(4096), ["bf16"], users=100)
    assert row.fit
    assert row.why == f"holds {int(row.fit.requests or 0)} of 100"
