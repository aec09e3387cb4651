"""Where Roundhouse's own data is: the catalogue, the fleets that come with it, the table of GPUs."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
BUNDLED = PACKAGE / "bundled"  # made by setup.py when it builds a wheel


def data_root(bundled: Path) -> Path:
    """The folder that holds `models` and `deploy`: in a wheel `bundled`, inside the package.

    In a checkout, and in a Bento, which copies one, they lie beside the package.
    """
    return bundled if bundled.is_dir() else bundled.parents[1]


ROOT = data_root(BUNDLED)
