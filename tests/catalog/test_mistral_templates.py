"""Mistral's formats against Mistral's own library: templates, golden prompts, and the library installed here."""

import json
import random
from importlib import metadata
from typing import Any

import pytest
import yaml

from tests.catalog.test_templates import render
from tests.support.each import each
from tests.support.mistral_prompts import (
    ADD,
    GOLDEN,
    VERSIONS,
    as_vllm_gives_them,
    conversations,
    mistral_commons,
    result,
    tools_as_vllm_gives_them,
    user,
)

RECORDED = yaml.safe_load(GOLDEN.read_text(encoding="utf-8"))
CASES = [(version, name) for version in VERSIONS for name in conversations(version)]
every_case = each(("version", "name"), CASES)


@every_case
def test_template_renders_what_mistral_common_does(version: str, name: str) -> None:
    messages, tools = conversations(version)[name]
    prompt = render(f"mistral-{version}.jinja", as_vllm_gives_them(messages), tools=tools_as_vllm_gives_them(tools))
    assert prompt == RECORDED["prompts"][version][name]


@every_case
def test_recorded_prompts_are_those_of_the_installed_library(version: str, name: str) -> None:
    pytest.importorskip("mistral_common")
    assert mistral_commons(version, *conversations(version)[name]) == RECORDED["prompts"][version][name], (
        f"mistral_common {metadata.version('mistral_common')} differs from the recorded {RECORDED['mistral_common']}"
    )


# Results of tools, which version 3 writes as JSON


def written(content: str) -> str:
    """How the template writes a tool's result."""
    prompt = render("mistral-v3.jinja", as_vllm_gives_them([user("First"), ADD, result(content)]))
    return prompt.partition('[TOOL_RESULTS] {"content": ')[2].rpartition(', "call_id": ')[0]


def wanted(content: str) -> str:
    """The same by Python's own JSON; an empty result is an empty object."""
    try:
        value = json.loads(content)
    except ValueError:
        value = content or {}
    written = json.dumps(value, ensure_ascii=False)
    return written.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # half a character is no text


NUMBERS = (
    "0", "-0", "3", "01", "1.", ".5", "-.5", "1.50", "1e5", "1E+5", "1e", "1e+", "1e999", "+1", "--1", "-", "1_0",
    "0x1", "²", "12345678901234567890123", "1 2", "1,2",
)  # fmt: skip
WORDS = ("NaN", "-Infinity", "true", "True", "null", "nul", "ok", "[INFO] a [x]", "\ufeff{}", "\xa01", " 1 ", "\x01")
STRINGS = (
    '"a"', '"a', 'a"', '"', '""', '"a\nb"', '"\u2028\x7fé"', r'"\u00fc\ud83d\ude00\n\/\\\"\u0001"', r'"\x41"',
    r'"\u12"', r'"\u12g4"', r'"\u 041"', r'"\\u0041"', r'"\u002F\u0022\u005c"', r'"\/\\/"', r'"a\ud83d"', 'ok "x" done',
    '"a" "b"', r'"\"',
)  # fmt: skip
STRUCTURES = (
    "[]", "{}", "[{}]", "[[1,[2]],{}]", "[1,]", "[,1]", "[1 2]", "[1,2]3", "}{", "][", "[}", "{]", ",", ":", "{1:2}",
    "{'a': 1}", '{"a":1}', '{"a":1,}', '{"a"}', '{"a":}', '{"a":"b":"c"}', '{"a":1,2}', '{"a":1}\n{"b":2}',
    '\n{"a" :\t{"b" : []} }\r', '{"k": "v, [x]: {y}"}', '["a" "b"]', '{"a":1 "b":2}', "[" * 40 + "]" * 40,
)  # fmt: skip


@each("content", [*NUMBERS, *WORDS, *STRINGS, *STRUCTURES])
def test_tool_result_is_its_json_value_or_a_string(content: str) -> None:
    assert written(content) == wanted(content)


def _value(source: random.Random, depth: int = 0) -> Any:
    text = "".join(source.choice('ab\\"/{}[],: \n\tü😀\u2028\x01nu') for _ in range(source.randrange(8)))
    scalar = source.choice([None, True, source.randint(-(10**18), 10**9), source.uniform(-1, 1) * 1e-9, text, text])
    if depth == 3 or source.random() < 0.5:
        return scalar
    rows = [_value(source, depth + 1) for _ in range(source.randrange(4))]
    return rows if source.random() < 0.5 else {f"{text}{index}": row for index, row in enumerate(rows)}


@each("seed", range(100))
def test_any_tool_result_is_its_json_value_or_a_string(seed: int) -> None:
    """Values as encoders write them, and the same with a character too many or too few."""
    source = random.Random(seed)
    layouts: list[dict[str, Any]] = [{}, {"indent": 2}, {"separators": (",", ":")}]
    value, layout = _value(source), source.choice(layouts)
    content = json.dumps(value, ensure_ascii=source.random() < 0.5, **layout)
    at = source.randrange(len(content))
    broken = content[:at] + source.choice('{}[],:"1 x') + content[at + source.randint(0, 1) :]
    assert written(content) == wanted(content)
    assert written(broken) == wanted(broken)
