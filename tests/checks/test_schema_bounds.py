"""What of a schema is refused before it is compiled."""

from typing import Any

import pytest

from service.checks.schema_bounds import Most, RefusedError, check

MOST = Most(depth=6, properties=3, enum=3, pattern=5)
TEXT = {"type": "string"}


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels - 1):
        schema = {"items": schema}
    return schema


REFUSED: dict[str, tuple[Any, str]] = {
    "depth": (nested(7), "nested more than 6 levels"),
    "properties in all": ({"properties": {"a": {"properties": dict.fromkeys("bcd", True)}}}, "4 properties"),
    "patterns of properties": ({"patternProperties": dict.fromkeys("abcd", True)}, "4 properties"),
    "enum in all": ({"anyOf": [{"enum": [1, 2]}, {"enum": [3, 4]}]}, "4 values of enum"),
    "pattern": ({"items": {"pattern": "a" * 6}}, "pattern of 6"),
    "pattern of a name": ({"patternProperties": {"a" * 6: True}}, "pattern of 6"),
    "reference elsewhere": ({"items": {"$ref": "http://example.org/s"}}, "somewhere else"),
    "dynamic reference elsewhere": ({"$dynamicRef": "other#x"}, "somewhere else"),
    "itself": ({"$ref": "#"}, "back to itself"),
    "each other": ({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}, "back to itself"),
    "through a branch": ({"$defs": {"a": {"anyOf": [TEXT, {"$ref": "#/$defs/a"}]}}}, "back to itself"),
    "with an escaped name": ({"$defs": {"a/b~": {"$ref": "#/$defs/a~1b~0"}}}, "back to itself"),
}
ACCEPTED: dict[str, Any] = {
    "all at their bounds": nested(6)
    | {"properties": dict.fromkeys("abc", True), "enum": [1, 2, 3], "pattern": "aaaaa"},
    "a tree": {"properties": {"child": {"$ref": "#"}}},
    "a shared definition": {"$defs": {"a": TEXT}, "anyOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}]},
    "a reference to nothing": {"$ref": "#/no/such"},
    "a reference into a list": {"anyOf": [TEXT, {"$ref": "#/anyOf/0"}]},
    "a property of such a name": {"properties": {"$ref": TEXT, "enum": TEXT, "pattern": TEXT}},
    "other shapes": {"properties": 3, "enum": "x", "pattern": 5, "$ref": 1, "anyOf": {}},
    "true": True,
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    schema, reason = REFUSED[name]
    with pytest.raises(RefusedError, match=reason):
        check(schema, MOST)


def test_accepted() -> None:
    for schema in ACCEPTED.values():
        check(schema, MOST)


def test_references_that_fan_out_take_no_longer_than_there_are_of_them() -> None:
    """Each of 200 definitions refers to the next one twice: 2**200 ways lead to the last."""
    steps = {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(200)}
    check({"$defs": steps | {"d200": TEXT}, "$ref": "#/$defs/d0"}, MOST)
