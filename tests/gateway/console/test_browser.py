"""The console as a user sees it: clicked through in Chromium, on a real gateway with fake engines."""

import asyncio
import os
import re
import subprocess
import sys
from base64 import b64encode, urlsafe_b64encode
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import pytest_asyncio
from click.testing import CliRunner

from service.auth.keys import FIRST, Key, Keys, digest
from service.cli.__main__ import main
from service.gateway.console.client_settings import CLIENTS
from tests.fake_engine import Fault
from tests.support import browser as browsers
from tests.support.browser import Tab
from tests.support.gateways import HOUSE, RunningGateway, running
from tests.support.issuers import mock_provider
from tests.support.waiting import PATIENCE, until

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]

SECRET, ACME = "rh_the-first-key-0123456789", "rh_of-acme-0123456789"
KEYS: Keys = {digest(SECRET.encode()): FIRST, digest(ACME.encode()): Key("acme-1", "acme")}
FLEET = (
    HOUSE.replace("model: pebble-instruct", "{model: pebble-instruct, max_in_flight: 1}") + "\ntenants: {acme: {}}\n"
)
BODY = {"model": "pebble-instruct", "messages": [{"role": "user", "content": "Hi"}]}
REFUSED = "Failed to load resource"  # what Chromium says of every 4xx


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def browser() -> AsyncIterator["Browser"]:
    async with browsers.chromium() as one:
        yield one


@asynccontextmanager
async def opened(
    browser: "Browser",
    folder: Path,
    *expected: str,
    keys: Keys | None = None,
    at: str = "/",
    text: str = FLEET,
    **options: Any,
) -> AsyncIterator[tuple[RunningGateway, Tab, "Page"]]:
    """A gateway, and a tab that has been sent to its console."""
    async with running(folder, text, keys=keys) as gateway:
        origin = f"http://127.0.0.1:{gateway.port}"
        async with browsers.tab(browser, origin, *expected, **options) as tab:
            await tab.page.goto(origin + at)
            yield gateway, tab, tab.page


async def text_of(page: "Page", selector: str) -> str:
    return await page.locator(selector).inner_text()


async def shows(page: "Page", selector: str, text: str) -> None:
    """Waits until an element has the text."""
    await page.locator(selector).filter(has_text=text).first.wait_for()


async def test_it_asks_for_the_key_and_keeps_it_in_the_tab(browser: "Browser", tmp_path: Path) -> None:
    async with opened(browser, tmp_path, REFUSED, keys=KEYS) as (gateway, tab, page):
        assert page.url.endswith(f":{gateway.port}/console")
        await page.locator("#key").wait_for()
        assert await page.evaluate("document.activeElement.id") == "key"
        assert not await page.locator("#fleet").is_visible()
        for wrong, said in (("rh_wrong-0123456789", "not valid"), ("nö", "printable ASCII")):
            await page.keyboard.type(wrong)
            await page.keyboard.press("Enter")
            await shows(page, "#key-problem", said)
        await page.keyboard.type(SECRET)
        await page.keyboard.press("Enter")
        await shows(page, "#models h2", "pebble-code")
        assert "key first · tenant default · sees all tenants" in await text_of(page, "#who")
        assert SECRET not in page.url and SECRET not in await page.content()
        assert not await tab.context.cookies()
        assert await page.evaluate("[localStorage.length, sessionStorage.length]") == [0, 1]
        assert not [url for url in tab.asked if SECRET in url]
        await page.reload()
        await shows(page, "#models h2", "pebble-code")
        # A key that is taken away: the page says so, and nothing of what it showed is left.
        gateway.gateway.use_keys({})
        await shows(page, "#key-problem", "not valid")
        assert "pebble" not in await page.content()
        gateway.gateway.use_keys(KEYS)
        await page.keyboard.type(ACME)
        await page.keyboard.press("Enter")
        await shows(page, "#fleet-note", "not for metrics")
        assert await page.locator(".charts:visible").count() == 0
        await page.locator("#leave").click()
        assert await page.evaluate("sessionStorage.length") == 0
        assert "pebble" not in await page.content()


