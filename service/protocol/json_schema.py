"""The structs of request bodies as JSON Schema, for descriptions of the API. Pure.

`msgspec.json.schema_components` cannot write the default of a field that is kept as it was sent.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from msgspec import inspect

Schema = dict[str, Any]
NULL: Schema = {"type": "null"}
REFERENCE = "#/components/schemas/"
INNER = ("type", "item_type", "value_type")  # where a type has others within it, beside `types`
BOUNDS: Mapping[str, str] = MappingProxyType(
    {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
)
PLAIN: Mapping[type, str] = MappingProxyType(
    {
        inspect.StrType: "string",
        inspect.IntType: "integer",
        inspect.FloatType: "number",
        inspect.BoolType: "boolean",
        inspect.NoneType: "null",
    }
)


def schemas_of(structs: Mapping[type, Mapping[str, str]]) -> dict[str, Schema]:
    """The JSON Schemas of `structs`, and of all structs within them, by name; they refer to each other by REFERENCE.

    The values of `structs` are what is said of some of their fields. A member that a struct does not have is no mistake
    in it: `fields` decides about those.
    """
    found = [(inspect.type_info(struct), described) for struct, described in structs.items()]
    schemas: dict[str, Schema] = {}
    while found:
        struct, described = found.pop(0)
        assert isinstance(struct, inspect.StructType)
        if struct.cls.__name__ not in schemas:
            schemas[struct.cls.__name__] = _object(struct, described)
            found += [(inner, {}) for one in struct.fields for inner in _structs_in(one.type)]
    return schemas


def _structs_in(kind: inspect.Type) -> list[inspect.StructType]:
    """The structs that a type is made of, without those that these are made of."""
    if isinstance(kind, inspect.StructType):
        return [kind]
    parts = getattr(kind, "types", ()) or [getattr(kind, name) for name in INNER if hasattr(kind, name)]
    return [struct for part in parts for struct in _structs_in(part)]


def _object(struct: inspect.StructType, described: Mapping[str, str]) -> Schema:
    properties = {one.encode_name: _schema(one.type) for one in struct.fields}
    for name in properties.keys() & described.keys():
        properties[name]["description"] = described[name]
    required = [one.encode_name for one in struct.fields if one.required]
    schema: Schema = {"type": "object"}
    if properties:
        schema["properties"] = properties
    return {**schema, "required": required} if required else schema


def _schema(kind: inspect.Type) -> Schema:
    if isinstance(kind, inspect.Metadata):
        return _schema(kind.type)
    if type(kind) in PLAIN:
        return {"type": PLAIN[type(kind)], **_bounds(kind)}
    maker = _MAKERS.get(type(kind))
    return maker(kind) if maker else {}  # anything


def _bounds(kind: inspect.Type) -> Schema:
    found: Schema = {
        BOUNDS[name]: bound for name in BOUNDS if (bound := getattr(kind, name, None)) is not None
    }  # fmt: skip
    for name, written in (("min_length", "minLength"), ("max_length", "maxLength"), ("pattern", "pattern")):
        if (value := getattr(kind, name, None)) is not None:
            found[written] = value
    return found


def _lengths(kind: Any, what: str) -> Schema:
    found = {f"min{what}": kind.min_length, f"max{what}": kind.max_length}
    return {name: value for name, value in found.items() if value is not None}


def _union(kind: inspect.UnionType) -> Schema:
    *others, last = [_schema(one) for one in kind.types]
    if len(others) == 1 and last == NULL and "type" in others[0]:
        return {**others[0], "type": [others[0]["type"], "null"]}
    return {"anyOf": [*others, last]}


def _list(kind: inspect.ListType) -> Schema:
    return {"type": "array", "items": _schema(kind.item_type), **_lengths(kind, "Items")}


def _dict(kind: inspect.DictType) -> Schema:
    names = {"propertyNames": named} if (named := _bounds(kind.key_type)) else {}
    return {"type": "object", "additionalProperties": _schema(kind.value_type), **names, **_lengths(kind, "Properties")}


_MAKERS: Mapping[type, Callable[[Any], Schema]] = MappingProxyType(
    {
        inspect.UnionType: _union,
        inspect.ListType: _list,
        inspect.DictType: _dict,
        inspect.LiteralType: lambda kind: {"enum": list(kind.values)},
        inspect.StructType: lambda kind: {"$ref": REFERENCE + kind.cls.__name__},
    }
)
