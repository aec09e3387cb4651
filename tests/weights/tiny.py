"""Repositories small enough to write down."""

import json
import struct

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER = "89abcdef0123456789abcdef0123456789abcdef"
TINY = "acme/Tiny-1m-chat"


def safetensors(**tensors: bytes) -> bytes:
    """A safetensors file that holds these bytes as vectors of U8."""
    header, end = {}, 0
    for name, data in tensors.items():
        header[name] = {"dtype": "U8", "shape": [len(data)], "data_offsets": [end, end + len(data)]}
        end += len(data)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"".join(tensors.values())


CONFIG = json.dumps({"model_type": "llama", "max_position_embeddings": 512}).encode()
WEIGHTS = safetensors(a=bytes(range(256)) * 20, b=b"\x07" * 3000)
REPOSITORY = {
    "config.json": CONFIG,
    "tokenizer.json": b'{"version": "1.0"}',
    "model.safetensors": WEIGHTS,
    "README.md": b"# Tiny",
    "LICENSE": b"Do as you like.",
}
TAKEN = {"config.json", "tokenizer.json", "model.safetensors", "LICENSE"}
AUTO_MAP = json.dumps(
    {"model_type": "tiny", "auto_map": {"AutoModelForCausalLM": "modeling_tiny.TinyForCausalLM"}}
).encode()
