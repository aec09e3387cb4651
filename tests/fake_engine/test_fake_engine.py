"""The faults that the fake engine can be told to have, as a peer meets them."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.fake_engine import Call, FakeEngine, Fault, Script
from tests.support.waiting import EARLY, PATIENCE, until

CHAT = {"model": "pebble-chat", "messages": [{"role": "user", "content": "one two three"}]}
ERROR = b'data: {"error": {"message": "EngineCore encountered'


@pytest.fixture
async def engine() -> AsyncIterator[FakeEngine]:
    async with FakeEngine("pebble-chat").listen(0) as fake:
        yield fake


class Peer:
    """A connection to the fake engine."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, body: dict[str, Any], close: bool = True, path: str = "/v1/chat/completions") -> None:
        content = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: engine\r\nContent-Type: application/json\r\n"
        head += "Connection: close\r\n" if close else ""
        self.writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        await self.writer.drain()

    async def rest(self) -> bytes:
        """What comes until the other side closes."""
        data = await asyncio.wait_for(self.reader.read(), PATIENCE)
        self.writer.close()
        return data


async def connect(engine: FakeEngine) -> Peer:
    return Peer(*await asyncio.open_connection("127.0.0.1", engine.port))


async def exchange(engine: FakeEngine, *faults: Fault, stream: bool = True) -> bytes:
    """One request that meets the faults, and all that comes back."""
    engine.script(*faults)
    peer = await connect(engine)
    await peer.send(CHAT | {"stream": stream})
    return await peer.rest()


async def test_without_a_fault_it_echoes(engine: FakeEngine) -> None:
    answer = json.loads((await exchange(engine, stream=False)).partition(b"\r\n\r\n")[2])
    assert answer["choices"][0]["message"]["content"] == "one two three"
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] == 4


async def test_a_stream_ends_properly(engine: FakeEngine) -> None:
    data = await exchange(engine)
    assert data.count(b"data: {") == 5  # the role, three words, the end
    assert data.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


async def test_an_embedding_engine_only_embeds() -> None:
    async with FakeEngine("minilm", "embedding").listen(0) as engine:
        peer = await connect(engine)
        await peer.send({"model": "minilm", "input": ["one", "two three"]}, path="/v1/embeddings")
        answer = json.loads((await peer.rest()).partition(b"\r\n\r\n")[2])
        assert [row["index"] for row in answer["data"]] == [0, 1]
        assert (await exchange(engine)).endswith(b'{"detail":"Not Found"}')


async def test_one_connection_carries_many_requests(engine: FakeEngine) -> None:
    peer = await connect(engine)
    for _ in range(3):
        await peer.send(CHAT | {"stream": True}, close=False)
        await peer.reader.readuntil(b"0\r\n\r\n")
    peer.writer.close()
    assert [seen.json["stream"] for seen in engine.requests] == [True] * 3


@pytest.mark.parametrize(
    ("fault", "events", "end"),
    [
        (Fault(cut=0), 0, b""),
        (Fault(events=0), 0, b"\r\n\r\n"),
        (Fault(events=3), 3, b"\n\n\r\n"),
        (Fault(events=2, garble=b"zz\r\n"), 2, b"zz\r\n"),
        (Fault(events=2, dead=True), 4, b"data: [DONE]\n\n\r\n0\r\n\r\n"),
        (Fault(raw=b"SSH-2.0-x\r\n"), 0, b"SSH-2.0-x\r\n"),
        (Fault(drip=50, events=1), 1, b"\n\n\r\n"),
    ],
)
async def test_a_cut_stream(fault: Fault, events: int, end: bytes, engine: FakeEngine) -> None:
    data = await exchange(engine, fault)
    assert data.count(b"data: ") == events
    assert data.endswith(end)
    assert (ERROR in data) == fault.dead


async def test_bytes_are_counted_from_the_status_line(engine: FakeEngine) -> None:
    assert len(await exchange(engine, Fault(cut=300))) == 300


@pytest.mark.parametrize("fault", [Fault(events=1, end="reset"), Fault(accept=True, end="reset")])
async def test_a_reset(fault: Fault, engine: FakeEngine) -> None:
    with pytest.raises(ConnectionError):
        await exchange(engine, fault)


async def test_status_finish_and_length(engine: FakeEngine) -> None:
    assert (await exchange(engine, Fault(status=503, body=b"busy"))).startswith(b"HTTP/1.1 503 ")
    assert b'"finish_reason":"abort"' in await exchange(engine, Fault(finish="abort"), stream=False)
    assert (await exchange(engine, Fault(finish="abort"))).count(b"data: ") == 2  # the role and [DONE], no reason
    assert b"content-length: " in await exchange(engine, Fault(surplus=7), stream=False)


async def test_faults_come_in_order_and_then_always(engine: FakeEngine) -> None:
    engine.always = Fault(status=500)
    engine.script(Fault(status=503))
    statuses = [(await exchange(engine))[9:12] for _ in range(3)]
    assert statuses == [b"503", b"500", b"500"]


