"""Which answers a key stands for, for how long, and what a request with a key gets while the first one runs."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import ApiError, ErrorCode
from service.relay.idempotency import OVERHEAD, Key
from service.server.asgi import ClientDisconnectedError, Send, ServerExtension, respond
from tests.relay.keyed_requests import ASKED, END, KEY, LARGEST, OTHER, REPLAYED, TOTAL, TTL, Client, House, opened
from tests.support.waiting import PATIENCE, until

PIECE = LARGEST // 4


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with opened() as house:
        yield house


async def failure(client: Client) -> ApiError:
    with pytest.raises(ApiError) as caught:
        await client.done()
    return caught.value


async def test_the_first_client_gets_it_as_it_comes(house: House) -> None:
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


@pytest.mark.parametrize("body", [b"", b"answer", b"x" * LARGEST], ids=len)
async def test_an_answer_comes_again_with_a_request_id_of_its_own(body: bytes, house: House) -> None:
    first = await house.answered(body=body)
    for client in (house.ask(), house.ask()):
        await client.done()
        assert (client.messages[0]["status"], client.body, client.whole) == (200, body, True)
        assert client.headers == [
            (b"content-type", b"text/plain"), REPLAYED, (b"content-length", b"%d" % len(body)),
            (b"x-request-id", b"%d" % id(client)),
        ]  # fmt: skip
    assert REPLAYED not in first.headers
    assert len(house.generations) == 1


async def test_a_length_is_said_once(house: House) -> None:
    async def run(send: Send, extra: ServerExtension | None) -> None:
        await respond(send, 200, b"answer")

    for _ in range(2):
        client = house.ask_for(run)
        await client.done()
        assert [value for name, value in client.headers if name == b"content-length"] == [b"6"]
    assert REPLAYED in client.headers


async def test_records_say_what_was_replayed_and_tokens_are_counted_once(house: House) -> None:
    first = await house.answered()
    second = house.ask()
    await second.done()
    assert [one.record.completion_tokens for one in (first, second)] == [1, 0]
    assert [one.record.replayed for one in (first, second)] == [False, True]
    for one in (first, second):
        assert (one.record.outcome, one.record.code) == ("complete", None)
        assert (one.record.model, one.record.replica) == ("pebble-chat", "pebble-chat-0")
        assert one.record.finish_reason == "stop"
    assert len(first.record.output_times) == 1
    assert not second.record.output_times
    (kept,) = house.cache._cached.values()
    assert not kept.record.output_times  # which may take as much memory as the answer


@pytest.mark.parametrize(("elapsed", "seconds"), [(0.0, "1"), (0.5, "1"), (4.2, "5"), (30.0, "30"), (900.0, "30")])
async def test_while_the_first_runs_the_next_is_told_to_come_back(elapsed: float, seconds: str, house: House) -> None:
    house.now = 50.0
    first = house.ask()
    generation = await house.begun()
    generation.say(b"one ")
    await first.got(b"one ")
    house.now += elapsed
    for _ in range(2):
        error = await failure(house.ask())
        assert (error.status, error.code) == (409, "idempotency_in_progress")
        assert error.headers == {"retry-after": seconds}
    generation.say(b"two", END)
    await first.done()
    assert first.body == b"one two"
    again = house.ask()
    await again.done()
    assert again.body == b"one two"
    assert len(house.generations) == 1


async def test_a_key_stands_for_one_request(house: House) -> None:
    running = house.ask()
    generation = await house.begun()
    error = await failure(house.ask(fingerprint=OTHER))
    assert (error.status, error.code) == (422, "idempotency_conflict")
    generation.say(b"answer", END)
    await running.done()
    assert (await failure(house.ask(fingerprint=OTHER))).code == "idempotency_conflict"
    assert len(house.generations) == 1


@pytest.mark.parametrize("key", [("acme", "key-2"), ("other", "key-1")], ids=str)
async def test_keys_and_tenants_do_not_mix(key: Key, house: House) -> None:
    running = house.ask()
    generation = await house.begun()
    assert (await house.answered(key, b"yours", OTHER)).body == b"yours"
    generation.say(b"mine", END)
    await running.done()
    for asked, fingerprint, body in ((KEY, ASKED, b"mine"), (key, OTHER, b"yours")):
        client = house.ask(asked, fingerprint)
        await client.done()
        assert client.body == body


# What is not kept, and frees the key, also for another request


async def is_free(house: House) -> None:
    """The key stands for nothing."""
    assert house.cache.size == 0
    client = await house.answered(body=b"other", fingerprint=OTHER)
    assert (client.body, REPLAYED in client.headers) == (b"other", False)


@pytest.mark.parametrize("said", [(), (b"one ",)], ids=["before it began", "midway"])
async def test_an_answer_whose_client_left(said: tuple[bytes, ...], house: House) -> None:
    client = house.ask()
    generation = await house.begun()
    generation.say(*said)
    await client.got(b"".join(said))
    client.left.set()
    await until(lambda: generation.ended, "the end of the generation")
    with pytest.raises(ClientDisconnectedError):
        await client.done()
    await is_free(house)


async def test_one_that_failed_before_it_began(house: House) -> None:
    client, error = house.ask(), ApiError(ErrorCode.UPSTREAM_ERROR, "The engine is gone.")
    (await house.begun()).say(error)
    assert await failure(client) is error
    assert not client.messages
    await is_free(house)


async def test_one_that_broke_off(house: House) -> None:
    client = house.ask()
    (await house.begun()).say(b"begun", RuntimeError("a mistake of ours"))
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        await client.done()
    assert (client.body, client.whole) == (b"begun", False)
    await is_free(house)


async def test_one_that_ended_in_an_error_event(house: House) -> None:
    client = house.ask()
    generation = await house.begun()
    generation.say(b"begun")
    await client.got(b"begun")
    generation.record.outcome, generation.record.code = "failed", "upstream_error"  # as the relay ends it
    generation.say(b"error event", END)
    await client.done()
    assert client.body == b"begunerror event"
    await is_free(house)


@pytest.mark.parametrize("status", [199, 300, 500])
async def test_one_of_another_status(status: int, house: House) -> None:
    client = house.ask(status=status)
    (await house.begun()).say(b"no", END)
    await client.done()
    assert client.messages[0]["status"] == status
    await is_free(house)


async def test_one_without_its_end(house: House) -> None:
    async def unfinished(send: Send, extra: ServerExtension | None) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})

    await house.ask_for(unfinished).done()
    await is_free(house)


async def test_one_after_which_something_failed(house: House) -> None:
    async def careless(send: Send, extra: ServerExtension | None) -> None:
        await respond(send, 200, b"answer")
        raise RuntimeError("a mistake of ours")

    client = house.ask_for(careless)
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        await client.done()
    assert client.body == b"answer"
    await is_free(house)


async def test_one_that_a_stopping_server_cancels(house: House) -> None:
    client = house.ask()
    generation = await house.begun()
    generation.say(b"x")
    await client.got(b"x")
    client.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await client.done()
    assert generation.ended
    await is_free(house)


async def test_one_that_is_too_large(house: House) -> None:
    client = house.ask()
    generation = await house.begun()
    for number in range(1, 10):
        generation.say(b"x" * PIECE)
        await client.got(b"x" * PIECE * number)
        assert house.cache.size <= LARGEST
    assert house.cache.size == 0
    assert (await failure(house.ask())).code == "idempotency_in_progress"
    generation.say(END)
    await client.done()
    assert client.whole
    await is_free(house)


async def test_one_piece_that_is_too_large(house: House) -> None:
    await house.answered(("acme", "small"))
    client = await house.answered(body=b"x" * (TOTAL + 1))
    assert len(client.body) == TOTAL + 1
    await house.ask(("acme", "small")).done()  # is still there
    assert len(house.generations) == 2
    house.now += TTL
    house.cache.expire()
    await is_free(house)


# How much is kept, and for how long


@pytest.mark.parametrize(("after", "generations"), [(TTL - 1, 1), (TTL, 2)])
async def test_an_answer_is_kept_for_a_while(after: float, generations: int, house: House) -> None:
    first = house.ask()
    generation = await house.begun()
    house.now += TTL / 2  # counts from its end
    generation.say(b"answer", END)
    await first.done()
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


async def test_the_oldest_answers_make_room(house: House) -> None:
    keys = [("acme", str(number)) for number in range(4)]
    size = TOTAL // 3 - OVERHEAD
    for key in keys[:3]:
        await house.answered(key, b"x" * size)
    await house.ask(keys[0]).done()
    assert house.cache.size == 3 * (size + OVERHEAD)
    await house.answered(keys[3], b"x" * size)
    assert house.cache.size <= TOTAL
    for key in (keys[2], keys[3], keys[0]):
        await house.ask(key).done()
    assert len(house.generations) == 4
    await house.answered(keys[1])
    assert len(house.generations) == 5


async def test_many_small_answers_are_bounded_too() -> None:
    house = House(total=8 * OVERHEAD)
    for number in range(20):
        await house.answered(("acme", str(number)), b"")
        assert house.cache.size == min(number + 1, 8) * OVERHEAD


async def test_copies_of_running_answers_count(house: House) -> None:
    """They take the memory of finished ones, and none where there is none left; their clients notice nothing."""
    await house.answered(("acme", "old"), b"x" * LARGEST)
    running = []
    for number in range(4):
        client = house.ask(("acme", str(number)))
        generation = await house.begun(number + 1)
        generation.say(*[b"y" * PIECE] * 4)
        await client.got(b"y" * PIECE * 4)
        assert house.cache.size <= TOTAL
        running.append((client, generation))
    assert ("acme", "old") not in house.cache._cached
    for client, generation in reversed(running):
        generation.say(END)
        await client.done()
        assert client.whole
        assert house.cache.size <= TOTAL
    house.settled()
    # What an answer costs beside its body found no room while the bodies of the others had it all.
    assert set(house.cache._cached) == {("acme", "0"), ("acme", "1")}


class Model:
    """What each key must stand for, beside a cache; whatever differs is in `wrong`."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.wrong: list[str] = []
        self.running: dict[Key, bytes] = {}  # fingerprints
        self.kept: dict[Key, tuple[bytes, bytes, float]] = {}  # fingerprint, body, and when it expires

    def expected(self, key: Key, fingerprint: bytes) -> str:
        known, now = self.kept.get(key), self.house.now
        if known and known[2] > now:
            if known[0] != fingerprint:
                return "idempotency_conflict"
            self.kept[key] = fingerprint, known[1], now + TTL
            return "replayed"
        if key in self.running:
            return "idempotency_in_progress" if self.running[key] == fingerprint else "idempotency_conflict"
        return "generated"

    async def ask(self, client: Client, key: Key, fingerprint: bytes) -> None:
        house, begun = self.house, len(self.house.generations)
        expected = self.expected(key, fingerprint)
        if expected == "generated":
            self.running[key] = fingerprint
        code, run = None, house.generation(client.record, client.receive)
        try:
            await house.cache.answer(key, fingerprint, run, client.record, client.send)
            if expected == "generated" and len(client.body) <= LARGEST:
                self.kept[key] = fingerprint, client.body, house.now + TTL
        except (ApiError, ClientDisconnectedError) as error:
            code = error.code if isinstance(error, ApiError) else "left"
        finally:
            if expected == "generated":
                del self.running[key]
                right = code in (None, "left", "upstream_error") and not client.record.replayed
            elif expected == "replayed":
                right = code is None and client.record.replayed and client.body == self.kept[key][1]
            else:
                right = code == expected and not client.messages
            if not right or (expected != "generated" and len(house.generations) != begun):
                self.wrong.append(f"{key} should be {expected}, and is {code}, {client.record}")


