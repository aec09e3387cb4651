"""A pytest plugin: production's event loop, changed so that a failed test ends.

uvloop as it is would go on for ever in two cases. It logs what a callback raises, also where that is the timeout of the
test. And it reports what was left open while it closes; as an error, which pytest makes of every warning, that keeps it
from closing the rest, for which it then waits, in C, where no signal is heard.
"""

import asyncio
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import uvloop


class Loop(uvloop.Loop):
    _failed: BaseException | None = None

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, pytest.fail.Exception):
            self._failed = error
            self.stop()
        else:
            super().call_exception_handler(context)

    def run_forever(self) -> None:
        super().run_forever()
        if self._failed:
            failed, self._failed = self._failed, None
            raise failed

    def close(self) -> None:
        with warnings.catch_warnings(record=True) as unclosed:
            warnings.simplefilter("always")
            super().close()
        for one in unclosed:
            warnings.warn(str(one.message), one.category, stacklevel=2)


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": Loop}
