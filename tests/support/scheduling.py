"""A pytest plugin: groups and orders tests across worker processes."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

SLOW = ("bench", "end_to_end", "engine", "packaging")  # folders of tests that build packages or start services


class Shared(LoadScopeScheduling):  # type: ignore[misc]
    """Of several processes (`-n`) one gets all files that share what takes long to have; no file is torn.

    That are the engines of `pebble`, and transformers, whose import takes seconds.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        text = source(self.config.rootpath / file)
        if "pebble: Service" in text or "real_engine: RealEngine" in text:
            return "pebble"
        return "transformers" if "from transformers" in text else file

    def remove_node(self, node: Any) -> str | None:
        """The test that a process died of. Others get the rest of its file; xdist would have them die of it too."""
        work = self.assigned_work.pop(node)
        crashed = next((test for tests in work.values() for test, done in tests.items() if not done), None)
        for tests in work.values():
            tests |= {test: True for test in tests if test == crashed}
        self.workqueue.update({scope: tests for scope, tests in work.items() if not all(tests.values())})
        for other in self.assigned_work:
            self._reschedule(other)
        return crashed


@cache
def source(file: Path) -> str:
    """The text of a test file, which is looked at for each of its tests."""
    return file.read_text(encoding="utf-8")


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Shared:
    config.option.loadscopereorder = False
    return Shared(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: rank(item.path))


def rank(file: Path) -> int:
    """Those that take longest go first: so no process is left alone with one of them in the end."""
    if "mark.engine" in source(file):
        return 0
    return 1 if file.parent.name in SLOW else 2
