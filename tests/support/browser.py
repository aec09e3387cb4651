"""A headless Chromium for tests, and what it must never do: ask another origin, or complain."""

import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page, Request

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# It must not look for updates or anything else: this machine may have no network.
FLAGS = (
    "--disable-background-networking", "--disable-component-update", "--disable-quic", "--disable-sync",
    "--no-first-run", "--no-proxy-server",
)  # fmt: skip
PATIENCE = 20_000  # milliseconds


@asynccontextmanager
async def chromium() -> AsyncIterator["Browser"]:
    """The browser; skips the test where there is none."""
    api = pytest.importorskip("playwright.async_api", reason="the package playwright is not installed")
    if PROGRAM is None:
        pytest.skip("Chromium is not installed; on Debian: apt-get install chromium")
    async with api.async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=PROGRAM, args=list(FLAGS), chromium_sandbox=os.geteuid() != 0
        )
        try:
            yield browser
        finally:
            await browser.close()


@dataclass
class Tab:
    """A page, with what it asked for and what the browser said about it."""

    page: "Page"
    context: "BrowserContext"
    asked: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    async def settle(self, condition: Callable[[], Awaitable[bool]]) -> None:
        """Waits until something holds of the page."""
        while not await condition():
            await self.page.wait_for_timeout(20)


@asynccontextmanager
async def tab(
    browser: "Browser", origin: str, *expected: str, others: tuple[str, ...] = (), **options: Any
) -> AsyncIterator[Tab]:
    """A new tab with nothing kept from others; `expected` are parts of the complaints that are right.

    At its end every request of a page of `origin` must have gone to it, or one of the `others`, and there must be no
    other complaint of such a page.
    """
    context = await browser.new_context(**options)
    context.set_default_timeout(PATIENCE)
    one = Tab(await context.new_page(), context)

    def ours() -> bool:
        return one.page.url.startswith(f"{origin}/")

    def note(request: "Request") -> None:
        if ours():
            one.asked.append(request.url)

    def complain(said: "ConsoleMessage") -> None:
        if ours() and said.type in ("error", "warning"):
            one.complaints.append(said.text)

    one.page.on("request", note)
    one.page.on("console", complain)
    one.page.on("pageerror", lambda error: one.complaints.append(str(error)))
    try:
        yield one
        allowed = tuple(f"{name}/" for name in (origin, *others))
        assert not [url for url in one.asked if not url.startswith((*allowed, "data:", "blob:"))]
        assert not [text for text in one.complaints if not any(part in text for part in expected)]
    finally:
        await context.close()
