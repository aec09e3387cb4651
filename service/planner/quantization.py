"""Bytes of a model's weights, as published and on a GPU, in each form (precision) that vLLM can load."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from service.architectures.parameters import count_parameters, missing_sizes
from service.catalog.model import Model
from service.planner.gpus import Gpu

Form = Literal["bf16", "fp8", "int4", "mxfp4"]

# The names of formats that a user may ask for, and the form that each of them is.
FORMATS: Mapping[str, Form] = MappingProxyType(
    {"bf16": "bf16", "fp16": "bf16", "fp8": "fp8", "int4": "int4", "awq": "int4", "gptq": "int4", "mxfp4": "mxfp4"}
)
GROUP = 128  # weights that share one scale and one zero point: the usual group size of AWQ and GPTQ
SCALE_BITS, ZERO_BITS = 16, 4
MX_GROUP, MX_SCALE_BITS = 32, 8  # from the Open Compute microscaling (MX) formats
VOCABULARY_PADDING = 64  # vLLM pads the vocabulary to a multiple of this
# Bits per weight in quantised layers; all other weights have 16. The scales of fp8, one per row or tensor, are
# negligible.
BITS: Mapping[Form, float] = MappingProxyType(
    {"bf16": 16.0, "fp8": 8.0, "int4": 4 + (SCALE_BITS + ZERO_BITS) / GROUP, "mxfp4": 4 + MX_SCALE_BITS / MX_GROUP}
)
UNQUANTISED_BYTES = 2  # per weight
# The form of weights that are published quantised; vLLM loads them as they are.
PUBLISHED_FORMS: Mapping[str, Form] = MappingProxyType({"fp8": "fp8", "int4": "int4", "mxfp4": "mxfp4"})
# Checkpoints that are published in int4 have only their experts in it, in groups of 32 with one scale each.
PUBLISHED_INT4_BITS = 4 + SCALE_BITS / 32
DTYPE_BYTES: Mapping[str, int] = MappingProxyType({"bfloat16": 2, "float16": 2, "float32": 4})


@dataclass(frozen=True)
class Parts:
    """Parameter counts of a model, by how a token uses them.

    `lookup`: embedding tables, of which a token reads one row. `head`: the output projection to the vocabulary (LM
    head). `experts`: all routed experts together, of which a token uses the fraction `share`. `rest`: everything else,
    which every token uses.
    """

    lookup: int
    head: int
    experts: int
    share: float
    rest: int

    @property
    def total(self) -> int:
        """All parameters."""
        return self.lookup + self.head + self.experts + self.rest

    @property
    def active(self) -> float:
        """The parameters that one token is multiplied with."""
        return self.head + self.experts * self.share + self.rest


def unknown(model: Model) -> list[str]:
    """The sizes that `parts` needs and the model's shape does not give."""
    return ["architecture"] if model.network is None else missing_sizes(model.network, model.shape, model.context)


def parts(model: Model) -> Parts | None:
    """The model's parameters by their use; None if a size is `unknown`."""
    network, shape = model.network, model.shape
    if network is None or unknown(model):
        return None
    total = count_parameters(network, shape, model.context) or 0
    unused = total - (count_parameters(network, shape, model.context, active=True) or 0)
    share = (shape.num_experts_per_tok or 1) / (shape.num_local_experts or 1)
    experts = round(unused / (1 - share)) if unused else 0
    table = (shape.vocab_size or 0) * (shape.hidden_size or 0)
    lookup = network.positions(model.context or 0) * (shape.hidden_size or 0)
    if network.attention == "encoder":
        lookup, head = lookup + table, 0
    else:
        lookup, head = lookup + (0 if shape.tie_word_embeddings else table), table
    return Parts(lookup, head, experts, share, total - lookup - head - experts)


def published_bytes(model: Model) -> int | None:
    """Bytes of the published weights; None if their number or type is unknown."""
    if form := PUBLISHED_FORMS.get(model.dtype or ""):
        return weight_bytes(model, form)
    found = parts(model)
    count = found.total if found else model.parameters
    return count * DTYPE_BYTES[model.dtype] if count and model.dtype else None


def forms(model: Model) -> tuple[Form, ...]:
    """The forms in which vLLM can load the model's weights, the most exact first."""
    if model.network and model.network.attention == "encoder":
        return ("bf16",)  # too small for quantization to matter
    published = PUBLISHED_FORMS.get(model.dtype or "")
    return (published,) if published else ("bf16", "fp8", "int4")


def weight_bytes(model: Model, form: Form, tensor_parallel: int = 1) -> int | None:
    """Bytes of the weights on each of `tensor_parallel` GPUs; None if a size that this needs is unknown.

    Embedding tables and LM head are never quantised; AWQ, GPTQ and fp8 quantise all other layers, MXFP4 only experts.
    """
    found = parts(model)
    if found is None:
        # In bf16 all weights have the same size, so their number is enough.
        return model.parameters * UNQUANTISED_BYTES // tensor_parallel if model.parameters and form == "bf16" else None
    quantised = found.experts if _only_experts(model, form) else found.experts + found.rest
    unquantised = found.total - quantised + _padding(model) + _replicated(model, tensor_parallel)
    return int((unquantised * UNQUANTISED_BYTES + quantised * _bits(model, form) / 8) / tensor_parallel)


def read_bytes(model: Model, form: Form, tensor_parallel: int, tokens: int) -> float | None:
    """Bytes of weights that each GPU reads in one decode step for `tokens` sequences; None if a size is unknown.

    With a mixture of experts, the expected fraction of experts in use is 1 - (1 - share)^tokens: each token chooses
    independently, and all experts are equally likely.
    """
    found = parts(model)
    if found is None:
        return None
    read = found.experts * (1 - (1 - found.share) ** tokens) if found.share < 1 else found.experts
    only_experts = _only_experts(model, form)
    unquantised, quantised = (found.head + found.rest, read) if only_experts else (found.head, read + found.rest)
    return (unquantised * UNQUANTISED_BYTES + quantised * _bits(model, form) / 8) / tensor_parallel


def why_not(form: Form, gpu: Gpu) -> str | None:
    """Why vLLM cannot run weights of this form on the GPU; None if it can."""
    if form == "fp8" and gpu.fp8 is None:
        return f"{gpu.name} does not support fp8 weights"
    if form == "mxfp4" and not gpu.mxfp4:
        return f"vLLM's MXFP4 kernels need a newer GPU than {gpu.name}"
    return None


def _only_experts(model: Model, form: Form) -> bool:
    """Whether this form quantises nothing but experts."""
    return form == "mxfp4" or model.dtype == form == "int4"


def _bits(model: Model, form: Form) -> float:
    """Bits per quantised weight."""
    return PUBLISHED_INT4_BITS if model.dtype == form == "int4" else BITS[form]


def _padding(model: Model) -> int:
    """Weights that vLLM adds to pad embedding table and LM head, on all GPUs together."""
    shape = model.shape
    added = -(shape.vocab_size or 0) % VOCABULARY_PADDING * (shape.hidden_size or 0)
    return added * (1 if shape.tie_word_embeddings else 2)


def _replicated(model: Model, tensor_parallel: int) -> int:
    """Weights of the copies of key-value heads, with more GPUs than such heads."""
    shape = model.shape
    kv_heads, size = shape.num_key_value_heads, shape.head_dim
    if not kv_heads or not size or tensor_parallel <= kv_heads:
        return 0
    return (tensor_parallel - kv_heads) * 2 * size * (shape.hidden_size or 0) * (shape.num_hidden_layers or 0)
