"""Requests with one key share one answer, whoever comes, leaves or fails while it is generated."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import ApiError, ErrorCode
from service.relay.idempotency import ENTRY, PIECE
from service.server.asgi import ClientDisconnectedError, Receive, Send, respond
from tests.relay.shared_answers import END, KEY, LARGEST, OTHER, REPLAYED, TOTAL, TTL, Client, Generation, House, opened
from tests.support.waiting import PATIENCE, until


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with opened() as house:
        yield house


async def failure(client: Client) -> ApiError:
    with pytest.raises(ApiError) as caught:
        await client.done()
    return caught.value


async def test_one_client_gets_it_as_it_comes(house: House) -> None:
    client = house.ask()
    generation = await house.begun()
    for body in (b"a", b"ab", b"abc"):
        generation.say(body[-1:])
        await client.got(body)
    assert not client.whole
    generation.say(END)
    await client.done()
    assert client.whole
    assert client.messages[0]["status"] == 200
    assert [name for name, _ in client.headers] == [b"content-type", b"x-request-id"]


async def test_a_second_client_gets_what_came_and_follows(house: House) -> None:
    first = house.ask()
    generation = await house.begun()
    generation.say(b"one ")
    await first.got(b"one ")
    second = house.ask()
    await second.got(b"one ")
    generation.say(b"two")
    for client in (first, second):
        await client.got(b"one two")
    generation.say(END)
    await asyncio.gather(first.done(), second.done())
    assert len(house.generations) == 1
    assert REPLAYED in second.headers
    assert REPLAYED not in first.headers


async def test_an_answer_comes_again_with_its_own_headers(house: House) -> None:
    await house.answered(body=b"x" * (2 * PIECE + 1))
    later = [house.ask(), house.ask()]
    for client in later:
        await client.done()
        assert client.body == b"x" * (2 * PIECE + 1)
        assert client.headers[:2] == [(b"content-type", b"text/plain"), REPLAYED]
        assert [name for name, _ in client.headers].count(b"x-request-id") == 1
        assert max(len(message["body"]) for message in client.messages[1:]) == PIECE
    assert len(house.generations) == 1


async def test_tokens_are_counted_once(house: House) -> None:
    first, second = house.ask(), house.ask()
    (await house.begun()).say(b"x", END)
    await asyncio.gather(first.done(), second.done())
    third = house.ask()
    await third.done()
    assert [one.record.completion_tokens for one in (first, second, third)] == [2, 0, 0]
    for one in (first, second, third):
        assert (one.record.outcome, one.record.code) == ("complete", None)
        assert (one.record.model, one.record.replica) == ("pebble-chat", "pebble-chat-0")
        assert one.record.finish_reason == "stop"


async def test_the_first_client_leaves_while_another_listens(house: House) -> None:
    first, second = house.ask(), house.ask()
    generation = await house.begun()
    generation.say(b"one ")
    await second.got(b"one ")
    first.left.set()
    generation.say(b"two")
    await second.got(b"one two")
    # Its record counts the tokens, so it lasts as long as the generation.
    assert not first.task.done()
    generation.say(END)
    await second.done()
    with pytest.raises(ClientDisconnectedError):
        await first.done()
    assert second.whole
    assert not first.whole
    assert (first.record.completion_tokens, second.record.completion_tokens) == (3, 0)


async def test_others_leave_and_the_first_goes_on(house: House) -> None:
    clients = [house.ask() for _ in range(3)]
    generation = await house.begun()
    generation.say(b"one ")
    for client in clients[1:]:
        await client.got(b"one ")
        await client.leave()
        assert isinstance(client.task.exception(), ClientDisconnectedError)
    generation.say(b"two", END)
    await clients[0].done()
    assert clients[0].body == b"one two"


@pytest.mark.parametrize("said", [(), (b"one ",)], ids=["before the answer began", "midway"])
@pytest.mark.parametrize("order", [(0,), (0, 1), (1, 0)], ids=str)
async def test_when_the_last_leaves_the_generation_ends_at_once(
    said: tuple[bytes, ...], order: tuple[int, ...], house: House
) -> None:
    clients = [house.ask() for _ in order]
    generation = await house.begun()
    generation.say(*said)
    for client in clients:
        await client.got(b"".join(said))
    for number in order:
        clients[number].left.set()
    await until(lambda: generation.ended, "the end of the generation")
    for client in clients:
        with pytest.raises(ClientDisconnectedError):
            await client.done()
    anew = house.ask()
    (await house.begun(1)).say(b"anew", END)
    await anew.done()
    assert anew.body == b"anew"
    assert REPLAYED not in anew.headers


async def test_who_asks_right_after_the_last_left_gets_an_answer_of_its_own(house: House) -> None:
    first = house.ask()
    generation = await house.begun()
    first.left.set()
    await until(lambda: not house.once._running, "the leave of the first")
    second = house.ask()
    (await house.begun(1)).say(b"second", END)
    await second.done()
    assert generation.ended
    assert second.body == b"second"


async def test_a_client_that_leaves_before_anything_ran(house: House) -> None:
    client = house.ask()
    await client.leave()
    assert isinstance(client.task.exception(), ClientDisconnectedError)


async def test_everyone_gets_the_error_of_a_request_that_was_not_answered(house: House) -> None:
    clients = [house.ask() for _ in range(3)]
    error = ApiError(ErrorCode.UPSTREAM_ERROR, "The engine is gone.")
    (await house.begun()).say(error)
    for client in clients:
        assert await failure(client) is error
        assert not client.messages
    await house.answered()
    assert len(house.generations) == 2


async def test_an_error_midway_breaks_every_answer_off(house: House) -> None:
    clients = [house.ask() for _ in range(2)]
    (await house.begun()).say(b"begun", RuntimeError("a mistake of ours"))
    for client in clients:
        with pytest.raises(RuntimeError, match="a mistake of ours"):
            await client.done()
        assert client.body == b"begun"
        assert not client.whole
    await house.answered()


async def broken_off(house: House) -> Generation:
    """An answer that ends in an error event, as the relay ends it."""
    generation = await house.begun()
    generation.say(b"begun")
    await house.clients[-1].got(b"begun")
    generation.record.outcome, generation.record.code = "failed", "upstream_error"
    generation.say(b"error event", END)
    return generation


async def test_an_answer_that_was_broken_off_is_the_same_for_all_and_not_kept(house: House) -> None:
    clients = [house.ask() for _ in range(2)]
    await broken_off(house)
    for client in clients:
        await client.done()
        assert client.body == b"begunerror event"
        assert (client.record.outcome, client.record.code) == ("failed", "upstream_error")
    await house.answered()
    assert len(house.generations) == 2


async def test_who_left_before_a_failure_did_not_see_it(house: House) -> None:
    first, second = house.ask(), house.ask()
    await house.begun()
    first.left.set()
    await broken_off(house)
    await second.done()
    with pytest.raises(ClientDisconnectedError):
        await first.done()
    assert first.record.code is None
    assert (second.record.outcome, second.record.code) == ("failed", "upstream_error")


async def test_what_a_slow_client_hears_of_a_failure_does_not_depend_on_the_first(house: House) -> None:
    first, second = house.ask(), house.ask()
    await house.begun()
    await broken_off(house)
    second.reads.clear()
    await first.done()
    first.record.outcome, first.record.code = "cancelled", None  # whatever becomes of its record now
    second.reads.set()
    await second.done()
    assert (second.record.outcome, second.record.code) == ("failed", "upstream_error")


@pytest.mark.parametrize("status", [199, 300, 500])
async def test_only_success_is_kept(status: int, house: House) -> None:
    for number in range(2):
        client = house.ask(status=status)
        (await house.begun(number)).say(b"no", END)
        await client.done()
        assert client.messages[0]["status"] == status


async def test_an_answer_without_its_end_is_not_kept(house: House) -> None:
    async def unfinished(receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    for _ in range(2):
        client = house.ask_for(unfinished)
        await client.done()
        assert [message["type"] for message in client.messages] == ["http.response.start"]
        assert REPLAYED not in client.headers


async def test_an_error_after_the_answer_is_not_lost(house: House) -> None:
    async def careless(receive: Receive, send: Send) -> None:
        await respond(send, 200, b"answer")
        raise RuntimeError("a mistake of ours")

    client = house.ask_for(careless)
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        await client.done()
    assert client.body == b"answer"
    assert REPLAYED not in (await house.answered()).headers


async def test_what_runs_after_the_last_message_is_not_cut_short(house: House) -> None:
    """The relay gives its place back after the answer; the client may be gone by then."""
    go, tidied = asyncio.Event(), asyncio.Event()

    async def tidy(receive: Receive, send: Send) -> None:
        await respond(send, 200, b"answer")
        await go.wait()
        tidied.set()

    client = house.ask_for(tidy)
    await client.got(b"answer")
    client.left.set()
    joined = house.ask()
    await joined.done()
    assert joined.body == b"answer"
    go.set()
    await client.done()
    assert tidied.is_set()


async def test_a_key_stands_for_one_request(house: House) -> None:
    running = house.ask()
    generation = await house.begun()
    error = await failure(house.ask(fingerprint=OTHER))
    assert (error.status, error.code) == (422, "idempotency_conflict")
    generation.say(b"answer", END)
    await running.done()
    assert (await failure(house.ask(fingerprint=OTHER))).status == 422
    assert len(house.generations) == 1


async def test_a_failed_key_may_be_used_for_another_request(house: House) -> None:
    first = house.ask()
    (await house.begun()).say(ApiError(ErrorCode.UPSTREAM_ERROR, "The engine is gone."))
    await failure(first)
    second = house.ask(fingerprint=OTHER)
    (await house.begun(1)).say(b"other", END)
    await second.done()
    assert second.body == b"other"


@pytest.mark.parametrize("key", [("acme", "key-2"), ("other", "key-1")], ids=str)
async def test_keys_and_tenants_do_not_mix(key: tuple[str, str], house: House) -> None:
    await house.answered(body=b"mine")
    assert (await house.answered(key, body=b"yours")).body == b"yours"
    for asked, body in ((KEY, b"mine"), (key, b"yours")):
        client = house.ask(asked)
        await client.done()
        assert client.body == body


@pytest.mark.parametrize(("after", "generations"), [(TTL - 1, 1), (TTL, 2)])
async def test_an_answer_is_recent_for_a_while(after: float, generations: int, house: House) -> None:
    await house.answered()
    house.now += after
    client = house.ask()
    if generations == 2:
        (await house.begun(1)).say(b"answer", END)
    await client.done()
    assert len(house.generations) == generations


async def test_an_answer_asked_for_again_stays(house: House) -> None:
    await house.answered()
    for _ in range(3):
        house.now += TTL - 1
        await house.ask().done()
    assert len(house.generations) == 1


async def test_the_last_used_answers_are_kept_within_the_bound(house: House) -> None:
    keys = [("acme", str(number)) for number in range(4)]
    size = TOTAL // 3 - ENTRY
    for key in keys[:3]:
        await house.answered(key, b"x" * size)
    await house.ask(keys[0]).done()
    assert house.once.held == 3 * (size + ENTRY)
    await house.answered(keys[3], b"x" * size)
    assert house.once.held <= TOTAL
    for key in (keys[2], keys[3], keys[0]):
        await house.ask(key).done()
    assert len(house.generations) == 4
    await house.answered(keys[1])
    assert len(house.generations) == 5


async def test_many_small_answers_are_bounded_too() -> None:
    house = House(total=8 * ENTRY)
    for number in range(20):
        await house.answered(("acme", str(number)), b"")
    assert house.once.held <= 8 * ENTRY


async def test_an_answer_that_is_too_long_is_passed_on_but_not_held(house: House) -> None:
    client = house.ask()
    generation = await house.begun()
    for number in range(1, 40):
        generation.say(b"x" * (PIECE // 4))
        await client.got(b"x" * (PIECE // 4 * number))
        assert house.once.held <= LARGEST + PIECE + ENTRY
    assert house.once.held <= PIECE + ENTRY  # one that cannot be joined is not held for anybody
    error = await failure(house.ask())
    assert (error.status, error.code) == (409, "idempotency_in_progress")
    generation.say(END)
    await client.done()
    assert client.whole
    assert house.once.held == 0
    await house.answered()


@pytest.mark.parametrize("size", [LARGEST, LARGEST + 1])
async def test_one_message_of_any_size_reaches_everyone(size: int, house: House) -> None:
    go = asyncio.Event()

    async def run(receive: Receive, send: Send) -> None:
        await go.wait()
        await respond(send, 200, b"x" * size)

    clients = [house.ask_for(run) for _ in range(2)]
    await until(lambda: house.once.held > 0, "the begin of the generation")
    go.set()
    for client in clients:
        await client.done()
        assert len(client.body) == size
    assert (house.once.held > 0) is (size == LARGEST)


async def test_an_answer_that_comes_in_spite_of_its_end_is_nobodys(house: House) -> None:
    begun, cancelled, go = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def stubborn(receive: Receive, send: Send) -> None:
        begun.set()
        with suppress(asyncio.CancelledError):
            await receive()
        cancelled.set()
        await go.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(3):  # nobody takes anything of it, and nothing waits for that
            await send({"type": "http.response.body", "body": b"x" * PIECE, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    first = house.ask_for(stubborn)
    await asyncio.wait_for(begun.wait(), PATIENCE)
    first.left.set()
    await asyncio.wait_for(cancelled.wait(), PATIENCE)
    second = house.ask(fingerprint=OTHER)
    generation = await house.begun()
    go.set()
    with pytest.raises(ClientDisconnectedError):
        await first.done()
    for client in (second, house.ask(fingerprint=OTHER)):
        generation.say(*[b"right", END] * (client is second))
        await client.done()
        assert client.body == b"right"


async def test_a_generation_waits_for_its_reader(house: House) -> None:
    client = house.ask()
    generation = await house.begun()
    generation.say(b"first")
    await client.got(b"first")
    client.reads.clear()
    pieces = [bytes([65 + number]) * PIECE for number in range(10)]
    generation.say(*pieces, END)
    await until(lambda: house.once.held > PIECE, "a full buffer")
    for _ in range(20):
        await asyncio.sleep(0)
    assert not generation.waits
    assert house.once.held <= ENTRY + 3 * PIECE
    client.reads.set()
    await client.done()
    assert client.body == b"first" + b"".join(pieces)


async def test_a_slow_client_holds_nobody_up_and_gets_all_that_is_held(house: House) -> None:
    slow, fast = house.ask(), house.ask()
    generation = await house.begun()
    slow.reads.clear()
    generation.say(*[b"x" * PIECE] * 3, END)
    await fast.done()
    slow.reads.set()
    await slow.done()
    assert slow.body == fast.body == b"x" * 3 * PIECE


async def test_a_client_that_falls_too_far_behind_is_let_go(house: House) -> None:
    slow, fast = house.ask(), house.ask()
    generation = await house.begun()
    generation.say(b"begun")
    for client in (slow, fast):
        await client.got(b"begun")
    slow.reads.clear()
    for number in range(1, 10):
        generation.say(b"x" * PIECE)
        await fast.got(b"begun" + b"x" * PIECE * number)
        assert house.once.held <= ENTRY + LARGEST + PIECE
    slow.reads.set()
    generation.say(END)
    error = await failure(slow)
    assert (error.status, error.code) == (504, "timeout")
    assert fast.body == b"begun" + b"x" * PIECE * 9
    assert not slow.whole


async def test_while_all_is_full_answers_are_passed_on_but_not_held(house: House) -> None:
    stuck = []
    for number in range(4):
        client = house.ask(("acme", str(number)))
        (await house.begun(number)).say(*[b"x" * PIECE] * 3)
        await client.got(b"x" * 3 * PIECE)
        stuck.append(client)
    assert house.once.held <= TOTAL + PIECE
    last = house.ask()
    generation = await house.begun(4)
    for number in range(1, 5):
        generation.say(b"y" * PIECE)
        await last.got(b"y" * PIECE * number)
        assert house.once.held <= TOTAL + PIECE + 5 * ENTRY
    for one in house.generations:
        one.say(END)
    await asyncio.gather(*(client.done() for client in house.clients))
    assert last.body == b"y" * PIECE * 4


async def test_a_client_that_takes_nothing_is_not_waited_for() -> None:
    house = House(patience=0.01)
    client = house.ask()
    generation = await house.begun()
    client.reads.set()
    generation.say(b"x")
    await client.got(b"x")
    client.reads.clear()
    generation.say(b"y")
    error = await failure(client)
    assert (error.status, error.code) == (504, "timeout")
    assert generation.ended
    assert house.once.held == 0


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=str)
async def test_when_the_server_stops_nothing_is_left(order: tuple[int, int], house: House) -> None:
    clients = [house.ask() for _ in range(2)]
    generation = await house.begun()
    generation.say(b"x")
    for client in clients:
        await client.got(b"x")
    for number in order:
        clients[number].task.cancel()
    for client in clients:
        with pytest.raises(asyncio.CancelledError):
            await client.done()
    assert generation.ended


async def test_a_generation_that_is_cancelled_from_elsewhere_is_a_failure_to_its_clients(house: House) -> None:
    clients = [house.ask() for _ in range(2)]
    (await house.begun()).say(asyncio.CancelledError())
    for client in clients:
        assert (await failure(client)).code == "upstream_error"


step = st.one_of(
    st.tuples(st.just("ask"), st.integers(0, 1)),
    st.tuples(st.just("leave"), st.integers(0, 9)),
    st.tuples(st.just("pause"), st.integers(0, 9)),
    st.tuples(st.just("resume"), st.integers(0, 9)),
    st.tuples(st.just("say"), st.integers(1, PIECE * 2)),
    st.tuples(st.just("turn"), st.integers(0, 5)),
    st.tuples(st.sampled_from(["end", "fail", "cancel"]), st.integers(0, 3)),
)


@settings(max_examples=150)
@given(st.lists(step, max_size=40))
def test_whatever_happens(steps: list[tuple[str, int]]) -> None:
    """Everyone gets a beginning of what was said, and all of it who was told that it is all; nothing is left."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(play(steps), PATIENCE))


