"""Checks of safetensors files that need only their headers and their index, without loading them."""

import json
import math
import struct
from pathlib import Path
from typing import Any

LENGTH = struct.Struct("<Q")
MAX_HEADER = 100_000_000  # bytes; the limit of the safetensors library
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "I16": 16, "U16": 16, "F16": 16,
    "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip


def problem(path: Path) -> str | None:
    """What is wrong with a safetensors file's header: it must parse, and describe exactly the bytes that follow it."""
    try:
        header, data_size = _header(path)
        end = 0
        for name, tensor in header.items():
            if name != "__metadata__":
                end = max(end, _end(name, tensor, data_size))
    except _InvalidError as error:
        return str(error)
    return None if end == data_size else f"has {data_size} bytes of tensors and its header describes {end}"


def missing(index: Path) -> list[str]:
    """The weight files that an index names and that do not exist beside it; raises ValueError for an invalid index."""
    written = json.loads(index.read_bytes())
    weight_map = written.get("weight_map") if isinstance(written, dict) else None
    if not isinstance(weight_map, dict):
        raise ValueError("has no 'weight_map'")
    return sorted({str(name) for name in weight_map.values() if not (index.parent / str(name)).is_file()})


def described(path: Path) -> dict[str, dict[str, Any]]:
    """Each tensor of a valid file by name: `dtype`, `shape`, and `data_offsets` in bytes."""
    return {name: tensor for name, tensor in _header(path)[0].items() if name != "__metadata__"}


class _InvalidError(Exception):
    pass


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """The parsed header, and how many bytes follow it."""
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(LENGTH.size)
        if len(first) < LENGTH.size:
            raise _InvalidError(f"is too short for a safetensors file ({size} bytes)")
        (length,) = LENGTH.unpack(first)
        if length > min(MAX_HEADER, size - LENGTH.size):
            raise _InvalidError(f"claims a header of {length} bytes in a file of {size}")
        text = file.read(length)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        raise _InvalidError("has a header that is not valid JSON") from None
    if not isinstance(header, dict):
        raise _InvalidError("has a header that is not a JSON object")
    return header, size - LENGTH.size - length


def _end(name: str, tensor: Any, data_size: int) -> int:
    """The offset at which a tensor ends."""
    try:
        dtype, shape, (begin, end) = tensor["dtype"], tensor["shape"], tensor["data_offsets"]
        numbers = [begin, end, *shape]
        is_valid = all(type(number) is int and number >= 0 for number in numbers) and begin <= end <= data_size
        # Unknown dtypes are left to the engine to judge.
        is_valid = is_valid and (dtype not in BITS or math.prod(shape) * BITS[dtype] == (end - begin) * 8)
    except (KeyError, TypeError, ValueError):
        is_valid = False
    if not is_valid:
        raise _InvalidError(f"has an invalid header entry for tensor '{name:.80}': {json.dumps(tensor):.120}")
    return int(end)
