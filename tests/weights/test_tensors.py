"""Safetensors judged by their headers."""

import json
import struct
from pathlib import Path

import pytest

from service.weights import tensors
from tests.support.fleets import ROOT
from tests.weights.tiny import WEIGHTS, safetensors


def header(text: bytes | object, room: int = 8) -> bytes:
    data = text if isinstance(text, bytes) else json.dumps(text).encode()
    return struct.pack("<Q", len(data)) + data + bytes(room)


def one(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> bytes:
    return header({"w": {"dtype": dtype, "shape": shape, "data_offsets": offsets}})


@pytest.mark.parametrize(
    "data",
    [
        WEIGHTS,
        safetensors(),
        one(),
        one("BF16", [2, 2]),
        one("F32", [2, 1]),
        one("F4_of_tomorrow", [3, 5]),
        header({"__metadata__": {"format": "pt"}, "w": {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}}),
        header({"s": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}}, room=4),
    ],
)
def test_sound_files(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.safetensors").write_bytes(data)
    assert tensors.problem(tmp_path / "x.safetensors") is None


@pytest.mark.parametrize(
    "path", sorted((ROOT / "models/pebble").rglob("*.safetensors")), ids=lambda path: path.parent.name
)
def test_weights_that_are_served(path: Path) -> None:
    assert tensors.problem(path) is None


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "is too short for safetensors (0 bytes)"),
        (b"\x80\x04.", "is too short"),
        (WEIGHTS[:50], "claims a header of "),
        (struct.pack("<Q", 2**63) + bytes(9), "claims a header of 9223372036854775808 bytes in a file of 17"),
        (header(b"not json"), "has a header that is not JSON"),
        (header(b"[" * 90_000), "has a header that is not JSON"),
        (header([]), "has a header that is not a mapping"),
        (WEIGHTS[:-1], "describes the tensor 'b' wrongly"),
        (WEIGHTS + b"\0", "has 8121 bytes of tensors and describes 8120"),
        (one("F32", [3]), "describes the tensor 'w' wrongly"),
        (one("F32", [-2]), "describes the tensor 'w' wrongly"),
        (one("F32", [True, 2]), "describes the tensor 'w' wrongly"),
        (one("F32", ["2"]), "describes the tensor 'w' wrongly"),
        (one("F32", [2], [0, 9]), "describes the tensor 'w' wrongly"),
        (one("F32", [2], [8, 0]), "describes the tensor 'w' wrongly"),
        (one("F32", [2], [0]), "describes the tensor 'w' wrongly"),
        (one("F32", None), "describes the tensor 'w' wrongly"),
        (one(["F32"]), "describes the tensor 'w' wrongly"),
        (header({"w": 3}), "describes the tensor 'w' wrongly: 3"),
    ],
)
def test_broken_files(tmp_path: Path, data: bytes, problem: str) -> None:
    (tmp_path / "x.safetensors").write_bytes(data)
    found = tensors.problem(tmp_path / "x.safetensors")
    assert found
    assert found.startswith(problem)


def test_an_index_names_its_files(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "one", "b": "two", "c": "two"}}))
    (tmp_path / "one").touch()
    assert tensors.missing(index) == ["two"]
    (tmp_path / "two").touch()
    assert tensors.missing(index) == []


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": []}'])
def test_an_index_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(ValueError):
        tensors.missing(tmp_path / "index.json")
