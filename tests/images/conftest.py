"""What all tests of the images use."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.images import contents


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that the images' user may read; pytest's own is for its user alone."""
    path = Path(tempfile.mkdtemp(prefix="images-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def home(folder: Path) -> Path:
    """A folder of the images' user, to be mounted as its home."""
    path = folder / "home"
    path.mkdir()
    shutil.chown(path, contents.USER, contents.USER)
    return path
