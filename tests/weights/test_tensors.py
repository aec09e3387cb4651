"""Safetensors judged by their headers."""

import json
import struct
from pathlib import Path

import pytest

from service.weights import tensors
from tests.support.fleets import ROOT
from tests.weights.tiny import WEIGHTS, safetensors


def header(text: bytes | object, size: int = 8) -> bytes:
    data = text if isinstance(text, bytes) else json.dumps(text).encode()
    return struct.pack("<Q", len(data)) + data + bytes(size)


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
        header({"s": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}}, size=4),
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
        (b"", "is too short for a safetensors file (0 bytes)"),
        (b"\x80\x04.", "is too short"),
        (WEIGHTS[:50], "claims a header of "),
        (struct.pack("<Q", 2**63) + bytes(9), "claims a header of 9223372036854775808 bytes in a file of 17"),
        (header(b"not json"), "has a header that is not valid JSON"),
        (header(b"[" * 90_000), "has a header that is not valid JSON"),
        (header([]), "has a header that is not a JSON object"),
        (WEIGHTS[:-1], "has an invalid header entry for tensor 'b'"),
        (WEIGHTS + b"\0", "has 8121 bytes of tensors and its header describes 8120"),
        (one("F32", [3]), "has an invalid header entry for tensor 'w'"),
        (one("F32", [-2]), "has an invalid header entry for tensor 'w'"),
        (one("F32", [True, 2]), "has an invalid header entry for tensor 'w'"),
        (one("F32", ["2"]), "has an invalid header entry for tensor 'w'"),
        (one("F32", [2], [0, 9]), "has an invalid header entry for tensor 'w'"),
        (one("F32", [2], [8, 0]), "has an invalid header entry for tensor 'w'"),
        (one("F32", [2], [0]), "has an invalid header entry for tensor 'w'"),
        (one("F32", None), "has an invalid header entry for tensor 'w'"),
        (one(["F32"]), "has an invalid header entry for tensor 'w'"),
        (header({"w": 3}), "has an invalid header entry for tensor 'w': 3"),
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
