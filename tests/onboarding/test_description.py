"""What is read from a model's own folder."""

import json
import struct
from pathlib import Path

import pytest

from service.onboarding.description import IntakeError, describe
from tests.support.fleets import ROOT

PEBBLE = ROOT / "models/pebble"


def safetensors(path: Path, dtype: str = "F32", **shapes: list[int]) -> None:
    """A file of zeros with tensors of these names and shapes."""
    size, offset, header = {"F32": 4, "BF16": 2, "I32": 4}[dtype], 0, {}
    for name, shape in shapes.items():
        numbers = 1
        for one in shape:
            numbers *= one
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + numbers * size]}
        offset += numbers * size
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(offset))


def test_a_folder_of_weights() -> None:
    found = describe(PEBBLE / "pebble-chat")
    assert found.config["architectures"] == ["LlamaForCausalLM"]
    assert found.has_template
    assert found.weights
    assert (found.weights.numbers, found.weights.size, found.weights.dtype) == (918656, 2 * 918656, "bfloat16")
    assert "model.embed_tokens.weight" in found.weights.names


def test_a_folder_without_a_template_or_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    found = describe(tmp_path)
    assert (found.has_template, found.weights, found.tokenizer, found.generation) == (False, None, {}, {})


def test_weights_in_several_files_count_together(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    safetensors(tmp_path / "model-1.safetensors", a=[2, 3])
    safetensors(tmp_path / "model-2.safetensors", "BF16", b=[4])
    found = describe(tmp_path).weights
    assert found
    assert (found.numbers, found.size, found.dtype, found.names) == (10, 32, None, frozenset("ab"))


@pytest.mark.parametrize("key", ["tokenizer_config.json", "chat_template.jinja"])
def test_a_template_may_stand_in_either_place(tmp_path: Path, key: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / key).write_text('{"chat_template": "x"}')
    assert describe(tmp_path).has_template


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({}, "holds no config.json"),
        ({"config.json": "{"}, "config.json is not JSON"),
        ({"config.json": "[]"}, "config.json holds no object"),
        ({"config.json": "{}", "model.safetensors": "short"}, "model.safetensors is too short"),
    ],
)
def test_says_what_is_wrong_with_a_folder(tmp_path: Path, files: dict[str, str], problem: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(IntakeError, match=problem):
        describe(tmp_path)


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(IntakeError, match="is not a folder"):
        describe(tmp_path / "gone")
