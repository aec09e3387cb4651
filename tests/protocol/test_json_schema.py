"""The structs of bodies as JSON Schema: types, bounds, what is required, and structs within structs."""

from typing import Annotated, Any, Literal

import jsonschema_rs
import msgspec
from msgspec import Meta, Raw, Struct

from service.errors import ApiError
from service.fleet.request_bounds import RequestBounds
from service.protocol.bounded import bounded
from service.protocol.generation import GENERATION
from service.protocol.json_schema import REFERENCE, schemas_of
from tests.support.each import each
from tests.support.exchanges import CASES

VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 2**40, 0.5, "", "x", "y" * 300, [], [1], [{}], {}, {"a": 1}, {"a": {}},
)  # fmt: skip


class Inner(Struct):
    """Within another."""

    raw: Raw = Raw(b"")


class Outer(Struct, forbid_unknown_fields=True):
    """Something of each kind."""

    text: Annotated[str, Meta(min_length=1, max_length=9)]
    number: Annotated[int, Meta(ge=1, lt=5)] | None = None
    share: Annotated[float, Meta(gt=0, le=1)] | None = None
    inners: Annotated[list[Inner], Meta(max_length=3)] | str | None = None
    bias: Annotated[dict[str, float], Meta(max_length=2)] | None = None
    kind: Literal["a", "b"] | None = None


def test_a_struct_becomes_a_schema() -> None:
    assert schemas_of({Outer: {"text": "what it is"}}) == {
        "Outer": {
            "type": "object",
            "properties": {
                "text": {"type": "string", "minLength": 1, "maxLength": 9, "description": "what it is"},
                "number": {"type": ["integer", "null"], "minimum": 1, "exclusiveMaximum": 5},
                "share": {"type": ["number", "null"], "exclusiveMinimum": 0, "maximum": 1},
                "inners": {
                    "anyOf": [
                        {"type": "array", "items": {"$ref": REFERENCE + "Inner"}, "maxItems": 3},
                        {"type": "string"},
                        {"type": "null"},
                    ]
                },
                "bias": {"type": ["object", "null"], "additionalProperties": {"type": "number"}, "maxProperties": 2},
                "kind": {"anyOf": [{"enum": ["a", "b"]}, {"type": "null"}]},
            },
            "required": ["text"],
        },
        "Inner": {"type": "object", "properties": {"raw": {}}},
    }


def validator(kind: type) -> Any:
    schemas = schemas_of({kind: {}})
    return jsonschema_rs.validator_for({"$ref": REFERENCE + kind.__name__, "components": {"schemas": schemas}})


@each("case", CASES)
def test_what_is_served_fits_its_schema(case: Any) -> None:
    kind = next(one.body for one in GENERATION if one.path == case.path)
    assert validator(kind).is_valid(case.body())
    assert not validator(kind).is_valid(case.body() | {"model": 3})


@each("endpoint", GENERATION)
def test_schema_and_struct_refuse_the_same(endpoint: Any) -> None:
    """A body of every field alone, of every JSON type: the types and bounds of fields are those that are checked."""
    kind = bounded(endpoint.body, RequestBounds())
    check, decoder = validator(kind), msgspec.json.Decoder(kind)
    required = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1, "input": "x", "prompt": "x"}
    required |= {"tokens": [1], "query": "q", "documents": ["d"], "text_1": "a", "text_2": "b"}
    fields = {one.encode_name: one.required for one in msgspec.structs.fields(kind)}
    base = {name: value for name, value in required.items() if fields.get(name)} | {"model": "m"}
    for name in fields:
        for value in VALUES:
            body = {**base, name: value}
            try:
                decoder.decode(msgspec.json.encode(body))
                said = True
            except msgspec.ValidationError:
                said = False
            except ApiError:  # fields together, which a schema does not say
                continue
            assert check.is_valid(body) == said, (name, value)
