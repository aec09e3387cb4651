"""Where Roundhouse's own data is: the catalogue, the fleets that come with it, the table of GPUs."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def data_root(package: Path) -> Path:
    """The folder that holds `models` and `deploy` for the code in the folder `package`.

    A wheel carries them inside the package, in `bundled`; in a checkout, and in a Bento, which copies one, they lie
    beside it.
    """
    bundled = package / "bundled"
    return bundled if bundled.is_dir() else package.parent


ROOT = data_root(PACKAGE)