async def test_adapters_show_with_their_model_and_why_one_failed(browser: "Browser", tmp_path: Path) -> None:
    text = FLEET.replace("max_in_flight: 1}", "max_in_flight: 1, adapters: [{id: tone, path: ./tone}]}")
    async with opened(browser, tmp_path, text=text) as (gateway, _, page):
        await shows(page, "#model-pebble-instruct", "adapter tone: ready")
        gateway.show(1, "ready", adapters={"tone": "the engine refused it: it is broken"})
        await shows(page, "#model-pebble-instruct", "adapter tone: failed, the engine refused it: it is broken")
        await shows(page, "#model-pebble-instruct .state", "ready")


async def test_states_waiting_requests_and_errors_show_by_themselves(browser: "Browser", tmp_path: Path) -> None:
    async with opened(browser, tmp_path) as (gateway, tab, page):
        await shows(page, "#model-pebble-instruct .state", "ready")
        gateway.show(1, "starting", "loading weights")
        await shows(page, "#model-pebble-instruct .replicas", "loading weights")
        progress = page.locator("#model-pebble-instruct progress")
        assert await progress.evaluate("node => [node.value, node.max]") == [5, 9]
        await shows(page, "#announcer", "pebble-instruct is starting")
        gateway.show(1, "failed", reason="out of memory")
        await shows(page, "#model-pebble-instruct", "out of memory")
        gateway.show(1, "ready")
        gateway.engines[1].script(Fault(delay=PATIENCE))
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(gateway.post("/v1/chat/completions", BODY)) for _ in range(2)]
            await shows(page, "#waiting", "its ready replicas run 1 of the 1 sequences that they take at once")
            for one in asked:
                one.cancel()
        await page.locator("#waiting-none").wait_for()
        failed = await gateway.post("/v1/chat/completions", {**BODY, "model": "nope"})
        await shows(page, "#errors", failed.headers["x-request-id"])
        assert "model_not_found" in await text_of(page, "#errors")
        await page.locator(
            '#model-pebble-instruct svg[aria-label^="Requests, last five minutes: now running 0"]'
        ).wait_for()
        path = page.locator("#model-pebble-instruct .charts path.s0").first
        await tab.settle(lambda: has_line(path))
        # The gateway cannot be reached, and then it can.
        await tab.context.set_offline(True)
        await shows(page, "#banner", "cannot be reached")
        await tab.context.set_offline(False)
        await page.locator("#banner").wait_for(state="hidden")
        tab.complaints.clear()


async def has_line(path: Any) -> bool:
    return (await path.get_attribute("d") or "").count("L") >= 1


async def test_the_playground_streams_explains_compares_and_stops(browser: "Browser", tmp_path: Path) -> None:
    async with opened(browser, tmp_path, REFUSED, keys=KEYS, at="/console#playground") as (gateway, _, page):
        await page.locator("#key").fill(SECRET)
        await page.keyboard.press("Enter")
        await page.locator("#model").fill("gpt-4o-mini")
        await shows(page, "#answer-a .route", "“gpt-4o-mini” goes to pebble-chat (chat, pebble). Why: alias")
        await page.locator("#prompt").fill("one two three")
        await page.keyboard.press("Control+Enter")
        await shows(page, "#answer-a .output", "one two three")
        await shows(page, "#answer-a .figures", "first text after")
        assert "pebble-chat-0" in await text_of(page, "#answer-a .figures")
        # Two models on one prompt, of which the one takes until it is stopped.
        await page.locator("#other").fill("pebble-instruct")
        gateway.engines[1].hold()
        await page.locator("#prompt").fill("one " * 50)
        await page.locator("#send").click()
        await shows(page, "#answer-b .output", "one")
        await shows(page, "#answer-b .figures", "pebble-instruct-0 answers")
        await page.keyboard.press("Escape")
        await shows(page, "#answer-b .figures", "stopped by you")
        await until(lambda: gateway.engines[1].requests[-1].closed.is_set(), "the end at the engine")
        gateway.engines[1].go_on()
        # A name that leads nowhere: what the gateway says, before and after it is sent.
        await page.locator("#other").fill("nope")
        await shows(page, "#answer-b .problem", "model_not_found")
        await page.locator("#send").click()
        await shows(page, "#answer-b .problem", "Request id:")
        # An error that is there sooner than the answer about routing.
        await page.locator("#other").fill("pebble-instruct")
        await shows(page, "#answer-b .route", "pebble-instruct")
        gateway.show(1, "failed", reason="out of memory")
        await page.locator("#send").click()
        await shows(page, "#answer-b .problem", "Request id:")
        await shows(page, "#answer-b .route", "out of memory")
        assert "Request id:" in await text_of(page, "#answer-b .problem")
        gateway.show(1, "ready")
        await page.locator("#other").fill("")
        await page.get_by_label("Fill in the middle").check()
        assert await page.locator("#model").input_value() == "pebble-code"
        await page.locator("#prompt").fill("def f(")
        await page.locator("#suffix").fill("return 1")
        await page.locator("#send").click()
        await shows(page, "#answer-a .figures", "pebble-code-0")
        assert gateway.seen[-1].path == "/v1/completions"
        assert not await page.locator("#system").is_visible()


