"""Bytes of weights, compared with files and published copies."""

import json
import math
from pathlib import Path

import pytest

from service.architectures.parameters import count_parameters
from service.catalog.model import Model
from service.planner.quantization import (
    DTYPE_BYTES,
    Form,
    forms,
    parts,
    published_bytes,
    read_bytes,
    unknown,
    weight_bytes,
    why_not,
)
from tests.planner.test_gpus import KNOWN
from tests.support.each import by_id, each
from tests.support.fleets import CATALOG

MODELS = CATALOG.models
COUNTED = [model for model in MODELS.values() if not unknown(model)]
EMBEDDED = [model for model in MODELS.values() if model.path]

every_counted = each("model", COUNTED, ids=by_id)


def tensor_bytes(folder: Path) -> int:
    """Bytes of all tensors in a folder's safetensors, from their headers: a length of 8 bytes, then JSON."""
    total = 0
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        offsets = [entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"]
        total += sum(end - begin for begin, end in offsets)
    return total


@pytest.mark.parametrize("model", EMBEDDED, ids=lambda model: model.id)
def test_published_bytes_equal_those_of_the_files(model: Model) -> None:
    assert model.path
    assert published_bytes(model) == pytest.approx(tensor_bytes(CATALOG.folder / model.path), rel=0.01)


@every_counted
def test_parts_add_up(model: Model) -> None:
    found = parts(model)
    assert found
    assert model.network
    assert found.total == count_parameters(model.network, model.shape, model.context)
    assert min(found.lookup, found.head, found.experts, found.rest) >= 0
    active = count_parameters(model.network, model.shape, model.context, active=True)
    assert found.lookup + found.active == pytest.approx(active, rel=1e-9)


@every_counted
def test_weights_in_the_published_form_have_the_published_size(model: Model) -> None:
    if model.dtype in ("bfloat16", "float16"):
        assert weight_bytes(model, "bf16") == pytest.approx(published_bytes(model), rel=0.01)
    if model.dtype and model.dtype in DTYPE_BYTES and model.parameters:
        assert published_bytes(model) == model.parameters * DTYPE_BYTES[model.dtype]


# What the hub lists as the size of these models' AWQ copies, in 10^9 bytes.
COPIES: list[tuple[str, Form, float]] = [
    ("llama-2-7b-chat", "int4", 3.89),
    ("llama-2-13b-chat", "int4", 7.25),
    ("llama-2-70b-chat", "int4", 36.61),
]


@pytest.mark.parametrize(
    ("name", "form", "gigabytes"),
    [
        # 671 billion parameters at a byte each, embeddings and head at two.
        ("deepseek-v3-0324", "fp8", 672.9),
        # A trillion in experts at 4.5 bits, the rest at 16.
        ("kimi-k2.5", "int4", 594.6),
        ("gpt-oss-20b", "mxfp4", 13.8),
    ],
)
def test_quantised_weights_are_loaded_as_published(name: str, form: Form, gigabytes: float) -> None:
    model = MODELS[name]
    assert forms(model) == (form,)
    assert (published_bytes(model) or 0) / 1e9 == pytest.approx(gigabytes, rel=0.01)


@pytest.mark.parametrize(("name", "form", "size"), COPIES)
def test_int4_size_equals_that_of_published_copies(name: str, form: Form, size: float) -> None:
    found = weight_bytes(MODELS[name], form)
    assert found
    assert found / 1e9 == pytest.approx(size, rel=0.01)


@every_counted
def test_each_form_is_smaller_than_the_one_before(model: Model) -> None:
    sizes = [weight_bytes(model, form) or 0 for form in forms(model)]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == len(sizes)


@every_counted
def test_weights_are_divided_among_gpus(model: Model) -> None:
    form = forms(model)[0]
    on_one, on_two = weight_bytes(model, form), weight_bytes(model, form, 2)
    assert on_one
    assert on_two
    assert 1 <= 2 * on_two / on_one < 1.02


@every_counted
def test_bytes_read_grow_with_the_batch_only_for_mixtures_of_experts(model: Model) -> None:
    form = forms(model)[0]
    for_1, for_8, for_all = (read_bytes(model, form, 1, tokens) or 0.0 for tokens in (1, 8, 100_000))
    found = parts(model)
    assert found
    assert for_1 <= for_8 <= for_all <= (weight_bytes(model, form) or 0)
    assert (for_1 < for_8) == (found.share < 1)
    if form == "bf16":
        assert for_1 == pytest.approx(2 * found.active)
        assert math.isclose(for_all, 2 * (found.total - found.lookup))


def test_reason_why_a_gpu_cannot_run_a_form() -> None:
    assert why_not("mxfp4", KNOWN["T4"])
    assert not why_not("mxfp4", KNOWN["H100"])
    assert not why_not("fp8", KNOWN["H100"])
    assert why_not("fp8", KNOWN["H100"].model_copy(update={"fp8": None}))


def test_unknown_size_gives_no_bytes() -> None:
    model = MODELS["llama-2-7b"]
    partial = model.shape.model_copy(update={"vocab_size": None})
    unsized = model.model_copy(update={"parameters": None, "shape": partial})
    assert unknown(unsized) == ["vocab_size"]
    assert parts(unsized) is None
    assert published_bytes(unsized) is None
    assert weight_bytes(unsized, "int4") is None
    assert read_bytes(unsized, "bf16", 1, 1) is None
    counted = unsized.model_copy(update={"parameters": model.parameters})
    assert weight_bytes(counted, "bf16") == 2 * (model.parameters or 0)
    assert weight_bytes(counted, "int4") is None
