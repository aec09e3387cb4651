"""What the source imports is what pyproject.toml declares."""

import ast
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata

from packaging.requirements import Requirement

from tests.support.fleets import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DECLARED = {Requirement(one).name for one in PROJECT["dependencies"]}
# What vLLM brings, which the extras `cpu` and `cuda` install. Only `roundhouse prove` needs it, and vLLM as well.
WITH_VLLM = {"tokenizers", "torch", "transformers"}
NEVER_IMPORTED = {
    "uvloop": "uvicorn runs on it where it is installed",
}


def imported() -> Iterator[str]:
    """The top-level name of every module that service/ imports, anywhere in it."""
    for path in (ROOT / "service").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            yield from (name.partition(".")[0] for name in names)


def modules_of(package: str) -> set[str]:
    """The top-level names that an installed package brings."""
    return {file.parts[0].removesuffix(".py") for file in metadata.files(package) or ()}


OTHERS = set(imported()) - {"service", *sys.stdlib_module_names}
MODULES = {package: modules_of(package) for package in DECLARED}


def test_every_import_is_declared() -> None:
    assert OTHERS - set().union(*MODULES.values()) == WITH_VLLM


def test_every_dependency_is_imported_or_says_why_not() -> None:
    unused = {package for package, modules in MODULES.items() if not modules & OTHERS}
    assert unused <= NEVER_IMPORTED.keys() <= DECLARED
