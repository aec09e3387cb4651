"""The price list: the stub engine answers like vLLM, the load counts only what is right, and the table holds it all."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from bench import processes
from bench.cost import load, memory, peers, profile, reading, stub, table, workers
from bench.cost.instructions import REQUESTS, STREAMS
from bench.cost.load import Load
from bench.cost.memory import Sample, judged
from bench.cost.peers import PEERS, PeerError, Place, Rival
from bench.cost.run import LOADS, measure, medians
from bench.processes import MB
from service.config.paths import ROOT
from service.protocol.parse_body import parse_body
from tests.support.services import wait_for
from tests.support.waiting import PATIENCE, until

CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hello!"}]}
STREAM = CHAT | {"stream": True, "max_tokens": 7}
CORES = sorted(os.sched_getaffinity(0))
# A rival that passes bytes on.
SCRIPT = f"""#!{sys.executable}
import asyncio, sys
sys.path.insert(0, {str(ROOT)!r})
from tests.support.fault_proxy import FaultProxy
async def main():
    async with FaultProxy("127.0.0.1:" + sys.argv[2]).listen(int(sys.argv[1])):
        await asyncio.Event().wait()
asyncio.run(main())
"""


@asynccontextmanager
async def engine() -> AsyncIterator[tuple[stub.Engine, int]]:
    """A stub engine in this process, and its port."""
    one = stub.Engine("m")
    async with await stub.serve(one, 0) as server:
        yield one, server.sockets[0].getsockname()[1]


@asynccontextmanager
async def answering(answer: Callable[[bytes], bytes]) -> AsyncIterator[int]:
    """The port of a server that gives some bytes for each request."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(2**16):
                if not (said := answer(data)):
                    break
                writer.write(said)
        except ConnectionError:
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


async def with_client(port: int, use: Callable[[httpx.AsyncClient], Awaitable[None]]) -> None:
    url = f"http://127.0.0.1:{port}"
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE, trust_env=False, verify=False) as client:
        await use(client)


async def test_the_stub_answers_what_a_gateway_asks_of_an_engine() -> None:
    async def asking(client: httpx.AsyncClient) -> None:
        assert (await client.get("/health")).status_code == 200
        assert (await client.get("/v1/models")).json()["data"][0]["id"] == "m"
        whole = (await client.post("/v1/chat/completions", json=CHAT)).json()
        assert whole["choices"][0]["message"]["content"].count(stub.WORD) == stub.WORDS
        text = (await client.post("/v1/completions", json={"model": "m", "prompt": "x"})).json()
        assert text["usage"]["completion_tokens"] == stub.WORDS
        streamed = (await client.post("/v1/chat/completions", json=STREAM)).text
        assert streamed.count(stub.WORD) == 7
        assert '"usage"' not in streamed
        with_usage = STREAM | {"stream_options": {"include_usage": True}}
        streamed = (await client.post("/v1/chat/completions", json=with_usage)).text
        assert streamed.count('"usage"') == 1
        assert streamed.endswith("data: [DONE]\n\n")
        assert (await client.post("/elsewhere", json={})).status_code == 404
        rows = (await client.get("/metrics")).text.splitlines()
        said = next(float(row.split()[1]) for row in rows if row.startswith("vllm:generation_tokens_total"))
        assert said == 2 * stub.WORDS + 2 * 7

    async with engine() as (_, port):
        await with_client(port, asking)


async def test_the_stub_keeps_pace_and_sees_who_leaves() -> None:
    async def asking(client: httpx.AsyncClient) -> None:
        await client.post("/pace/3600")
        async with client.stream("POST", "/v1/chat/completions", json=STREAM) as answer:
            first = await anext(answer.aiter_bytes())
            assert stub.WORD.encode() not in first, "the first token takes its time"
            assert one.running == 1
        await until(lambda: one.running == 0, "the end of what nobody reads")
        assert one.totals["abort"] == 1
        await client.post("/pace/0.001")
        assert (await client.post("/v1/chat/completions", json=STREAM)).text.count(stub.WORD) == 7

    async with engine() as (one, port):
        await with_client(port, asking)


