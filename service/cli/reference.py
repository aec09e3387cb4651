"""docs/models.md, written from the catalogue: python -m service.cli.reference > docs/models.md"""

import json
from collections.abc import Iterable, Iterator

from service.catalog.catalog import Catalog, load
from service.catalog.model import Family, Model
from service.cli import portrait
from service.config.paths import ROOT
from service.planner import blocks

INTRODUCTION = """\
# The models of the catalogue

<!-- Written by `python -m service.cli.reference > docs/models.md` from models/*.yaml. -->

{count} models in {families} families. A fleet file names one by id, by hub id, or by the hub id of a quantised copy.
`roundhouse show MODEL` says this and more of each, `roundhouse list` finds one by variant, task or licence, and
[routing.md](routing.md) tells how requests find them. A model that is not here can be served too: name its repository
or its folder.

What nobody here has seen is unknown, and nothing is guessed: a `?` in a table, or named below it. No entry of a hub
names a revision, for the same reason: pin one with `engine: {{revision: …}}`.

## What they are good at

| variant | tasks |
|---|---|
{strengths}

A model's tasks are those of its variant. `task:NAME` as the model of a request finds a served model for it.

## How to read the tables

- *gated*: whether the hub asks for consent, so that a download needs an account's token.
- *parameters*: of all experts together, and of the text part only where a model also sees images; *bf16*: their size as
  bfloat16, whatever type they were published in.
- *context*: in tokens, as the model's configuration declares it; after "to", what its makers say it can be stretched to
  with `max_model_len` and `VLLM_ALLOW_LONG_MAX_MODEL_LEN=1`.
- *cache*: keys and values of one token in all layers, as 16-bit numbers. Layers with a sliding window keep no more than
  the window, so this is the most that a token takes.
- *template*: who writes the prompt of a conversation. A file of `models/templates/`; or *own*: what the weights bring;
  or *own* and a file where they bring none, as some copies do.
"""
HEAD = """\
| id | hub | gated | variant | parameters | bf16 | context | cache | template | remarks |
|---|---|---|---|--:|--:|--:|--:|---|---|"""
TOLD_ABOVE = ("revision", "gate", "licence", "commercial use", "parameters")


def document(catalog: Catalog) -> str:
    """All of docs/models.md, without the last line break."""
    kinds = {portrait.kind(model): model for model in catalog.models.values()}
    strengths = (
        f"| {kind} | {', '.join(catalog.good_at(model)) or 'embeddings'} |" for kind, model in sorted(kinds.items())
    )
    introduction = INTRODUCTION.format(
        count=len(catalog.models), families=len(catalog.families), strengths="\n".join(strengths)
    )
    families = sorted(catalog.families.values(), key=lambda family: family.title.lower())
    return "\n".join([introduction, *(line for family in families for line in _family(catalog, family))]).rstrip()


def _family(catalog: Catalog, family: Family) -> Iterator[str]:
    yield f"## {family.title}\n"
    yield f"Family `{family.family}`. {portrait.terms(family.licence)}\n"
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
        {True: "yes", False: "no", None: "?"}[portrait.gated(catalog, model)],
        portrait.kind(model),
        portrait.amount(model.parameters),
        portrait.size(model.parameters * portrait.BF16_BYTES) if model.parameters else "?",
        (f"{model.context:,}" if model.context else "?") + (f" to {model.longest:,}" if model.longest else ""),
        _cache(model),
        _template(model),
        ", ".join(_remarks(catalog, model)),
    )
    return f"| {' | '.join(cells)} |"


def _cache(model: Model) -> str:
    if model.network is None or blocks.missing(model):
        return "?"
    each = blocks.token_bytes(model.network, model.shape) * (model.shape.num_hidden_layers or 0)
    return f"{each / 1024:,.0f} KiB" if each else "-"


def _template(model: Model) -> str:
    if model.chat is None:
        return "-"
    if model.chat.fallback:
        return f"own, or `{model.chat.fallback}`"
    return f"`{model.chat.template}`" if model.chat.template else "own"


def _remarks(catalog: Catalog, model: Model) -> Iterator[str]:
    if model.network and model.network.refused:
        yield "**vLLM cannot serve it**"
    if model.licence:
        commercial = {True: "", False: ", **no commercial use**", None: ""}[model.licence.commercial]
        yield f"licence {model.licence.name or 'unknown'}{commercial}"
    if model.infill:
        yield "fills in the middle"
    if model.chat and model.chat.tools:
        yield "tools"


def _notes(catalog: Catalog, family: Family) -> Iterator[str]:
    """What is special, told once for all the models that share it."""
    yield from _shared((model.note, model.id) for model in family.models if model.note)
    yield from _shared((_settings(model), model.id) for model in family.models if model.engine)
    copies = ((", ".join(f"{copy.hub} ({copy.quantization})" for copy in model.copies), model.id)
              for model in family.models if model.copies)  # fmt: skip
    yield from _shared((f"Quantised copies: {names}.", model_id) for names, model_id in copies)
    unknown = ((", ".join(what for what in portrait.unknowns(catalog, model) if what not in TOLD_ABOVE), model.id)
               for model in family.models)  # fmt: skip
    yield from _shared((f"Unknown: {names}.", model_id) for names, model_id in unknown if names)


def _settings(model: Model) -> str:
    return f"Engine settings: {', '.join(f'`{key}: {json.dumps(value)}`' for key, value in model.engine.items())}."


def _shared(told: Iterable[tuple[str, str]]) -> Iterator[str]:
    ids: dict[str, list[str]] = {}
    for text, model_id in told:
        ids.setdefault(text, []).append(f"`{model_id}`")
    yield from (f"- {', '.join(names)}: {text}" for text, names in ids.items())


if __name__ == "__main__":
    print(document(load(ROOT / "models")))
