"""LoRA adapters for tests: files as peft writes them, of any size, with what is wrong about them."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Q_PROJ = "model.layers.0.self_attn.q_proj"


def write_adapter(
    folder: Path, base: str, modules: Mapping[str, tuple[int, int]] | None = None, rank: int = 8, **config: Any
) -> Path:
    """An adapter of zeros on layers with these inputs and outputs; `config` are keys of its configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "peft_type": "LORA", "r": rank, "lora_alpha": 16, "target_modules": ["q_proj"], "bias": "none",
        "base_model_name_or_path": base, **config,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(settings, indent=2))
    shapes = {}
    for module, (inputs, outputs) in (modules or {Q_PROJ: (128, 128)}).items():
        shapes[f"base_model.model.{module}.lora_A.weight"] = [rank, inputs]
        shapes[f"base_model.model.{module}.lora_B.weight"] = [outputs, rank]
    write_tensors(folder / "adapter_model.safetensors", shapes)
    return folder


def write_tensors(path: Path, shapes: Mapping[str, list[int]], dtype: str = "BF16") -> None:
    """A safetensors file of zeros, two bytes each."""
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 2
        for length in shape:
            size *= length
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))
