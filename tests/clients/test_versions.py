"""docs/clients.md names the releases that are installed and tried, and every client that can be connected."""

import json
import re

import pytest

from service.gateway.console.client_settings import CLIENTS
from tests.clients.programs import NODE
from tests.support.each import each
from tests.support.fleets import ROOT

PAGE = (ROOT / "docs/clients.md").read_text(encoding="utf-8")
# A release is named as "`package` 1.2.3".
NAMED = re.findall(r"`([@\w/-]+)` (\d[\w.]*\d)", PAGE)

PARTS = {"transformers", "zod"}  # what programs need and no one connects


def pinned() -> dict[str, str]:
    """Package → release, of all that `make test-clients` installs, and of vLLM."""
    found: dict[str, str] = {}
    for name in ("cpu", "clients-aider", "clients"):
        found |= re.findall(r"^([\w.-]+)==(\S+)", (ROOT / f"requirements/{name}.lock").read_text(), re.MULTILINE)
    return found | from_npm()


def from_npm() -> dict[str, str]:
    return dict(json.loads((NODE / "package.json").read_text())["dependencies"])


@each(("package", "release"), NAMED)
def test_a_release_is_the_pinned_one(package: str, release: str) -> None:
    assert pinned()[package] == release


def test_what_is_asked_for_is_on_the_page() -> None:
    asked = set(from_npm())
    for name in ("clients", "clients-aider"):
        asked |= set(re.findall(r"^([\w-]+)[\[=]", (ROOT / f"requirements/{name}.in").read_text(), re.MULTILINE))
    assert asked - PARTS <= {package for package, _ in NAMED}


@pytest.mark.parametrize("client", CLIENTS)
def test_how_a_client_is_connected_is_on_the_page(client: str) -> None:
    assert f"roundhouse connect {client}" in PAGE
