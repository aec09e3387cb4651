"""docs/compatibility.md, from the table of fields: python -m service.cli.compatibility > docs/compatibility.md"""

from collections.abc import Iterator
from typing import Any

from msgspec import inspect

from service.fleet.request_bounds import RequestBounds
from service.protocol.bounded import bounded
from service.protocol.fields import ACTED, OPT_IN, RULES
from service.protocol.generation import GENERATION, MODERATIONS, Endpoint
from service.protocol.parts import REFUSED
from service.protocol.precautions import PRECAUTIONS
from service.protocol.validation_errors import COMPARISONS, NAMES, UNITS

INTRODUCTION = """\
# Compatibility

<!-- Written by `python -m service.cli.compatibility > docs/compatibility.md` from service/protocol/. -->

What becomes of each field of a request. The clients that send them are coding agents, SDKs and evaluation programs
written for OpenAI's or Anthropic's own servers, or for vLLM.

- **passed**: the engine gets it as the client wrote it. The values that are accepted stand beside it.
- **acted on**: Roundhouse reads or rewrites it; the table says how.
- **dropped**: accepted, and not passed on.
- **ignored**: a hint that nothing here can use. It is accepted and dropped, the header `x-roundhouse-ignored-fields` of
  the response names it, and `roundhouse_ignored_fields_total` counts it.
- **refused**: 400 `unsupported_parameter` with the reason, because ignoring it would mislead the client or let it reach
  what is not its own.

A field that no table has is ignored in the same way; with `unknown_fields: refuse` in the [fleet file](fleet.md) it is
refused. `extra_fields` there passes fields of your choice to the engines, refused ones included. `null` counts as
absent. Members of messages, content parts and tools that are not read here pass untouched. The tables give the default
bounds of lists and numbers; `request_bounds` in the fleet file sets others.

The endpoints below `/v1/messages` word their refusals as Anthropic's API does (`context: Extra inputs are not
permitted`), since its clients read the words and repair their request.
"""
PARTS = """\
## Parts of messages

Text passes, and so do images whose data is in the request, to a model that sees them: `image_url` in chat completions,
`input_image` in responses, blocks of type `image` in messages, in the results of tools too. [Images](clients.md#images)
says what is checked. In chat completions and responses every part needs a `type`, `uuid` is refused, and so are these:

| type of the part | refused, because |
|---|---|"""
HEAD = "| field | what becomes of it | |\n|---|---|---|"


PRECAUTION_HEAD = """\
## What could harm others

Each field and size by which a request could harm another one, an engine or the service, and what is done about it. The
numbers are the keys of [`request_bounds`](fleet.md#bounds-of-requests) with their defaults; a fleet file sets others.
The tests that prove each row stand in [precautions.py](../service/protocol/precautions.py), and a test holds that each
of them is there.

| what of a request | what is done | opened by |
|---|---|---|"""


def document() -> str:
    """All of docs/compatibility.md, without the last line break."""
    sections = (line for endpoint in (*GENERATION, MODERATIONS) for line in _section(endpoint))
    return "\n".join([INTRODUCTION, PARTS, *_refused_parts(), *sections, *_precautions()]).rstrip()


def _refused_parts() -> Iterator[str]:
    yield from (f"| `{name}` | {why} |" for name, why in REFUSED.items())
    yield ""


def _precautions() -> Iterator[str]:
    defaults = RequestBounds().model_dump()
    yield PRECAUTION_HEAD
    for row in PRECAUTIONS:
        bounds = ", ".join(f"`{name}` {defaults[name]:,}" for name in row.bounds)
        opens = ", ".join(filter(None, (row.opens, "`request_bounds`" if row.bounds else "")))
        yield f"| {row.fields} | {row.what}{f' ({bounds})' if bounds else ''} | {opens} |"


def _section(endpoint: Endpoint) -> Iterator[str]:
    yield f"## `{endpoint.path}`\n"
    if endpoint.aliases:
        yield f"Also at {' and '.join(f'`{path}`' for path in endpoint.aliases)}.\n"
    yield HEAD
    acted = ACTED[endpoint.body]
    info: Any = inspect.type_info(endpoint.body)
    by_default: Any = inspect.type_info(bounded(endpoint.body, RequestBounds()))
    passed = {field.name: ("passed", _values(field.type)) for field in by_default.fields}
    for field in info.fields:
        what, values = ("acted on", acted[field.name]) if field.name in acted else passed[field.name]
        if field.name in endpoint.body.private_fields:
            what, values = "dropped", "about the person at the client; engines do not need it"
        if field.name in OPT_IN:
            values += "; only of a tenant for which it is [opened](security.md#tenants-in-the-engines)"
        yield f"| `{field.name}`{' (required)' if field.required else ''} | {what} | {values} |"
    for name, rule in sorted(RULES[endpoint.body].items(), key=lambda row: (row[1].action, row[0])):
        yield f"| `{name}` | {rule.action}d | {rule.why} |"
    yield ""


def _values(kind: Any) -> str:
    """What a field may hold, in words: types, ranges and lengths."""
    if isinstance(kind, inspect.UnionType):
        return " or ".join(_values(each) for each in kind.types if not isinstance(each, inspect.NoneType)) or "null"
    if isinstance(kind, inspect.LiteralType):
        return " or ".join(f"`{value}`" for value in kind.values)
    if isinstance(kind, inspect.IntType | inspect.FloatType):
        return NAMES["int" if isinstance(kind, inspect.IntType) else "float"] + _range(kind)
    if isinstance(kind, inspect.StrType):
        return NAMES["str"] + _length(kind, "str")
    if isinstance(kind, inspect.ListType):
        return NAMES["array"] + _length(kind, "array")
    if isinstance(kind, inspect.DictType):
        return NAMES["object"] + _length(kind, "object")
    if isinstance(kind, inspect.BoolType):
        return NAMES["bool"]
    return NAMES["null"] if isinstance(kind, inspect.NoneType) else NAMES["object"]


def _range(kind: Any) -> str:
    bounds = ((">=", kind.ge), (">", kind.gt), ("<=", kind.le))
    words = [f"{COMPARISONS[sign]} {bound:g}" for sign, bound in bounds if bound is not None and abs(bound) < 2**31]
    return f", {' and '.join(words)}" if words else ""


def _length(kind: Any, unit: str) -> str:
    return f" of at most {kind.max_length} {UNITS[unit]}s" if kind.max_length else ""


if __name__ == "__main__":
    print(document())
