"""Prompts that vLLM does not write itself, fill in the middle, and the templates with which it writes the others."""

import json
import re
from pathlib import Path
from typing import Any, Literal

from service.catalog.model import Chat, Infill, Model

Order = Literal["prefix_first", "suffix_first"]

PLACES = re.compile(r"( ?)\{(prefix|suffix)\}")


def orders(form: Infill) -> tuple[Order, ...]:
    """The orders in which the model was trained to read what surrounds the gap, the usual one first."""
    return ("prefix_first", "suffix_first") if form.suffix_first else ("prefix_first",)


def infill(form: Infill, prefix: str, suffix: str, order: Order = "prefix_first") -> str:
    """The prompt in `form` that asks for the text between `prefix` and `suffix`; `order` is one of `orders(form)`."""
    prompt = form.prompt
    if order == "suffix_first":
        if form.suffix_first is None:
            raise ValueError("this form has no prompt with the suffix first")
        prompt = form.suffix_first
    texts = {"prefix": prefix, "suffix": suffix}
    # One pass, so that a place's name inside the client's own code stays as it is. The space before a text belongs to
    # that text, as sentencepiece has it, so before an empty one there is none.
    return PLACES.sub(lambda place: place[1] + texts[place[2]] if texts[place[2]] else "", prompt)


def template_for(chat: Chat, weights: Path | None) -> str | None:
    """The file under `models/templates/` that conversations are rendered with; None where the weights' own is used.

    `weights` is their folder, or None where only the engine will see them. A fallback is for a folder without any.
    """
    if chat.template or not chat.fallback:
        return chat.template
    return chat.fallback if weights and weights.is_dir() and not _bring_template(weights) else None


def generation_config(model: Model, weights: Path | None) -> dict[str, Any] | None:
    """A `generation_config.json` under which a turn ends with the catalogue's stop tokens at every endpoint.

    `/v1/messages` can carry no token ids, so there only this file can end a turn. None where there is nothing to add to
    what the weights in this folder say, or where their folder is not known.
    """
    if not (model.chat and model.chat.stop_token_ids and weights and weights.is_dir()):
        return None
    own = _read(weights / "generation_config.json")
    said = own.get("eos_token_id", model.tokens.eos)
    ends = [said] if isinstance(said, int) else list(said or ())
    missing = [token for token in model.chat.stop_token_ids if token not in ends]
    return {**own, "eos_token_id": [*ends, *missing]} if missing else None


def _bring_template(weights: Path) -> bool:
    """Whether the files of a tokenizer hold a chat template, in any of the places where one may be."""
    if (weights / "chat_template.jinja").is_file():
        return True
    return any(_read(weights / name).get("chat_template") for name in ("tokenizer_config.json", "chat_template.json"))


def _read(path: Path) -> dict[str, Any]:
    """The JSON object in a file of the weights; empty where there is none. The engine says what is wrong with it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
