"""The conversations of the measurement are like those of coding agents, and the keys are what they are called."""

import json
from itertools import pairwise
from typing import Any

import jinja2
import pytest

from bench.affinity.agents import CASES, TEMPLATE, Agents, requests, whole_opening
from service.protocol.anthropic import MessagesRequest
from service.protocol.parse_body import parse_body
from service.routing.policies import POLICIES
from service.routing.prefix_key import key

AGENTS = Agents(turns=4)


def bodies(number: int, every_turn: bool = True, about: str = "one") -> list[dict[str, Any]]:
    return list(requests(AGENTS, about, number, every_turn))


def product_key(body: dict[str, Any]) -> int:
    return key(parse_body(MessagesRequest, json.dumps(body).encode()).request, "tenant")


def test_a_turn_adds_a_call_and_its_result_to_what_was_said() -> None:
    turns = bodies(0)
    assert [len(body["messages"]) for body in turns] == [1, 3, 5, 7]
    for earlier, later in pairwise(turns):
        assert later["messages"][: len(earlier["messages"])] == earlier["messages"]
        assert (later["system"][1:], later["tools"]) == (earlier["system"][1:], earlier["tools"])
    assert bodies(1)[0]["system"][1:] == turns[0]["system"][1:]
    assert bodies(1)[0]["messages"] != turns[0]["messages"]
    assert bodies(0, about="another")[0]["system"][1:] != turns[0]["system"][1:]


@pytest.mark.parametrize("every_turn", [True, False])
def test_only_keys_of_the_whole_opening_change_with_the_first_block(every_turn: bool) -> None:
    turns = bodies(0, every_turn)
    assert len({body["system"][0]["text"] for body in turns}) == (4 if every_turn else 1)
    assert len({whole_opening(body) for body in turns}) == (4 if every_turn else 1)
    assert whole_opening(turns[0]) != whole_opening(bodies(1, every_turn)[0])
    assert len({product_key(body) for body in turns}) == 1
    assert product_key(turns[0]) >> 32 == product_key(bodies(1)[0]) >> 32


def test_the_template_renders_each_turn_as_the_beginning_of_the_next() -> None:
    template = jinja2.Template(TEMPLATE)
    tools = [{"type": "function"}]
    messages = [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]
    more = [{"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}, {"role": "tool", "content": "c"}]
    first, second = (
        template.render(messages=said, tools=tools, eos_token="</s>") for said in (messages, [*messages, *more])
    )
    assert second.startswith(first)
    assert second[len(first) :] == '<|assistant|>\n[{"id": "1"}]</s>\n<|tool|>\nc</s>\n'


def test_every_case_has_a_policy() -> None:
    assert {case.policy for case in CASES} == {"round_robin", "prefix_affinity"} <= set(POLICIES)
