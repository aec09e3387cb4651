"""All details of one model of the catalogue: as rows of text, and as plain data for JSON."""

import json
from collections.abc import Iterator
from typing import Any

from service.architectures.parameters import missing_sizes
from service.catalog.catalog import Catalog
from service.catalog.model import Licence, Model, Thinking
from service.catalog.names import POOLING

BF16_BYTES = 2
ACCESS = {True: "gated: accept the terms on the hub and pull with HF_TOKEN", False: "not gated", None: "unknown"}
COMMERCIAL = {
    True: "commercial use is allowed",
    False: "commercial use is NOT allowed",
    None: "unknown whether commercial use is allowed",
}
SYSTEM_MESSAGES = {
    "native": "supported",
    "fold": "merged into the first user message",
    "refuse": "refused",
    None: "as the weights' template handles them",
}

THINKING = {
    "always": "always, before it answers",
    "on": "before it answers, unless a request says otherwise",
    "off": "only if a request asks for it",
    "never": "never",
}


def kind(model: Model) -> str:
    """The variant, with a code model's specialty."""
    return f"{model.variant} {model.specialty}" if model.specialty else model.variant


def amount(parameters: int | None) -> str:
    """A short form of a number of parameters: `1.0T`, `13.0B`, `124M`; `?` if unknown."""
    if parameters is None:
        return "?"
    if parameters >= 1e12:
        return f"{parameters / 1e12:.1f}T"
    return f"{parameters / 1e9:.1f}B" if parameters >= 1e9 else f"{parameters / 1e6:.0f}M"