@pytest.mark.parametrize("what", [Load("w", 3, seconds=0.2, warm=0.1), Load("s", 3, 5, seconds=0.2, warm=0.1)])
async def test_a_load_counts_what_is_right(what: Load) -> None:
    async with engine() as (_, port):
        found = await load.run(port, "m", what, {"stub": os.getpid()})
    assert found["errors"] == 0
    assert found["done"] > 0
    assert found["requests_per_s"] == pytest.approx(found["done"] / found["seconds"], rel=0.01, abs=0.05)
    assert set(found["processes"]) == {"stub", "load"}
    assert found["latency_ms"]["p99"] >= found["latency_ms"]["p50"] > 0
    assert bool(found["first_ms"]) == bool(what.tokens)


WHOLE = stub.Canned(stub.SHAPES[load.PATH], "m").whole
WRONG: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "a status": (lambda _: stub.response(b"{}", "503 Service Unavailable"), "status 503: {}"),
    "a short answer": (lambda _: WHOLE.replace(b" granite", b" granito", 1), "39 tokens, not 40"),
    "an end": (lambda _: b"", "the connection was closed"),
}


@pytest.mark.parametrize("wrong", list(WRONG))
async def test_a_load_counts_what_is_wrong_as_errors(wrong: str) -> None:
    answer, name = WRONG[wrong]
    async with answering(answer) as port:
        found = await load.run(port, "m", Load("w", 2, seconds=0.1, warm=0.1), {})
    assert found["done"] == 0
    assert found["errors"] == sum(found["error_kinds"].values()) > 0
    assert set(found["error_kinds"]) == {name}


async def test_a_load_on_nobody_is_all_errors() -> None:
    found = await load.run(processes.free_port(), "m", Load("w", 1, seconds=0.1, warm=0.1), {})
    assert found["done"] == 0
    assert "no connection" in next(iter(found["error_kinds"]))


async def test_a_token_that_arrives_in_two_pieces_is_one() -> None:
    body = (stub.WORD * 4).encode()
    cuts = [body[:3], body[3:10], body[10:]]
    chunks = b"".join(stub.chunk(cut) for cut in cuts) + stub.END
    async with answering(lambda _: stub.STREAM + chunks) as port:
        found = await load.run(port, "m", Load("s", 1, 4, seconds=0.1, warm=0.1), {})
    assert found["errors"] == 0
    assert found["done"] > 0


@pytest.fixture
def rival(tmp_path: Path) -> Rival:
    """One that is installed already in the folder `cache`."""
    one = Rival("fake==1", "fake {port} {stub} {metrics}")
    program = tmp_path / "cache" / one.package / "bin" / "fake"
    program.parent.mkdir(parents=True)
    program.write_text(SCRIPT)
    program.chmod(0o700)
    (tmp_path / "cache" / one.package / "installed").touch()
    return one


@pytest.mark.skipif(len(CORES) < 2, reason="needs two cores")
def test_a_peer_is_measured_under_every_load(rival: Rival, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PEERS, "fake", rival.running)
    [found] = measure(["direct", "fake"], 0.3, 1, CORES, tmp_path / "cache")
    assert list(found) == ["direct", "fake"]
    for name, figures in found.items():
        assert list(figures) == [one.name for one in LOADS]
        for one in figures.values():
            assert one["errors"] == 0
            assert one["processes"]["stub"]["rss_mb"] > 1
            assert ("gateway" in one["processes"]) == (name == "fake")
    drawn = table.drawn(found).splitlines()
    assert len({row.count("|") for row in drawn}) == 1
    assert [row.split(" | ")[0] for row in drawn[2:]] == ["| direct", "| fake"]
    added = table.COLUMNS[2][1](found["fake"], found["direct"])
    one = {name: figures["one"]["latency_ms"]["p50"] for name, figures in found.items()}
    assert added == pytest.approx(one["fake"] - one["direct"])


@pytest.mark.skipif(len(CORES) < 2, reason="needs two cores")
def test_a_peer_has_its_own_core_and_ends(rival: Rival, tmp_path: Path) -> None:
    with peers.stub(CORES[1], tmp_path) as (port, pid):
        assert psutil.Process(pid).cpu_affinity() == [CORES[1]]
        with rival.running(Place(port, CORES[0], tmp_path, tmp_path / "cache")) as peer:
            assert peer.pid
            assert psutil.Process(peer.pid).cpu_affinity() == [CORES[0]]
            assert processes.usage(peer.pid).rss > MB
        assert not processes.family(peer.pid)
    assert not processes.family(pid)


