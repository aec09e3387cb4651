"""What is made of what pip-audit says: a vulnerability fails, and what was not audited is not called clean."""

import json
from pathlib import Path

import pytest

from tests.packaging.audit import command, verdict

CLEAN = {"name": "a", "version": "1", "vulns": []}
BAD = {
    "name": "b", "version": "2",
    "vulns": [
        {"id": "PYSEC-1", "aliases": ["CVE-2026-1"], "fix_versions": ["3"]}, {"id": "GHSA-2", "fix_versions": []},
    ],
}  # fmt: skip
UNKNOWN = {"name": "c", "skip_reason": "Dependency not found on PyPI and could not be audited: c (1)"}
NO_NAME = "requests.exceptions.ConnectionError: HTTPSConnectionPool(host='pypi.org'): Failed to resolve"


@pytest.mark.parametrize(
    ("packages", "passes", "text"),
    [
        ([CLEAN], True, "1 of 1 packages audited, 0 known vulnerabilities"),
        (
            [CLEAN, BAD],
            False,
            "2 of 2 packages audited, 2 known vulnerabilities\n"
            "  b 2: PYSEC-1, CVE-2026-1 (fixed in 3)\n  b 2: GHSA-2 (fixed in no release yet)",
        ),
        (
            [UNKNOWN, UNKNOWN],
            True,
            "0 of 2 packages audited, 0 known vulnerabilities; not audited, for the database does not know them: c, c",
        ),
    ],
    ids=["clean", "vulnerable", "unknown"],
)
def test_packages(packages: list[object], passes: bool, text: str) -> None:
    assert verdict(0, json.dumps({"dependencies": packages, "fixes": []}), "") == (passes, text)


@pytest.mark.parametrize(
    ("errors", "passes"),
    [(NO_NAME, True), ("ERROR:pip_audit._cli:requirement a is missing hashes", False), ("", False)],
    ids=["no network", "a mistake in a lock", "no reason"],
)
def test_where_nothing_was_audited_the_reason_is_said(errors: str, passes: bool) -> None:
    passed, text = verdict(1, "", f"Traceback\n{errors}" if errors else "")
    assert passed is passes
    assert text == f"not audited: {errors or 'pip-audit ended with 1'}"


def test_hashes_are_required_and_nothing_is_built() -> None:
    words = command([Path("a.lock"), Path("b.lock")])
    assert {"--require-hashes", "--disable-pip"} < set(words)
    assert words[-4:] == ["-r", "a.lock", "-r", "b.lock"]
