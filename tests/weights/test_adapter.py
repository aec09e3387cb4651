"""The files of a LoRA adapter: what is read of them, and what is refused before an engine sees it."""

import json
from pathlib import Path
from typing import Any

import pytest

from service.weights import adapter
from service.weights.adapter import AdapterError
from tests.support.adapters import Q_PROJ, write_adapter, write_tensors
from tests.support.each import each


def test_what_is_read_of_an_adapter(tmp_path: Path) -> None:
    modules = {Q_PROJ: (64, 32), "model.layers.1.mlp.down_proj": (96, 64)}
    folder = write_adapter(tmp_path / "a", "acme/small", modules, 8, rank_pattern={"down_proj": 4})
    found = adapter.read(folder)
    assert (found.rank, found.base, found.modules) == (8, "acme/small", modules)
    assert adapter.is_adapter(folder)
    (folder / "config.json").touch()
    assert not adapter.is_adapter(folder), "a whole model with an adapter beside it"


@each(
    ("config", "problem"),
    [
        ({"peft_type": "IA3"}, "2: peft_type: is 'IA3', and engines serve LORA only"),
        ({"r": 0}, "3: r: is 0, and a rank is a whole number from 1 to 512"),
        ({"r": "8"}, "3: r: is '8', and a rank"),
        ({"rank_pattern": {"q_proj": 600}}, "10: rank_pattern: is 600, and a rank"),
        ({"rank_pattern": [1]}, "10: rank_pattern: is [1], and a rank"),
        ({"lora_alpha": None}, "4: lora_alpha: is None, which is no number"),
        ({"target_modules": None}, "5: target_modules: is None: name the modules"),
        ({"base_model_name_or_path": None}, "9: base_model_name_or_path: is missing"),
        ({"bias": "all"}, "8: bias: is 'all': train without biases"),
        ({"use_dora": True}, "10: use_dora: asks for DoRA"),
        ({"modules_to_save": ["lm_head"]}, "10: modules_to_save: asks for whole modules"),
        ({"init_lora_weights": "pissa"}, "10: init_lora_weights: is 'pissa', which changes the base too"),
        ({"trainable_token_indices": [3]}, "10: trainable_token_indices: asks for trained embeddings"),
    ],
)
def test_a_mistake_in_the_configuration_is_named_with_file_line_and_key(
    tmp_path: Path, config: dict[str, Any], problem: str
) -> None:
    folder = write_adapter(tmp_path, "base")
    settings = json.loads((folder / "adapter_config.json").read_text()) | config
    (folder / "adapter_config.json").write_text(json.dumps(settings, indent=1))
    with pytest.raises(AdapterError) as raised:
        adapter.read(folder)
    assert str(raised.value).startswith(f"{folder}/adapter_config.json:{problem}")


LORA_A, LORA_B = f"base_model.model.{Q_PROJ}.lora_A.weight", f"base_model.model.{Q_PROJ}.lora_B.weight"


@each(
    ("shapes", "problem"),
    [
        ({}, "has no weights"),
        ({LORA_A: [8, 64]}, f"'{Q_PROJ}' has only one of its two matrices"),
        ({LORA_A: [8, 64], LORA_B: [32, 4]}, "has matrices of [8, 64] and [32, 4]"),
        ({LORA_A: [16, 64], LORA_B: [32, 16]}, "has rank 16, and adapter_config.json says 8"),
        ({LORA_A: [8, 64], LORA_B: [32, 8], "base_model.model.lm_head.weight": [9, 9]}, "is no LoRA weight"),
    ],
)
def test_tensors_that_are_no_adapter_are_refused(tmp_path: Path, shapes: dict[str, list[int]], problem: str) -> None:
    folder = write_adapter(tmp_path, "base")
    write_tensors(folder / "adapter_model.safetensors", shapes)
    with pytest.raises(AdapterError, match=r"adapter_model\.safetensors") as raised:
        adapter.read(folder)
    assert problem in str(raised.value)


def test_a_folder_without_the_files_of_an_adapter(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"has no adapter_config\.json: give the folder that peft's"):
        adapter.read(tmp_path)
    folder = write_adapter(tmp_path, "base")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(AdapterError, match="is a pickle file"):
        adapter.read(folder)
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(AdapterError, match="cannot be read as JSON"):
        adapter.read(folder)
