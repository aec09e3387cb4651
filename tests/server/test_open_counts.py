"""What workers tell each other of their connections: two of them in one process, by the file between them."""

import select
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.server.open_counts import OpenCounts

Pair = tuple[OpenCounts, OpenCounts]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    one, other = OpenCounts(tmp_path, 1, 2), OpenCounts(tmp_path, 2, 2)
    for counts in (one, other):
        counts.join()
    yield one, other
    one.bell.close()
    other.bell.close()


def test_whoever_has_fewer_connections_is_known(pair: Pair) -> None:
    one, other = pair
    assert not one.fewer() and not other.fewer()
    one.show(2)
    other.show(1)
    assert len(one.fewer()) == 1 and not other.fewer()
    one.show(0)
    assert not one.fewer() and len(other.fewer()) == 1


def test_a_sign_of_life_changes_what_is_shown(pair: Pair) -> None:
    one, other = pair
    one.show(1)
    before = one.fewer()
    assert one.fewer() == before
    other.beat()
    assert one.fewer() != before and one.fewer().keys() == before.keys()


def test_a_worker_that_accepts_no_connections_has_no_place_among_them(pair: Pair) -> None:
    one, other = pair
    one.show(3)
    other.leave()
    assert not one.fewer()
    other.show(1)  # of those that it had, one is left
    assert not one.fewer()
    other.join()
    assert len(one.fewer()) == 1
    one.show(1)
    assert not one.fewer(), "what it showed while it was away counts"


def test_a_worker_s_place_is_empty_until_it_accepts_connections(pair: Pair, tmp_path: Path) -> None:
    one, other = pair
    one.show(3)
    assert len(one.fewer()) == 1
    other.bell.close()  # it was killed
    again = OpenCounts(tmp_path, 2, 2)
    assert not one.fewer()
    again.join()
    assert len(one.fewer()) == 1
    again.bell.close()


def test_a_worker_can_be_rung_unless_it_is_gone(pair: Pair) -> None:
    one, other = pair
    one.show(1)
    (row,) = one.fewer()
    for _ in range(10_000):  # more than it can hold
        one.ring(row)
    assert select.select([other.bell], [], [], 0)[0]
    other.bell.close()
    one.ring(row)


def test_as_many_workers_as_circus_may_number(tmp_path: Path) -> None:
    first, last = OpenCounts(tmp_path, 1, 3), OpenCounts(tmp_path, 6, 3)
    first.join()
    first.show(1)
    last.join()
    assert len(first.fewer()) == 1
    first.bell.close()
    last.bell.close()
