"""What a model's own files say about it."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.weights import tensors

CONFIG, TOKENIZER, GENERATION = "config.json", "tokenizer_config.json", "generation_config.json"
TEMPLATES = ("chat_template.jinja", "chat_template.json")
# The files of a repository that tell all this; its weights are not needed.
DESCRIBING = (CONFIG, TOKENIZER, GENERATION, *TEMPLATES)
DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}


class IntakeError(Exception):
    """A model cannot be added; the message says why, and what to do."""


@dataclass(frozen=True)
class Weights:
    """All tensors of a folder together: how many numbers, bytes, of which type (None if mixed), and their names."""

    numbers: int
    size: int
    dtype: str | None
    names: frozenset[str]


@dataclass(frozen=True)
class Description:
    """The parsed files of a model's folder; `weights` is None where only the describing files are at hand."""

    config: dict[str, Any]
    tokenizer: dict[str, Any]
    generation: dict[str, Any]
    has_template: bool
    weights: Weights | None


def describe(folder: Path) -> Description:
    """Reads what lies in `folder`; raises IntakeError where it is no model's folder."""
    if not folder.is_dir():
        raise IntakeError(f"{folder} is not a folder")
    if not (folder / CONFIG).is_file():
        raise IntakeError(f"{folder} holds no {CONFIG}: is it a folder of weights as transformers writes them?")
    tokenizer = _object(folder / TOKENIZER)
    return Description(
        config=_object(folder / CONFIG),
        tokenizer=tokenizer,
        generation=_object(folder / GENERATION),
        has_template=bool(tokenizer.get("chat_template")) or any((folder / name).is_file() for name in TEMPLATES),
        weights=_weights(sorted(folder.glob("*.safetensors"))),
    )


def _object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        written = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise IntakeError(f"{path} is not JSON") from None
    if not isinstance(written, dict):
        raise IntakeError(f"{path} holds no object")
    return written


def _weights(files: Iterable[Path]) -> Weights | None:
    numbers, size, dtypes, names = 0, 0, set(), set()
    for path in files:
        if problem := tensors.problem(path):
            raise IntakeError(f"{path} {problem}")
        for name, tensor in tensors.described(path).items():
            names.add(name)
            numbers += math.prod(tensor["shape"])
            size += tensor["data_offsets"][1] - tensor["data_offsets"][0]
            dtypes.add(tensor["dtype"])
    if not names:
        return None
    return Weights(numbers, size, DTYPES.get(dtypes.pop()) if len(dtypes) == 1 else None, frozenset(names))
