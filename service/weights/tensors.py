"""Safetensors files as far as they can be judged without loading them: their headers and their index."""

import json
import math
import struct
from pathlib import Path
from typing import Any

LENGTH = struct.Struct("<Q")
LONGEST = 100_000_000  # bytes of a header, as the format's own library allows
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "I16": 16, "U16": 16, "F16": 16,
    "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip


def problem(path: Path) -> str | None:
    """What is wrong with a safetensors file's header, if anything is: it parses, and each tensor lies in the file."""
    try:
        header, room = _header(path)
        end = 0
        for name, tensor in header.items():
            if name != "__metadata__":
                end = max(end, _end(name, tensor, room))
    except _BrokenError as broken:
        return str(broken)
    return None if end == room else f"has {room} bytes of tensors and describes {end}"


def missing(index: Path) -> list[str]:
    """The weight files that an index names and that do not lie beside it; raises ValueError where it is no index."""
    written = json.loads(index.read_bytes())
    weight_map = written.get("weight_map") if isinstance(written, dict) else None
    if not isinstance(weight_map, dict):
        raise ValueError("has no 'weight_map'")
    return sorted({str(name) for name in weight_map.values() if not (index.parent / str(name)).is_file()})


def described(path: Path) -> dict[str, dict[str, Any]]:
    """Each tensor of a file without a `problem`, by its name: `dtype`, `shape`, `data_offsets` in bytes."""
    return {name: tensor for name, tensor in _header(path)[0].items() if name != "__metadata__"}


class _BrokenError(Exception):
    pass


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """The parsed header, and how many bytes follow it."""
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(LENGTH.size)
        if len(first) < LENGTH.size:
            raise _BrokenError(f"is too short for safetensors ({size} bytes)")
        (length,) = LENGTH.unpack(first)
        if length > min(LONGEST, size - LENGTH.size):
            raise _BrokenError(f"claims a header of {length} bytes in a file of {size}")
        text = file.read(length)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        raise _BrokenError("has a header that is not JSON") from None
    if not isinstance(header, dict):
        raise _BrokenError("has a header that is not a mapping")
    return header, size - LENGTH.size - length


def _end(name: str, tensor: Any, room: int) -> int:
    """The offset at which a tensor ends."""
    try:
        dtype, shape, (begin, end) = tensor["dtype"], tensor["shape"], tensor["data_offsets"]
        numbers = [begin, end, *shape]
        is_sound = all(type(number) is int and number >= 0 for number in numbers) and begin <= end <= room
        # Types that are not known here are left to the engine.
        is_sound = is_sound and (dtype not in BITS or math.prod(shape) * BITS[dtype] == (end - begin) * 8)
    except (KeyError, TypeError, ValueError):
        is_sound = False
    if not is_sound:
        raise _BrokenError(f"describes the tensor '{name:.80}' wrongly: {json.dumps(tensor):.120}")
    return int(end)
