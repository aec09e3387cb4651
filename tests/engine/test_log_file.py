"""The log file of an engine: bounded, and no reason to fail."""

from pathlib import Path
from typing import IO, Any

import pytest

from service.engine import log_file
from service.engine.log_file import LogFile


def test_lines_are_appended_and_can_be_read_at_once(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("earlier\n")
    log = LogFile(path)
    log.write("a 模型 \udc80")
    assert path.read_text() == "earlier\na 模型 \\udc80\n"
    log.close()
    log.write("b")
    log.close()
    log.close()
    assert path.read_text().endswith("\nb\n")


def test_it_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, opened, real = LogFile(tmp_path / "log"), list[Path](), Path.open

    def noted(path: Path, *arguments: Any, **options: Any) -> IO[Any]:
        opened.append(path)
        file: IO[Any] = real(path, *arguments, **options)
        return file

    monkeypatch.setattr(Path, "open", noted)
    for _ in range(5):
        log.write("line")
    log.close()
    assert len(opened) == 1


def test_its_size_is_bounded_and_the_last_lines_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_file, "MAX_BYTES", 1000)
    log = LogFile(tmp_path / "log")
    for number in range(1000):
        log.write(f"line {number:04d}")
    log.close()
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] in (["log", "log.1"], ["log.1"])
    assert sum(file.stat().st_size for file in files) <= 2 * 1000 + 10
    kept = "".join(file.read_text() for file in reversed(files)).splitlines()
    assert kept == [f"line {number:04d}" for number in range(1000 - len(kept), 1000)]
    assert len(kept) >= 100


def test_a_file_that_cannot_be_written_is_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.mkdir()
    log = LogFile(path)
    log.write("lost")
    path.rmdir()
    log.write("kept")
    log.close()
    assert path.read_text() == "kept\n"
    full = LogFile(Path("/dev/full"))
    full.write("lost")
    full.close()
