"""`docs/choosing.md`, written by the planner itself: `python -m tests.planner.choosing > docs/choosing.md`."""

import shlex
import sys
from collections.abc import Iterator
from unittest.mock import patch

from click.testing import CliRunner

from service.catalog.model import Model
from service.catalog.names import POOLING
from service.cli import planning
from service.config.settings import Settings
from service.planner.gpus import Gpu
from service.planner.memory import Demand, fit, smallest
from service.planner.quantization import Form, forms, parts
from tests.planner.test_gpus import KNOWN
from tests.support.fleets import CATALOG

USERS, CONTEXT = 8, 4096  # of the table of sizes
LARGE = "H100"  # what several of are named where one card is not enough

INTRODUCTION = """\
# Which model, which size, which GPU

<!-- Written by `make docs` from the catalogue and deploy/gpus.yaml; its text is in tests/planner/choosing.py. -->

`roundhouse plan` answers three questions before anything is downloaded or rented: does a model fit, how many requests
does it hold at a time, and what will its tokens cost at most. It only calculates. Memory is counted as vLLM counts it,
and is close; **speeds are upper bounds** that the memory's bandwidth and the processors set, and no engine reaches
them. Measure before you buy (`bench/`).

## Start from what you want

Name a task or variant, the longest context, the number of users at a time, and the GPU you have (several of one kind:
`--gpu-count`). `--quantization` and `--commercial` narrow it down.

{ranking}

## Start from a model

Without options the plan shows every GPU of `deploy/gpus.yaml`, in every form that vLLM loads the weights in. Name your
own cards with `--gpu`, your longest request with `--context`, your users with `--users`.

{llama}

How to read it:

- **as**: `bf16` is how models are published (`fp16` on a T4, which has no bf16). `fp8` halves the weights, and vLLM can
  make it itself while it loads (`quantization: fp8`). `int4` needs a copy that somebody made with AWQ or GPTQ. Of
  these, choose the first that fits: each step costs some exactness.
- **GPUs** is the smallest tensor-parallel degree that fits. It must divide the attention heads and share out the
  key-value heads, which is why a model with 71 heads stays on one card.
- **holds** is what vLLM calls maximum concurrency: requests that are all as long as `--context`. Shorter ones leave
  room for more. Where layers slide, vLLM also sets aside the batches that are under way; a smaller
  `max_num_batched_tokens` gives some of that back.
- **alone** and **each** are tokens per second for one user: alone, and when the engine is full. Ten is about as fast as
  people read.

## What fits on one card

The smallest card that holds {users} requests of {context:,} tokens at a time, or of the model's own context where
that is shorter, in each form; several {large}s where no one card does.

{sizes}

## Worked examples

### A mixture of experts: all of it in memory, a part of it per token

{mixtral}

### A small model with a large cache

Phi-3-mini's weights are small, but each of its heads keeps keys and values of its own: a long context costs more than
the weights.

{phi}

### 34 billion parameters on one L40S

{code}

### Tens of users on one model

{users_example}

## Buy or rent: your own GPUs against an API

The prices here are **examples of what you would type, not offers and not ours**: put in what your GPU costs you in an
hour and what your API takes. `even at` is the share of the bound's throughput that your GPUs must really reach, around
the clock, to cost no more than the API: where it says `never`, the API is cheaper even at the bound.

{cost}

Two things decide it more than the model does: how many hours of the day the GPUs are busy, and how many requests share
a step. A card that is busy for a quarter of the time must be worth it at a quarter of the bound, before any loss to
real software. A full engine is cheap for each token and slow for each user.

## What is assumed

- A request is as long as `--context` all the time. Real ones are shorter, so that more fit and all are faster.
- The engine is alone on its GPUs, with vLLM's own defaults for everything that the fleet file does not set.
- The runtime, CUDA graphs and activations are estimated (by constants of `service/planner/memory.py`, printed under
  each plan); vLLM measures its own when it starts. Weights and blocks are held against real files and engines by the
  tests.
- Several GPUs are as fast as their sum. What they spend on talking to each other is not counted, and matters most
  without NVLink.
- Nothing is guessed: what the catalogue does not know of a model is named and left out.
"""

COMMANDS = {
    "ranking": planning.EXAMPLE,
    "llama": "roundhouse plan llama-2-13b-chat --gpu A10G --gpu L40S --gpu H100",
    "mixtral": "roundhouse plan mixtral-8x7b-instruct-v0.1 --context 8192 --gpu A100-80 --gpu H200",
    "phi": "roundhouse plan phi-3-mini-128k-instruct --context 16384 --gpu T4 --gpu L4",
    "code": "roundhouse plan code-llama-34b-instruct --context 8192 --gpu L40S --quantization awq",
    "users_example": "roundhouse plan llama-3.1-8b-instruct --context 8192 --users 40 --quantization bf16",
    "cost": (
        "roundhouse plan llama-2-13b-chat --gpu L40S --gpu H100 --price 2.50 --api-price 0.60 --api-input-price 0.20"
    ),
}


def shown(command: str) -> str:
    """A command and what it prints, as a block."""
    words = shlex.split(command)[2:]
    with patch.object(planning, "settings_and_catalog", lambda: (Settings(), CATALOG)):  # read once is enough
        result = CliRunner().invoke(planning.plan_command, words, env={"COLUMNS": "120"}, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    lines = "\n".join(line.rstrip() for line in result.output.splitlines())
    return f"```console\n$ {command}\n{lines}\n```"


def sizes() -> str:
    """The table of the smallest cards."""
    rows = ["| family | parameters | for example | bf16 | fp8 | int4 | as published |", "|---|---|---|---|---|---|---|"]
    return "\n".join([*rows, *_rows()])


def _rows() -> Iterator[str]:
    seen = set()
    for model in CATALOG.models.values():
        found, family = parts(model), CATALOG.family_of[model.id]
        if found is None or model.path or (model.network and (model.network.refused or not _writes(model))):
            continue
        if (family, round(found.total, -8), model.shape.num_key_value_heads) in seen:
            continue
        seen.add((family, round(found.total, -8), model.shape.num_key_value_heads))
        cells = [_card(model, form) if form in forms(model) else "" for form in ("bf16", "fp8", "int4", "mxfp4")]
        size = f"{found.total / 1e9:.1f} B" if found.total >= 1e9 else f"{found.total / 1e6:.0f} M"
        yield f"| {CATALOG.families[family].title} | {size} | `{model.id}` | {' | '.join(cells)} |"


def _writes(model: Model) -> bool:
    return model.variant not in POOLING


def _card(model: Model, form: Form) -> str:
    demand = Demand(min(model.context or CONTEXT, CONTEXT))
    for gpu in sorted(KNOWN.values(), key=lambda gpu: (round(gpu.usable_gib), gpu.bandwidth)):
        if _holds(model, gpu, form, demand):
            return gpu.name
    several = smallest(model, KNOWN[LARGE], form, demand, USERS)
    return f"{several.degree} x {LARGE}" if several and (several.requests or 0) >= USERS else "-"


def _holds(model: Model, gpu: Gpu, form: Form, demand: Demand) -> bool:
    found = fit(model, gpu, form, 1, demand)
    return found is not None and found.why is None and (found.requests or 0) >= USERS


def document() -> str:
    """All of it."""
    blocks = {name: shown(command) for name, command in COMMANDS.items()}
    return INTRODUCTION.format(**blocks, sizes=sizes(), users=USERS, context=CONTEXT, large=LARGE)


if __name__ == "__main__":
    sys.stdout.write(document())