@pytest.mark.parametrize(
    ("fault", "begun"),
    [
        (Fault(delay=60), False), (Fault(gap=60), True), (Fault(events=1, end="hang"), True),
        (Fault(cut=0, end="hang"), False),
    ],
)  # fmt: skip
async def test_it_notices_that_a_peer_leaves(fault: Fault, begun: bool, engine: FakeEngine) -> None:
    engine.script(fault)
    peer = await connect(engine)
    await peer.send(CHAT | {"stream": True})
    await until(lambda: len(engine.requests) == 1)
    (seen,) = engine.requests
    await until(lambda: bool(seen.answer) == begun)
    peer.writer.close()
    await until(seen.closed.is_set)
    await until(lambda: engine.running == 0)
    assert not seen.sent
    assert seen.left is not None
    assert seen.left > seen.at


async def test_slots_and_queue() -> None:
    engine = FakeEngine("pebble-chat", gap=0.02, slots=1, queue=2)
    engine.hold()
    async with engine.listen(0):
        started = time.monotonic()
        taken = [asyncio.create_task(exchange(engine, stream=False)) for _ in range(2)]
        await until(lambda: (engine.running, engine.waiting) == (1, 1))
        assert (await exchange(engine, stream=False))[9:12] == b"503"
        engine.go_on()
        assert [(await one)[9:12] for one in taken] == [b"200"] * 2
        assert time.monotonic() - started >= 8 * 0.02 * EARLY


async def test_prompts_are_read_one_after_the_other() -> None:
    engine = FakeEngine("pebble-chat", prefill=2 * PATIENCE)
    async with engine.listen(0):
        peers = [await connect(engine) for _ in range(3)]
        for peer in peers:
            await peer.send(CHAT)
        await until(lambda: (engine.running, engine.waiting) == (1, 2))
        for peer in peers:
            peer.writer.close()
        await until(lambda: (engine.running, engine.waiting) == (0, 0))
    engine = FakeEngine("pebble-chat", prefill=0.01)
    async with engine.listen(0):
        started = time.monotonic()
        answers = await asyncio.gather(*(exchange(engine, stream=False) for _ in range(3)))
        assert [answer[9:12] for answer in answers] == [b"200"] * 3
        assert time.monotonic() - started >= 3 * 3 * 0.01 * EARLY  # each of three words at least


@pytest.mark.parametrize("how", ["drain", "core", "kill"])
async def test_deaths(how: Any, tmp_path: Path) -> None:
    engine = FakeEngine("pebble-chat")
    engine.hold()
    async with engine.listen(0):
        running, idle = await connect(engine), await connect(engine)
        await running.send(CHAT | {"stream": True})
        await running.reader.readuntil(b"one")
        engine.die(how)
        if how == "drain":
            engine.go_on()
        try:
            data = await running.rest()
        except ConnectionResetError:
            data = b""
        assert (b"[DONE]" in data, ERROR in data) == (how != "kill", how == "core")
        idle.writer.close()


TOOL = {"type": "function", "function": {"name": "run"}}
SCRIPT = Script((Call("run", '{"n": 1}'), Call("other", "{}")), "done")


@pytest.mark.parametrize(
    ("request_body", "reply"),
    [
        ({"messages": [{"role": "user", "content": "x"}], "tools": [TOOL]}, SCRIPT.calls[0]),
        ({"messages": [{"role": "user", "content": "x"}]}, "done"),
        ({"messages": [{"role": "tool", "content": "1"}], "tools": [TOOL]}, "done"),
        ({"messages": [{"role": "tool", "content": "1"}], "tools": [{"name": "other"}]}, SCRIPT.calls[1]),
        ({"messages": [{"role": "user", "content": [{"type": "tool_result"}] * 2}], "tools": [TOOL]}, "done"),
        ({"input": [{"type": "function_call_output"}], "tools": [{"type": "x"}, {"name": "other"}]}, SCRIPT.calls[1]),
        ({"input": "x", "tools": [{"name": "run"}]}, SCRIPT.calls[0]),
    ],
)  # fmt: skip
def test_a_script_makes_a_call_a_turn_and_then_ends(request_body: dict[str, Any], reply: Call | str) -> None:
    assert SCRIPT.reply(request_body) == reply


async def test_a_scripted_engine_calls_a_tool(engine: FakeEngine) -> None:
    engine.agent = SCRIPT
    peer = await connect(engine)
    await peer.send(CHAT | {"tools": [TOOL]})
    (choice,) = json.loads((await peer.rest()).partition(b"\r\n\r\n")[2])["choices"]
    assert choice["message"]["tool_calls"][0]["function"] == {"name": "run", "arguments": '{"n": 1}'}
    assert choice["finish_reason"] == "tool_calls"
