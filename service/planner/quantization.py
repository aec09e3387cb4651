"""How many bytes a model's weights take, published and on a GPU, in each of the forms that vLLM loads."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from service.architectures.parameters import missing, parameters
from service.catalog.model import Model
from service.planner.gpus import Gpu

Form = Literal["bf16", "fp8", "int4", "mxfp4"]

# What the formats are called that people ask for, and the form that each of them is.
FORMATS: Mapping[str, Form] = MappingProxyType(
    {"bf16": "bf16", "fp16": "bf16", "fp8": "fp8", "int4": "int4", "awq": "int4", "gptq": "int4", "mxfp4": "mxfp4"}
)
GROUP = 128  # weights that share one scale and one zero point in the usual AWQ and GPTQ copies
SCALE_BITS, ZERO_BITS = 16, 4
MX_GROUP, MX_SCALE_BITS = 32, 8  # of the Open Compute microscaling formats
VOCABULARY_UNIT = 64  # vLLM pads a vocabulary to a multiple of this
# Bits for each weight of the layers that a form compresses; everything else stays at 16. The 8-bit form's scales, one
# for a row or a tensor, do not show.
BITS: Mapping[Form, float] = MappingProxyType(
    {"bf16": 16.0, "fp8": 8.0, "int4": 4 + (SCALE_BITS + ZERO_BITS) / GROUP, "mxfp4": 4 + MX_SCALE_BITS / MX_GROUP}
)
PLAIN_BYTES = 2
DTYPE_BYTES: Mapping[str, int] = MappingProxyType({"bfloat16": 2, "float16": 2, "float32": 4})


@dataclass(frozen=True)
class Parts:
    """A model's weights by what happens to them, as counts.

    `lookup`: tables of which a token reads one row. `head`: the matrix that ends in the vocabulary. `experts`: all
    experts together, of which one token passes through `share`. `rest`: everything that every token passes through.
    """

    lookup: int
    head: int
    experts: int
    share: float
    rest: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.lookup + self.head + self.experts + self.rest

    @property
    def active(self) -> float:
        """Those that one token is multiplied with."""
        return self.head + self.experts * self.share + self.rest


def unknown(model: Model) -> list[str]:
    """The sizes that the count of weights needs and the model's shape does not tell."""
    return ["architecture"] if model.network is None else missing(model.network, model.shape, model.context)


def parts(model: Model) -> Parts | None:
    """The model's weights by their use; None where `unknown` is not empty."""
    network, shape = model.network, model.shape
    if network is None or unknown(model):
        return None
    total = parameters(network, shape, model.context) or 0
    unused = total - (parameters(network, shape, model.context, active=True) or 0)
    share = (shape.num_experts_per_tok or 1) / (shape.num_local_experts or 1)
    experts = round(unused / (1 - share)) if unused else 0
    table = (shape.vocab_size or 0) * (shape.hidden_size or 0)
    lookup = (model.context or 0) * (shape.hidden_size or 0) if network.learned_positions else 0
    if network.attention == "encoder":
        lookup, head = lookup + table, 0
    else:
        lookup, head = lookup + (0 if shape.tie_word_embeddings else table), table
    return Parts(lookup, head, experts, share, total - lookup - head - experts)


def published_bytes(model: Model) -> int | None:
    """Bytes of the published weights, or None where their number or their type is unknown."""
    if model.dtype == "mxfp4":
        return weight_bytes(model, "mxfp4")
    found = parts(model)
    count = found.total if found else model.parameters
    return count * DTYPE_BYTES[model.dtype] if count and model.dtype else None


def forms(model: Model) -> tuple[Form, ...]:
    """The forms that the model's weights can be loaded in: as published, or compressed further."""
    if model.network and model.network.attention == "encoder":
        return ("bf16",)  # too small to be worth more
    return ("mxfp4",) if model.dtype == "mxfp4" else ("bf16", "fp8", "int4")


def weight_bytes(model: Model, form: Form, tensor_parallel: int = 1) -> int | None:
    """Bytes of the weights on each of `tensor_parallel` GPUs; None where the shape does not tell.

    Tables and the head are never compressed; AWQ, GPTQ and fp8 compress every other layer, MXFP4 the experts only.
    """
    found = parts(model)
    if found is None:
        # Their number alone is enough for the form that treats all weights alike.
        return model.parameters * PLAIN_BYTES // tensor_parallel if model.parameters and form == "bf16" else None
    compressed = found.experts if form == "mxfp4" else found.experts + found.rest
    plain = found.total - compressed + _padding(model) + _repeated(model, tensor_parallel)
    return int((plain * PLAIN_BYTES + compressed * BITS[form] / 8) / tensor_parallel)


def read_bytes(model: Model, form: Form, tensor_parallel: int, tokens: int) -> float | None:
    """Bytes of weights that each GPU reads for a step that gives each of `tokens` sequences its next token.

    Of a mixture of experts it is what `tokens` independent, even choices hit on average.
    """
    found = parts(model)
    if found is None:
        return None
    hit = found.experts * (1 - (1 - found.share) ** tokens) if found.share < 1 else found.experts
    plain, compressed = (found.head + found.rest, hit) if form == "mxfp4" else (found.head, hit + found.rest)
    return (plain * PLAIN_BYTES + compressed * BITS[form] / 8) / tensor_parallel


def why_not(form: Form, gpu: Gpu) -> str | None:
    """Why this GPU does not run weights of this form, or None where it does."""
    if form == "fp8" and gpu.fp8 is None:
        return f"{gpu.name} takes no fp8 weights"
    if form == "mxfp4" and not gpu.mxfp4:
        return f"vLLM's MXFP4 kernels need a newer GPU than {gpu.name}"
    return None


def _padding(model: Model) -> int:
    """Weights that vLLM adds to the vocabulary's matrices, on all GPUs together."""
    shape = model.shape
    rows = -(shape.vocab_size or 0) % VOCABULARY_UNIT * (shape.hidden_size or 0)
    return rows * (1 if shape.tie_word_embeddings else 2)


def _repeated(model: Model, tensor_parallel: int) -> int:
    """Weights of key-value heads that several GPUs keep, beyond the first of each."""
    shape = model.shape
    groups, size = shape.num_key_value_heads, shape.head_dim
    if not groups or not size or tensor_parallel <= groups:
        return 0
    return (tensor_parallel - groups) * 2 * size * (shape.hidden_size or 0) * (shape.num_hidden_layers or 0)