async def test_the_snippets_are_the_present_request_and_run(browser: "Browser", tmp_path: Path) -> None:
    permissions = ["clipboard-read", "clipboard-write"]
    async with opened(browser, tmp_path, at="/console#playground", permissions=permissions) as (gateway, _, page):
        await shows(page, "#answer-a .route", "pebble-chat")
        prompt = 'It\'s "quoted" \\ and\nnew'
        await page.locator("#prompt").fill(prompt)
        await page.get_by_text("Parameters").click()
        await page.locator("#temperature").fill("0.5")
        programs = {}
        for language in ("curl", "Python", "JavaScript"):
            await page.get_by_role("radio", name=language).check()
            await page.locator("#copy-snippet").click()
            await shows(page, "#copy-snippet", "Copied")
            programs[language] = await page.evaluate("navigator.clipboard.readText()")
        environment = {"PATH": os.environ["PATH"], "ROUNDHOUSE_API_KEY": "none", "NO_PROXY": "127.0.0.1"}
        for command in (["sh", "-c", programs["curl"]], [sys.executable, "-W", "ignore", "-c", programs["Python"]]):
            done = await asyncio.to_thread(
                subprocess.run, command, env=environment, capture_output=True, text=True, timeout=60, check=False
            )
            assert "quoted" in done.stdout, done.stderr
            sent = re.search(rb'"temperature": ?0.5', gateway.seen[-1].body)
            assert sent and b"new" in gateway.seen[-1].body and b"\\\\ and" in gateway.seen[-1].body
        assert f'baseURL: "http://127.0.0.1:{gateway.port}/v1"' in programs["JavaScript"]


async def test_the_settings_of_programs_are_those_of_connect(browser: "Browser", tmp_path: Path) -> None:
    async with opened(browser, tmp_path, REFUSED, keys=KEYS, at="/console#clients") as (gateway, _, page):
        await page.locator("#key").fill(SECRET)
        await page.keyboard.press("Enter")
        await shows(page, "#client-text", "ANTHROPIC_BASE_URL")
        assert SECRET not in await text_of(page, "#client-text")
        await page.locator("#with-key").check()
        url = f"http://127.0.0.1:{gateway.port}"
        assert await page.locator("#client option").all_inner_texts() == list(CLIENTS)
        for name in ("claude", "codex", "llm"):
            await page.locator("#client").select_option(name)
            shown = await page.locator("#client-text").text_content()
            words = ["connect", name, "--url", url, "--key", SECRET]
            assert (await asyncio.to_thread(CliRunner().invoke, main, words)).stdout == shown


