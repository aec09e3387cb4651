"""Log lines are written in order by a thread of their own; a reader that stalls costs lines, and nothing else."""

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.observability import log_writer
from service.observability.log_writer import LogWriter
from tests.support.waiting import PATIENCE, until


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """The reading and the writing end of a pipe."""
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def read_all(descriptor: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += os.read(descriptor, 2**16)
    return data


def fill(descriptor: int) -> int:
    """Fills a pipe that nobody reads, and returns how many bytes it took."""
    os.set_blocking(descriptor, False)
    size = 0
    try:
        while True:
            size += os.write(descriptor, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(descriptor, True)
    return size


def test_all_lines_are_written_in_order_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as file:
        writer = LogWriter(file.fileno())
        for number in range(5000):
            writer.write(f"line {number}")
        writer.close()
        written = path.read_text().splitlines()
        assert written == [f"line {number}" for number in range(5000)]
        writer.write("one more")
        writer.close()
        writer.close()
    assert path.read_text().splitlines() == [*written, "one more"]


async def test_a_reader_that_stalls_stops_no_event_loop(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_writer, "MAX_QUEUED_LINES", 50)
    reader, descriptor = pipe
    dropped: list[int] = []
    filled = fill(descriptor)
    writer = LogWriter(descriptor, dropped.append)
    writer.write("first")
    await until(lambda: not writer._queued, "the first line to be in the stalled write")
    for number in range(60):
        writer.write(str(number))
    assert sum(dropped) == 10
    expected = b"first\n" + b"".join(b"%d\n" % number for number in range(50))
    assert read_all(reader, filled + len(expected))[filled:] == expected, "what was not dropped comes in order"
    writer.close()


async def test_it_ends_though_nobody_reads(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_writer, "CLOSE_TIMEOUT", 0.05)
    reader, descriptor = pipe
    filled = fill(descriptor)
    writer = LogWriter(descriptor)
    writer.write("a")
    async with asyncio.timeout(PATIENCE):
        await asyncio.to_thread(writer.close)
    assert read_all(reader, filled + 2).endswith(b"a\n")
    assert writer._worker
    writer._worker.join(PATIENCE)


def test_a_pipe_that_does_not_block_loses_nothing(pipe: tuple[int, int]) -> None:
    reader, descriptor = pipe
    filled = fill(descriptor)
    os.set_blocking(descriptor, False)
    writer = LogWriter(descriptor)
    writer.write("a")
    closing = threading.Thread(target=writer.close)
    closing.start()
    assert read_all(reader, filled + 2).endswith(b"a\n")
    closing.join(PATIENCE)


@pytest.mark.parametrize("closed", ["file", "reader"])
def test_what_cannot_be_written_is_counted(closed: str) -> None:
    reader, descriptor = os.pipe()
    os.close(reader)
    if closed == "file":
        os.close(descriptor)
    dropped: list[int] = []
    writer = LogWriter(descriptor, dropped.append)
    writer.write("a")
    writer.write("b \udc80")
    writer.close()
    assert sum(dropped) == 2
    if closed != "file":
        os.close(descriptor)


def test_lines_of_many_threads_are_all_written(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as file:
        writer = LogWriter(file.fileno())

        def write(number: int) -> None:
            for _ in range(200):
                writer.write(str(number))

        threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        writer.close()
    lines = (tmp_path / "log").read_text().split()
    assert sorted(lines) == sorted(str(number) for number in range(8) for _ in range(200))
