"""Discovery of external engines by name, with a name server that changes its answers or fails."""

import asyncio
import socket
from collections.abc import Iterable

import pytest

from service.upstreams import discovery
from service.upstreams.discovery import Discovery, is_name, look_up
from tests.support.waiting import PATIENCE

NAME = "llama.models.svc:8000"
TEMPORARY_FAILURE = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
NONAME = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
NODATA = socket.gaierror(socket.EAI_NODATA, "No address associated with hostname")


class NameServer:
    """A name server with a scripted `answer`; None never answers. `asked` holds the lookups."""

    def __init__(self, *addresses: str) -> None:
        self.answer: list[str] | Exception | None = list(addresses)
        self.asked: list[tuple[str, int]] = []

    async def __call__(self, host: str, port: int) -> Iterable[str]:
        self.asked.append((host, port))
        if self.answer is None:
            await asyncio.Event().wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer or ()


@pytest.mark.parametrize("address", ["/run/e.sock", "10.1.2.3:80", "[::1]:8000", "[fe80::1]:1"])
async def test_addresses_are_not_looked_up(address: str) -> None:
    server = NameServer()
    assert not is_name(address)
    assert await Discovery(server).find([address]) == [address]
    assert server.asked == []


async def test_a_name_is_replaced_by_all_of_its_addresses() -> None:
    server = NameServer("10.0.0.2", "10.0.0.1", "2001:db8::7", "10.0.0.2")
    found = await Discovery(server).find([NAME, "10.0.0.9:1"])
    assert found == ["10.0.0.1:8000", "10.0.0.2:8000", "[2001:db8::7]:8000", "10.0.0.9:1"]
    assert server.asked == [("llama.models.svc", 8000)]


async def test_a_duplicate_address_counts_once() -> None:
    assert await Discovery(NameServer("10.0.0.1")).find([NAME, "10.0.0.1:8000"]) == ["10.0.0.1:8000"]


async def test_changed_addresses_are_found() -> None:
    server = NameServer("10.0.0.1", "10.0.0.2")
    finder = Discovery(server)
    await finder.find([NAME])
    server.answer = ["10.0.0.2", "10.0.0.3"]
    assert await finder.find([NAME]) == ["10.0.0.2:8000", "10.0.0.3:8000"]


@pytest.mark.parametrize(
    "failure",
    [TEMPORARY_FAILURE, OSError(5, "broken"), UnicodeError("label too long"), ValueError("embedded null byte"), None],
    ids=str,
)
async def test_a_failed_lookup_keeps_the_known_addresses(
    failure: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "LOOKUP_TIMEOUT", 0.01)
    server = NameServer("10.0.0.1")
    finder = Discovery(server)
    await finder.find([NAME])
    server.answer = failure
    for _ in range(3):
        assert await finder.find([NAME]) == ["10.0.0.1:8000"]
        assert finder.error and finder.error.startswith("llama.models.svc: ")
    server.answer = ["10.0.0.5"]
    assert await finder.find([NAME]) == ["10.0.0.5:8000"]
    assert finder.error is None


@pytest.mark.parametrize("answer", [NONAME, NODATA, []], ids=str)
async def test_only_a_second_empty_answer_removes_the_addresses(answer: list[str] | Exception) -> None:
    server = NameServer("10.0.0.1")
    finder = Discovery(server)
    await finder.find([NAME])
    server.answer = answer
    seen = [await finder.find([NAME]) for _ in range(3)]
    assert seen == [["10.0.0.1:8000"], [], []]
    assert finder.error == "llama.models.svc: the name has no address"
    server.answer = ["10.0.0.1"]
    assert await finder.find([NAME]) == ["10.0.0.1:8000"]
    server.answer = answer
    assert await finder.find([NAME]) == ["10.0.0.1:8000"], "an address in between starts the count anew"


async def test_a_silent_name_holds_up_no_other_and_each_that_failed_is_named() -> None:
    asked: list[str] = []
    everyone_asked = asyncio.Event()

    async def look_up_together(host: str, port: int) -> Iterable[str]:
        """Answers nobody before all have asked."""
        asked.append(host)
        if len(asked) == 3:
            everyone_asked.set()
        await everyone_asked.wait()
        if host == "good":
            return ["10.0.0.1"]
        raise OSError(5, f"{host} is broken")

    finder = Discovery(look_up_together)
    async with asyncio.timeout(PATIENCE):
        assert await finder.find(["bad:1", "good:2", "worse:3", "10.0.0.9:4"]) == ["10.0.0.1:2", "10.0.0.9:4"]
    assert finder.error == (
        "bad: name lookup failed: [Errno 5] bad is broken; worse: name lookup failed: [Errno 5] worse is broken"
    )


async def test_look_up_uses_the_systems_resolver() -> None:
    assert "127.0.0.1" in await look_up("localhost", 80)
