"""Checks in a process that may die: what comes of its death, who waits, and what is remembered."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from service.checks import checks as module
from service.checks.checks import PASSED, BusyError, Checks, Verdict
from service.checks.process import DiedError
from tests.support.children import noticed
from tests.support.waiting import until

SCRIPTED = (sys.executable, "-S", "-E", str(Path(__file__).with_name("scripted_worker.py")))
LONG = 60.0


class Events:
    def __init__(self) -> None:
        self.results: list[str] = []
        self.pids: list[int] = []
        self.deaths: list[str] = []
        self.found: Sequence[str] = ()

    def checked(self, kind: str, result: str, seconds: float) -> None:
        assert kind in ("schema", "image") and seconds >= 0
        self.results.append(result)

    def started(self, found: Sequence[str]) -> None:
        self.found = found
        self.pids += [int(one) for one in found if one.isdecimal()]

    def died(self, how: str) -> None:
        self.deaths.append(how)


@asynccontextmanager
async def checking(
    arguments: Sequence[str] = SCRIPTED, seconds: float = LONG, max_wait: float = LONG
) -> AsyncIterator[tuple[Checks, Events]]:
    events = Events()
    checks = Checks(arguments, 1, seconds, max_wait, events)
    async with noticed():
        try:
            yield checks, events
        finally:
            await checks.close()
    assert not any(map(psutil.pid_exists, events.pids))


async def ask(checks: Checks, word: str, tenant: str = "a") -> Verdict:
    return await checks.check(tenant, "schema", f"c{word}".encode())


async def test_a_process_is_started_once_and_results_are_remembered_for_each_tenant() -> None:
    async with checking() as (checks, events):
        await checks.warm()
        assert await ask(checks, "pass") == PASSED
        assert await ask(checks, "refuse") == await ask(checks, "refuse") == Verdict("a", "it is wrong")
        assert await ask(checks, "refuse", "b") == Verdict("a", "it is wrong")
        assert events.results == ["passed", "refused", "remembered", "refused"]
        assert len(events.pids) == 1


@pytest.mark.parametrize(("word", "how"), [("die", "crash"), ("hang", "deadline"), ("garble", "crash")])
async def test_a_job_that_ends_its_process_is_known_by_its_field_and_others_go_on(
    word: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with checking() as (checks, events):
        jobs = [
            asyncio.create_task(ask(checks, word)),
            *(asyncio.create_task(ask(checks, f"pass {n}", "b")) for n in range(3)),
        ]
        with monkeypatch.context() as hurried:
            if word == "hang":
                hurried.setattr(checks, "_timeout", 1.0)
            dead = await jobs[0]
        assert dead == Verdict(f"tools[0].{word}", died=how)
        assert await asyncio.gather(*jobs[1:]) == [PASSED] * 3
        assert events.deaths == [how] and len(events.pids) == 2
        assert await ask(checks, word) == dead  # remembered: it costs no other process
        assert len(events.pids) == 2


async def test_a_client_that_leaves_costs_no_process() -> None:
    async with checking() as (checks, events):
        leaving = asyncio.create_task(ask(checks, "refuse"))
        await until(lambda: bool(events.pids), "the start of the process")
        leaving.cancel()
        await until(lambda: events.results == ["refused"], "the end of its job")
        assert await ask(checks, "pass") == PASSED
        assert len(events.pids) == 1


async def test_a_start_that_is_given_up_leaves_no_process(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    silent = f"import os, time; open({str(mark)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    async with checking((sys.executable, "-S", "-E", "-c", silent)) as (checks, events):
        starting = asyncio.create_task(checks.warm())
        await until(lambda: mark.exists() and mark.read_text() != "", "the start of the process")
        starting.cancel()
        await checks.close()
        events.pids.append(int(mark.read_text()))
        checks._slots.release()  # `checking` closes again
        with pytest.raises(asyncio.CancelledError):
            await starting


async def test_a_stop_of_all_processes_spares_those_that_running_requests_need(tmp_path: Path) -> None:
    """A process manager sends SIGTERM once to all that it has started: here to one that cannot ignore it yet."""
    mark = tmp_path / "pid"
    stopped = f"""
import os, pathlib, runpy, signal
mark = pathlib.Path({str(mark)!r})
if not mark.exists():
    mark.write_text(str(os.getpid()))
    os.kill(os.getpid(), signal.SIGTERM)
runpy.run_path({SCRIPTED[-1]!r})
"""
    async with checking((*SCRIPTED[:-1], "-c", stopped)) as (checks, events):
        await checks.warm()
        assert await ask(checks, "pass") == PASSED
        assert len(events.pids) == 1 and events.pids != [int(mark.read_text())]


async def test_a_start_that_is_given_up_at_once_leaves_no_process() -> None:
    """uvloop kills a process whose creation is cancelled, and its end comes later."""
    async with checking() as (checks, events):
        starting = asyncio.create_task(checks.warm())
        await asyncio.sleep(0)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert not events.pids


async def test_tenants_take_turns() -> None:
    """A tenant with many jobs does not keep another's waiting behind all of them."""
    async with checking() as (checks, _):
        done: list[str] = []

        async def one(tenant: str, number: int) -> None:
            await ask(checks, f"pass {number}", tenant)
            done.append(tenant)

        await asyncio.gather(*(one("many", number) for number in range(20)), one("one", 0))
        assert done.index("one") <= 2


async def test_too_many_of_a_tenant_are_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_WAITING", 3)
    async with checking() as (checks, _):
        answers = await asyncio.gather(*(ask(checks, f"pass {n}") for n in range(5)), return_exceptions=True)
        assert [type(answer) for answer in answers] == [Verdict] * 3 + [BusyError] * 2
        assert await ask(checks, "pass 4") == PASSED


async def test_a_wait_has_an_end() -> None:
    async with checking(max_wait=0.05) as (checks, _):
        with pytest.raises(BusyError):
            await ask(checks, "hang")


async def test_results_are_bounded_and_processes_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REMEMBERED", 2)
    monkeypatch.setattr(module, "JOBS", 2)
    async with checking() as (checks, events):
        for number in (0, 1, 2, 0):
            assert await ask(checks, f"pass {number}") == PASSED
        assert events.results == ["passed"] * 4 and len(events.pids) == 2 and not events.deaths


@pytest.mark.parametrize("arguments", [("/no/such/program",), (sys.executable, "-S", "-c", "")])
async def test_without_a_process_there_is_no_verdict(arguments: Sequence[str]) -> None:
    async with checking(arguments) as (checks, events):
        for _ in range(2):  # it is tried again each time
            with pytest.raises((OSError, DiedError)):
                await ask(checks, "pass")
        assert events.results == ["unavailable"] * 2


async def test_the_process_gets_none_of_our_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUNDHOUSE_API_KEY", "rh_0123456789abcdef")
    async with checking() as (checks, events):
        seen = set((await ask(checks, "environment")).reason.split())
        assert seen == {"PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "LC_ALL"}
        assert os.getsid(events.pids[0]) == events.pids[0]
