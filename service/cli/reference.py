"""Generates docs/models.md from the catalogue: `python -m service.cli.reference > docs/models.md`."""

import json
from collections.abc import Iterable, Iterator

from service.catalog.catalog import Catalog, load
from service.catalog.model import Family, Model
from service.cli import model_details
from service.config.paths import ROOT
from service.planner import blocks

INTRODUCTION = """\
# Models of the catalogue

<!-- Generated from models/*.yaml: `python -m service.cli.reference > docs/models.md`. -->

{count} models in {families} families. A fleet file names one by id, by hub id, or by the hub id of a quantised copy.
`roundhouse show MODEL` shows all details of one, `roundhouse list` filters by variant, task or licence, and
[routing.md](routing.md) explains how a request's model name is resolved. Models that are not listed here can be served
too: a fleet file can name any repository or folder.

Facts that have not been verified are left unknown instead of guessed: `?` in a table, or listed below it. For the same
reason only {pinned} models have a pinned revision; pin another with `engine: {{revision: …}}`.

## Tasks by variant

| variant | tasks |
|---|---|
{tasks}

A request for the model `task:NAME` is routed to a served model that is suited for the task.

## Columns

- *gated*: whether the terms must be accepted on the hub, so that a download needs a token.
- *parameters*: of all experts together; without the vision tower of a multimodal model. *bf16*: their size in bfloat16,
  whatever the published type.
- *context*: in tokens, as the model's configuration declares it; after "to", the longer context that its authors say it
  can be extended to, with `max_model_len` and `VLLM_ALLOW_LONG_MAX_MODEL_LEN=1`.
- *cache*: KV cache of one token in all layers, with 16-bit elements. It is an upper bound for models with sliding
  windows, since those layers keep no more than the window.
- *template*: the chat template. A file in `models/templates/`; or *own*: that of the weights; or *own* and the file
  that is used if the weights have none, as is the case with some copies.
"""
WITHOUT_TASKS = {"embedding": "embeddings", "reranker": "reranking", "guard": "judging conversations"}
HEAD = """\
| id | hub | gated | variant | parameters | bf16 | context | cache | template | remarks |
|---|---|---|---|--:|--:|--:|--:|---|---|"""
SHOWN_ELSEWHERE = ("revision", "gated", "licence", "commercial use", "parameters")


def document(catalog: Catalog) -> str:
    """The text of docs/models.md, without the final line break."""
    kinds = {model_details.kind(model): model for model in catalog.models.values()}
    tasks = (
        f"| {kind} | {', '.join(catalog.tasks_of(model)) or WITHOUT_TASKS[model.variant]} |"
        for kind, model in sorted(kinds.items())
    )
    introduction = INTRODUCTION.format(
        count=len(catalog.models),
        families=len(catalog.families),
        tasks="\n".join(tasks),
        pinned=sum(model.revision is not None for model in catalog.models.values()),
    )
    families = sorted(catalog.families.values(), key=lambda family: family.title.lower())
    return "\n".join([introduction, *(line for family in families for line in _family(catalog, family))]).rstrip()


def _family(catalog: Catalog, family: Family) -> Iterator[str]:
    yield f"## {family.title}\n"
    yield f"Family `{family.family}`. {model_details.terms(family.licence)}\n"
    yield HEAD
    yield from (_row(catalog, model) for model in family.models)
    yield ""
    notes = list(_notes(catalog, family))
    yield from notes
    yield from [""] if notes else []


def _row(catalog: Catalog, model: Model) -> str:
    cells = (
        f"`{model.id}`",
        model.hub or ("a folder" if str(model.path).startswith("/") else "embedded"),
        {True: "yes", False: "no", None: "?"}[model_details.gated(catalog, model)],
        model_details.kind(model),
        model_details.amount(model.parameters),
        model_details.size(model.parameters * model_details.BF16_BYTES) if model.parameters else "?",
        (f"{model.context:,}" if model.context else "?") + (f" to {model.longest:,}" if model.longest else ""),
        _cache(model),
        _template(model),
        ", ".join(_remarks(catalog, model)),
    )
    return f"| {' | '.join(cells)} |"


def _cache(model: Model) -> str:
    if model.network is None or blocks.missing(model):
        return "?"
    per_token = blocks.token_bytes(model.network, model.shape) * (model.shape.num_hidden_layers or 0)
    return f"{per_token / 1024:,.0f} KiB" if per_token else "-"


def _template(model: Model) -> str:
    if model.chat is None:
        return "-"
    if model.chat.fallback:
        return f"own, or `{model.chat.fallback}`"
    return f"`{model.chat.template}`" if model.chat.template else "own"


def _remarks(catalog: Catalog, model: Model) -> Iterator[str]:
    if model.network and model.network.refused:
        yield "**not supported by vLLM**"
    if model.licence:
        commercial = {True: "", False: ", **no commercial use**", None: ""}[model.licence.commercial]
        yield f"licence {model.licence.name or 'unknown'}{commercial}"
    if model.infill:
        yield "infill"
    if model.chat and model.chat.tools:
        yield "tools"
    if model.vision:
        yield "vision"
    if model.thinking and model.thinking.default != "never":
        yield {"always": "always thinks", "on": "thinks", "off": "thinks on request"}[model.thinking.default]


def _notes(catalog: Catalog, family: Family) -> Iterator[str]:
    """The notes below a table, each once for all models that share it."""
    yield from _shared((model.note, model.id) for model in family.models if model.note)
    yield from _shared((_settings(model), model.id) for model in family.models if model.engine)
    copies = ((", ".join(f"{copy.hub} ({copy.quantization})" for copy in model.copies), model.id)
              for model in family.models if model.copies)  # fmt: skip
    yield from _shared((f"Quantised copies: {names}.", model_id) for names, model_id in copies)
    unknown = ((", ".join(fact for fact in model_details.unknowns(catalog, model) if fact not in SHOWN_ELSEWHERE),
                model.id) for model in family.models)  # fmt: skip
    yield from _shared((f"Unknown: {facts}.", model_id) for facts, model_id in unknown if facts)


def _settings(model: Model) -> str:
    return f"Engine settings: {', '.join(f'`{key}: {json.dumps(value)}`' for key, value in model.engine.items())}."


def _shared(notes: Iterable[tuple[str, str]]) -> Iterator[str]:
    """A list item for each distinct note, with the ids of its models."""
    ids: dict[str, list[str]] = {}
    for text, model_id in notes:
        ids.setdefault(text, []).append(f"`{model_id}`")
    yield from (f"- {', '.join(names)}: {text}" for text, names in ids.items())


if __name__ == "__main__":
    print(document(load(ROOT / "models")))
