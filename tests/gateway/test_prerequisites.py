"""What must be there to serve, and how its lack is told."""

import re
import tomllib

import pytest

from service.gateway.prerequisites import RELEASES, unmet, unmet_here, wrong_platform
from tests.support.fleets import ROOT

GOOD = {"uvicorn": "0.54.0", "kantoku": "0.18.3"}


def test_here_nothing_is_missing() -> None:
    assert unmet_here() == []


@pytest.mark.parametrize(
    ("installed", "message"),
    [
        ({"uvicorn": "0.40.0"}, "needs uvicorn 0.54, whose private parts it uses, and uvicorn 0.40.0 is installed"),
        ({"uvicorn": "0.55.0"}, "and uvicorn 0.55.0 is installed: pip install 'uvicorn==0.54.*'"),
        ({"uvicorn": "0.5.4"}, "and uvicorn 0.5.4 is installed"),
        ({"uvicorn": "1.54.0"}, "and uvicorn 1.54.0 is installed"),
        ({"kantoku": "0.19.0"}, "needs kantoku 0.18, whose private parts it uses, and kantoku 0.19.0 is installed"),
        ({"kantoku": None}, "and no kantoku is installed: pip install 'kantoku==0.18.*'"),
    ],
)
def test_another_release_is_refused_in_one_sentence(installed: dict[str, str | None], message: str) -> None:
    (problem,) = unmet("linux", GOOD | installed)
    assert message in problem


@pytest.mark.parametrize("version", ["0.54", "0.54.0", "0.54.9", "0.54.0.post1"])
def test_every_patch_of_the_right_release_will_do(version: str) -> None:
    assert unmet("linux", GOOD | {"uvicorn": version}) == []


@pytest.mark.parametrize("platform", ["darwin", "win32", "freebsd14"])
def test_serving_needs_linux(platform: str) -> None:
    (problem,) = unmet(platform, GOOD)
    assert problem == f"Serving needs Linux, whose kernel supervises the engines, and this is {platform}."
    assert wrong_platform(platform, "Proving") == problem.replace("Serving", "Proving")
    assert wrong_platform("linux", "Proving") is None


def test_pyproject_allows_the_same_releases() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    for package, (major, minor) in RELEASES.items():
        (requirement,) = (one for one in declared if re.match(rf"{package}\W", one))
        assert requirement.removeprefix(package) in (
            f"=={major}.{minor}.*", f">={major}.{minor},<{major}.{minor + 1}"
        )  # fmt: skip