async def test_a_user_signs_in_with_the_provider(browser: "Browser", tmp_path: Path) -> None:
    """Authorization code with PKCE at a real provider, with its own page; the gateway takes the token.

    This provider knows no clients without a secret: the proxy before it adds one, which the page does not have.
    """
    with mock_provider() as there:
        port = urlsplit(there).port
        assert port
        headers = b"authorization: Basic " + b64encode(b"console:secret"), b"access-control-allow-origin: *"
        async with proxied("", port, *headers) as issuer, AsyncExitStack() as stack:
            rows = f"issuer: '{issuer}', audience: console, client_id: console, tenants: {{ml: acme}}"
            fleet = f"{FLEET}\nsign_on: {{{rows}}}\n"
            gateway = await stack.enter_async_context(running(tmp_path, fleet, keys=KEYS))
            origin = f"http://127.0.0.1:{gateway.port}"
            tab = await stack.enter_async_context(browsers.tab(browser, origin, REFUSED, others=(issuer,)))
            page = tab.page
            await page.goto(f"{origin}/console")
            await page.get_by_role("button", name="Sign in").click()
            await page.wait_for_url(f"{issuer}/**")
            asked = dict(parse_qsl(urlsplit(page.url).query))
            assert asked["code_challenge_method"] == "S256" and "client_secret" not in asked
            async with page.expect_request("**/oauth2/token") as sent:
                await page.get_by_role("button", name="alice@example.com").click()
            await shows(page, "#models h2", "pebble-chat")
            form = dict(parse_qsl((await sent.value).post_data or ""))
            assert "client_secret" not in form
            digested = urlsafe_b64encode(sha256(form["code_verifier"].encode()).digest()).rstrip(b"=").decode()
            assert digested == asked["code_challenge"]
            assert page.url == f"{origin}/console"
            assert "tenant acme" in await text_of(page, "#who")
            # What this tab has not asked for is not taken: a code that another got, or a refusal.
            await page.locator("#leave").click()
            for query in ("code=x&state=y", "code=x", "error=access_denied&error_description=Call+us"):
                await page.goto(f"{origin}/console?{query}")
                await shows(page, "#key-problem", "has not asked")
                assert page.url == f"{origin}/console"


async def test_it_works_behind_a_prefix(browser: "Browser", tmp_path: Path) -> None:
    async with (
        running(tmp_path, FLEET, keys=KEYS) as gateway,
        proxied("/llm", gateway.port) as origin,
        browsers.tab(browser, f"{origin}/llm", REFUSED) as tab,
    ):
        page = tab.page
        for start in ("/llm/", "/llm/console/"):
            await page.goto(origin + start)
            assert page.url == f"{origin}/llm/console"
        await page.locator("#key").fill(SECRET)
        await page.keyboard.press("Enter")
        await shows(page, "#models h2", "pebble-chat")
        await page.get_by_role("link", name="Playground").click()
        await page.locator("#prompt").fill("through a prefix")
        await page.locator("#send").click()
        await shows(page, "#answer-a .output", "through a prefix")
        assert f"{origin}/llm/v1/chat/completions" in await text_of(page, "#snippet")


