"""Where the data is: in a checkout, and in an installed package."""

from pathlib import Path

import pytest

from service.config.paths import BUNDLED, ROOT, data_root
from tests.support import fleets


def test_here_it_is_the_checkout() -> None:
    assert ROOT == fleets.ROOT
    assert BUNDLED == fleets.ROOT / "service/bundled"


@pytest.mark.parametrize("is_wheel", [True, False])
def test_a_package_that_carries_data_reads_its_own(is_wheel: bool, tmp_path: Path) -> None:
    bundled = tmp_path / "site/service/bundled"
    if is_wheel:
        bundled.mkdir(parents=True)
    assert data_root(bundled) == (bundled if is_wheel else tmp_path / "site")
