"""docs/evaluation.md: its cases can be read, its messages are those that come, its options exist."""

import json
import re

import pytest

from service.cli.evaluating import WORSE, evaluate
from service.config.strict_yaml import ConfigError
from service.evaluation.cases import Line, parse
from service.evaluation.results import MEANINGS
from tests.support.fleets import ROOT

PAGE = (ROOT / "docs/evaluation.md").read_text(encoding="utf-8")


def test_the_cases_of_the_page_are_cases() -> None:
    (block,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    cases = parse(block.encode(), "page")
    assert [case.id for case in cases] == ["refund-1", "refund-2", "line 3"]
    keys = {key for row in re.findall(r"^\| `(\w+)` \| ", PAGE, re.MULTILINE) for key in [row]}
    assert set(Line.__struct_fields__) <= keys and set().union(*map(json.loads, block.splitlines())) <= keys


def test_the_mistakes_of_the_page_are_said_like_that() -> None:
    (said,) = re.findall(r"^(cases.jsonl:17.*\n.*)\n```", PAGE, re.MULTILINE)
    lines = ['{"prompt": "a", "reference": "b"}'] * 21
    lines[16] = '{"prompt": "a", "refrence": "b"}'
    lines[20] = '{"messages": [{"role": "me", "content": "a"}], "reference": "b"}'
    with pytest.raises(ConfigError, match=re.escape(said)):
        parse("\n".join(lines).encode(), "cases.jsonl")


def test_what_the_page_names_exists() -> None:
    options = {name for parameter in evaluate.params for name in parameter.opts} | {"--write"}
    assert set(re.findall(r"--[a-z][a-z-]+", PAGE)) <= options
    assert set(MEANINGS) <= set(re.findall(r"^\| `([a-z-]+)` \| ", PAGE, re.MULTILINE))
    assert f"| {WORSE} | compared, and some gate does not hold" in PAGE
