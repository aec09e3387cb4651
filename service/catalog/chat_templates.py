"""Which chat template an engine renders conversations with, and which stop tokens its generation config needs."""

import json
from pathlib import Path
from typing import Any

from service.catalog.model import Chat, Model


def template_for(chat: Chat, weights: Path | None) -> str | None:
    """The file under `models/templates/` to render conversations with; None if the weights' own template is used.

    `weights` is their folder, or None if the engine downloads them itself. A fallback template is only used for a
    folder that has no template.
    """
    if chat.template or not chat.fallback:
        return chat.template
    return chat.fallback if weights and weights.is_dir() and own_template(weights) is None else None


def generation_config(model: Model, weights: Path | None) -> dict[str, Any] | None:
    """The weights' `generation_config.json` with the catalogue's stop tokens added to `eos_token_id`.

    Requests to `/v1/messages` cannot carry stop token ids, so only this file can end a turn there. None if nothing has
    to be added, or if the folder of the weights is unknown.
    """
    if not (model.chat and model.chat.stop_token_ids and weights and weights.is_dir()):
        return None
    config = _read_json(weights / "generation_config.json")
    declared = config.get("eos_token_id", model.tokens.eos)
    listed = declared if isinstance(declared, list | tuple) else [declared]
    eos = [token for token in listed if isinstance(token, int)]
    missing = [token for token in model.chat.stop_token_ids if token not in eos]
    return {**config, "eos_token_id": [*eos, *missing]} if missing else None


def own_template(weights: Path) -> str | None:
    """The text of the chat template in a folder of weights, from where transformers looks for one; None without one.

    Of several named templates, the one called "default", or else all of them together.
    """
    try:
        return (weights / "chat_template.jinja").read_text(encoding="utf-8")
    except (OSError, ValueError):
        pass  # the other files may have one
    for name in ("tokenizer_config.json", "chat_template.json"):
        if template := _read_json(weights / name).get("chat_template"):
            return _text(template)
    return None


def _text(template: Any) -> str:
    if not isinstance(template, list):
        return str(template)
    named = {one.get("name"): str(one.get("template")) for one in template if isinstance(one, dict)}
    return named.get("default") or "\n".join(named.values())


def _read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty if the file is missing or invalid, which the engine itself will report."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
