"""Engines that take turns in a memory, with a stand-in for vLLM: one at a time, drained, asleep, killed in between."""

import asyncio
import contextlib
import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from service.engine import demand, making_room, process_files, share_demand, state, supervisor
from service.engine.seats import Held, Seats, held_by_others
from service.engine.share_demand import Want, Wanted
from service.engine.start_times import UNKNOWN, StartTimes
from service.sharing.turns import AWAY
from service.transport.pool import get_request
from tests.engine.test_supervisor import PROGRAM, StartedFleet, StartFleet, ask, running_request, start_fleet
from tests.support import fleets
from tests.support.fleets import ROOT
from tests.support.waiting import until

ALONE = """
import asyncio, sys
from pathlib import Path
from service.config.settings import Settings
from service.engine.supervisor import Supervisor
from tests.support import fleets

async def main(folder, order, program):
    fleet = fleets.read(folder / "fleet.yaml")
    settings = Settings(
        run_dir=folder / "run", engine_program=program, evidence=False, start_times=folder / "times.json"
    )
    served, number = list(fleet.replicas())[order]
    Supervisor(served, number, order, fleet, settings, print).start()
    await asyncio.Event().wait()

asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
"""
__all__ = ["start_fleet"]  # a fixture


def share(models: int, room: int, sleeps: bool = False, **env: Any) -> str:
    """A fleet of so many models of 2 GiB each, in a memory for `room` of them."""
    size = "3.6GiB" if sleeps else f"{2 * room}GiB"  # asleep, one takes 1.53 GiB
    entries = [
        {"model": "pebble-chat", "id": f"m{number}", "share": "one", "memory": "2GiB", "env": env,
         "keep": "warm" if sleeps else "cold"}
        for number in range(models)
    ]  # fmt: skip
    return json.dumps({"shares": {"one": {"memory": size, "turn": 0.5, "gpus": [0] if sleeps else 0}},
                       "models": entries})  # fmt: skip


def want(fleet: StartedFleet, **since: float) -> None:
    """Says as a gateway that requests wait for these models, since so many seconds."""
    now = time.monotonic()
    orders = {int(name[1:]): seconds for name, seconds in since.items()}
    demand.write(fleet.run_dir, os.getpid(), orders)
    wants = {order: Want(1, 0, now - seconds, now) for order, seconds in orders.items()}
    share_demand.write(fleet.run_dir, os.getpid(), wants)


def start(start_fleet: StartFleet, tmp_path: Path, text: str) -> StartedFleet:
    return start_fleet(text, start_times=tmp_path / "start-times.json")


async def test_engines_that_do_not_fit_take_turns(start_fleet: StartFleet, tmp_path: Path) -> None:
    fleet = start(start_fleet, tmp_path, share(3, 1))
    want(fleet, m0=3)
    await fleet.until("ready", 0)
    want(fleet, m0=3, m1=2, m2=1)
    await until(lambda: fleet.conditions()[1] == "starting" or fleet.conditions()[1] == "ready", str(fleet.output))
    assert fleet.conditions()[0] == "scaled_to_zero"
    await fleet.until("ready", 1)
    waiting = fleet.state(2)
    assert (waiting.condition, waiting.phase) == ("scaled_to_zero", "waiting for room in the memory that it shares")
    assert waiting.ready_at
    await fleet.until("ready", 2)
    assert (await ask(fleet, get_request("/health"), 2))[0] == 200
    assert fleet.shown(0)[-1] != "ready"
    said = [line for line in fleet.output if "in share one" in line]
    assert "m0-0  makes room in share one, for m1" in said
    assert any(line.startswith("m2-0  waits for room in share one, after m") for line in said)
    held = Seats(fleet.run_dir, "one", range(3)).read()
    assert [seat.changes for seat in held.values()] == [{"loaded": 1, "stopped": 1}] * 2 + [{"loaded": 1}]
    assert held[2].waited > held[1].waited > 0 == held[0].waited
    assert held[2].waits_since is None
    remembered = json.loads((tmp_path / "start-times.json").read_text())
    ((weights, times),) = next(iter(remembered.values())).items()
    assert weights.endswith("pebble-chat")
    assert 0 < times["load"] < UNKNOWN["load"]


async def test_a_running_answer_ends_before_its_engine_goes(start_fleet: StartFleet, tmp_path: Path) -> None:
    fleet = start(start_fleet, tmp_path, share(2, 1, STAND_IN="patient").replace('"m0"', '"pebble-chat"'))
    want(fleet, m0=2)
    await fleet.until("ready", 0)
    answer = await running_request(fleet)
    want(fleet, m0=2, m1=1)
    draining = await fleet.until("stopping", 0)
    assert draining.drains
    await asyncio.sleep(2 * making_room.POLL)  # several looks
    assert fleet.conditions() == ["stopping", "scaled_to_zero"]
    fleet.unblock()
    assert (await answer)[0] == 200
    await fleet.until("ready", 1)


