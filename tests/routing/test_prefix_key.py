"""What counts as belonging together."""

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.protocol.generation import GENERATION
from service.protocol.parse_body import parse_body
from service.protocol.requests import (
    Body,
    ChatRequest,
    CompletionRequest,
    CountRequest,
    EmbeddingsRequest,
    MessagesRequest,
    ResponsesRequest,
)
from service.routing import prefix_key
from service.routing.prefix_key import CONTEXT, GREETING, PREFIX, TOKEN

QUESTION = "What is the capital of France, and who lives there?"
OTHER = "Write a poem about the sea in winter, in three lines."
LONG = "The rules of the house are these. " * (CONTEXT // 30)
ANSWER = {"role": "assistant", "content": "Paris is its capital."}
AND_THEN = {"role": "user", "content": "And what of Spain?"}


def body(kind: type[Body], **fields: Any) -> Body:
    return parse_body(kind, json.dumps({"model": "m", **fields}).encode())


def chat(*messages: dict[str, Any] | str, **fields: Any) -> Body:
    """A conversation; what is only text its user says."""
    turns = [{"role": "user", "content": one} if isinstance(one, str) else one for one in messages]
    return body(ChatRequest, messages=turns, **fields)


def system(text: str) -> dict[str, Any]:
    return {"role": "system", "content": text}


def key(request: Body, tenant: str = "tenant", session: str | None = None) -> int:
    return prefix_key.key(request, tenant, session)


def coarse(request: Body) -> int:
    return key(request) >> 32


def fine(request: Body) -> int:
    return key(request) & 0xFFFFFFFF


def messages(*turns: Any, **fields: Any) -> Body:
    return body(MessagesRequest, max_tokens=9, messages=list(turns), **fields)


def responses(given: Any, **fields: Any) -> Body:
    return body(ResponsesRequest, input=given, **fields)


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


# A request, what it has become later, and one that has nothing to do with it.
GROWING = {
    "chat": (chat(QUESTION), chat(QUESTION, ANSWER, AND_THEN), chat(OTHER)),
    "chat with a system prompt": (
        chat(system("Be kind."), QUESTION),
        chat(system("Be kind."), QUESTION, ANSWER, AND_THEN),
        chat(system("Be kind."), OTHER),
    ),
    "chat over a long context": (
        chat(system(LONG), QUESTION),
        chat(system(LONG), QUESTION, ANSWER, AND_THEN),
        chat(system(LONG), OTHER),
    ),
    "chat in parts": (
        chat(user([{"type": "text", "text": QUESTION}])),
        chat(user([{"type": "text", "text": QUESTION}]), ANSWER, AND_THEN),
        chat(user([{"type": "text", "text": OTHER}])),
    ),
    "responses": (
        responses(QUESTION, instructions="Be kind."),
        responses([user(QUESTION), ANSWER, AND_THEN], instructions="Be kind."),
        responses(OTHER, instructions="Be kind."),
    ),
    "responses in parts": (
        responses([user([{"type": "input_text", "text": QUESTION}])]),
        responses([user([{"type": "input_text", "text": QUESTION}]), {"type": "reasoning", "id": "1"}, AND_THEN]),
        responses([user([{"type": "input_text", "text": OTHER}])]),
    ),
    "messages": (
        messages(user(QUESTION), system="Be kind."),
        messages(user(QUESTION), ANSWER, AND_THEN, system="Be kind."),
        messages(user(OTHER), system="Be kind."),
    ),
    "counting before asking": (
        body(CountRequest, messages=[user(QUESTION)]),
        messages(user([{"type": "text", "text": QUESTION}])),
        body(CountRequest, messages=[user(OTHER)]),
    ),
    "a completion": (
        body(CompletionRequest, prompt="x = 1\n" * PREFIX),
        body(CompletionRequest, prompt="x = 1\n" * PREFIX + "y = 2"),
        body(CompletionRequest, prompt="x = 2\n" * PREFIX),
    ),
    "a completion of tokens": (
        body(CompletionRequest, prompt=list(range(CONTEXT))),
        body(CompletionRequest, prompt=list(range(CONTEXT + 9))),
        body(CompletionRequest, prompt=list(range(1, CONTEXT))),
    ),
    "several completions": (
        body(CompletionRequest, prompt=["x" * PREFIX, "y"]),
        body(CompletionRequest, prompt=["x" * PREFIX + "z"]),
        body(CompletionRequest, prompt=["y", "x" * PREFIX]),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("first", "later", "other"), GROWING.values(), ids=GROWING)
def test_a_conversation_keeps_its_key_while_it_grows(first: Body, later: Body, other: Body) -> None:
    assert key(first) == key(later)
    assert fine(first) != fine(other)


@pytest.mark.parametrize(("first", "_", "__"), GROWING.values(), ids=GROWING)
def test_tenants_share_nothing_and_a_key_is_of_64_bits(first: Body, _: Body, __: Body) -> None:
    ours, theirs = key(first, "ours"), key(first, "theirs")
    assert 0 < ours < 2**64
    assert ours >> 32 != theirs >> 32
    assert ours & 0xFFFFFFFF != theirs & 0xFFFFFFFF


def test_every_generation_endpoint_has_a_key_where_prompts_are_kept() -> None:
    kinds = {endpoint.body for endpoint in GENERATION}
    assert kinds == {type(first) for first, *_ in GROWING.values()} | {CountRequest, EmbeddingsRequest}


def test_conversations_over_a_long_context_share_its_half() -> None:
    one, other = chat(system(LONG), QUESTION), chat(system(LONG), OTHER)
    assert coarse(one) == coarse(other)
    assert fine(one) != fine(other)
    assert coarse(chat(system(LONG.upper()), QUESTION)) != coarse(one)


def test_a_long_first_message_is_a_context_too() -> None:
    one, other = chat(system("Be kind."), LONG + QUESTION), chat(system("Be kind."), LONG + OTHER)
    assert coarse(one) == coarse(other)
    assert fine(one) != fine(other)


def test_a_short_context_is_not_worth_sharing() -> None:
    one, other = chat(system("Be kind."), QUESTION), chat(system("Be kind."), OTHER)
    assert coarse(one) == fine(one)
    assert coarse(one) != coarse(other)


@pytest.mark.parametrize("greeting", ["Hi", "", "x" * (GREETING - 2)])
def test_those_who_only_greet_part_at_their_next_words(greeting: str) -> None:
    one, other = (chat(greeting, {"role": "assistant", "content": "?"}, said) for said in (QUESTION, OTHER))
    assert key(one) != key(other)
    assert key(one) == key(chat(greeting, {"role": "assistant", "content": "?"}, QUESTION, ANSWER, AND_THEN))


def test_only_greetings_are_waited_for() -> None:
    said = "x" * GREETING
    assert key(chat(said)) == key(chat(said, ANSWER, QUESTION)) == key(chat(said, ANSWER, OTHER))


def test_a_message_without_text_says_nothing() -> None:
    call = {"role": "assistant", "tool_calls": [{"id": "1"}]}
    assert key(chat(call, QUESTION)) == key(chat(QUESTION))


@pytest.mark.parametrize("size", [PREFIX, CONTEXT - 1])
def test_a_prompt_is_known_by_its_beginning(size: int) -> None:
    one, other = (body(CompletionRequest, prompt="x" * size + end) for end in ("", "!"))
    assert coarse(one) == coarse(other)
    assert coarse(body(CompletionRequest, prompt="x" * (PREFIX - 1) + "y")) != coarse(one)


def test_long_prompts_that_begin_alike_share_their_beginning_only() -> None:
    one, other = (body(CompletionRequest, prompt="x" * PREFIX + end * CONTEXT) for end in "ab")
    assert coarse(one) == coarse(other)
    assert fine(one) != fine(other)


def test_tokens_are_known_by_as_much_as_text() -> None:
    several = [body(CompletionRequest, prompt=[7] * (PREFIX // TOKEN) + rest) for rest in ([], [1], [2, 3])]
    assert len({key(one) for one in several}) == 1
    assert fine(body(CompletionRequest, prompt=[8] * PREFIX)) != fine(several[0])


def test_a_session_wins() -> None:
    assert key(chat(QUESTION), session="a") == key(chat(OTHER), session="a") != key(chat(QUESTION), session="b")
    assert key(chat(QUESTION), "ours", "a") != key(chat(QUESTION), "theirs", "a")
    assert key(chat(QUESTION), session="a") != key(chat(QUESTION))


@pytest.mark.parametrize("kind", [ChatRequest, ResponsesRequest])
def test_a_cache_key_parts_what_begins_alike(kind: type[Body]) -> None:
    opening: dict[str, Any] = {"messages": [user(QUESTION)]} if kind is ChatRequest else {"input": QUESTION}
    one, other = (body(kind, prompt_cache_key=name, **opening) for name in ("one", "other"))
    assert fine(one) != fine(other)
    assert fine(one) == fine(body(kind, prompt_cache_key="one", **opening))


def test_embeddings_have_nothing_to_share() -> None:
    assert key(body(EmbeddingsRequest, input=QUESTION)) == 0


@given(st.text(max_size=200), st.text(max_size=200), st.text(max_size=200))
def test_any_text_has_a_key(first: str, second: str, third: str) -> None:
    assert 0 <= key(chat(system(first), second, {"role": "assistant", "content": third})) < 2**64
    assert 0 <= key(body(CompletionRequest, prompt=first)) < 2**64


def test_the_middle_of_a_huge_text_costs_nothing() -> None:
    """A key is made of the same few thousand characters however long the prompt is."""
    texts = ["a" * 10_000 + letter + "a" * 10_000 for letter in "xy"]
    one, other = (chat(system(text), QUESTION) for text in texts)
    assert key(one) == key(other)
    assert key(chat(system(texts[0] + "!"), QUESTION)) != key(one)


def test_another_process_has_the_same_keys() -> None:
    program = (
        "from service.routing.prefix_key import key\n"
        "from service.protocol.requests import CompletionRequest\n"
        f"print(key(CompletionRequest(model='m', prompt={LONG!r}), 'tenant'))"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert int(printed) == key(body(CompletionRequest, prompt=LONG))
