"""Every test here runs commands."""

import pytest


@pytest.fixture(autouse=True)
def catalogue(read_once: None) -> None:
    """All but those that change it share one catalogue."""
