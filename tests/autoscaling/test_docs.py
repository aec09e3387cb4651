"""docs/scaling.md: its commands print what it says, and its pictures are those that they draw."""

import pytest

from tests.autoscaling.scaling import IMAGES, PAGE, rendered
from tests.support.fleets import ROOT


@pytest.mark.slow
def test_the_page_and_its_pictures_are_up_to_date() -> None:
    page, pictures = rendered(PAGE.read_text(encoding="utf-8"))
    assert page == PAGE.read_text(encoding="utf-8"), "python -m tests.autoscaling.scaling writes it anew"
    assert page.count("\n$ roundhouse simulate ") >= 5
    for name, picture in pictures.items():
        assert picture == (ROOT / IMAGES / name).read_text(encoding="utf-8")
        assert f"](images/{name})" in page
    assert {path.name for path in (ROOT / IMAGES).glob("*.svg") if path.name.startswith("scaling-")} == set(pictures)
