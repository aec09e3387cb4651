"""Finds what an engine compiles in the members of a request body; part of the program `worker`. Pure."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple


class Constraint(NamedTuple):
    """A schema, regular expression or grammar (`kind`), and the path of the field that has it.

    `schema` is the decoded one, and `text` what a compiler gets. What an engine may, but need not, compile is
    `optional`: a compiler that refuses it does no harm, as one that dies of it would.
    """

    path: str
    kind: str
    text: str
    schema: Any = None
    optional: bool = False


def constraints(members: Mapping[str, Any]) -> Iterator[Constraint]:
    """All that is to be compiled. What has another shape than an engine expects is left to the engine's own error."""
    yield from _response_format(members.get("response_format"))
    yield from _structured_outputs(members.get("structured_outputs"))
    for name in ("text", "output_config"):
        if isinstance(found := _member(members.get(name), "format"), dict):
            yield from _schema(f"{name}.format.schema", found.get("schema"))
    yield from _schema("output_format.schema", _member(members.get("output_format"), "schema"))
    if isinstance(tools := members.get("tools"), list):
        forced, named = _choice(members.get("tool_choice"))
        for path, name, schema, strict in _tools("tools", tools):
            if strict or (forced and named in (None, name)):
                yield from _schema(path, schema, optional=True)


def _member(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None


def _schema(path: str, schema: Any, optional: bool = False) -> Iterator[Constraint]:
    if isinstance(schema, dict):
        yield Constraint(path, "json", json.dumps(schema, ensure_ascii=False), schema, optional)


def _response_format(value: Any) -> Iterator[Constraint]:
    if not isinstance(value, dict):
        return
    if value.get("type") == "structural_tag":
        yield Constraint("response_format", "structural_tag", json.dumps(value, ensure_ascii=False), value)
    else:
        yield from _schema("response_format.json_schema.schema", _member(value.get("json_schema"), "schema"))


def _structured_outputs(value: Any) -> Iterator[Constraint]:
    if not isinstance(value, dict):
        return
    for name in ("json", "structural_tag"):
        path, found = f"structured_outputs.{name}", value.get(name)
        if isinstance(found, str):
            try:
                found = json.loads(found)
            except ValueError:
                continue  # an engine says that it is no JSON
        if isinstance(found, dict):
            yield Constraint(path, name, json.dumps(found, ensure_ascii=False), found)
    for name in ("regex", "grammar"):
        if isinstance(found := value.get(name), str) and found:
            yield Constraint(f"structured_outputs.{name}", name, found)
    if isinstance(found := value.get("choice"), list) and found:
        rule = " | ".join(json.dumps(str(choice), ensure_ascii=True) for choice in found)
        yield Constraint("structured_outputs.choice", "grammar", f"root ::= {rule}")


def _choice(value: Any) -> tuple[bool, str | None]:
    """Whether the model has to call a tool, and the name of it if only that one is allowed."""
    if not isinstance(value, dict):
        return value == "required", None
    if value.get("type") in ("auto", "none"):
        return False, None
    name = value.get("name", _member(value.get("function"), "name"))
    return True, name if isinstance(name, str) else None


def _tools(path: str, tools: list[Any]) -> Iterator[tuple[str, Any, Any, bool]]:
    """Path and contents of each schema of a tool, with the tool's name, and whether it is strict."""
    for index, tool in enumerate(tools):
        if not isinstance(tool, dict):
            continue
        here = f"{path}[{index}]"
        if isinstance(inner := tool.get("tools"), list):  # a namespace of tools
            yield from _tools(f"{here}.tools", inner)
        if isinstance(function := tool.get("function"), dict):
            strict = bool(function.get("strict") or tool.get("strict"))
            yield f"{here}.function.parameters", function.get("name"), function.get("parameters"), strict
        for name in ("parameters", "input_schema"):
            yield f"{here}.{name}", tool.get("name"), tool.get(name), bool(tool.get("strict"))