step = st.one_of(
    st.tuples(st.just("ask"), st.integers(0, 3)),
    st.tuples(st.just("ask"), st.integers(0, 3)),
    st.tuples(st.just("say"), st.integers(1, LARGEST)),
    st.tuples(st.just("wait"), st.sampled_from((1, int(TTL) - 1, int(TTL)))),
    st.tuples(st.just("turn"), st.integers(0, 5)),
    st.tuples(st.sampled_from(["end", "end", "fail", "leave", "cancel"]), st.integers(0, 3)),
)


@settings(max_examples=200)
@given(st.lists(step, max_size=40))
def test_whatever_happens_a_key_stands_for_what_it_must(steps: list[tuple[str, int]]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(play(steps), PATIENCE))


async def play(steps: list[tuple[str, int]]) -> None:
    house, before = House(total=64 * LARGEST), asyncio.all_tasks()
    model = Model(house)
    for what, number in steps:
        live = [one for one in house.generations if not one.ended]
        asking = [one for one in house.clients if not one.task.done()]
        if what == "ask":
            client = Client()
            asked = model.ask(client, ("acme", str(number // 2)), (ASKED, OTHER)[number % 2])
            client.task = asyncio.create_task(asked)
            house.clients.append(client)
        elif what == "turn":
            for _ in range(number):
                await asyncio.sleep(0)
        elif what == "wait":
            house.now += number
        elif what in ("leave", "cancel"):
            for client in asking[number : number + 1]:
                client.left.set() if what == "leave" else client.task.cancel()
        else:
            for one in live[number : number + 1] or live[:1]:
                one.say({"say": b"x" * number, "end": END}.get(what, ApiError(ErrorCode.UPSTREAM_ERROR, "gone")))
    # Everything that still runs is asked to end, also what begins only now.
    while not all(client.task.done() for client in house.clients):
        for one in house.generations:
            one.say(END)
        await asyncio.sleep(0)
    await until(lambda: asyncio.all_tasks() - before <= {asyncio.current_task()}, "the end of every task")
    assert not model.wrong, "\n".join(model.wrong)
    house.settled()
    house.now += TTL
    house.cache.expire()
    assert house.cache.size == 0
