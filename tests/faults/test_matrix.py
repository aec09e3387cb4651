"""Every fault has a test, and every test that is named exists."""

import ast

from tests.faults.matrix import MATRIX
from tests.support.each import each
from tests.support.fleets import ROOT


def test_every_row_is_there() -> None:
    assert list(MATRIX) == [f"F{number}" for number in range(1, 24)]


@each(("row", "nodes"), MATRIX.items())
def test_its_tests_exist(row: str, nodes: tuple[str, ...]) -> None:
    assert nodes, row
    for node in nodes:
        file, _, name = node.partition("::")
        tree = ast.parse((ROOT / file).read_text())
        tests = [one.name for one in tree.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)]
        assert name in tests if name else any(one.startswith("test_") for one in tests), node
