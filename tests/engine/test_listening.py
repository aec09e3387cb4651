"""Where an engine listens: what vLLM is told, and how this machine reaches it."""

from pathlib import Path

import pytest

from service.engine import listening
from service.engine.listening import ListenOn, Tcp


@pytest.mark.parametrize(
    ("where", "flags", "address"),
    [
        (Path("/run/e0.sock"), {"uds": "/run/e0.sock"}, "/run/e0.sock"),
        (Tcp("0.0.0.0", 8000), {"host": "0.0.0.0", "port": 8000}, "127.0.0.1:8000"),
        (Tcp("::", 8000), {"host": "::", "port": 8000}, "[::1]:8000"),
        (Tcp("10.0.0.5", 81), {"host": "10.0.0.5", "port": 81}, "10.0.0.5:81"),
        (Tcp("fd00::7", 81), {"host": "fd00::7", "port": 81}, "[fd00::7]:81"),
    ],
    ids=str,
)
def test_flags_and_address(where: ListenOn, flags: dict[str, str | int], address: str) -> None:
    assert listening.flags(where) == flags
    assert listening.address(where) == address
