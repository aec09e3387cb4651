"""The page as a reader opens it: in Chromium from a file, with and without its script, and with hostile answers."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from service.evaluation import page
from service.evaluation.calls import Reply
from service.evaluation.cases import Case
from service.evaluation.histogram import BINS, binned
from service.evaluation.report import Report, Run, Spent, report
from service.evaluation.results import score
from service.evaluation.statistics import Sampling
from tests.support import browser as browsers

if TYPE_CHECKING:
    from playwright.async_api import Browser

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]

HOSTILE = "</pre><script>document.title = 'taken'</script><img src=x onerror=\"document.title='taken'\">"
RUN = Run("mine", "base", "cases.jsonl", "http://here", "2026-11-28", {"seed": 0}, Sampling(resamples=200))


def full(count: int = 24) -> Report:
    """A report in which every third case is lost, and the others are won."""

    def reply(text: str) -> Reply:
        return Reply(key="k", purpose="answer", model="m", text=text)

    results = [
        score(
            Case(f"case {number}", number, {"prompt": f"Question {number}"}, ("right",), category=str(number % 3)),
            reply(HOSTILE if number % 3 == 0 else "right"), reply("right" if number % 3 == 0 else "wrong"), None, (),
        )
        for number in range(count)
    ]  # fmt: skip
    missing = [(Case("gone", 99, {"prompt": "?"}, ("!",)), f"mine: 400: {HOSTILE}")]
    return report(RUN, results, missing, [Spent("answer of mine", 12, 100, 50, 1.5, 0.25)], {})


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def browser() -> AsyncIterator["Browser"]:
    async with browsers.chromium() as one:
        yield one


async def test_it_is_sorted_and_filtered_and_nothing_of_an_answer_runs(browser: "Browser", tmp_path: Path) -> None:
    file = tmp_path / "r.html"
    file.write_text(page.html(full()))
    async with browsers.tab(browser, "file:///", others=("file://",)) as tab:
        await tab.page.goto(file.as_uri())
        first = tab.page.locator("details.case:visible").first
        assert (await first.inner_text()).startswith("case 0") and await tab.page.title() == "mine against base"
        await first.locator("summary").click()
        assert HOSTILE in await first.inner_text()
        await tab.page.select_option("#order", "exact-match best")
        assert "+1.000" in await tab.page.locator("details.case:visible").first.inner_text()
        await tab.page.select_option("#outcome", "loss")
        assert await tab.page.locator("#count").inner_text() == "8 of 24 cases"
        await tab.page.fill("#words", "question 3")
        assert await tab.page.locator("details.case:visible").count() == 1
        assert await tab.page.locator("svg.histogram").count() == 2
        assert await tab.page.title() == "mine against base"
        axe = pytest.importorskip("axe_playwright_python.async_playwright").Axe()
        found = await axe.run(tab.page)
        assert not found.response["violations"], found.generate_report()


async def test_a_phone_without_scripts_shows_all_of_it(browser: "Browser", tmp_path: Path) -> None:
    file = tmp_path / "r.html"
    file.write_text(page.html(full()))
    phone = {"viewport": {"width": 360, "height": 740}, "java_script_enabled": False, "color_scheme": "dark"}
    async with browsers.tab(browser, "file:///", others=("file://",), **phone) as tab:
        await tab.page.goto(file.as_uri())
        assert await tab.page.locator("details.case:visible").count() == 24
        assert not await tab.page.locator("#controls").is_visible()
        text = await tab.page.locator("main").inner_text()
        for said in ("Worse in category 0", "Better in category 1", "gone: mine: 400", "answer of mine", "0.2500"):
            assert said in text
        for part in await tab.page.locator("main > *:visible").all():
            box = await part.bounding_box()
            assert box and box["x"] + box["width"] <= 360


async def test_of_many_cases_the_worst_and_the_best_are_there() -> None:
    results = full(page.MOST + 100).results
    shown = page.shown(results)
    assert len(shown) == page.MOST and shown[0] == results[0] and shown[-1] == results[-1]


async def test_ties_are_in_the_middle_of_the_picture() -> None:
    counts = binned([0, 0.001, -1, 1, 1], 1)
    assert (counts[BINS // 2], counts[0], counts[-1]) == (2, 1, 2)
