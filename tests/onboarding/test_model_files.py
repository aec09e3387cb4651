"""Reading the files of a model's folder."""

import json
import math
import struct
from pathlib import Path

import pytest

from service.onboarding.model_files import OnboardingError, read_model_files
from tests.support.fleets import ROOT

PEBBLE = ROOT / "models/pebble"


def safetensors(path: Path, dtype: str = "F32", **shapes: list[int]) -> None:
    """Writes a safetensors file with tensors of zeros of these names and shapes."""
    size, offset, header = {"F32": 4, "BF16": 2, "I32": 4}[dtype], 0, {}
    for name, shape in shapes.items():
        end = offset + math.prod(shape) * size
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(offset))


def test_folder_with_weights() -> None:
    found = read_model_files(PEBBLE / "pebble-chat")
    assert found.config["architectures"] == ["LlamaForCausalLM"]
    assert found.template
    assert found.tensors
    assert (found.tensors.elements, found.tensors.size, found.tensors.dtype) == (918656, 2 * 918656, "bfloat16")
    assert "model.embed_tokens.weight" in found.tensors.names


def test_folder_without_template_and_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    found = read_model_files(tmp_path)
    assert (found.template, found.tensors, found.tokenizer, found.generation) == (None, None, {}, {})


def test_tensors_of_several_files_are_added_up(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    safetensors(tmp_path / "model-1.safetensors", a=[2, 3])
    safetensors(tmp_path / "model-2.safetensors", "BF16", b=[4])
    found = read_model_files(tmp_path).tensors
    assert found
    assert (found.elements, found.size, found.dtype, found.names) == (10, 32, None, frozenset("ab"))


@pytest.mark.parametrize("key", ["tokenizer_config.json", "chat_template.jinja"])
def test_template_is_found_in_either_file(tmp_path: Path, key: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / key).write_text('{"chat_template": "x"}')
    assert "x" in (read_model_files(tmp_path).template or "")


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({}, "has no config.json"),
        ({"config.json": "{"}, "config.json is not valid JSON"),
        ({"config.json": "[]"}, "config.json is not a JSON object"),
        ({"config.json": "{}", "model.safetensors": "short"}, "model.safetensors is too short"),
    ],
)
def test_error_names_the_broken_file(tmp_path: Path, files: dict[str, str], problem: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(OnboardingError, match=problem):
        read_model_files(tmp_path)


def test_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OnboardingError, match="is not a folder"):
        read_model_files(tmp_path / "gone")
