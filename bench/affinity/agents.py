"""Tokens of coding agents' prompts that two real engines had cached, by policy and by what the prefix key is made of.

An agent sends its whole conversation with each turn: a long system prompt and tools that all conversations share, then
what was asked, called and answered. The first system block is no part of the prompt and differs between conversations,
as in Claude Code, or between turns, as in its older versions. The texts are made up.
"""

import asyncio
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any
from zlib import crc32

import uvloop

from bench.affinity import engines
from bench.load import PATIENT
from service.transport.pool import ConnectionPool, post_request

PATH = "/v1/messages"
BLOCKS = 800  # of 32 tokens: what all share at the beginning, and more than half of all the rest at the end
CONTEXT = 16384  # tokens
TEMPLATE = """\
{%- for message in messages -%}
<|{{ message.role }}|>
{{ message.content or '' }}{% if message.tool_calls %}{{ message.tool_calls | tojson }}{% endif %}{{ eos_token }}
{% if loop.first and tools %}{{ tools | tojson }}
{% endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}<|assistant|>
{% endif -%}
"""
NOUNS = ("bench", "ledger", "kiln", "lantern", "ferry", "orchard", "press", "gauge", "barrel", "signal", "loom")
VERBS = ("opens", "weighs", "paints", "repairs", "counts", "moves", "sorts", "lends", "tests", "labels", "dries")

Headers = tuple[str, ...]


@dataclass(frozen=True)
class Agents:
    """So many conversations at a time, each of `turns` requests; lengths are characters, `pause` is mean seconds.

    A tool runs for a while between two turns. Without that the conversations ask in step, and taking replicas in turn
    would give each of them the same one every time.
    """

    conversations: int = 6
    turns: int = 20
    system: int = 5000
    tools: int = 4
    tool: int = 300
    result: int = 150
    pause: float = 1.0


@dataclass(frozen=True)
class Case:
    """One way to choose the replica: the policy, how often the first block changes, and headers beside the body."""

    name: str
    policy: str
    every_turn: bool
    headers: Callable[[dict[str, Any]], Headers] = lambda body: ()


def whole_opening(body: dict[str, Any]) -> Headers:
    """A session by all of the opening, its first block too: as keys were before that block was left out."""
    opening = "".join(block["text"] for block in (*body["system"], *body["messages"][0]["content"]))
    return (f"x-roundhouse-session: {crc32(opening.encode()):08x}",)


CASES = (
    Case("round_robin", "round_robin", every_turn=True),
    Case("prefix_affinity", "prefix_affinity", every_turn=True),
    Case("prefix_affinity, key with a first block that changes every turn", "prefix_affinity", True, whole_opening),
    Case("prefix_affinity, key with a first block of each conversation", "prefix_affinity", False, whole_opening),
)


def measure(agents: Agents | None = None, cases: tuple[Case, ...] = CASES) -> dict[str, Any]:
    """Cached and prompt tokens of each case, at the same two engines; no two cases have texts in common."""
    agents = agents or Agents()
    rows = uvloop.run(_measured(agents, cases))
    return {"model": engines.MODEL, "replicas": 2, "blocks": BLOCKS, **asdict(agents), "cases": rows}


async def _measured(agents: Agents, cases: tuple[Case, ...]) -> dict[str, dict[str, float]]:
    settings = {
        "num_gpu_blocks_override": BLOCKS, "max_model_len": CONTEXT,
        "hf_overrides": {"max_position_embeddings": CONTEXT}, "tool_call_parser": "hermes",
    }  # fmt: skip
    rows = {}
    async with engines.running("least_load", 2, settings, TEMPLATE) as service:
        for case in cases:
            await service.change(case.policy)
            rows[case.name] = await service.hits(partial(_converse, case, agents))
            print(f"{case.name}: {json.dumps(rows[case.name])}", flush=True)
    return rows


async def _converse(case: Case, agents: Agents, address: str) -> None:
    """Has all conversations at once, each turn after the answer to the one before."""
    transport = ConnectionPool()

    async def conversation(number: int) -> None:
        rng = random.Random(number)
        for body in requests(agents, case.name, number, case.every_turn):
            await asyncio.sleep(rng.expovariate(1 / agents.pause))
            await _ask(transport, address, body, case.headers(body))

    try:
        async with asyncio.TaskGroup() as group:
            for number in range(agents.conversations):
                group.create_task(conversation(number))
    finally:
        transport.close()


async def _ask(transport: ConnectionPool, address: str, body: dict[str, Any], headers: Headers) -> None:
    extra = "".join(f"{header}\r\n" for header in headers).encode()
    head, _, content = post_request(PATH, json.dumps(body).encode()).partition(b"\r\n\r\n")
    exchange = await transport.send(address, head + b"\r\n" + extra + b"\r\n" + content, PATIENT)
    try:
        status, answer = await exchange.head(), await exchange.read_all(2**20)
    finally:
        transport.release(address, exchange)
    if status != 200:
        raise RuntimeError(f"{address}: status {status}: {answer[-300:]!r}")


def requests(agents: Agents, about: str, number: int, every_turn: bool) -> Iterator[dict[str, Any]]:
    """The bodies of one conversation, turn by turn; its first block differs from every other one's.

    Conversations `about` the same have the system prompt and the tools in common, and others nothing.
    """
    rng = random.Random(f"{about} {number}")
    common = {"model": engines.MODEL, "max_tokens": 1, "temperature": 0, "tools": _tools(agents, about)}
    system = [_text(part) for part in (f"You are an agent for {about}.", said(random.Random(about), agents.system))]
    task = f"Tidy up the {rng.choice(NOUNS)} and the {rng.choice(NOUNS)}."
    reminder = "<system-reminder>\nAnswer briefly.\n</system-reminder>"
    messages: list[dict[str, Any]] = [{"role": "user", "content": [_text(reminder), _text(task)]}]
    for turn in range(agents.turns):
        mark = f"{number}.{turn if every_turn else 0}"
        billing = _text(f"x-anthropic-billing-header: cc_version=2.1.{mark}; cc_entrypoint=cli;")
        yield {**common, "system": [billing, *system], "messages": [*messages]}
        call = {"type": "tool_use", "id": f"call-{turn}", "name": "tool_0", "input": {"command": said(rng, 40)}}
        result = {"type": "tool_result", "tool_use_id": f"call-{turn}", "content": said(rng, agents.result)}
        messages += [{"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]


def said(rng: random.Random, length: int) -> str:
    """Sentences of so many characters."""
    sentences = [
        f"The {rng.choice(NOUNS)} {rng.choice(VERBS)} the {rng.choice(NOUNS)} {rng.randrange(1000)}. "
        for _ in range(length // 20 + 1)
    ]
    return "".join(sentences)[:length]


def _tools(agents: Agents, about: str) -> list[dict[str, Any]]:
    rng = random.Random(f"{about} tools")
    schema = {"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]}
    return [
        {
            "name": f"tool_{index}",
            "description": said(rng, agents.tool),
            "input_schema": schema,
        }
        for index in range(agents.tools)
    ]


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}
