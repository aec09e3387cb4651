"""What the source imports is what pyproject.toml declares."""

import ast
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata

import pytest
from packaging.requirements import Requirement

from tests.support.fleets import ROOT
from tests.test_architecture import tree

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DECLARED = {Requirement(one).name for one in PROJECT["dependencies"]}
# What vLLM brings, which the extras `cpu` and `cuda` install. Only `roundhouse prove` needs it, and vLLM as well; the
# process that checks schemas and images uses what it finds, and so does the one of which engines are forked.
WITH_VLLM = {"tokenizers", "torch", "transformers", "llguidance", "outlines_core", "PIL", "setproctitle", "xgrammar"}
NEVER_IMPORTED = {
    "uvloop": "uvicorn runs on it where it is installed",
}


def imported() -> Iterator[str]:
    """The top-level name of every module that service/ imports, anywhere in it."""
    for path in (ROOT / "service").rglob("*.py"):
        for node in ast.walk(tree(path)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            yield from (name.partition(".")[0] for name in names)


def modules_of(package: str) -> set[str]:
    """The top-level names that an installed package brings."""
    return {file.parts[0].removesuffix(".py") for file in metadata.files(package) or ()}


@pytest.fixture(scope="module")
def others() -> set[str]:
    """What service/ imports that is neither its own nor Python's."""
    return set(imported()) - {"service", *sys.stdlib_module_names}


@pytest.fixture(scope="module")
def modules() -> dict[str, set[str]]:
    """The top-level names that each declared package brings."""
    return {package: modules_of(package) for package in DECLARED}


def test_every_import_is_declared(others: set[str], modules: dict[str, set[str]]) -> None:
    assert others - set().union(*modules.values()) == WITH_VLLM


def test_every_dependency_is_imported_or_says_why_not(others: set[str], modules: dict[str, set[str]]) -> None:
    unused = {package for package, brought in modules.items() if not brought & others}
    assert unused <= NEVER_IMPORTED.keys() <= DECLARED
