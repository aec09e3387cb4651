"""Which files of a repository are pulled, and why the others are skipped, decided by their names alone."""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from service.weights.manifest import is_inside

# Why a file is skipped, as the end of a sentence that begins with its name.
PICKLE = "is a pickle file, and loading it can execute arbitrary code"
CODE = "is executable code"
UNSUPPORTED = "has a format that is not supported"
DUPLICATE = "is another copy of the same weights"
UNNEEDED = "is not needed for serving"
UNSAFE = "has a path outside its directory"

PICKLE_SUFFIXES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".dill", ".npy", ".npz"}
CODE_SUFFIXES = {".py", ".so", ".sh", ".pyc", ".dll", ".exe"}
UNSUPPORTED_SUFFIXES = {
    ".gguf", ".ggml", ".h5", ".keras", ".msgpack", ".onnx", ".ot", ".tflite", ".mlmodel", ".pb", ".engine",
}  # fmt: skip
NEEDED = (
    re.compile(r".*\.(safetensors|json|jinja|tiktoken)"),
    re.compile(r"(tokenizer|spiece|sentencepiece).*\.model(\.v\d+)?"),  # SentencePiece; Mistral's carry a version
    re.compile(r"(merges|vocab|added_tokens|special_tokens)\.txt|vocab\.\w+|bpe\.codes"),
    re.compile(r"(LICEN[SC]E|NOTICE|USE_POLICY).*", re.IGNORECASE),
)
# sentence-transformers has a folder for each layer, transformers one for further chat templates.
NEEDED_FOLDERS = re.compile(r"\d+_\w+|additional_chat_templates")
TRANSFORMERS_LAYOUT = re.compile(r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?")
MISTRAL_LAYOUT = re.compile(r"consolidated.*|params\.json")


@dataclass(frozen=True)
class Selection:
    """The file names to pull, and each skipped one with the reason."""

    selected: tuple[str, ...]
    skipped: dict[str, str]

    def skipped_for(self, reason: str) -> list[str]:
        """The names that were skipped for this reason."""
        return [name for name, why in self.skipped.items() if why == reason]

    def why_unservable(self) -> str | None:
        """Why a model with the selected files cannot be served; None if it can."""
        if any(name.endswith(".safetensors") for name in self.selected):
            return None
        if pickles := self.skipped_for(PICKLE):
            return (
                f"its weights are pickle files only ({_abbreviated(pickles)}), and loading a pickle can execute "
                "arbitrary code. Use a repository that has the model in safetensors, or convert it in a sandbox"
            )
        return "it has no *.safetensors file in its top-level directory"


def select(names: Collection[str], trust_remote_code: bool = False) -> Selection:
    """Selects the files to pull from a repository's; `trust_remote_code` adds its Python files."""
    has_transformers_layout = any(TRANSFORMERS_LAYOUT.fullmatch(name) for name in names)
    selected: list[str] = []
    skipped: dict[str, str] = {}
    for name in sorted(names):
        reason = _skip_reason(name, has_transformers_layout)
        if reason is None or (reason == CODE and trust_remote_code and name.endswith(".py")):
            selected.append(name)
        else:
            skipped[name] = reason
    return Selection(tuple(selected), skipped)


def _skip_reason(name: str, has_transformers_layout: bool) -> str | None:
    path = PurePosixPath(name)
    if not is_inside(name):
        return UNSAFE
    if any(part.startswith(".") for part in path.parts):
        return UNNEEDED
    for suffixes, reason in (
        (PICKLE_SUFFIXES, PICKLE), (CODE_SUFFIXES, CODE), (UNSUPPORTED_SUFFIXES, UNSUPPORTED),
    ):  # fmt: skip
        if path.suffix.lower() in suffixes:
            return reason
    folders = path.parts[:-1]
    if folders and not (len(folders) == 1 and NEEDED_FOLDERS.fullmatch(folders[0])):
        return DUPLICATE if path.suffix == ".safetensors" else UNNEEDED
    if has_transformers_layout and not folders and MISTRAL_LAYOUT.fullmatch(name):
        return DUPLICATE
    return None if any(pattern.fullmatch(path.name) for pattern in NEEDED) else UNNEEDED


def auto_map(config: Any) -> Iterator[str]:
    """The classes in `auto_map` entries of a parsed configuration, at any depth: `modeling_x.XForCausalLM`."""
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
    """The parsed configuration without its `auto_map` entries."""
    if isinstance(config, dict):
        return {key: without_auto_map(value) for key, value in config.items() if key != "auto_map"}
    return [without_auto_map(value) for value in config] if isinstance(config, list) else config


def _abbreviated(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
