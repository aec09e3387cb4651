"""What can be said of one model of the catalogue: in rows for a person, and as plain data for a machine."""

import json
from collections.abc import Iterator
from typing import Any

from service.architectures.parameters import missing
from service.catalog.catalog import Catalog
from service.catalog.model import Licence, Model

BF16_BYTES = 2
OPEN = {True: "asks for consent, so a pull needs an account's token", False: "none: open to everybody", None: "unknown"}
COMMERCIAL = {
    True: "commercial use is allowed",
    False: "commercial use is NOT allowed",
    None: "unknown whether for commercial use",
}
SYSTEM = {
    "native": "a role of its own",
    "fold": "put in front of the first user message",
    "refuse": "refused",
    None: "as the weights' own template has it",
}


def kind(model: Model) -> str:
    """The variant, with a code model's specialty."""
    return f"{model.variant} {model.specialty}" if model.specialty else model.variant


def amount(parameters: int | None) -> str:
    """A number of parameters in few characters: `13.0B`, `124M`."""
    if parameters is None:
        return "?"
    return f"{parameters / 1e9:.1f}B" if parameters >= 1e9 else f"{parameters / 1e6:.0f}M"


def size(count: float) -> str:
    """Bytes in few characters: `13.5 GB`, `67 MB`."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def gated(catalog: Catalog, model: Model) -> bool | None:
    """Whether the hub asks for consent before a download; None is unknown."""
    return model.gated if model.gated is not None else catalog.licence(model).gated


def requested_as(catalog: Catalog, model: Model) -> list[str]:
    """Every name that may lead a request to the model where it is served; only the first is sure to."""
    family = catalog.family_of[model.id]
    sized = [f"{family}-{model.size}"] if model.size else []
    tasks = [f"task:{task}" for task in catalog.good_at(model)]
    return list(dict.fromkeys([model.id, family, *sized, model.variant, *tasks, "auto"]))


def unknowns(catalog: Catalog, model: Model) -> list[str]:
    """What nobody here has seen about a model of the hub."""
    if not model.hub:
        return []
    licence = catalog.licence(model)
    known = {
        "revision": model.revision,
        "gate": gated(catalog, model),
        "licence": licence.name,
        "commercial use": licence.commercial,
        "dtype": model.dtype,
        "context": model.context,
        "architecture": model.architecture,
        "parameters": model.parameters,
        "begin of text": model.tokens.bos,
        "end of text": model.tokens.eos or None,
    }
    if model.variant == "embedding":
        known = {key: value for key, value in known.items() if not key.endswith("of text")}
    found = [key for key, value in known.items() if value is None]
    if model.network:
        found += [key for key in missing(model.network, model.shape, model.context) if key not in found]
        if "rope_theta" in model.network.keys and model.shape.rope_theta is None:
            found.append("rope_theta")
    return found


def data(catalog: Catalog, model: Model) -> dict[str, Any]:
    """All that the catalogue says of the model and that follows from it, for JSON. Lengths are in tokens."""
    family = catalog.families[catalog.family_of[model.id]]
    return {
        "family": family.family,
        "title": family.title,
        **model.model_dump(mode="json"),
        "gated": gated(catalog, model),
        "licence": catalog.licence(model).model_dump(mode="json", exclude={"gated"}),
        "capabilities": sorted(model.capabilities),
        "opening_context": model.opening_context,
        "tasks": catalog.good_at(model),
        "requested_as": requested_as(catalog, model),
        "refused": model.network.refused if model.network else None,
        "unknown": unknowns(catalog, model),
    }


def rows(catalog: Catalog, model: Model) -> Iterator[tuple[str, str]]:
    """What a person wants to know, each with its label; a label of '' goes on with the row before."""
    refused = model.network.refused if model.network else None
    if refused:
        yield "vLLM", f"cannot serve it: {refused}."
    if model.note:
        yield "note", model.note
    yield "weights", _weights(model)
    yield from (("" if number else "copies", f"{copy.hub} ({copy.quantization})")
                for number, copy in enumerate(model.copies))  # fmt: skip
    if model.hub:
        yield "gate", OPEN[gated(catalog, model)]
    yield "licence", terms(catalog.licence(model))
    yield "context", "; ".join(_context(model))
    yield "answers", ", ".join(sorted(model.capabilities))
    yield "good at", ", ".join(catalog.good_at(model)) or "-"
    yield from _conversation(catalog, model)
    yield "infilling", _infilling(model)
    if model.engine:
        yield "engine", ", ".join(f"{key}: {json.dumps(value)}" for key, value in model.engine.items())
    if model.architecture:
        backend = model.network and model.network.backend == "transformers"
        yield "network", model.architecture + (", through vLLM's transformers backend" if backend else "")
    if not refused:
        yield "serve it", f"with 'model: {model.chosen_copy.hub if model.chosen_copy else model.id}' in a fleet file"
        yield "ask for it", ", ".join(requested_as(catalog, model))
    if missed := unknowns(catalog, model):
        yield "unknown", ", ".join(missed)


def terms(licence: Licence) -> str:
    """A licence in a sentence or two."""
    if licence.name is None:
        return licence.note or "unknown"
    return f"{licence.name}: {COMMERCIAL[licence.commercial]}. {licence.note or ''}".rstrip()


def _weights(model: Model) -> str:
    path = model.path or ""
    said = [model.hub or (path if path.startswith("/") else f"embedded, in models/{path}")]
    if model.chosen_copy:
        said.append(f"quantised by others with {model.chosen_copy.quantization}")
    if model.parameters:
        said.append(f"{amount(model.parameters)} parameters ({size(model.parameters * BF16_BYTES)} in bf16)")
    if model.dtype:
        said.append(f"published as {model.dtype}")
    return ", ".join(said)


def _context(model: Model) -> Iterator[str]:
    yield f"{model.context:,} tokens" if model.context else "unknown"
    if model.opening_context and model.opening_context != model.context:
        yield f"vLLM opens with {model.opening_context:,} unless max_model_len asks for more"
    if model.longest:
        yield f"up to {model.longest:,} with max_model_len and VLLM_ALLOW_LONG_MAX_MODEL_LEN=1"
    window, every = model.shape.sliding_window, model.shape.sliding_window_pattern
    if window and window < (model.context or 0):
        layers = f"{every - 1} of {every} layers look" if every else "each layer looks"
        yield f"{layers} back {window:,}"


def _conversation(catalog: Catalog, model: Model) -> Iterator[tuple[str, str]]:
    chat = model.chat
    if chat is None:
        return
    own = "vLLM's own format" if model.architecture == "GptOssForCausalLM" else "the one that the weights bring"
    if chat.fallback:
        own += f", or {chat.fallback} where they bring none"
    yield "template", chat.template or own
    yield "", f"system messages: {SYSTEM[chat.system]}; tools: {'yes' if chat.tools else 'no'}"
    ends = [*(f"token {token}" for token in (*model.tokens.eos, *chat.stop_token_ids)), *map(json.dumps, chat.stop)]
    yield "turn ends", ", ".join(dict.fromkeys(ends)) or "as the tokenizer says"


def _infilling(model: Model) -> str:
    if model.infill is None:
        return "no"
    both = ", in both orders" if model.infill.suffix_first else ""
    return f"yes{both}: {json.dumps(model.infill.prompt, ensure_ascii=False)}"
