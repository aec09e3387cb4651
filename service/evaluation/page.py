"""An evaluation's report as one HTML file that needs nothing else, and can be read without its script. Pure."""

import base64
import hashlib
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from service.evaluation.histogram import draw
from service.evaluation.report import Report, sentence, span_of
from service.evaluation.results import MEANINGS, Result, pairs
from service.evaluation.statistics import signed

FOLDER = Path(__file__).parent / "static"
MOST = 1000  # cases with their texts, half of them the worst and half the best


def html(full: Report) -> str:
    """The page. Texts of users and models are escaped, and its policy lets no script but its own run."""
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (FOLDER / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text: str = environment.get_template("page.html").render(
        report=full,
        run=full.run,
        meanings=MEANINGS,
        pictures=_pictures(full),
        sentence=sentence,
        signed=signed,
        span=span_of,
        cases=shown(full.results),
        script=script,
        digest=digest,
        style=(FOLDER / "page.css").read_text(encoding="utf-8"),
    )
    return text


def shown(results: list[Result]) -> list[Result]:
    """The results whose texts are on the page; of too many the worst and the best."""
    return results if len(results) <= MOST else [*results[: MOST // 2], *results[-MOST // 2 :]]


def _pictures(full: Report) -> dict[str, str]:
    """The histogram of each metric."""
    return {
        one.metric: draw([new - old for new, old in pairs(full.results, one.metric)], one) for one in full.comparisons
    }
