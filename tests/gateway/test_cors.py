"""Pages of other sites in a browser: which may use the gateway, and what the others learn, which is nothing."""

from collections.abc import Callable

import httpx
import pytest

from service.auth.keys import FIRST, digest
from service.fleet.cors import Cors
from service.gateway.cors import CorsMiddleware, cors_headers
from service.server.asgi import Message, Receive, Scope, Send, respond
from tests.conftest import Start
from tests.support import fleets
from tests.support.exchanges import CHAT
from tests.support.gateways import ONE, answer_of

PAGE, OTHER = "https://chat.example", "https://evil.example"
SECRET = "rh_the-first-key-0123456789"
KEYS = {digest(SECRET.encode()): FIRST}
ALLOWING = f"{ONE}\ncors: {{origins: ['{PAGE}']}}"
EVERYONE = f"{ONE}\ncors: {{origins: ['*']}}"
AUTHORIZED = {"authorization": f"Bearer {SECRET}"}
CORS_HEADERS = "access-control-allow-origin", "access-control-expose-headers", "access-control-allow-credentials"


def preflight(origin: str = PAGE) -> dict[str, str]:
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,x-stainless-os"}
    return {"origin": origin, **asked}


def shown(response: httpx.Response) -> tuple[str | None, ...]:
    """What a response says of pages: who may read it, which headers, and whether with credentials."""
    return tuple(response.headers.get(name) for name in CORS_HEADERS)


async def test_a_preflight_of_an_allowed_page_needs_no_key_and_shows_no_routes(start: Start) -> None:
    gateway = await start(ALLOWING, keys=KEYS)
    answers = [await gateway.http.options(path, headers=preflight()) for path in (CHAT.path, "/metrics", "/nope")]
    for answer in answers:
        assert (answer.status_code, answer.content) == (200, b"")
        assert shown(answer) == (PAGE, "*", None)
        assert answer.headers["vary"] == "Origin"
        # The wildcard does not stand for Authorization.
        assert answer.headers["access-control-allow-headers"] == "Authorization, *"
        assert "POST" in answer.headers["access-control-allow-methods"]
    different = {"date", "x-request-id"}
    fields = [{name: value for name, value in one.headers.items() if name not in different} for one in answers]
    assert fields[0] == fields[1] == fields[2]
    assert not gateway.seen


async def test_others_get_the_401_that_everyone_gets(start: Start) -> None:
    gateway = await start(ALLOWING, keys=KEYS)
    plain = dict(preflight())
    del plain["access-control-request-method"]
    for headers in (preflight(OTHER), preflight("null"), preflight(PAGE + ":8080"), preflight(PAGE.upper()), plain, {}):
        answer = await gateway.http.options(CHAT.path, headers=headers)
        assert answer.status_code == 401
        assert shown(answer) == ((PAGE, "*", None) if headers is plain else (None, None, None)), headers
        assert answer.headers["vary"] == "Origin"


@pytest.mark.parametrize("fleet", [ALLOWING, EVERYONE], ids=["named", "all"])
async def test_answers_and_errors_can_be_read_by_the_page(fleet: str, start: Start) -> None:
    gateway = await start(fleet, keys=KEYS)
    expected = (PAGE if fleet is ALLOWING else "*", "*", None)
    page, key = {"origin": PAGE}, AUTHORIZED
    for headers, body, status in (
        ({**page, **key}, CHAT.body(), 200),
        ({**page, **key}, CHAT.body(stream=True), 200),
        ({**page, **key}, {"model": "nope"}, 400),
        (page, CHAT.body(), 401),
    ):
        answer = await gateway.http.post(CHAT.path, json=body, headers=headers)
        assert (answer.status_code, shown(answer)) == (status, expected)
        assert answer.headers.get("vary") == ("Origin" if fleet is ALLOWING else None)
    answer = await gateway.http.post(CHAT.path, json=CHAT.body(), headers={**key, "origin": OTHER})
    assert shown(answer) == ((None, None, None) if fleet is ALLOWING else expected)


async def test_it_is_off_by_default_and_reloaded(start: Start) -> None:
    gateway = await start(ONE, keys=KEYS)

    async def ask() -> tuple[int, str | None, str | None]:
        answer = await gateway.http.options(CHAT.path, headers=preflight())
        return answer.status_code, shown(answer)[0], answer.headers.get("vary")

    assert await ask() == (401, None, None)
    folder = gateway.run_dir.parent
    gateway.gateway.apply(fleets.load(folder, ALLOWING))
    assert await ask() == (200, PAGE, "Origin")
    gateway.gateway.apply(fleets.load(folder, ONE))
    assert await ask() == (401, None, None)


async def test_an_allowed_page_may_use_a_gateway_on_a_loopback_address(start: Start) -> None:
    gateway = await start(ALLOWING, host="127.0.0.1")
    for origin, name, status in ((PAGE, "localhost", 200), (OTHER, "localhost", 403), (PAGE, "evil.example", 403)):
        headers = {"host": name, "origin": origin, "sec-fetch-site": "cross-site"}
        answer = await gateway.http.post(CHAT.path, json=CHAT.body(), headers=headers)
        assert (answer.status_code, shown(answer)[0]) == (status, PAGE if origin == PAGE else None)


async def test_an_origin_cannot_bring_headers_of_its_own(start: Start) -> None:
    gateway = await start(ALLOWING)
    line = await gateway.connect()
    await line.send(
        f"OPTIONS / HTTP/1.1\r\nhost: a\r\norigin: {PAGE}\r\norigin: {OTHER}\r\n"
        "access-control-request-method: GET\r\nconnection: close\r\n\r\n".encode()
    )
    answer = answer_of(await line.rest())
    assert (answer.status, "access-control-allow-origin" in answer.headers) == (400, False)


async def test_with_another_server_the_headers_are_in_the_message() -> None:
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, 401, b"")

    async def send(message: Message) -> None:
        sent.append(message)

    receive: Callable[[], object] = dict
    scope = {"type": "http", "method": "GET", "headers": [(b"origin", PAGE.encode())]}
    await CorsMiddleware(app, Cors(origins=(PAGE,)))(scope, receive, send)  # type: ignore[arg-type]
    assert (b"access-control-allow-origin", PAGE.encode()) in sent[0]["headers"]


def test_without_a_page_there_is_nothing_but_vary() -> None:
    assert cors_headers(frozenset({PAGE.encode()}), None) == ((b"vary", b"Origin"),)
