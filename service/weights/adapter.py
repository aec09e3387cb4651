"""A LoRA adapter as peft saves it: its configuration and the sizes of its tensors, read before an engine sees them."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.weights import tensors

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PICKLES = ("adapter_model.bin", "adapter_model.pt")
MOST_RANK = 512  # of vLLM
TENSOR = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?:embedding_)?(?P<side>[AB])(?:\.weight)?")
# Ways to begin the training that leave the base as it is; others change its weights, which an engine would not know.
PLAIN_INITS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")
# What vLLM does not serve: keys of the configuration that must be false, null or empty, and what each is.
UNSUPPORTED = {
    "use_dora": "DoRA",
    "lora_bias": "a bias of the adapter's own",
    "modules_to_save": "whole modules beside the low-rank weights",
    "layer_replication": "repeated layers",
    "alora_invocation_tokens": "activation by a token (aLoRA)",
    "use_qalora": "QA-LoRA",
    "use_bdlora": "block-diagonal LoRA",
    "trainable_token_indices": "trained embeddings of single tokens",
}


class AdapterError(Exception):
    """A folder is no LoRA adapter that an engine can serve; the message names file, line, key and what to do."""


@dataclass(frozen=True)
class AdapterFiles:
    """What an adapter's files say. `rank` is its highest, `base` the name of the model that it was trained on.

    `modules` are the linear layers that it changes, by their names in the base, each with the sizes of its input and
    output. A fused layer of experts has no sizes. `transposed` says that the base keeps its matrices the other way.
    """

    folder: Path
    rank: int
    base: str
    modules: dict[str, tuple[int, int] | None]
    transposed: bool = False

    def problem(self, key: str, message: str) -> str:
        """A mistake in its configuration as `file:line: key: what`."""
        return _problem(self.folder / CONFIG, key, message)


def is_adapter(folder: Path) -> bool:
    """Whether the folder is an adapter's rather than a model's."""
    return (folder / CONFIG).is_file() and not (folder / "config.json").is_file()


def read(folder: Path) -> AdapterFiles:
    """Reads an adapter's configuration and the headers of its weights; raises AdapterError."""
    path = folder / CONFIG
    if not path.is_file():
        raise AdapterError(f"{folder} has no {CONFIG}: give the folder that peft's save_pretrained() has written")
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise AdapterError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(config, dict):
        raise AdapterError(f"{path} is not a JSON object")
    for key, message in _mistakes(config):
        raise AdapterError(_problem(path, key, message))
    rank = max(config["r"], *(config.get("rank_pattern") or {}).values(), 1)
    modules = _modules(folder, rank)
    return AdapterFiles(folder, rank, config["base_model_name_or_path"], modules, bool(config.get("fan_in_fan_out")))


def _mistakes(config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Each key that is wrong, and why."""
    kind = config.get("peft_type", "LORA")
    if kind != "LORA":
        yield "peft_type", f"is {kind!r:.40}, and engines serve LORA only"
    ranks = {"r": config.get("r"), **_pattern(config)}
    for name, rank in ranks.items():
        if type(rank) is not int or not 0 < rank <= MOST_RANK:
            key = "r" if name == "r" else "rank_pattern"
            yield key, f"is {rank!r:.40}, and a rank is a whole number from 1 to {MOST_RANK}"
    if not isinstance(config.get("lora_alpha"), int | float):
        yield "lora_alpha", f"is {config.get('lora_alpha')!r:.40}, which is no number"
    targets = config.get("target_modules")
    if not (isinstance(targets, str) or (isinstance(targets, list) and all(isinstance(one, str) for one in targets))):
        yield "target_modules", f"is {targets!r:.40}: name the modules that the adapter changes"
    if not isinstance(config.get("base_model_name_or_path"), str) or not config["base_model_name_or_path"]:
        yield "base_model_name_or_path", "is missing: it names the model that the adapter was trained on"
    if config.get("bias", "none") != "none":
        yield "bias", f"is {config['bias']!r:.40}: train without biases, engines do not apply them"
    init = config.get("init_lora_weights", True)
    if isinstance(init, str) and init.lower() not in PLAIN_INITS:
        yield (
            "init_lora_weights",
            (
                f"is {init!r:.40}, which changes the base too: save the adapter with peft's "
                "path_initial_model_for_weight_conversion"
            ),
        )
    for key, what in UNSUPPORTED.items():
        if config.get(key):
            yield key, f"asks for {what}, which engines do not serve: train a plain LoRA adapter"


def _pattern(config: dict[str, Any]) -> dict[str, Any]:
    pattern = config.get("rank_pattern") or {}
    return pattern if isinstance(pattern, dict) else {"rank_pattern": pattern}


def _modules(folder: Path, rank: int) -> dict[str, tuple[int, int] | None]:
    """The layers that the adapter's tensors belong to, with their sizes."""
    path = folder / WEIGHTS
    if not path.is_file():
        if pickles := [name for name in PICKLES if (folder / name).is_file()]:
            raise AdapterError(
                f"{folder / pickles[0]} is a pickle file, and loading it can execute arbitrary code: save the adapter "
                f"again with safe_serialization=True, as {WEIGHTS}"
            )
        raise AdapterError(f"{folder} has no {WEIGHTS}")
    if problem := tensors.problem(path):
        raise AdapterError(f"{path} {problem}")
    sides: dict[str, dict[str, list[int]]] = {}
    for name, tensor in tensors.described(path).items():
        found = TENSOR.fullmatch(name)
        if not found:
            raise AdapterError(
                f"{path}: '{name:.120}' is no LoRA weight of a linear layer, and an engine would not apply it: train "
                "the adapter without it"
            )
        sides.setdefault(found["module"], {})[found["side"]] = tensor["shape"]
    if not sides:
        raise AdapterError(f"{path} has no weights")
    return {module: _sizes(path, module, shapes, rank) for module, shapes in sides.items()}


def _sizes(path: Path, module: str, shapes: dict[str, list[int]], rank: int) -> tuple[int, int] | None:
    """The input and output size of a layer, by the shapes of its two matrices, [rank, in] and [out, rank]."""
    if shapes.keys() != {"A", "B"}:
        raise AdapterError(f"{path}: '{module:.120}' has only one of its two matrices: save the adapter again")
    down, up = shapes["A"], shapes["B"]
    if ".experts" in module:
        return None
    if len(down) != 2 or len(up) != 2 or down[0] != up[1]:
        raise AdapterError(f"{path}: '{module:.120}' has matrices of {down} and {up}, which do not fit one another")
    if down[0] > rank:
        raise AdapterError(f"{path}: '{module:.120}' has rank {down[0]}, and {CONFIG} says {rank}")
    return down[1], up[0]


def _problem(path: Path, key: str, message: str) -> str:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    line = next((number for number, text in enumerate(lines, 1) if f'"{key}"' in text), 1)
    return f"{path}:{line}: {key}: {message}"
