"""Requests on which servers differ, sent over a socket to a whole gateway: see `http_cases`."""

import asyncio
import re
import socket

import pytest

from tests.conftest import Start
from tests.server.http_cases import Case, cases, document
from tests.support.fleets import ROOT
from tests.support.gateways import ONE
from tests.support.waiting import PATIENCE

CASES = list(cases())
NEXT = b"GET /v1/models/next HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) [A-Z]")


async def exchange(port: int, pieces: tuple[bytes, ...]) -> bytes:
    """All that the gateway sends until it closes the connection, also if it resets it in the end."""
    loop, received = asyncio.get_running_loop(), b""
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.setblocking(False)
        try:
            async with asyncio.timeout(PATIENCE):
                for piece in pieces:
                    await loop.sock_sendall(client, piece)
                    await asyncio.sleep(0)  # the gateway runs in this loop, and reads one piece at a time
                while data := await loop.sock_recv(client, 2**16):
                    received += data
        except ConnectionError:
            pass
    return received


@pytest.mark.parametrize("case", CASES, ids=[f"{case.group}: {case.name}" for case in CASES])
async def test_each_request_gets_one_answer_or_none_is_read_behind_it(case: Case, start: Start) -> None:
    gateway = await start(ONE)
    received = await exchange(gateway.port, (*case.sent, NEXT))
    statuses = [int(status) for status in STATUS.findall(received) if status != b"100"]
    assert statuses == [*case.statuses, *([404] if case.stays_open else [])], received[:1000]
    assert (b"HTTP/1.1 100 Continue\r\n\r\n" in received) == (case.name == "100-continue")
    assert received.count(b"\r\nx-request-id: ") == len(statuses)
    await gateway.settle()
    assert len(gateway.lines) + len(gateway.invalid) == len(statuses)
    assert gateway.sample("roundhouse_invalid_requests_total") == len(gateway.invalid)
    paths = [given.scope["path"] for given in gateway.given]
    assert "/hidden" not in paths
    assert paths.count("/v1/models/next") == case.stays_open


def test_no_two_cases_have_the_same_name() -> None:
    assert len({(case.group, case.name) for case in CASES}) == len(CASES)


def test_the_page_is_up_to_date() -> None:
    assert document() + "\n" == (ROOT / "docs/http.md").read_text(encoding="utf-8"), "run: make docs"