def size(count: float) -> str:
    """A short form of a number of bytes: `13.5 GB`, `67 MB` (powers of ten)."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def gated(catalog: Catalog, model: Model) -> bool | None:
    """Whether the hub requires the terms to be accepted before a download; None if unknown."""
    return model.gated if model.gated is not None else catalog.licence(model).gated


def requested_as(catalog: Catalog, model: Model) -> list[str]:
    """The names in requests that can resolve to the model; only its id always does, the rest depends on the fleet."""
    family = catalog.family_of[model.id]
    family_size = [f"{family}-{model.size}"] if model.size else []
    tasks = [f"task:{task}" for task in catalog.tasks_of(model)]
    return list(dict.fromkeys([model.id, family, *family_size, model.variant, *tasks, "auto"]))


def unknowns(catalog: Catalog, model: Model) -> list[str]:
    """The facts that the catalogue lacks about a model on the hub."""
    if not model.hub:
        return []
    licence = catalog.licence(model)
    known = {
        "revision": model.revision,
        "gated": gated(catalog, model),
        "licence": licence.name,
        "commercial use": licence.commercial,
        "dtype": model.dtype,
        "context": model.context,
        "architecture": model.architecture,
        "parameters": model.parameters,
        "BOS token": model.tokens.bos,
        "EOS token": model.tokens.eos or None,
    }
    if model.variant in POOLING:
        known = {key: value for key, value in known.items() if not key.endswith("OS token")}
    found = [key for key, value in known.items() if value is None]
    if model.network:
        found += [key for key in missing_sizes(model.network, model.shape, model.context) if key not in found]
        if "rope_theta" in model.network.sizes and model.shape.rope_theta is None:
            found.append("rope_theta")
    return found


def data(catalog: Catalog, model: Model) -> dict[str, Any]:
    """All that the catalogue knows about the model, and what follows from it, for JSON. Lengths are in tokens."""
    family = catalog.families[catalog.family_of[model.id]]
    return {
        "family": family.family,
        "title": family.title,
        **model.model_dump(mode="json"),
        "gated": gated(catalog, model),
        "licence": catalog.licence(model).model_dump(mode="json", exclude={"gated"}),
        "capabilities": sorted(model.capabilities),
        "opening_context": model.opening_context,
        "tasks": catalog.tasks_of(model),
        "requested_as": requested_as(catalog, model),
        "refused": model.network.refused if model.network else None,
        "unknown": unknowns(catalog, model),
    }


def rows(catalog: Catalog, model: Model) -> Iterator[tuple[str, str]]:
    """The details as pairs of label and text; an empty label continues the row before."""
    refused = model.network.refused if model.network else None
    if refused:
        yield "vLLM", f"not supported: {refused}."
    if model.note:
        yield "note", model.note
    yield "weights", _weights(model)
    yield from (("" if number else "copies", f"{copy.hub} ({copy.quantization})")
                for number, copy in enumerate(model.copies))  # fmt: skip
    if model.hub:
        yield "access", ACCESS[gated(catalog, model)]
    yield "licence", terms(catalog.licence(model))
    yield "context", "; ".join(_context(model))
    yield "supports", ", ".join(sorted(model.capabilities))
    yield "suited for", ", ".join(catalog.tasks_of(model)) or "-"
    yield from _chat(model)
    yield "infill", _infill(model)
    if model.engine:
        yield "engine", ", ".join(f"{key}: {json.dumps(value)}" for key, value in model.engine.items())
    if model.architecture:
        backend = model.network and model.network.backend == "transformers"
        yield "network", model.architecture + (", through vLLM's transformers backend" if backend else "")
    if not refused:
        yield "to serve", f"'model: {model.chosen_copy.hub if model.chosen_copy else model.id}' in a fleet file"
        yield "requested as", ", ".join(requested_as(catalog, model))
    if unknown := unknowns(catalog, model):
        yield "unknown", ", ".join(unknown)


def terms(licence: Licence) -> str:
    """The licence as text: name, whether commercial use is allowed, note."""
    if licence.name is None:
        return licence.note or "unknown"
    return f"{licence.name}: {COMMERCIAL[licence.commercial]}. {licence.note or ''}".rstrip()


def _weights(model: Model) -> str:
    path = model.path or ""
    parts = [model.hub or (path if path.startswith("/") else f"embedded, in models/{path}")]
    if model.chosen_copy:
        parts.append(f"a copy quantised with {model.chosen_copy.quantization}")
    if model.parameters:
        parts.append(f"{amount(model.parameters)} parameters ({size(model.parameters * BF16_BYTES)} in bf16)")
    if model.dtype:
        parts.append(f"published as {model.dtype}")
    return ", ".join(parts)


def _context(model: Model) -> Iterator[str]:
    yield f"{model.context:,} tokens" if model.context else "unknown"
    if model.opening_context and model.opening_context != model.context:
        yield f"vLLM's default is {model.opening_context:,}, more with max_model_len"
    if model.longest:
        yield f"up to {model.longest:,} with max_model_len and VLLM_ALLOW_LONG_MAX_MODEL_LEN=1"
    window, every = model.shape.sliding_window, model.shape.sliding_window_pattern
    if window and window < (model.context or 0):
        layers = f"{every - 1} of {every} layers" if every else "all layers"
        yield f"sliding window of {window:,} in {layers}"


def _chat(model: Model) -> Iterator[tuple[str, str]]:
    chat = model.chat
    if chat is None:
        return
    own = "vLLM's own format" if model.architecture == "GptOssForCausalLM" else "from the weights"
    if chat.fallback:
        own += f", or {chat.fallback} if they have none"
    yield "template", chat.template or own
    yield "", f"system messages: {SYSTEM_MESSAGES[chat.system]}; tools: {'yes' if chat.tools else 'no'}"
    stops = [*(f"token {token}" for token in (*model.tokens.eos, *chat.stop_token_ids)), *map(json.dumps, chat.stop)]
    if model.thinking:
        yield "thinks", _thinking(model.thinking)
    yield "stops at", ", ".join(dict.fromkeys(stops)) or "the tokenizer's EOS token"


def _thinking(thinking: Thinking) -> str:
    text = THINKING[thinking.default]
    if thinking.switch:
        other = "false" if thinking.default == "on" else "true"
        text += f'; chat_template_kwargs {{"{thinking.switch}": {other}}} changes that'
    return text + (f"; reasoning_effort: {', '.join(thinking.levels)}" if thinking.levels else "")


def _infill(model: Model) -> str:
    if model.infill is None:
        return "no"
    orders = ", prefix or suffix first" if model.infill.suffix_first else ""
    return f"yes{orders}: {json.dumps(model.infill.prompt, ensure_ascii=False)}"
