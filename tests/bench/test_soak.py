"""The soak: its faults come from the seed, its verdicts see what is wrong, and a short one finds nothing lost."""

import asyncio
import json
import os
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench.soak import UNCLEAN, Soak, clean, report
from bench.soaking.answers import Told, Verdict, availability, judged, same
from bench.soaking.faults import KINDS, schedule, stations
from bench.soaking.requests import CHAT, COMPLETION, Ask
from bench.soaking.traffic import Traffic, fetch
from service.config.paths import ROOT
from tests.support.waiting import until

ASK = Ask(CHAT, True, tuple("abcdef"))
WHOLE = replace(ASK, streamed=False)


def events(*texts: str, finish: str | None = "stop", after: tuple[str, ...] = ("[DONE]",)) -> bytes:
    """A stream of chunks, and what comes after them."""
    chunks = [{"id": "x", "choices": [{"delta": {"content": text}, "finish_reason": None}]} for text in texts]
    chunks += [{"id": "x", "choices": [{"delta": {}, "finish_reason": finish}]}] if finish else []
    return "".join(f"data: {one}\n\n" for one in [*map(json.dumps, chunks), *after]).encode()


def told(body: bytes | Any, status: int = 200, whole: bool = True, left: bool = False) -> Told:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Told(status, bytearray(data), whole, left)


def answer(text: str, finish: str | None = "stop") -> dict[str, Any]:
    return {"id": "x", "choices": [{"message": {"content": text}, "finish_reason": finish}]}


def error(code: str) -> dict[str, Any]:
    return {"error": {"message": "", "type": "", "param": None, "code": code}}


BROKEN = json.dumps(error("upstream_error"))
ALL = "abcdef"
STREAMS: list[tuple[Told, str, str]] = [
    (told(events(*ALL)), "complete", ""),
    (told(b": keep-alive\n\n" + events(*ALL)), "complete", ""),
    (told(events("a", "b", finish=None, after=(BROKEN,)), whole=False), "failed", "upstream_error in the stream"),
    (told(events("a", "b", finish=None, after=()), whole=False, left=True), "left", ""),
    (told(events("a", "b")[:-70], whole=False, left=True), "left", ""),
    (told(error("overloaded"), 503), "failed", "overloaded"),
    (told(error("rate_limit_exceeded"), 429), "quota", "rate_limit_exceeded"),
    (told(error("idempotency_in_progress"), 409), "running", "idempotency_in_progress"),
    (told(b"", 0, whole=False), "lost", "no answer"),
    (told(b"", 0, whole=False, left=True), "left", ""),
    (told(b"<html>", 502), "lost", "status 502 without an error"),
    (told(events("a", "b", finish=None, after=())), "lost", "a stream without an end"),
    (told(events(*ALL), whole=False), "lost", "a stream without an end"),
    (told(events(*ALL, after=(BROKEN, "[DONE]"))), "lost", "2 endings"),
    (told(events(*ALL, after=("[DONE]", "[DONE]"))), "lost", "2 endings"),
    (told(events("a", "b")), "lost", "stop before its last word"),
    (told(events(*ALL, finish="abort")), "lost", "abort before its last word"),
    (told(events(*ALL, finish=None)), "lost", "an end without a reason"),
    (told(events("a", "c")), "lost", "words are missing"),
    (told(events("a", "z")), "lost", "words that nobody asked for"),
    (told(events("a", "b", "b")), "duplicated", "words again or out of order"),
    (told(events("b", "a")), "duplicated", "words again or out of order"),
    (told(b"data: {nonsense\n\n"), "lost", "an event that is none"),
    (told(events(*ALL) + b"data: {"), "lost", "an event that is none"),
]
WHOLES: list[tuple[Told, str, str]] = [
    (told(answer("a b c d e f")), "complete", ""),
    (told(answer("a b c", "length")), "lost", "length before its last word"),
    (told(answer("")), "lost", "stop before its last word"),
    (told(answer("a b c d e e f")), "duplicated", "words again or out of order"),
    (told(answer("a b c d e f"), whole=False), "lost", "an answer without its end"),
    (told({"choices": []}), "lost", "an answer that is none"),
]


@pytest.mark.parametrize(("got", "ending", "why"), STREAMS)
def test_a_stream_has_one_ending_and_the_words_that_were_asked_for(got: Told, ending: str, why: str) -> None:
    verdict = judged(ASK, got)
    assert (verdict.ending, verdict.why) == (ending, why)


@pytest.mark.parametrize(("got", "ending", "why"), WHOLES)
def test_a_whole_answer_says_all_of_it(got: Told, ending: str, why: str) -> None:
    verdict = judged(WHOLE, got)
    assert (verdict.ending, verdict.why) == (ending, why)


def test_a_limit_ends_an_answer_early() -> None:
    assert judged(replace(ASK, limit=2), told(events("a", "b", finish="length"))).ending == "complete"
    assert judged(replace(ASK, limit=2), told(events("a", "b", "c", finish="length"))).ending != "complete"


