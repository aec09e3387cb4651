"""The real process: the compilers of engines and their image decoder, with the inputs that have broken such."""

import json
import signal
import struct
import zlib
from pathlib import Path
from typing import Any

from service.checks.checks import PASSED, Checks, Verdict
from service.checks.process import CheckProcess, command
from tests.checks.test_checks import Events
from tests.support.pictures import picture
from tests.support.waiting import PATIENCE

MOST = b"[64,1000,1000,512]\n"
MEMORY = 2**28
PATH = "response_format.json_schema.schema"


def format_of(schema: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}


def with_pattern(pattern: str, **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": {"type": "string", "pattern": pattern, **more}}, "required": ["a"]}


# What xgrammar does not support goes to another compiler, which takes all memory for one of these …
MANY_ITEMS = {
    "type": "object",
    "properties": {
        "even": {"type": "integer", "multipleOf": 2},
        "list": {"type": "array", "items": {"type": "string"}, "maxItems": 10**9},
    },
}
# … and a third one, which takes half a minute for this.
MANY_STATES = {
    **with_pattern("(a|b|c|d|e){1,100}x(a|b|c|d|e){1,100}(aa|bb){1,100}"),
    "patternProperties": {"^b": {"type": "string"}},
}
STRICT = {"type": "function", "function": {"name": "f", "parameters": {"type": "nope"}, "strict": True}}
ADDRESS = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1},
        "zip": {"type": "string", "pattern": "^[0-9]{5}$"},
        "born": {"type": "string", "format": "date"},
        "kind": {"enum": ["home", "work"]},
        "children": {"type": "array", "items": {"$ref": "#"}, "maxItems": 9},
    },
    "required": ["name"],
    "additionalProperties": False,
}
ACCEPTED: dict[str, dict[str, Any]] = {
    "an ordinary schema, a tree": format_of(ADDRESS),
    "keywords that only llguidance has": format_of({"type": "integer", "multipleOf": 5}),
    "nested quantifiers": format_of(with_pattern("(a+)+b")),
    "a choice": {"structured_outputs": {"choice": ["yes", "no"]}},
    "a regular expression": {"structured_outputs": {"regex": "[a-z]+@[a-z]+"}},
    "a grammar of EBNF": {"structured_outputs": {"grammar": 'root ::= "a" | "b"'}},
    "a grammar of Lark": {"structured_outputs": {"grammar": 'start: "a" | "b"'}},
    "a tool that no compiler takes": {"tools": [STRICT]},  # engines compile it only if they have to, and say so then
    "no schema": {"response_format": {"type": "json_object"}, "text": {"verbosity": "low"}},
}
REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "a type that does not exist": (format_of({"type": "nope"}), PATH, "nope"),
    "a type that is no string": (format_of({"type": 5}), PATH, "Type should be a string"),
    "properties that are a list": (format_of({"properties": [1], "type": "object"}), PATH, "must be an object"),
    "an empty enum": (format_of({"enum": []}), PATH, "not be empty"),
    "a range without numbers": (format_of({"type": "integer", "minimum": 5, "maximum": 3}), PATH, "minimum greater"),
    "an open parenthesis": (format_of(with_pattern("((")), PATH, "parenthesis"),
    "a reference to nothing": (format_of({"$ref": "#/no/such"}), PATH, "Cannot find field"),
    "a reference to itself": (format_of({"$ref": "#"}), PATH, "back to itself"),
    "too many values": (format_of({"enum": list(range(10_000))}), PATH, "10000 values"),
    "a wrong regular expression": ({"structured_outputs": {"regex": "("}}, "structured_outputs.regex", "parenthesis"),
    "a wrong grammar": ({"structured_outputs": {"grammar": "root ::= ("}}, "structured_outputs.grammar", "cannot be"),
    "an unknown structural tag": (
        {"response_format": {"type": "structural_tag", "format": {"type": "nope"}}}, "response_format", "cannot be",
    ),
}  # fmt: skip


def compiling(members: dict[str, Any]) -> bytes:
    return b"c" + MOST + json.dumps(members).encode()


def decoding(data: bytes, most_pixels: int = 2**26) -> bytes:
    return b"i" + most_pixels.to_bytes(8, "big") + data


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, *chunks: bytes, data: bytes | None = None) -> bytes:
    pixels = zlib.compress(bytes(height * (width // 8 + 1))) if data is None else data
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


BOMB = zlib.compress(bytes(2**26), 9)  # 64 KB that become 64 MB
DAMAGED = {
    "a PNG of 30,000 by 30,000": png(30_000, 30_000, data=zlib.compress(b"")),
    "text that unfolds": png(8, 8, chunk(b"zTXt", b"a\0\0" + BOMB)),
    "truncated": picture(width=64, height=64)[:-40],
    "pixels that are none": png(64, 64, data=b"not deflated"),
    "a TIFF": picture("TIFF"),
    "no image": b"hello",
}


def has_loaded(process: CheckProcess) -> bool:
    return "xgrammar" in Path(f"/proc/{process._process.pid}/maps").read_text()


async def test_schemas_grammars_and_images() -> None:
    """One process gets all that it refuses or lets pass; those that kill it come last."""
    events = Events()
    checks = Checks(command(MEMORY, 1.5), 1, PATIENCE, PATIENCE, events)  # its own CPU time ends what takes too long
    try:
        await checks.warm()
        (process,) = checks._all
        assert not has_loaded(process) and events.found, "it takes 50 MB, so it is loaded for the first job"
        process._process.send_signal(signal.SIGTERM)  # as at a stop of the service, whose requests go on
        for name, members in ACCEPTED.items():
            assert await checks.check("a", "schema", compiling(members)) == PASSED, name
        for name, (members, path, reason) in REFUSED.items():
            verdict = await checks.check("a", "schema", compiling(members))
            assert (verdict.path, verdict.died) == (path, "") and reason in verdict.reason, (name, verdict)
        assert has_loaded(process)
        for kind in ("PNG", "JPEG", "GIF", "WEBP"):
            assert await checks.check("a", "image", decoding(picture(kind))) == PASSED, kind
        for name, data in DAMAGED.items():
            assert await checks.check("a", "image", decoding(data)) == Verdict(reason="damaged"), name
        assert events.deaths == []
        for schema in (MANY_ITEMS, MANY_STATES):
            verdict = await checks.check("a", "schema", compiling(format_of(schema)))
            assert verdict.path == PATH and verdict.died, verdict
        large = await checks.check("a", "image", decoding(png(8000, 8000)))
        assert large.died in ("memory", "crash"), large
        assert await checks.check("a", "schema", compiling(format_of({"type": "object"}))) == PASSED
        assert len(events.deaths) == 3
    finally:
        await checks.close()
