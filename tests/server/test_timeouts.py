"""Whether a client reads, judged from how much is unsent."""

import pytest

from service.server.timeouts import ClientTimeouts, WriteProgress

# Looks at a connection, each (seconds, unsent bytes, whether more may have been written), and when it has stalled.
LOOKS = {
    "nothing is unsent": ([(1, 0, False), (9, 0, False), (99, 0, False)], None),
    "nothing is read": ([(1, 50, False), (5, 50, False), (10, 50, False), (11, 50, False)], 11),
    "a little is read now and then": ([(1, 50, False), (10, 49, False), (19, 48, False), (28, 47, False)], None),
    "reading stops": ([(1, 50, False), (9, 40, False), (18, 40, False), (19, 40, False)], 19),
    "more is written meanwhile": ([(1, 50, False), (10, 60, True), (19, 60, False), (20, 60, False)], 20),
    "a stream grows": ([(1, 50, True), (11, 60, True), (21, 70, True)], None),
    "all is read, and then nothing": ([(1, 50, False), (9, 0, False), (18, 50, False), (19, 50, False)], 19),
}


@pytest.mark.parametrize(("looks", "stalled_at"), LOOKS.values(), ids=LOOKS.keys())
def test_a_client_has_stalled_when_nothing_was_read_for_the_whole_timeout(
    looks: list[tuple[float, int, bool]], stalled_at: float | None
) -> None:
    progress = WriteProgress(10.0)
    stalled = [now for now, unsent, may_grow in looks if progress.has_stalled(now, unsent, may_grow)]
    assert stalled == ([] if stalled_at is None else [stalled_at])


def test_a_buffer_that_was_emptied_and_filled_again_has_not_stalled() -> None:
    progress = WriteProgress(10.0)
    assert not progress.has_stalled(1.0, 50, may_grow=False)
    progress.restart()
    assert not progress.has_stalled(11.0, 50, may_grow=False)
    assert progress.has_stalled(21.0, 50, may_grow=False)


def test_a_head_that_has_begun_has_its_own_timeout() -> None:
    timeouts = ClientTimeouts(head=1.0, keep_alive=2.0)
    assert (timeouts.to_head(has_begun=True), timeouts.to_head(has_begun=False)) == (1.0, 2.0)


def test_idle_connections_are_kept_for_longer_than_load_balancers_keep_them() -> None:
    assert ClientTimeouts().keep_alive > 60
