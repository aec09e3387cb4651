"""The turns of one tenant's sessions, which request goes first, and which one a full queue drops."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.admission.flow import Sessions, Ticket
from service.admission.queue import Queue
from service.auth.tenants import Tenant

NAMES = st.lists(st.sampled_from([None, "a", "b", "c"]), min_size=1, max_size=40)


def ticket(session: str | None, cost: float = 10, sequences: int = 1) -> Ticket:
    return Ticket(Tenant("x"), "default", cost, sequences, session)


def queue_of(tickets: Iterable[Ticket]) -> Queue:
    queue = Queue()
    for each in tickets:
        queue.push(each)
    return queue


def serve(queue: Queue) -> Ticket:
    first = queue.first()
    queue.admit(first)
    queue.complete(first, first.cost)
    return first


def order(queue: Queue) -> str:
    return "".join(serve(queue).session or "-" for _ in range(len(queue)))


@pytest.mark.parametrize(
    ("arrived", "served"),
    [
        ("aaaaab", "abaaaa"),
        ("aabbbc", "abcabb"),
        ("aaa--b", "a-ba-a"),
        ("-----", "-----"),
        ("abcdef", "abcdef"),  # a session for each request is as if there were none
    ],
)
def test_sessions_take_turns(arrived: str, served: str) -> None:
    assert order(queue_of(ticket(None if name == "-" else name) for name in arrived)) == served


def test_a_session_that_asks_again_after_each_answer_waits_for_one_request_of_the_other() -> None:
    queue = queue_of(ticket("agents") for _ in range(20))
    for _ in range(5):
        queue.push(ticket("chat"))
        assert [serve(queue).session, serve(queue).session] == ["agents", "chat"]


def test_a_session_keeps_its_turn_when_one_of_its_requests_leaves() -> None:
    first, *others = tickets = [ticket(name) for name in "aab"]
    queue = queue_of(tickets)
    queue.remove(first)
    assert [serve(queue), serve(queue)] == others


@given(NAMES, st.integers(0, 10))
def test_position_is_exact_among_sessions(names: list[str | None], served: int) -> None:
    tickets = [ticket(name, cost) for cost, name in enumerate(names, 1)]
    queue = queue_of(tickets)
    gone = [serve(queue) for _ in range(min(served, len(queue) - 1))]
    waiting = [each for each in tickets if each not in gone]
    predicted = {each: queue.ahead(each).requests for each in waiting}
    assert [predicted[serve(queue)] for _ in waiting] == [*range(len(waiting))]


def test_tokens_and_sequences_before_a_request_are_those_of_its_session_and_a_share_of_the_others() -> None:
    tickets = [ticket("a", 5, 3), ticket("b", 10, 1), ticket("b", 30, 7), ticket("a", 1, 2)]
    sessions = Sessions()
    for each in tickets:
        sessions.push(each)
    assert [tuple(sessions.before(each)) for each in tickets] == [(0, 0, 0), (1, 3, 2), (3, 16, 6), (2, 25, 7)]


def test_a_full_queue_drops_the_newest_of_the_longest_session() -> None:
    agents, chat = [ticket("agents") for _ in range(3)], ticket("chat")
    queue = queue_of([*agents, chat])
    assert queue.to_drop(chat) is agents[-1]
    assert queue.to_drop(agents[-1]) is agents[-1]
    more = ticket("chat")
    queue.push(more)
    queue.remove(agents[-1])
    assert queue.to_drop(more) is more  # as many as the agents have


def test_no_session_is_kept_without_a_queued_request() -> None:
    sessions = Sessions()
    sessions.push(ticket("first"))
    for number in range(100):
        each = ticket(str(number))
        sessions.push(each)
        sessions.remove(each)
    assert (len(sessions), sessions.tokens, sessions.sequences) == (1, 10, 1)
    assert len(sessions._sessions) == 1
