"""The pages name only what exists: modules, environment variables, metrics, error codes, and each other's sections."""

import re
from pathlib import Path

from service.config.settings import VARIABLES
from service.errors import ANTHROPIC_TYPES, ErrorCode
from service.observability.metrics import Metrics
from tests.support.each import each
from tests.support.fleets import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MODULE_ROOTS = [ROOT, *(ROOT / name for name in ("service", "tests", "bench", "bench/gpu"))]
# Names that a kubelet sets, which docs/configuration.md says are ignored.
KUBELET = {"ROUNDHOUSE_SERVICE_HOST"}
# What the Helm chart's rules record, and what the names of these begin with.
RECORDED = {"roundhouse_autoscaling", "roundhouse_autoscaling_load"}

every_page = each("page", PAGES, ids=lambda page: page.name)


def metric_names() -> set[str]:
    """Every sample name that `GET /metrics` may hold."""
    families = [family for family in Metrics().registry.collect() if family.name.startswith("roundhouse_")]
    suffixes = ("", "_total", "_bucket", "_sum", "_count")
    return {family.name + suffix for family in families for suffix in suffixes} | RECORDED


@every_page
def test_modules_exist(page: Path) -> None:
    named = set(re.findall(r"`([a-z_/]+\.py)`", page.read_text(encoding="utf-8")))
    assert not [name for name in named if not any((root / name).is_file() for root in MODULE_ROOTS) and "/" in name]
    assert not [name for name in named if "/" not in name and not list(ROOT.glob(f"[sb]e*/**/{name}"))]


@every_page
def test_environment_variables_exist(page: Path) -> None:
    named = set(re.findall(r"\bROUNDHOUSE_[A-Z_]+[A-Z]\b", page.read_text(encoding="utf-8")))
    assert named <= set(VARIABLES) | KUBELET | {"ROUNDHOUSE_PORT"}


@every_page
def test_metrics_exist(page: Path) -> None:
    named = set(re.findall(r"(?<![\w:])roundhouse_[a-z_]+[a-z]\b", page.read_text(encoding="utf-8")))
    assert named <= metric_names()


@every_page
def test_error_codes_exist(page: Path) -> None:
    """Codes, and Anthropic's error types, are quoted after their status."""
    named = re.findall(r"\b[45]\d\d `([a-z_]+)`", page.read_text(encoding="utf-8"))
    assert set(named) <= {code.value for code in ErrorCode} | set(ANTHROPIC_TYPES.values())


@every_page
def test_sections_that_are_linked_exist(page: Path) -> None:
    for target, section in re.findall(r"\]\(([\w./-]*)#([\w-]+)\)", page.read_text(encoding="utf-8")):
        text = ((page.parent / target) if target else page).read_text(encoding="utf-8")
        headings = [re.sub(r"[^\w\s-]", "", title.lower()).strip() for title in re.findall(r"^#+ (.+)$", text, re.M)]
        assert section in {heading.replace(" ", "-") for heading in headings}, f"{target}#{section}"