def test_one_key_has_one_answer() -> None:
    one, other = Verdict("complete", id="1"), Verdict("complete", id="2")
    assert same([one, one, Verdict("failed", "x")])
    assert same([])
    assert not same([one, other])


def test_what_is_asked_to_come_again_says_nothing_of_availability() -> None:
    assert availability(Counter(complete=6, left=2, failed=1, lost=1, quota=90, running=9)) == 0.8
    assert availability(Counter()) == 1.0


def test_the_seed_makes_the_faults() -> None:
    one = schedule(7, 600, 3, 5)
    assert one == schedule(7, 600, 3, 5) != schedule(8, 600, 3, 5)
    assert {fault.kind for fault in one} == set(KINDS)
    assert {fault.engine for fault in one} == {0, 1, 2}
    assert all(fault.at + fault.lasts <= 600 for fault in one)
    for first, second in combinations(one, 2):
        meets = first.at < second.at + second.lasts and second.at < first.at + first.lasts
        assert not (meets and first.engine == second.engine)
    for fault in one:
        assert len({other.engine for other in one if other.at <= fault.at < other.at + other.lasts}) < 3


@pytest.mark.parametrize("kind", KINDS)
async def test_an_engine_has_the_fault_and_comes_back(kind: str, tmp_path: Path) -> None:
    async with stations("m", 1, tmp_path) as (station,):
        port = int(station.proxy.address.rpartition(":")[2])
        ask = Ask(COMPLETION, True, tuple(f"w{number}" for number in range(20)))
        assert (await answered(port, ask)).ending == "complete"
        (before,) = engines(tmp_path)
        station.begin(kind)
        if kind in ("kill", "drain"):
            await until(lambda: before not in engines(tmp_path), "the end of its process")
        elif kind == "freeze":
            await until(lambda: psutil.Process(before).status() == psutil.STATUS_STOPPED, "its stop")
        if kind not in ("drip", "delay"):
            assert judged(ask, await fetch(port, replace(ask, leaving=0.1), "m")).ending in ("left", "lost")
        await station.cease(kind)
        assert (await answered(port, ask)).ending == "complete"
        assert (engines(tmp_path) == [before]) == (kind not in ("kill", "drain"))
    assert not engines(tmp_path)


async def answered(port: int, ask: Ask) -> Verdict:
    """The verdict once an engine is there again."""
    while True:
        verdict = judged(ask, await fetch(port, ask, "m"))
        if verdict.why != "no answer":
            return verdict
        await asyncio.sleep(0.02)


def engines(folder: Path) -> list[int]:
    """The engines' processes."""
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):  # or a zombie, which has no command line any more
            if str(folder) in str(child.cmdline()):
                found.append(child.pid)
    return found


async def test_traffic_is_of_every_kind_and_rests_when_told(tmp_path: Path) -> None:
    async with stations("m", 1, tmp_path) as (station,):
        port = int(station.proxy.address.rpartition(":")[2])
        await answered(port, ASK)
        traffic = Traffic(port, "m", 8, seed=1)
        async with traffic.flowing():
            await until(lambda: traffic.endings["complete"] > 40 and traffic.endings["left"] > 2, "some answers")
            await until(lambda: traffic.twice > 0, "an answer generated again: the engine knows no keys")
            await traffic.rest()
            await until(lambda: station.proxy.open == 0, "the end of what clients asked")
            asked, count = station.proxy.accepted, traffic.endings.total()
            await asyncio.sleep(0.3)  # more than any client thinks
            assert (station.proxy.accepted, traffic.endings.total()) == (asked, count)
            traffic.resume()
            await until(lambda: traffic.endings.total() > count, "the next answers")
        assert not traffic.endings["lost"]
        assert set(traffic.reasons) == {"complete", "left"}


@pytest.mark.parametrize("what", UNCLEAN)
def test_a_soak_is_clean_when_nothing_was_lost_or_left(what: str) -> None:
    fine = dict.fromkeys(UNCLEAN, 0)
    assert clean(fine)
    assert not clean(fine | {what: 1})


def test_a_short_soak_through_the_whole_service(tmp_path: Path) -> None:
    command = [str(ROOT / "bench/soak"), "--minutes", "0.2", "--seed", "5", "--every", "2", "--clients", "6"]
    command += ["--json", str(tmp_path / "soak.json"), "--keep", str(tmp_path / "logs")]
    environment = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    found = json.loads((tmp_path / "soak.json").read_text())
    assert found["faults"], said
    assert found["requests"] == sum(found["endings"].values()) > 0
    assert found["endings"]["complete"] > 0, said
    assert clean(found), said
    assert done.returncode == 0
    assert said.strip() == report(found)
    assert found["seconds"] == Soak(12, 5).seconds
    assert "lost 0, duplicated 0, keys generated twice 0" in said