async def test_a_gateway_with_an_admitted_request_is_waited_for(start_fleet: StartFleet, tmp_path: Path) -> None:
    fleet = start(start_fleet, tmp_path, share(2, 1))
    want(fleet, m0=2)
    await fleet.until("ready", 0)
    now = time.monotonic()
    wants = {0: Want(0, 1, 0.0, now), 1: Want(1, 0, now - 1, now)}
    demand.write(fleet.run_dir, os.getpid(), [0, 1])
    share_demand.write(fleet.run_dir, os.getpid(), wants)
    await fleet.until("stopping", 0)
    await asyncio.sleep(2 * making_room.POLL)  # several looks
    assert fleet.conditions()[0] == "stopping"
    share_demand.write(fleet.run_dir, os.getpid(), wants | {0: Want(0, 0, 0.0, now)})
    await fleet.until("ready", 1)


async def test_a_warm_engine_sleeps_and_wakes(start_fleet: StartFleet, tmp_path: Path) -> None:
    fleet = start(start_fleet, tmp_path, share(2, 1, sleeps=True))
    want(fleet, m0=2)
    first = (await fleet.until("ready", 0)).pid
    want(fleet, m0=2, m1=1)
    await fleet.until("ready", 1)
    assert (fleet.state(0).condition, fleet.state(0).phase) == ("scaled_to_zero", making_room.ASLEEP)
    want(fleet, m0=1)
    again = await fleet.until("ready", 0)
    assert again.pid == first
    assert fleet.shown(0)[-2:] == ["starting, waking up", "ready"]
    assert Seats(fleet.run_dir, "one", [0]).read()[0].changes == {"loaded": 1, "slept": 1, "woken": 1}
    remembered = next(iter(json.loads((tmp_path / "start-times.json").read_text()).values()))
    assert all({"load", "wake"} == {*times} for times in remembered.values())


async def test_64_engines_in_room_for_two(
    start_fleet: StartFleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "PENDING_POLL", 0.5)  # 64 supervisors in one process, each with all the others
    fleet = start(start_fleet, tmp_path, share(64, 2))
    asked = [0, 9, 63, 31]
    want(fleet, **{f"m{order}": 10.0 - place for place, order in enumerate(asked)})
    seats = Seats(fleet.run_dir, "one", range(64))

    def all_had_a_turn() -> bool:
        held = seats.read()
        assert sum(seat.place not in AWAY for seat in held.values()) <= 2
        return all(held[order].changes.get("loaded") for order in asked)

    await until(all_had_a_turn, f"a turn of each (output: {fleet.output[-20:]})")


@pytest.mark.slow
async def test_what_is_killed_in_the_middle_of_a_swap_leaves_nothing_stuck(
    start_fleet: StartFleet, tmp_path: Path
) -> None:
    fleet = start(start_fleet, tmp_path, share(2, 1, STAND_IN="mute"))
    fleet.unblock()
    want(fleet, m0=2)
    await fleet.until("ready", 0)
    fleet.block()
    want(fleet, m0=2, m1=1)
    await until(lambda: fleet.state(1).phase == "waiting for its first token", str(fleet.output))
    for process in fleet.processes():  # the engine that comes in, and its keeper, with which it ends
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    await until(lambda: fleet.state(1).restarts == 1, str(fleet.output))
    fleet.unblock()
    await until(lambda: "ready" in fleet.conditions(), str(fleet.output))


@pytest.mark.slow
async def test_a_supervisor_that_is_killed_makes_room_once_its_engine_has_gone(tmp_path: Path) -> None:
    """Two supervisors in processes of their own, as BentoML has them; the first is killed while its engine loads."""
    (tmp_path / "run").mkdir()
    shared = json.loads(share(2, 1))
    shared["models"][0]["env"] = {"VLLM_LOAD_SECONDS": 600}
    fleets.write(tmp_path, json.dumps(shared))
    now = time.monotonic()
    demand.write(tmp_path / "run", os.getpid(), [0, 1])
    share_demand.write(tmp_path / "run", os.getpid(), {order: Want(1, 0, now + order, now) for order in (0, 1)})

    def conditions() -> list[str]:
        found = [state.read(tmp_path / "run", order) for order in (0, 1)]
        return [one.condition if one else "" for one in found]

    def engines() -> list[str]:
        rows = [one.info["cmdline"] or [] for one in psutil.process_iter(["cmdline"])]
        return [row[row.index("--uds") + 1] for row in rows if "tests.support.stand_in" in row and "--uds" in row
                and row[row.index("--uds") + 1].startswith(str(tmp_path))]  # fmt: skip

    async def supervisor_of(order: int) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-c", ALONE, str(tmp_path), str(order), PROGRAM, cwd=ROOT
        )

    alone = [await supervisor_of(0)]
    try:
        await until(lambda: conditions() == ["starting", ""] and bool(engines()), "the first to load")
        alone.append(await supervisor_of(1))
        await until(lambda: conditions() == ["starting", "scaled_to_zero"], "the second to wait")
        alone[0].kill()

        def next_one_is_ready() -> bool:
            assert len(set(engines())) <= 1
            return conditions()[1] == "ready"

        await until(next_one_is_ready, "the second in its place")
    finally:
        for one in alone:
            with contextlib.suppress(ProcessLookupError):
                one.kill()
            await one.wait()
    await until(lambda: not engines(), "the end of all engines")


