"""Which models may take the place of another."""

from pathlib import Path

from msgspec import structs

from service.protocol.generation import Requirements
from service.routing.fallbacks import fallbacks, may_fall_back
from service.routing.resolve import Target
from tests.support import fleets
from tests.support.each import each

FLEET = """
models:
  - model: pebble-chat
    fallback: [short, long, toolless, seeing, pebble-base]
    engine: {tool_call_parser: pythonic}
    aliases: [support]
    adapters: [{id: tuned, path: ./tuned}, {id: better, path: ./better, fallback: [tuned, short]}]
  - {model: ./short-chat, id: short, context: 100, engine: {tool_call_parser: hermes}}
  - {model: ./long-chat, id: long, context: 4096, engine: {tool_call_parser: hermes}}
  - {model: ./toolless-chat, id: toolless}
  - {model: ./seeing-chat, id: seeing, vision: true}
  - {model: pebble-base}
"""
CHAT = Requirements("chat")
TOOLS, IMAGES = structs.replace(CHAT, tools=True), structs.replace(CHAT, vision=True)


@each(
    ("requirements", "tokens", "allowed", "expected"),
    [
        (CHAT, 50, None, ["short", "long", "toolless", "seeing"]),
        (CHAT, 101, None, ["long", "toolless", "seeing"]),
        (TOOLS, 50, None, ["short", "long"]),
        (IMAGES, 50, None, ["seeing"]),
        (Requirements("completion"), 50, None, ["short", "long", "toolless", "seeing", "pebble-base"]),
        (CHAT, 50, ["support", "toolless"], ["toolless"]),
    ],
)
def test_a_fallback_does_what_the_request_wants_and_its_caller_may_use_it(
    requirements: Requirements, tokens: float, allowed: list[str] | None, expected: list[str], tmp_path: Path
) -> None:
    fleet = fleets.load(tmp_path, FLEET)
    target = Target(fleet["pebble-chat"], "pebble-chat", "alias of pebble-chat")
    caller = fleet if allowed is None else fleet.restricted(allowed)
    assert [one.name for one in fallbacks(target, requirements, tokens, caller)] == expected


def test_an_adapter_has_fallbacks_of_its_own_and_may_be_one(tmp_path: Path) -> None:
    fleet = fleets.load(tmp_path, FLEET)
    for name, expected in (("better", ["tuned", "short"]), ("tuned", [])):
        target = Target(fleet["pebble-chat"], name, "id")
        found = list(fallbacks(target, CHAT, 50, fleet))
        assert [(one.served.id, one.name) for one in found] == [(fleet.serving(id).id, id) for id in expected]


@each(
    ("requested", "name", "wish", "expected"),
    [
        ("support", "pebble-chat", None, True),
        ("auto", "pebble-chat", None, True),
        ("support", "pebble-chat", False, False),
        ("pebble-chat", "pebble-chat", None, False),
        ("pebble-chat", "pebble-chat", True, True),
        ("tuned", "tuned", True, False),
        ("better", "better", True, True),
        ("better", "better", None, False),
        ("instruct", "better", None, True),
        ("short", "short", True, False),
    ],
)
def test_what_was_asked_for_by_its_id_is_replaced_only_where_that_is_allowed(
    requested: str, name: str, wish: bool | None, expected: bool, tmp_path: Path
) -> None:
    fleet = fleets.load(tmp_path, FLEET)
    served = fleet["short" if name == "short" else "pebble-chat"]
    assert may_fall_back(requested, Target(served, name, "id"), wish) is expected
