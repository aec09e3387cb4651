"""Files that several processes append lines to: bounded, private, and whole lines whatever happens."""

import logging
import os
import threading
from pathlib import Path

import pytest

from service.config.strict_yaml import ConfigError
from service.observability.rotating_file import FileLogWriter, RotatingFile, check_private
from tests.support.each import each

LINE = b"x" * 99 + b"\n"


def lines_of(folder: Path) -> dict[str, int]:
    """How many whole lines each file has."""
    counts = {}
    for path in folder.iterdir():
        data = path.read_bytes()
        assert data.endswith(b"\n") and set(data.splitlines()) == {LINE[:-1]}
        counts[path.name] = data.count(b"\n")
    return counts


def test_it_rotates_by_size_and_keeps_so_many_files(tmp_path: Path) -> None:
    file = RotatingFile(tmp_path / "audit", 300, 3)
    for _ in range(20):
        file.append(LINE)
    assert lines_of(tmp_path) == {"audit": 2, "audit.1": 3, "audit.2": 3}
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in tmp_path.iterdir())


def test_one_file_begins_anew(tmp_path: Path) -> None:
    file = RotatingFile(tmp_path / "audit", 300, 1)
    for _ in range(4):
        file.append(LINE)
    assert lines_of(tmp_path) == {"audit": 1}


def test_writers_beside_one_another_lose_no_line_and_break_none(tmp_path: Path) -> None:
    def append() -> None:
        file = RotatingFile(tmp_path / "audit", 2_000, 100)  # a descriptor of its own, like another process
        for _ in range(200):
            file.append(LINE)

    threads = [threading.Thread(target=append) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(lines_of(tmp_path).values()) == 800


def test_a_file_that_was_moved_away_is_made_again(tmp_path: Path) -> None:
    file = RotatingFile(tmp_path / "audit", 10_000, 2)
    file.append(LINE)
    (tmp_path / "audit").rename(tmp_path / "elsewhere")
    file.append(LINE)
    assert lines_of(tmp_path) == {"audit": 1, "elsewhere": 1}


def test_a_full_disk_costs_lines_is_counted_and_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What fits of a line is taken back, so that the next one that is written is whole."""
    write, room = os.write, [150]
    dropped: list[int] = []

    def writing(descriptor: int, data: memoryview) -> int:
        if not room[0]:
            raise OSError(28, "No space left on device")
        room[0] -= (count := min(room[0], len(data)))
        return write(descriptor, data[:count])

    caplog.set_level(logging.WARNING)
    writer = FileLogWriter(RotatingFile(tmp_path / "audit", 10_000, 2), "audit", dropped.append)
    monkeypatch.setattr(os, "write", writing)
    for _ in range(3):
        writer.write(LINE[:-1].decode())
        writer.close()
    assert dropped == [1, 1]
    room[0] = 1000
    writer.write(LINE[:-1].decode())
    writer.close()
    monkeypatch.undo()
    assert lines_of(tmp_path) == {"audit": 2}
    assert [record.message for record in caplog.records] == [
        "the audit log cannot be written, its lines are lost: No space left on device",
        "the audit log is written again",
    ]


@each(("made", "problem"), [("readable", "chmod 600"), ("folder", "Is a directory"), ("nowhere", "No such file")])
def test_a_file_that_others_can_read_or_that_cannot_be_is_refused(made: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / made
    if made == "readable":
        path.touch(0o644)
        path.chmod(0o644)
    elif made == "folder":
        path.mkdir()
    else:
        path = tmp_path / "no/such/folder"
    with pytest.raises(ConfigError) as caught:
        check_private(path, "ROUNDHOUSE_AUDIT_LOG")
    assert str(caught.value).startswith("environment: ROUNDHOUSE_AUDIT_LOG: ") and problem in str(caught.value)


def test_a_new_file_is_the_owner_s_alone(tmp_path: Path) -> None:
    check_private(tmp_path / "audit", "X")
    check_private(tmp_path / "audit", "X")
    assert (tmp_path / "audit").stat().st_mode & 0o777 == 0o600
