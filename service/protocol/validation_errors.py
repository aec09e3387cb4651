"""What is wrong with a body, in words: which field, and what it should be.

msgspec says it of Python's types, in sentences of a few kinds; a client reads it of JSON's.
"""

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from msgspec import DecodeError, ValidationError, inspect

from service.errors import ApiError, ErrorCode

NAMES = {
    "int": "an integer",
    "float": "a number",
    "str": "a string",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}
UNITS = {"str": "character", "array": "item", "object": "member"}
BOUNDS = {">=": "at least", "<=": "at most", ">": "more than", "<": "less than"}
# What is wrong, and where: in the body as a whole where it does not say.
SENTENCE = re.compile(r"(.*?)(?: - at `\$\.?([\w.\[\]]*)`)?", re.DOTALL)
UNKNOWN = re.compile(r"Object contains unknown field `(.*?)`?", re.DOTALL)
MISSING = re.compile(r"Object missing required field `(\w+)`")
BOUND = re.compile(r"Expected `(\w+)`( of length)? ([<>]=?) ([-+.\w]+)")
TYPE = re.compile(r"Expected `([^`]+)`, got `(\w+)`")
STEP = re.compile(r"[a-z_]\w*|\[")


def api_error(error: ValueError | RecursionError, kind: type) -> ApiError:
    """The 400 for what kept a body from being read as a `kind`."""
    if isinstance(error, RecursionError):
        return _no_json("it is nested too deeply")
    if isinstance(error, UnicodeDecodeError):
        return _no_json(f"it is not UTF-8 from byte {error.start} on")
    if not isinstance(error, ValidationError):
        text = str(error)
        return _no_json(text.removeprefix("JSON is malformed: ") if isinstance(error, DecodeError) else text)
    sentence = SENTENCE.fullmatch(str(error))
    assert sentence
    what, where = sentence[1], (sentence[2] or "").replace("[...]", "")
    if found := UNKNOWN.fullmatch(what):
        # The client's own word, whatever it is; cut short, because it is repeated in the answer.
        unknown = _member(where, found[1][:64])
        return ApiError(ErrorCode.UNKNOWN_PARAMETER, f"Unknown parameter: '{unknown}'. Leave it out.", unknown)
    if found := MISSING.fullmatch(what):
        name = _member(where, found[1])
        return ApiError(ErrorCode.MISSING_REQUIRED_PARAMETER, f"'{name}' is required.", name)
    if not where:
        return ApiError(ErrorCode.INVALID_JSON, "The body must be a JSON object.")
    return invalid_value(where, _should(what, kind, where))


def invalid_value(name: str, why: str) -> ApiError:
    """The 400 for a value that a field cannot have."""
    return ApiError(ErrorCode.INVALID_VALUE, f"'{name}' is wrong: {why}.", name)


def contradiction(message: str) -> ApiError:
    """The 400 for fields that do not go together."""
    return ApiError(ErrorCode.INVALID_REQUEST, message)


def _no_json(why: str) -> ApiError:
    return ApiError(ErrorCode.INVALID_JSON, f"The body is not valid JSON: {why[0].lower()}{why[1:]}.")


def _member(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _should(what: str, kind: type, where: str) -> str:
    if found := BOUND.fullmatch(what):
        number = found[4].removesuffix(".0")
        unit = f" {UNITS[found[1]]}{'' if number == '1' else 's'}" if found[2] else ""
        return f"it should be {NAMES[found[1]]} of {BOUNDS[found[3]]} {number}{unit}"
    if found := TYPE.fullmatch(what):
        names = found[1].split(" | ")
        said = [NAMES[name] for name in names if name != "null"] or [NAMES["null"]]
        return f"it should be {_either(said)}, not {NAMES[found[2]]}"
    if choices := _choices(kind, where):
        return f"it should be {_either([_quoted(one) for one in choices])}"
    return f"{what[0].lower()}{what[1:]}"


def _choices(kind: type, where: str) -> list[Any]:
    """The values that there are for a field."""
    types = [_described(kind)]
    for step in STEP.findall(where):
        types = [inner for one in types for inner in _within(one, step)]
    return [value for one in types for each in _each(one) for value in getattr(each, "values", ())]


@cache
def _described(kind: type) -> inspect.Type:
    return inspect.type_info(kind)


def _within(one: inspect.Type, step: str) -> Iterator[inspect.Type]:
    for each in _each(one):
        if isinstance(each, inspect.StructType):
            yield from (field.type for field in each.fields if field.name == step)
        elif isinstance(each, inspect.ListType) and step == "[":
            yield each.item_type


def _each(one: inspect.Type) -> tuple[inspect.Type, ...]:
    return one.types if isinstance(one, inspect.UnionType) else (one,)


def _quoted(value: Any) -> str:
    return f"'{value}'" if isinstance(value, str) else str(value)


def _either(words: list[str]) -> str:
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))
