"""The 400 errors for request bodies: which field is wrong, and what it should be.

msgspec's messages speak of Python types; these functions translate them to JSON types. The Anthropic endpoints word
them as Anthropic's API does, because its clients read the words and repair their request: Claude Code leaves out what
gets "Extra inputs are not permitted".
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
COMPARISONS = {">=": "at least", "<=": "at most", ">": "more than", "<": "less than"}
# The forms of msgspec's messages: a problem, and the path of the field unless it is the body as a whole.
MESSAGE = re.compile(r"(.*?)(?: - at (?:`key` in )?`\$\.?([\w.\[\]]*)`)?", re.DOTALL)
UNKNOWN_FIELD = re.compile(r"Object contains unknown field `(.*?)`?", re.DOTALL)
MISSING_FIELD = re.compile(r"Object missing required field `(\w+)`")
OUT_OF_RANGE = re.compile(r"Expected `(\w+)`( of length)? ([<>]=?) ([-+.\w]+)")
NO_TOKEN_ID = "Expected `str` matching regex"  # of the members of `logit_bias`, and nothing else
WRONG_TYPE = re.compile(r"Expected `([^`]+)`, got `(\w+)`")
EXTRA = "Extra inputs are not permitted"
PATH_STEP = re.compile(r"[a-z_]\w*|\[")


def api_error(error: ValueError | RecursionError, kind: type) -> ApiError:
    """The 400 for an error raised by decoding a body as `kind`."""
    if isinstance(error, RecursionError):
        return _invalid_json("it is nested too deeply")
    if isinstance(error, UnicodeDecodeError):
        return _invalid_json(f"it is not UTF-8 from byte {error.start} on")
    if not isinstance(error, ValidationError):
        text = str(error)
        return _invalid_json(text.removeprefix("JSON is malformed: ") if isinstance(error, DecodeError) else text)
    message = MESSAGE.fullmatch(str(error))
    assert message
    problem, path = message[1], (message[2] or "").replace("[...]", "")
    if found := UNKNOWN_FIELD.fullmatch(problem):
        return unknown_field(kind, _field(path, found[1]))
    if found := MISSING_FIELD.fullmatch(problem):
        return missing_field(kind, _field(path, found[1]))
    if not path:
        return ApiError(ErrorCode.INVALID_JSON, "The body must be a JSON object.")
    return wrong_value(kind, path, _expected(problem, kind, path))


def is_unknown_field(error: ValidationError) -> bool:
    """Whether a body was not decoded because of a field that its struct does not have."""
    return UNKNOWN_FIELD.match(str(error)) is not None


def missing_field(kind: type, name: str) -> ApiError:
    """The 400 for a field that is required and was not sent."""
    text = f"{_dotted(name)}: Field required" if _is_anthropic(kind) else f"'{name}' is required."
    return ApiError(ErrorCode.MISSING_REQUIRED_PARAMETER, text, name)


def unknown_field(kind: type, name: str) -> ApiError:
    """The 400 for a field that no table has, where the fleet refuses those."""
    name = name[:64]  # it is the client's and of any length, and the response repeats it
    if _is_anthropic(kind):
        return ApiError(ErrorCode.UNKNOWN_PARAMETER, f"{_dotted(name)}: {EXTRA}", name)
    return ApiError(ErrorCode.UNKNOWN_PARAMETER, f"Unknown parameter: '{name}'. Leave it out.", name)


def unsupported_field(kind: type, name: str, why: str) -> ApiError:
    """The 400 for a field that is known and refused; `why` gives the reason and the remedy."""
    if _is_anthropic(kind):
        return ApiError(ErrorCode.UNSUPPORTED_PARAMETER, f"{_dotted(name)}: {EXTRA}: {why}", name)
    return ApiError(ErrorCode.UNSUPPORTED_PARAMETER, f"'{name}' is not supported: {why}.", name)


def wrong_value(kind: type, name: str, reason: str) -> ApiError:
    """The 400 for a field of a `kind` with an invalid value; `reason` begins with "it should be" or "it is"."""
    if _is_anthropic(kind):
        return ApiError(ErrorCode.INVALID_VALUE, f"{_dotted(name)}: {reason.replace('it ', 'Input ', 1)}", name)
    return invalid_value(name, reason)


def invalid_value(name: str, reason: str) -> ApiError:
    """The 400 for a field with an invalid value; `reason` says what it should be."""
    return ApiError(ErrorCode.INVALID_VALUE, f"'{name}' is invalid: {reason}.", name)


def contradiction(message: str) -> ApiError:
    """The 400 for fields that do not go together."""
    return ApiError(ErrorCode.INVALID_REQUEST, message)


def _invalid_json(reason: str) -> ApiError:
    return ApiError(ErrorCode.INVALID_JSON, f"The body is not valid JSON: {reason[0].lower()}{reason[1:]}.")


def _is_anthropic(kind: type) -> bool:
    return bool(getattr(kind, "anthropic", False))


def _dotted(path: str) -> str:
    """`messages[1].role` as `messages.1.role`."""
    return path.replace("[", ".").replace("]", "")


def _field(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _expected(problem: str, kind: type, path: str) -> str:
    if problem.startswith(NO_TOKEN_ID):
        return 'its names should be token ids, as in {"50256": -100}'
    if found := OUT_OF_RANGE.fullmatch(problem):
        number = found[4].removesuffix(".0")
        unit = f" {UNITS[found[1]]}{'' if number == '1' else 's'}" if found[2] else ""
        return f"it should be {NAMES[found[1]]} of {COMPARISONS[found[3]]} {number}{unit}"
    if found := WRONG_TYPE.fullmatch(problem):
        names = found[1].split(" | ")
        wanted = [NAMES[name] for name in names if name != "null"] or [NAMES["null"]]
        return f"it should be {_or_list(wanted)}, not {NAMES[found[2]]}"
    if values := _allowed_values(kind, path):
        return f"it should be {_or_list([_quoted(value) for value in values])}"
    return f"{problem[0].lower()}{problem[1:]}"


def _allowed_values(kind: type, path: str) -> list[Any]:
    """The values that the field at `path` of a `kind` may have, where it is a choice; otherwise none."""
    types = [_type_info(kind)]
    for step in PATH_STEP.findall(path):
        types = [child for parent in types for child in _children(parent, step)]
    return [value for each in types for one in _alternatives(each) for value in getattr(one, "values", ())]


@cache
def _type_info(kind: type) -> inspect.Type:
    return inspect.type_info(kind)


def _children(kind: inspect.Type, step: str) -> Iterator[inspect.Type]:
    for alternative in _alternatives(kind):
        if isinstance(alternative, inspect.StructType):
            yield from (field.type for field in alternative.fields if field.name == step)
        elif isinstance(alternative, inspect.ListType) and step == "[":
            yield alternative.item_type


def _alternatives(kind: inspect.Type) -> tuple[inspect.Type, ...]:
    return kind.types if isinstance(kind, inspect.UnionType) else (kind,)


def _quoted(value: Any) -> str:
    return f"'{value}'" if isinstance(value, str) else str(value)


def _or_list(words: list[str]) -> str:
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))
