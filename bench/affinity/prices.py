"""The CPU cost of choosing a replica: microseconds for a prefix key, and for each policy's choice."""

import timeit
from collections.abc import Callable
from functools import partial
from typing import Any

from service.engine.engine_stats import EngineStats
from service.protocol.requests import Body, ChatRequest, CompletionRequest, Message
from service.routing.policies import POLICIES, PolicyInput
from service.routing.prefix_key import key
from service.upstreams.replica import Replica

QUESTION = "What is the capital of France, and how many people live there?"
REPLICAS = (2, 4, 16, 64)


def prices(times: int = 500) -> dict[str, Any]:
    """All of them, in microseconds."""
    keys: dict[str, float] = {name: price(partial(key, body, "tenant"), times) for name, body in bodies().items()}
    keys["a session"] = price(partial(key, chat("", QUESTION), "tenant", "session-1"), times)
    rows = {name: {str(count): choice(name, count, times) for count in REPLICAS} for name in POLICIES}
    return {"key_us": keys, "policy_us": rows}


def bodies() -> dict[str, Body]:
    """Requests of several kinds and sizes, by what they are."""
    return {
        "a question": chat("", QUESTION),
        "ten turns, 1,000 characters of system prompt": chat("You help. " * 100, QUESTION, *["And then?"] * 19),
        "24,000 characters of system prompt": chat("You help. " * 2400, QUESTION),
        "2,000,000 characters of system prompt": chat("You help. " * 200_000, QUESTION),
        "a completion of 4,000 characters": CompletionRequest(model="any", prompt="x = 1\n" * 666),
        "a completion of 4,000 tokens": CompletionRequest(model="any", prompt=list(range(4000))),
    }


def chat(system: str, *said: str) -> ChatRequest:
    """A conversation after so many things said in turn."""
    turns = [Message(role=("user", "assistant")[turn % 2], content=text) for turn, text in enumerate(said)]
    first = [Message(role="system", content=system)] if system else []
    return ChatRequest(model="any", messages=[*first, *turns])


def choice(policy: str, count: int, times: int) -> float:
    """Microseconds for one choice among so many replicas that all have something to do."""
    replicas = [
        Replica(f"pebble-chat-{number}", f"/{number}", in_flight=8, stats=EngineStats(0.0, 8, 0, 0.5, 0.0))
        for number in range(count)
    ]
    asked = PolicyInput(request_count=7, key=key(chat("You help. " * 2400, QUESTION), "tenant"))
    return price(partial(POLICIES[policy], replicas, asked), times)


def price(call: Callable[[], object], times: int, rounds: int = 9) -> float:
    """Microseconds of one call: the best of several rounds, because the machine does other things as well."""
    return round(min(timeit.repeat(call, number=times, repeat=rounds)) / times * 1e6, 2)