async def test_memory_is_free_once_the_last_process_that_had_it_has_gone(tmp_path: Path) -> None:
    """A supervisor that is killed leaves its seat to whoever looks next; its keeper may still be ending the engine."""
    seats = Seats(tmp_path, "one", [0, 1])
    left = await asyncio.create_subprocess_exec("sleep", "600", start_new_session=True)
    dead = await asyncio.create_subprocess_exec("true")
    await dead.wait()
    with seats.locked(1.0) as found:
        assert found
        found[0] = Held("in", owner=(dead.pid, 1), session=(left.pid, process_files.start_time(left.pid)))
    sizes = {0: (5, 0), 1: (5, 0)}
    with seats.locked(2.0) as found:
        assert found and found[0].place == "going"
        assert held_by_others(found, sizes, 1) == 5
    left.kill()
    await left.wait()
    with seats.locked(3.0) as found:
        assert found and (found[0].place, found[0].left_at) == ("out", 3.0)
        assert held_by_others(found, sizes, 1) == 0


async def test_a_seat_is_taken_from_the_claim_to_the_end_of_whoever_got_its_lock(tmp_path: Path) -> None:
    """The supervisor is killed when it has asked for its engine, of which there is no process yet."""
    seats = Seats(tmp_path, "one", [0, 1])
    supervisor = await asyncio.create_subprocess_exec("true")
    await supervisor.wait()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        with seats.locked(1.0) as found:
            assert found
            lock = seats.take(0)
            assert lock is not None
            found[0] = Held("coming", owner=(supervisor.pid, 1))
            socket.send_fds(ours, [b"fork an engine"], [lock])
            os.close(lock)
        with seats.locked(2.0) as found:
            assert found and found[0].place == "going"
            assert seats.take(0) is None  # nor can another engine of the model take it
            other = seats.take(1)
            assert other is not None
            os.close(other)
        _, (lock,), _, _ = socket.recv_fds(theirs, 100, 1)
    engine = await asyncio.create_subprocess_exec("sleep", "600", pass_fds=[lock])
    os.close(lock)
    with seats.locked(3.0) as found:
        assert found and found[0].place == "going"
    engine.kill()
    await engine.wait()
    with seats.locked(4.0) as found:
        assert found and (found[0].place, found[0].left_at) == ("out", 4.0)


def test_one_process_at_a_time_decides(tmp_path: Path) -> None:
    seats = Seats(tmp_path, "one", [0])
    with seats.locked(1.0) as found:
        assert found
        found[0].place, found[0].owner = "coming", (os.getpid(), process_files.start_time(os.getpid()))
        with seats.locked(1.0) as others:
            assert others is None
    (tmp_path / "share-one.json").write_text("[")
    with seats.locked(1.0) as found:
        assert found == {0: Held()}


def test_the_gateways_are_added_up(tmp_path: Path) -> None:
    share_demand.write(tmp_path, os.getpid(), {0: Want(2, 1, 5.0, 9.0), 1: Want(0, 0, 0.0, 99.0)})
    share_demand.write(tmp_path, os.getppid(), {0: Want(1, 0, 4.0, 8.0)})
    assert share_demand.read(tmp_path, 10.0) == {0: Wanted(3, 1, 4.0, 9.0), 1: Wanted(0, 0, None, 10.0)}
    (tmp_path / f"w{os.getpid()}.json").write_text("{}")
    process_files.write(tmp_path, "w", os.getppid(), {"x": "y"})
    assert share_demand.read(tmp_path, 10.0) == {}


@pytest.mark.parametrize("content", [None, "[]", '{"m": 3}', '{"m": {"w": {"load": "x"}}}'])
def test_start_times_are_remembered_by_machine_and_weights(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "cache" / "times.json"
    if content:
        file.parent.mkdir()
        file.write_text(content)
    times = StartTimes(file, "/weights/a")
    assert times.seconds("load") == UNKNOWN["load"]
    times.measured("load", 20.0)
    times.measured("load", 30.0)
    assert times.seconds("load") == 25.0
    assert StartTimes(file, "/weights/a").seconds("load") == 25.0
    assert StartTimes(file, "/weights/b").seconds("load") == UNKNOWN["load"]
