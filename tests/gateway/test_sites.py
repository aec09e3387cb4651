"""Host names and web pages that may use a gateway on a loopback address."""

import pytest

from service.config.loopback import is_loopback
from service.config.settings import Settings
from service.config.strict_yaml import ConfigError
from service.errors import ApiError, ErrorCode
from service.gateway.sites import ANY, allowed_hosts, check_site, host_name
from tests.conftest import Start
from tests.support.exchanges import CHAT, MESSAGE, is_refusal
from tests.support.gateways import ONE, Line, answer_of

LOOPBACK = [
    "localhost",
    "LOCALHOST:3000",
    "localhost.",
    "app.localhost:80",
    "127.0.0.1",
    "127.1.2.3:3000",
    "[::1]:3000",
]
ELSEWHERE = [
    "evil.example",
    "localhost.evil.example",
    "notlocalhost",
    "127.0.0.1.evil.example",
    "10.0.0.1",
    "[fd00::1]",
]


def refusal(method: str = "POST", allowed: tuple[str, ...] = (), **headers: str) -> ErrorCode | None:
    """The code with which a request is refused. Underscores in the names of headers stand for hyphens."""
    named = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    try:
        check_site(method, named, frozenset(allowed))
    except ApiError as error:
        return error.code
    return None


@pytest.mark.parametrize("host", LOOPBACK)
def test_loopback_names_are_allowed(host: str) -> None:
    assert refusal(host=host) is None
    assert refusal(host="localhost", origin=f"http://{host}") is None


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE"])
@pytest.mark.parametrize("host", ELSEWHERE)
def test_other_names_are_refused_whatever_the_method(host: str, method: str) -> None:
    assert refusal(method, host=host) is ErrorCode.HOST_NOT_ALLOWED


@pytest.mark.parametrize("origin", [*(f"https://{host}" for host in ELSEWHERE), "null", "", "chrome-extension://abc"])
def test_pages_of_other_sites_are_refused_unless_they_only_read(origin: str) -> None:
    assert refusal(host="localhost", origin=origin) is ErrorCode.CROSS_SITE_REQUEST
    for method in ("GET", "HEAD", "OPTIONS"):
        assert refusal(method, host="localhost", origin=origin) is None


@pytest.mark.parametrize(
    ("site", "code"),
    [("cross-site", ErrorCode.CROSS_SITE_REQUEST), ("same-site", None), ("same-origin", None), ("none", None)],
)
def test_the_browsers_word_counts_where_it_names_no_page(site: str, code: ErrorCode | None) -> None:
    assert refusal(host="localhost", sec_fetch_site=site) is code
    assert refusal(host="localhost", sec_fetch_site=site, origin="http://localhost:8080") is None


def test_allowed_names_are_allowed_as_host_and_as_page() -> None:
    allowed = ("api.example.com", "chat.example.com", "fd00::1")
    assert refusal(allowed=allowed, host="API.example.com:443", origin="https://chat.example.com") is None
    assert refusal(allowed=allowed, host="[fd00::1]:3000") is None
    assert refusal(allowed=allowed, host="example.com") is ErrorCode.HOST_NOT_ALLOWED
    assert refusal(host="api.example.com", allowed=()) is ErrorCode.HOST_NOT_ALLOWED


def test_without_host_there_is_nothing_to_check() -> None:
    assert refusal() is None


@pytest.mark.parametrize(
    ("listen", "names", "allowed"),
    [
        ("127.0.0.1", [], []),
        ("::1", [], []),
        ("localhost", ["a"], ["a"]),
        ("0.0.0.0", [], [ANY]),
        ("10.0.0.1", ["a"], ["a"]),
        ("127.0.0.1", [ANY], [ANY]),
    ],
)
def test_what_is_checked_follows_from_the_address(listen: str, names: list[str], allowed: list[str]) -> None:
    assert allowed_hosts(listen, frozenset(names)) == frozenset(allowed)


