"""What of a request's members is compiled, and under which path a client hears of it."""

import json
from typing import Any

from service.checks.structured import constraints

S = {"type": "object"}


def function(name: str, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": S, **more}}


FLAT = {"type": "function", "name": "f", "parameters": S}
TAG = {"type": "structural_tag", "format": {}}
CASES: tuple[tuple[dict[str, Any], list[str]], ...] = (
    ({"response_format": {"type": "json_schema", "json_schema": {"schema": S}}},
     ["response_format.json_schema.schema"]),
    ({"response_format": {"type": "json_object"}}, []),
    ({"response_format": TAG}, ["response_format"]),
    ({"text": {"format": {"type": "json_schema", "schema": S}}}, ["text.format.schema"]),
    ({"text": {"verbosity": "low"}}, []),
    ({"output_config": {"format": {"schema": S}}}, ["output_config.format.schema"]),
    ({"output_format": {"schema": S}}, ["output_format.schema"]),
    ({"structured_outputs": {"json": S}}, ["structured_outputs.json"]),
    ({"structured_outputs": {"json": json.dumps(S)}}, ["structured_outputs.json"]),
    ({"structured_outputs": {"json": "{"}}, []),
    ({"structured_outputs": {"structural_tag": json.dumps(TAG)}}, ["structured_outputs.structural_tag"]),
    ({"structured_outputs": {"regex": "a", "grammar": "root ::= a"}},
     ["structured_outputs.regex", "structured_outputs.grammar"]),
    ({"structured_outputs": {"choice": ["a", "b"]}}, ["structured_outputs.choice"]),
    ({"tools": [function("f")]}, []),
    ({"tools": [function("f")], "tool_choice": "auto"}, []),
    ({"tools": [function("f")], "tool_choice": "required"}, ["tools[0].function.parameters"]),
    ({"tools": [function("f"), function("g", strict=True)]}, ["tools[1].function.parameters"]),
    ({"tools": [function("f"), function("g")], "tool_choice": {"type": "function", "function": {"name": "g"}}},
     ["tools[1].function.parameters"]),
    ({"tools": [FLAT], "tool_choice": {"type": "function", "name": "f"}}, ["tools[0].parameters"]),
    ({"tools": [{"type": "namespace", "name": "n", "tools": [FLAT]}], "tool_choice": "required"},
     ["tools[0].tools[0].parameters"]),
    ({"tools": [{"name": "f", "input_schema": S}], "tool_choice": {"type": "any"}}, ["tools[0].input_schema"]),
    ({"tools": [{"name": "f", "input_schema": S}], "tool_choice": {"type": "auto"}}, []),
    ({name: [1] for name in ("response_format", "structured_outputs", "text", "output_config", "tool_choice")}
     | {"tools": [1, {"function": 2}]}, []),
)  # fmt: skip


def test_what_is_compiled() -> None:
    for members, paths in CASES:
        assert [found.path for found in constraints(members)] == paths, members


def test_a_tool_that_is_refused_is_left_to_the_engine() -> None:
    (tool,) = constraints({"tools": [function("f")], "tool_choice": "required"})
    (output,) = constraints({"response_format": {"json_schema": {"schema": S}}})
    assert tool.optional and not output.optional


def test_choices_become_a_grammar() -> None:
    (found,) = constraints({"structured_outputs": {"choice": ['say "no"', "\n", 5]}})
    assert found.text == r'root ::= "say \"no\"" | "\n" | "5"'