def test_a_peer_that_does_not_answer_says_why(rival: Rival, tmp_path: Path) -> None:
    program = tmp_path / "cache" / rival.package / "bin" / "fake"
    program.write_text("#!/bin/sh\necho no such thing\n")
    place = Place(processes.free_port(), CORES[0], tmp_path, tmp_path / "cache")
    with pytest.raises(PeerError, match="no such thing"), rival.running(place):
        pass


def test_no_two_programs_get_one_port() -> None:
    asking = [sys.executable, "-c", "from bench.processes import free_port; print(*(free_port() for _ in range(50)))"]
    started = [subprocess.Popen(asking, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    ports = [port for one in started for port in one.communicate(timeout=60)[0].split()]
    assert len(set(ports)) == len(ports) == 150


def test_what_ends_a_process_ends_its_children(tmp_path: Path) -> None:
    # What a shell puts into the background does not hear Ctrl-C.
    with processes.running(["/bin/sh", "-c", "sleep 1000 & wait"], tmp_path / "log") as process:
        wait_for(lambda: len(processes.family(process.pid)) == 2, PATIENCE, "the child")
        child = processes.family(process.pid)[1]
    assert process.returncode is not None
    wait_for(lambda: not child.is_running(), PATIENCE, "the child's end")


def test_the_median_of_turns() -> None:
    turns = [{"a": one, "b": {"c": one * 2.0}, "kinds": {}, "d": one or None} for one in (1, 9, 2)]
    assert medians(turns) == {"a": 2, "b": {"c": 4.0}, "kinds": {}, "d": 2}
    assert medians([{"a": None}, {"a": None}]) == {"a": None}


@pytest.mark.parametrize("name", reading.LARGE)
def test_what_is_read_is_as_large_as_may_be_and_taken(name: str) -> None:
    body = reading.encoded(reading.LARGE[name])
    assert 3 * 2**20 < len(body) < 4 * 2**20
    assert body.isascii() == ("ASCII" not in name)
    assert parse_body(reading.CHAT.body, body).ignored == (("schema",) if "ignored" in name else ())
    found = reading.row(name, body)
    assert found["bytes"] == len(body)
    assert found["ms"] > 0 < found["objects_ms"]


@pytest.mark.parametrize("name", reading.ORDINARY)
def test_what_is_ordinary_is_accepted(name: str) -> None:
    body, endpoint = reading.request(name)
    assert not parse_body(endpoint.body, body).ignored
    reading.taken(body, endpoint)


@pytest.mark.parametrize(
    ("growth", "verdict"), [(0, "flat"), (memory.ALLOWED, "flat"), (3 * memory.ALLOWED, "it grows")]
)
def test_memory_is_judged_once_it_has_settled(growth: int, verdict: str) -> None:
    # It takes 50 MB while it warms up, which says nothing.
    samples = [Sample(n * 100, 0, 50 * n * MB // 20) for n in range(20)]
    samples += [Sample(n * 100, 60 * MB, 70 * MB + growth * (n - 20) // 79) for n in range(20, 100)]
    found = judged(samples)
    assert found["verdict"] == verdict
    assert found["requests"] == 9900
    assert found["rss_mb"] == pytest.approx((70 * MB + growth) / MB, abs=0.1)


def work() -> int:
    return len("work")


@pytest.mark.parametrize(
    ("subject", "times"),
    [
        (profile.WHOLE_ANSWER, (REQUESTS, 70, 70)),
        (profile.STREAM, (70, STREAMS, 70)),
        (profile.CHUNK, (70, 70, 70 + profile.CHUNK.count)),
    ],
    ids=["whole answer", "stream", "chunk"],
)
def test_a_profile_counts_what_each_of_them_does(
    subject: profile.Subject, times: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def parts(weigh: Callable[[int], None], weights: tuple[int, int, int]) -> None:
        for weight, count in zip(weights, times, strict=True):
            weigh(weight)
            for _ in range(count):
                work()
        weigh(0)

    monkeypatch.setattr(profile, "run", parts)
    tracer = sys.gettrace()
    try:
        [found] = profile.functions(subject)
    finally:
        sys.settrace(tracer)
    assert (found.name, found.calls, found.calls_of_c) == ("test_cost: work", 1, 1)
    assert 3 <= found.bytecodes <= 10
    rows = profile.drawn([found, found, found], rows=1).splitlines()
    assert rows[2:] == [
        f"| {name} | {count} | {count * found.bytecodes:.0f} | {count} |"
        for name, count in (("test_cost: work", 1), ("2 others", 2), ("all", 3))
    ]


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [str(ROOT / arguments[0]), *arguments[1:]]
    environment = {**os.environ, "PYTHON": sys.executable}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.skipif(len(CORES) < 2, reason="needs two cores")
def test_the_service_is_measured_as_it_is_served(tmp_path: Path) -> None:
    done = run("bench/cost/run", "--only", "direct", "--only", "roundhouse", "--seconds", "0.5",
               "--json", str(tmp_path / "cost.json"))  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads((tmp_path / "cost.json").read_text())
    assert list(found["peers"]) == ["direct", "roundhouse"]
    for figures in found["peers"]["roundhouse"].values():
        assert figures["errors"] == 0, figures["error_kinds"]
    loads = found["peers"]["roundhouse"]
    assert loads["whole"]["processes"]["gateway"]["request_us"] > 0
    used = loads["paced"]["processes"]["gateway"]
    assert used["pss_mb"] <= used["rss_mb"] < table.MEMORY_BAR, "docs/performance.md promises it"
    assert table.drawn(found["peers"]) in done.stdout


@pytest.mark.skipif(len(CORES) < 2, reason="needs two cores")
def test_memory_is_sampled_until_all_is_asked(tmp_path: Path) -> None:
    done = run("bench/cost/memory", "--requests", "500", "--slice", "0.2", "--json", str(tmp_path / "memory.json"))
    found = json.loads((tmp_path / "memory.json").read_text())
    assert done.returncode == (found["verdict"] != "flat"), done.stderr
    counts = [one["requests"] for one in found["samples"]]
    assert counts == sorted(counts)
    assert counts[-1] >= 500 > (counts[-2] if len(counts) > 1 else 0)
    assert found["samples"][-1]["all"] >= found["samples"][-1]["largest"] > 10 * MB


def test_bars_are_ratios_round_by_round() -> None:
    def turn(cpu: float, rss: float, p50: float) -> dict[str, Any]:
        used = {"gateway": {"request_us": cpu, "token_us": cpu / 4, "rss_mb": rss}, "stub": {}}
        return {"whole": {"processes": used}, "paced": {"processes": used}, "one": {"latency_ms": {"p50": p50}}}

    direct = {"one": {"latency_ms": {"p50": 0.1}}}
    rounds = [
        {"direct": direct, "roundhouse": turn(cpu, 90.0, 0.3), "other": turn(100.0, 60.0, 0.2)}
        for cpu in (80.0, 90.0, 150.0)
    ]
    found = table.bars(rounds, ["other"])
    assert found["CPU of a whole answer"] == found["CPU of a paced chunk"] == {"other": [0.9, 0.8, 1.5]}
    assert found["p50 added at one client"] == {"other": [2.0, 2.0, 2.0]}
    drawn = table.drawn_bars(found, ["other"], 151.2)
    assert "| CPU of a whole answer | 0.90 (0.80 to 1.50) |" in drawn and "151 MB (bar: 150)" in drawn


def test_workers_are_judged_by_the_cost_of_a_request_and_the_share_of_the_busiest() -> None:
    def found(request_us: float, *cores: float) -> dict[str, Any]:
        one = {f"gateway {number}": {"cores": used} for number, used in enumerate(cores)}
        return one | {"gateway": {"request_us": request_us, "cores": sum(cores)}, "load": {"cores": 0.7}}

    turns = {
        "one": [workers.turn([found(99.0, 0.5)])], "several": [workers.turn([found(110.0, 0.55, 0.45)])],
        "apart": [workers.turn([found(100.0, 0.5), found(120.0, 0.5)])],
    }  # fmt: skip
    assert workers.judged(turns, 2) == {
        "one_us": 99.0, "several_us": 110.0, "apart_us": 110.0, "busiest": 0.55,
        "scale": [0.818] * 3, "apart": [0.9] * 3,
    }  # fmt: skip
