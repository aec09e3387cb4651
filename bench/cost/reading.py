"""How long parsing one large request blocks the event loop: `python -m bench.cost.reading`.

A request is read in one turn of the event loop, and while it is nothing else happens. Milliseconds of that turn for
bodies of about 4 MB, the most that is taken, beside what making Python objects of all of it would take. Then
microseconds for ordinary ones: a short chat, and conversations of coding agents with their calls of tools.
"""

import argparse
import json
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from bench.affinity.prices import price
from bench.serve import machine
from service.errors import ApiError
from service.protocol.generation import PATHS, Endpoint
from service.protocol.parse_body import parse_body, with_fields
from service.routing.prefix_key import key

CHAT = PATHS["/v1/chat/completions"]
SHORT = {"model": "any", "messages": [{"role": "user", "content": "Hello!"}]}
LARGE: dict[str, dict[str, Any]] = {
    "a conversation of 1,000 turns": {"messages": [{"role": "user", "content": "x" * 4000}] * 1000},
    "one text": {"messages": [{"role": "user", "content": "x" * 4_000_000}]},
    "one text, not of ASCII": {"messages": [{"role": "user", "content": "é\n" * 900_000}]},
    "64 tools": {"tools": [{"type": "function", "function": {"name": "f", "description": "x" * 60_000}}] * 64},
    "a large field that is ignored": {"schema": {f"field {n}": {"title": "x" * 150} for n in range(20_000)}},
}
CALLS = 40  # of tools, in a conversation of an agent
ORDINARY: dict[str, tuple[str, dict[str, Any]]] = {
    "a short chat": ("/v1/chat/completions", {}),
    f"messages with {CALLS} calls of tools": ("/v1/messages", {"max_tokens": 9, "messages": [
        turn
        for number in range(CALLS)
        for turn in (
            {"role": "assistant", "content": [{"type": "tool_use", "id": f"{number}", "name": "a", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": f"{number}", "content": "done"}]},
        )
    ]}),
    f"responses with {CALLS} calls of tools": ("/v1/responses", {"messages": None, "input": [
        item
        for number in range(CALLS)
        for item in (
            {"type": "function_call", "call_id": f"{number}", "name": "a", "arguments": "{}"},
            {"type": "function_call_output", "call_id": f"{number}", "output": "done"},
        )
    ]}),
}  # fmt: skip


def main() -> None:
    """Measures and prints a table; `--json FILE` keeps its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    rows = [row(name, encoded(fields)) for name, fields in LARGE.items()]
    stamp = {"machine": machine(), "date": datetime.now(UTC).isoformat(timespec="seconds")}
    print(f"{stamp['machine']}, {stamp['date']}\n\n| request | MB | ms | as objects, ms |\n| --- | --- | --- | --- |")
    for one in rows:
        print(f"| {one['request']} | {one['bytes'] / 1e6:.1f} | {one['ms']} | {one['objects_ms']} |")
    ordinary = {name: price(partial(taken, *request(name)), times=200) for name in ORDINARY}
    print("\n| request | µs |\n| --- | --- |", *(f"| {name} | {us} |" for name, us in ordinary.items()), sep="\n")
    if asked.json:
        asked.json.write_text(json.dumps({**stamp, "rows": rows, "ordinary_us": ordinary}, indent=2) + "\n")


def encoded(fields: dict[str, Any]) -> bytes:
    """A body with these fields, as most clients write it: in UTF-8."""
    return json.dumps(SHORT | fields, ensure_ascii=False).encode()


def request(name: str) -> tuple[bytes, Endpoint]:
    """The body of an ordinary one, and its endpoint."""
    path, given = ORDINARY[name]
    fields = {key: value for key, value in (SHORT | given).items() if value is not None}
    return json.dumps(fields).encode(), PATHS[path]


def row(name: str, body: bytes) -> dict[str, Any]:
    """What reading this body costs."""
    return {
        "request": name,
        "bytes": len(body),
        "ms": milliseconds(partial(taken, body)),
        "objects_ms": milliseconds(partial(json.loads, body)),
    }


def taken(body: bytes, endpoint: Endpoint = CHAT) -> None:
    """All that is done with a body before an engine gets it; one that is wrong is refused."""
    try:
        request = parse_body(endpoint.body, body).request
    except ApiError:
        return
    assert endpoint.requirements(request).code is False
    endpoint.adapt(request, body, True)
    key(request, "tenant")
    with_fields(body, {"model": "another"})


def milliseconds(call: Callable[[], object]) -> float:
    """Of one call."""
    return round(price(call, times=1) / 1000, 2)


if __name__ == "__main__":
    main()
