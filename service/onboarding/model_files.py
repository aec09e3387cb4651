"""Reads the files of a model's folder that describe it: configuration, tokenizer, and the headers of its weights."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.catalog.chat_templates import own_template
from service.weights import tensors

CONFIG, TOKENIZER, GENERATION = "config.json", "tokenizer_config.json", "generation_config.json"
TEMPLATES = ("chat_template.jinja", "chat_template.json")
# All that has to be downloaded of a repository to draft an entry; its weights are not needed.
METADATA_FILES = (CONFIG, TOKENIZER, GENERATION, *TEMPLATES)
DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}


class OnboardingError(Exception):
    """A model cannot be added; the message gives the reason and what to do."""


@dataclass(frozen=True)
class Tensors:
    """All safetensors of a folder: number of elements, bytes, the type that all have (None if mixed), tensor names."""

    elements: int
    size: int
    dtype: str | None
    names: frozenset[str]


@dataclass(frozen=True)
class ModelFiles:
    """The parsed files of a model's folder.

    `template` is the text of its chat template, if it has one; `tensors` is None if there are no weights.
    """

    config: dict[str, Any]
    tokenizer: dict[str, Any]
    generation: dict[str, Any]
    template: str | None
    tensors: Tensors | None


def read_model_files(folder: Path) -> ModelFiles:
    """Reads the files in `folder`; raises OnboardingError if it is not the folder of a model, or a file is broken."""
    if not folder.is_dir():
        raise OnboardingError(f"{folder} is not a folder")
    if not (folder / CONFIG).is_file():
        raise OnboardingError(f"{folder} has no {CONFIG}: give a folder of weights as transformers saves them")
    tokenizer = _read_object(folder / TOKENIZER)
    return ModelFiles(
        config=_read_object(folder / CONFIG),
        tokenizer=tokenizer,
        generation=_read_object(folder / GENERATION),
        template=own_template(folder),
        tensors=_read_headers(sorted(folder.glob("*.safetensors"))),
    )


def _read_object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise OnboardingError(f"{path} is not valid JSON") from None
    if not isinstance(content, dict):
        raise OnboardingError(f"{path} is not a JSON object")
    return content


def _read_headers(files: Iterable[Path]) -> Tensors | None:
    elements, size, dtypes, names = 0, 0, set(), set()
    for path in files:
        if problem := tensors.problem(path):
            raise OnboardingError(f"{path} {problem}")
        for name, tensor in tensors.described(path).items():
            names.add(name)
            elements += math.prod(tensor["shape"])
            size += tensor["data_offsets"][1] - tensor["data_offsets"][0]
            dtypes.add(tensor["dtype"])
    if not names:
        return None
    return Tensors(elements, size, DTYPES.get(dtypes.pop()) if len(dtypes) == 1 else None, frozenset(names))
