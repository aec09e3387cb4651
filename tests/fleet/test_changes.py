"""What differs between two fleets: names, and never values."""

from pathlib import Path

from service.fleet.changes import changes
from tests.support.fleets import load

OLD = """
models: [{model: pebble-chat, env: {TOKEN: secret-1}}, {model: pebble-base}]
aliases: {a: pebble-chat, b: pebble-base}
tenants: {acme: {weight: 1}}
"""
NEW = """
models: [{model: pebble-chat, env: {TOKEN: secret-2}, max_queued: 3}, {model: pebble-code}]
aliases: {a: pebble-code}
tenants: {acme: {weight: 2}, other: {}}
cors: {origins: ['*']}
"""


def test_everything_that_differs_is_named(tmp_path: Path) -> None:
    old, new = load(tmp_path, OLD), load(tmp_path, NEW)
    assert changes(old, old) == []
    assert changes(old, new) == [
        "aliases: a, b", "cors", "model pebble-base removed", "model pebble-chat: max_queued, env",
        "model pebble-code added", "tenants: acme, other",
    ]  # fmt: skip