async def play(steps: list[tuple[str, int]]) -> None:
    house, before = House(), asyncio.all_tasks()
    said: dict[Generation, bytes] = {}

    def live() -> list[Generation]:
        return [one for one in house.generations if not one.ended]

    for what, number in steps:
        if what == "ask":
            house.ask(("acme", str(number)))
        elif what == "turn":
            for _ in range(number):
                await asyncio.sleep(0)
        elif what in ("leave", "pause", "resume") and house.clients:
            client = house.clients[number % len(house.clients)]
            acts = {"leave": client.left.set, "pause": client.reads.clear, "resume": client.reads.set}
            acts[what]()
        elif what == "cancel" and house.clients:
            house.clients[number % len(house.clients)].task.cancel()
        elif live():
            one = live()[number % len(live())]
            piece = bytes([len(said.get(one, b"")) % 251]) * number
            said[one] = said.get(one, b"") + (piece if what == "say" else b"")
            one.say({"say": piece, "end": END}.get(what, ApiError(ErrorCode.UPSTREAM_ERROR, "gone")))
    for client in house.clients:
        client.reads.set()
    # Everything that still runs is asked to end, also what begins only now.
    while not all(client.task.done() for client in house.clients):
        for one in live():
            one.say(END)
        await asyncio.sleep(0)
    await until(lambda: asyncio.all_tasks() - before <= {asyncio.current_task()}, "the end of every task")
    bodies = [said.get(one, b"") for one in house.generations]
    for client in house.clients:
        if client.messages:
            match = [body for body in bodies if body.startswith(client.body)]
            assert match
        if not client.task.cancelled() and not client.task.exception():
            assert client.whole
    house.now += TTL
    house.once.expire()
    assert house.once.held == 0
