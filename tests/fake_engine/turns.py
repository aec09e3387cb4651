"""What the fake engine has to say to a request, before it says it."""

import time
import uuid
from itertools import cycle, islice

from tests.fake_engine import requests
from tests.fake_engine.bodies import Json
from tests.fake_engine.scripts import Call, Script
from tests.fake_engine.shapes import Turn

PIECE = 9  # characters of what a script says that are one token


def begin(request: Json, model: str, context: int, finish: str | None, agent: Script | None) -> Turn:
    """The answer to the request; `finish` is the reason to end that a fault asks for, `context` is in tokens."""
    tool = None
    options = request.get("stream_options") or {}
    limit = requests.limit(request) or context - requests.count(request)
    if agent:
        reply = agent.reply(request)
        tool, said = (reply.name, reply.arguments) if isinstance(reply, Call) else (None, reply)
        pieces = [said[at : at + PIECE] for at in range(0, len(said), PIECE)]
        words, end = (pieces, "tool_calls") if tool else ([*pieces, ""], "stop")
    else:
        words, end = _echo(request, min(limit, context - requests.count(request)))
    return Turn(
        id=uuid.uuid4().hex[:16],
        model=model,
        created=int(time.time()),
        prompt=requests.count(request),
        words=() if finish == "abort" else tuple(words),
        finish=finish or end,
        usage=bool(options.get("include_usage")),
        counts=bool(options.get("include_usage") and options.get("continuous_usage_stats")),
        limit=limit,
        tool=tool,
        tools=tuple(request.get("tools") or ()),
        choice=request.get("tool_choice"),
        form=request.get("text"),
    )


def _echo(request: Json, room: int) -> tuple[list[str], str]:
    """What the user said last, in at most as many tokens as there is room for, and why it ends."""
    said = " ".join(requests.texts(request)[-1:]).split() or ["ok"]
    words = [word if number == 0 else f" {word}" for number, word in enumerate(said)]
    # The token that ends an answer is generated, and counted, like any other.
    spoken = list(islice(cycle(words), room)) if request.get("ignore_eos") else [*words, ""][:room]
    return spoken, "stop" if spoken[-1] == "" else "length"