@asynccontextmanager
async def proxied(prefix: str, port: int, asking: bytes = b"", answering: bytes = b"") -> AsyncIterator[str]:
    """A reverse proxy that serves what listens on `port` below a prefix; yields its origin.

    It adds the headers `asking` to what is posted, and `answering` to what is answered.
    """

    running: set[asyncio.Task[Any]] = set()  # nothing else keeps one that waits for the browser

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        running.add(task)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            method, path, rest = head.split(b" ", 2)
            assert path.startswith(prefix.encode() + b"/"), path
            length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
            body = await reader.readexactly(int(length[1])) if length else b""
            path = path.removeprefix(prefix.encode())
            rest = re.sub(rb"(?i)\r\nconnection: [^\r]*", b"", rest).replace(b"\r\n", b"\r\nconnection: close\r\n", 1)
            if asking and method == b"POST":
                rest = rest.replace(b"\r\n", b"\r\n" + asking + b"\r\n", 1)
            back, there = await asyncio.open_connection("127.0.0.1", port)
            there.write(b" ".join((method, path, rest)) + body)
            if answering:
                writer.write((await back.readuntil(b"\r\n\r\n"))[:-2] + answering + b"\r\n\r\n")
            while data := await back.read(2**16):
                writer.write(data)
                await writer.drain()
            there.close()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the browser has opened a connection that it did not need, or left
        finally:
            writer.close()

    server = await asyncio.start_server(pass_on, "127.0.0.1", 0)
    try:
        async with server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def test_it_can_be_used_by_everyone(browser: "Browser", tmp_path: Path) -> None:
    """axe-core finds nothing, light and dark, wide and narrow; a keyboard reaches everything."""
    axe = pytest.importorskip("axe_playwright_python.async_playwright", reason="axe-playwright-python is not installed")
    async with opened(browser, tmp_path) as (gateway, _, page):
        await shows(page, "#models .state", "ready")
        assert (await gateway.post("/v1/chat/completions", {**BODY, "model": "nope"})).status_code == 404
        await shows(page, "#errors", "model_not_found")
        grounds = set()
        for scheme in ("light", "dark"):
            await page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            grounds.add(await page.evaluate("getComputedStyle(document.body).backgroundColor"))
            for section in ("fleet", "playground", "clients"):
                await page.get_by_role("link", name=section.capitalize()).click()
                await page.locator(f"#{section}-title").wait_for()
                found = (await axe.Axe().run(page)).response["violations"]
                assert not found, [(one["id"], one["nodes"][0]["html"]) for one in found]
        assert len(grounds) == 2
        # The switch overrides the system, and is remembered.
        await page.locator("#theme").select_option("light")
        light = await page.evaluate("getComputedStyle(document.body).backgroundColor")
        await page.reload()
        await shows(page, "#client-text", "ANTHROPIC")
        assert await page.evaluate("getComputedStyle(document.body).backgroundColor") == light
        for width in (320, 1200):
            await page.set_viewport_size({"width": width, "height": 700})
            for section in ("fleet", "playground", "clients"):
                await page.get_by_role("link", name=section.capitalize()).click()
                assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (section, width)
        # By keyboard alone: past the links to the playground's button.
        await page.goto(f"http://127.0.0.1:{gateway.port}/console")
        await shows(page, "#models .state", "ready")
        reached = []
        for _ in range(6):
            await page.keyboard.press("Tab")
            reached.append(await page.evaluate("document.activeElement.textContent.trim().split('\\n')[0]"))
        assert reached[:4] == ["Skip to the content", "Fleet", "Playground", "Clients"]
        await page.get_by_role("link", name="Playground").focus()
        await page.keyboard.press("Enter")
        await page.locator("#playground-title").wait_for()
        assert await page.evaluate("document.activeElement.id") == "playground-title"
        await page.locator("#prompt").focus()
        for _ in range(2):
            await page.keyboard.press("Tab")
        assert await page.evaluate("document.activeElement.id") == "send"


async def test_a_tab_that_is_open_for_long_stays_as_small(browser: "Browser", tmp_path: Path) -> None:
    """The gateway's answers are made up, each with as many new samples as five minutes have."""
    async with opened(browser, tmp_path, REFUSED, at="/nope") as (gateway, _, page):
        number = 0

        async def answer(route: Any) -> None:
            nonlocal number
            number += 1
            fields = ["running", "waiting", "ended", "errors", "ttft_p50", "ttft_p95"]
            rows = [[number % 7, 1, 2, 0, 0.5, None]] * 150
            replica = ["in_flight", "limit", "kv_usage", "tokens_per_second"]
            await route.fulfill(json={
                "process": {"id": "a", "processes": 1}, "interval": 2, "since": f"a:{number * 150}",
                "model_fields": fields, "replica_fields": replica,
                "models": {"pebble-chat": rows}, "replicas": {"pebble-chat-0": [[1, 8, 0.5, 10]] * 150},
            })  # fmt: skip

        await page.route("**/console/api/load*", answer)
        await page.clock.install()
        await page.goto(f"http://127.0.0.1:{gateway.port}/console")
        await shows(page, "#models .state", "ready")
        sizes = []
        for _ in range(30):
            before = number
            await page.clock.run_for(2_000)
            await until(lambda: number > before, "the next question")  # noqa: B023
            sizes.append(await page.evaluate(
                "[document.querySelectorAll('*').length, "
                "Math.max(...[...document.querySelectorAll('path')].map(one => (one.getAttribute('d') ?? '').length))]"
            ))  # fmt: skip
        assert len({nodes for nodes, _ in sizes[2:]}) == 1, sizes
        assert max(length for _, length in sizes) < 150 * 16
