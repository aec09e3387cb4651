"""At which addresses the engines of a model are, whatever becomes of the name server."""

import asyncio
import socket
from collections.abc import Iterable

import pytest

from service.upstreams import discovery
from service.upstreams.discovery import Discovery, is_name, look_up

NAME = "llama.models.svc:8000"
AGAIN = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
NONAME = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
NODATA = socket.gaierror(socket.EAI_NODATA, "No address associated with hostname")


class Names:
    """A name server that says what it is told to say."""

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
async def test_what_is_an_address_already_is_not_asked_for(address: str) -> None:
    names = Names()
    assert not is_name(address)
    assert await Discovery(names).find([address]) == [address]
    assert names.asked == []


async def test_a_name_stands_for_all_of_its_addresses() -> None:
    names = Names("10.0.0.2", "10.0.0.1", "2001:db8::7", "10.0.0.2")
    found = await Discovery(names).find([NAME, "10.0.0.9:1"])
    assert found == ["10.0.0.1:8000", "10.0.0.2:8000", "[2001:db8::7]:8000", "10.0.0.9:1"]
    assert names.asked == [("llama.models.svc", 8000)]


async def test_an_address_that_is_named_twice_counts_once() -> None:
    assert await Discovery(Names("10.0.0.1")).find([NAME, "10.0.0.1:8000"]) == ["10.0.0.1:8000"]


async def test_addresses_change() -> None:
    names = Names("10.0.0.1", "10.0.0.2")
    one = Discovery(names)
    await one.find([NAME])
    names.answer = ["10.0.0.2", "10.0.0.3"]
    assert await one.find([NAME]) == ["10.0.0.2:8000", "10.0.0.3:8000"]


@pytest.mark.parametrize("failure", [AGAIN, OSError(5, "broken"), UnicodeError("label too long"), None], ids=str)
async def test_a_name_server_that_fails_changes_nothing(
    failure: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "PATIENCE", 0.01)
    names = Names("10.0.0.1")
    one = Discovery(names)
    await one.find([NAME])
    names.answer = failure
    for _ in range(3):
        assert await one.find([NAME]) == ["10.0.0.1:8000"]
        assert one.trouble and one.trouble.startswith("llama.models.svc: ")
    names.answer = ["10.0.0.5"]
    assert await one.find([NAME]) == ["10.0.0.5:8000"]
    assert one.trouble is None


@pytest.mark.parametrize("answer", [NONAME, NODATA, []], ids=str)
async def test_a_name_without_addresses_is_believed_the_second_time(answer: list[str] | Exception) -> None:
    names = Names("10.0.0.1")
    one = Discovery(names)
    await one.find([NAME])
    names.answer = answer
    seen = [await one.find([NAME]) for _ in range(3)]
    assert seen == [["10.0.0.1:8000"], [], []]
    assert one.trouble == "llama.models.svc: it has no address"
    names.answer = ["10.0.0.1"]
    assert await one.find([NAME]) == ["10.0.0.1:8000"]
    names.answer = answer
    assert await one.find([NAME]) == ["10.0.0.1:8000"], "one that had come back is doubted anew"


async def test_the_system_is_asked() -> None:
    assert "127.0.0.1" in await look_up("localhost", 80)