@pytest.mark.parametrize(("authority", "name"), [("A.b:1", "a.b"), ("[::1]:3000", "::1"), ("[::1]", "::1")])
def test_the_name_of_an_authority(authority: str, name: str) -> None:
    assert host_name(authority) == name


def test_names_that_are_no_loopback_addresses() -> None:
    assert not any(map(is_loopback, ["", "127", "localhost.com", "0.0.0.0", "2130706433"]))


def test_the_setting_is_a_list_of_names() -> None:
    settings = Settings.from_environ({"ROUNDHOUSE_ALLOWED_HOSTS": " API.example.com, [fd00::1],10.0.0.1,,"})
    assert settings.allowed_host_names == {"api.example.com", "fd00::1", "10.0.0.1"}
    assert Settings().allowed_host_names == frozenset()


@pytest.mark.parametrize("name", ["https://a", "a:80", "a/b", "a b", "[a]"])
def test_a_name_that_is_none_is_a_mistake(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.from_environ({"ROUNDHOUSE_ALLOWED_HOSTS": f"ok.example,{name}"})
    (problem,) = caught.value.problems
    assert problem.startswith("environment: ROUNDHOUSE_ALLOWED_HOSTS: ") and repr(name) in problem


REQUESTS = [
    (("host: evil.example",), "host_not_allowed"),
    (("host: localhost", "origin: https://evil.example"), "cross_site_request"),
    (("host: localhost", "sec-fetch-site: cross-site"), "cross_site_request"),
]


async def answer(line: Line, path: str, body: bytes, *headers: str) -> bytes:
    rows = (f"POST {path} HTTP/1.1", *headers, "content-type: application/json", f"content-length: {len(body)}")
    await line.send("\r\n".join([*rows, "connection: close", "", ""]).encode() + body)
    return await line.rest()


@pytest.mark.parametrize(("headers", "code"), REQUESTS)
async def test_a_gateway_on_a_loopback_address_refuses(headers: tuple[str, ...], code: str, start: Start) -> None:
    gateway = await start(ONE, host="127.0.0.1")
    body = b'{"model":"pebble-chat","max_tokens":1,"messages":[{"role":"user","content":"x"}]}'
    given = answer_of(await answer(await gateway.connect(), CHAT.path, body, *headers))
    assert (given.status, given.json["error"]["code"]) == (403, code)
    given = answer_of(await answer(await gateway.connect(), MESSAGE.path, body, *headers))
    assert (given.status, given.json["error"]["type"]) == (403, "permission_error")
    assert not gateway.seen


@pytest.mark.parametrize(("headers", "_"), REQUESTS)
async def test_a_gateway_elsewhere_serves_them(headers: tuple[str, ...], _: str, start: Start) -> None:
    gateway = await start(ONE, host="0.0.0.0")
    body = b'{"model":"pebble-chat","max_tokens":1,"messages":[{"role":"user","content":"x"}]}'
    assert answer_of(await answer(await gateway.connect(), CHAT.path, body, *headers)).status == 200


async def test_the_host_of_an_absolute_url_counts(start: Start) -> None:
    gateway = await start(ONE, host="127.0.0.1")
    for target, status in (("http://evil.example/v1/models", 403), ("http://localhost/v1/models", 200)):
        line = await gateway.connect()
        await line.send(f"GET {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode())
        assert (await line.answer()).status == status


async def test_an_allowed_name_is_served_on_a_loopback_address(start: Start) -> None:
    gateway = await start(ONE, host="127.0.0.1", allowed_hosts="evil.example")
    response = await gateway.http.post(
        CHAT.path, json=CHAT.body(), headers={"host": "evil.example", "origin": "https://evil.example"}
    )
    assert response.status_code == 200
    response = await gateway.http.post(CHAT.path, json=CHAT.body(), headers={"host": "other.example"})
    assert is_refusal(CHAT, response, 403, "host_not_allowed")
