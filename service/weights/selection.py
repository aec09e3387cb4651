"""Which files of a repository are pulled, and why the others are not: decided by their names alone."""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from service.weights.manifest import is_inside

PICKLE = "is a pickle: loading one can run any code"
CODE = "is code of the repository"
FORMAT = "is a format that is not served here"
COPY = "holds the same weights once more"
UNNEEDED = "is not needed to serve"
STRAY = "has a name that leads out of its folder"

PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".dill", ".npy", ".npz"}
FORMATS = {".gguf", ".ggml", ".h5", ".keras", ".msgpack", ".onnx", ".ot", ".tflite", ".mlmodel", ".pb", ".engine"}
CODES = {".py", ".so", ".sh", ".pyc", ".dll", ".exe"}
NEEDED = (
    re.compile(r".*\.(safetensors|json|jinja|tiktoken)"),
    re.compile(r"(tokenizer|spiece|sentencepiece).*\.model(\.v\d+)?"),  # SentencePiece, Mistral's with a version
    re.compile(r"(merges|vocab|added_tokens|special_tokens)\.txt|vocab\.\w+|bpe\.codes"),
    re.compile(r"(LICEN[SC]E|NOTICE|USE_POLICY).*", re.IGNORECASE),
)
# sentence-transformers keeps each layer's settings in a folder of its own; transformers further chat templates.
FOLDERS = re.compile(r"\d+_\w+|additional_chat_templates")
TRANSFORMERS = re.compile(r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?")
MISTRALS = re.compile(r"consolidated.*|params\.json")  # Mistral's own layout beside that of transformers


@dataclass(frozen=True)
class Selection:
    """The names to take, and each other one with the reason to leave it."""

    taken: tuple[str, ...]
    left: dict[str, str]

    def because(self, reason: str) -> list[str]:
        """The names that were left for this reason."""
        return [name for name, why in self.left.items() if why == reason]

    def objection(self) -> str | None:
        """Why there is nothing to serve among the names, if there is not."""
        if any(name.endswith(".safetensors") for name in self.taken):
            return None
        pickles = self.because(PICKLE)
        if pickles:
            return (
                f"it has its weights only as pickles ({_some(pickles)}), and loading a pickle can run any code. Look "
                "for a copy of the model in safetensors, or convert it where nothing can be harmed"
            )
        return "it has no *.safetensors at its top level"


def wanted(names: Collection[str], trust_remote_code: bool = False) -> Selection:
    """Which of a repository's files to take; with `trust_remote_code` its Python files too."""
    is_transformers = any(TRANSFORMERS.fullmatch(name) for name in names)
    taken: list[str] = []
    left: dict[str, str] = {}
    for name in sorted(names):
        reason = _reason(name, is_transformers)
        if reason is None or (reason == CODE and trust_remote_code and name.endswith(".py")):
            taken.append(name)
        else:
            left[name] = reason
    return Selection(tuple(taken), left)


def _reason(name: str, is_transformers: bool) -> str | None:
    path = PurePosixPath(name)
    if not is_inside(name):
        return STRAY
    if any(part.startswith(".") for part in path.parts):
        return UNNEEDED
    for suffixes, reason in ((PICKLES, PICKLE), (CODES, CODE), (FORMATS, FORMAT)):
        if path.suffix.lower() in suffixes:
            return reason
    folders = path.parts[:-1]
    if folders and not (len(folders) == 1 and FOLDERS.fullmatch(folders[0])):
        return COPY if path.suffix == ".safetensors" else UNNEEDED
    if is_transformers and not folders and MISTRALS.fullmatch(name):
        return COPY
    return None if any(pattern.fullmatch(path.name) for pattern in NEEDED) else UNNEEDED


def auto_map(config: Any) -> Iterator[str]:
    """The code that a configuration names, at any depth: `modeling_x.XForCausalLM`."""
    if isinstance(config, dict):
        for key, value in config.items():
            if key == "auto_map":
                entries = value.values() if isinstance(value, dict) else [value]
                yield from (str(entry) for entry in entries)
            else:
                yield from auto_map(value)
    elif isinstance(config, list):
        for value in config:
            yield from auto_map(value)


def without_auto_map(config: Any) -> Any:
    """The configuration without the code that it names."""
    if isinstance(config, dict):
        return {key: without_auto_map(value) for key, value in config.items() if key != "auto_map"}
    return [without_auto_map(value) for value in config] if isinstance(config, list) else config


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
