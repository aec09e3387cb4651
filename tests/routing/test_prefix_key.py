"""Which requests have a prefix key in common."""

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.protocol.anthropic import CountRequest, MessagesRequest
from service.protocol.generation import GENERATION
from service.protocol.parse_body import parse_body
from service.protocol.requests import Body, ChatRequest, CompletionRequest, EmbeddingsRequest, ResponsesRequest
from service.protocol.scoring import RerankRequest, ScoreRequest
from service.protocol.tokenization import DetokenizeRequest, TokenizeRequest
from service.routing import prefix_key
from service.routing.prefix_key import CHARS_PER_TOKEN, CONTEXT_CHARS, GREETING_CHARS, PREFIX_CHARS, for_adapter

QUESTION = "What is the capital of France, and who lives there?"
OTHER = "Write a poem about the sea in winter, in three lines."
LONG = "The rules of the house are these. " * (CONTEXT_CHARS // 30)
ANSWER = {"role": "assistant", "content": "Paris is its capital."}
CALL = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
TOOL = {"type": "function", "function": {"name": "f"}}
AND_THEN = {"role": "user", "content": "And what of Spain?"}


def body(kind: type[Body], **fields: Any) -> Body:
    return parse_body(kind, json.dumps({"model": "m", **fields}).encode()).request


def chat(*messages: dict[str, Any] | str, **fields: Any) -> Body:
    """A conversation; plain strings are user messages."""
    turns = [{"role": "user", "content": message} if isinstance(message, str) else message for message in messages]
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


def responses(content: Any, **fields: Any) -> Body:
    return body(ResponsesRequest, input=content, **fields)


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


# The first request of a conversation, a later one of it, and one of another conversation.
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
    "an agent, however short its first message": (
        chat("Write a.txt.", tools=[TOOL]),
        chat("Write a.txt.", CALL, {"role": "tool", "content": "Done: 5 bytes written, and much else."}, tools=[TOOL]),
        chat("Write b.txt.", tools=[TOOL]),
    ),
    "an agent's messages": (
        messages(user("Write a.txt."), tools=[TOOL]),
        messages(user("Write a.txt."), ANSWER, user([{"type": "tool_result", "content": "Done."}]), tools=[TOOL]),
        messages(user("Write b.txt."), tools=[TOOL]),
    ),
    "messages": (
        messages(user(QUESTION), system="Be kind."),
        messages(user(QUESTION), ANSWER, AND_THEN, system="Be kind."),
        messages(user(OTHER), system="Be kind."),
    ),
    "count_tokens, then messages": (
        body(CountRequest, messages=[user(QUESTION)]),
        messages(user([{"type": "text", "text": QUESTION}])),
        body(CountRequest, messages=[user(OTHER)]),
    ),
    "a completion": (
        body(CompletionRequest, prompt="x = 1\n" * PREFIX_CHARS),
        body(CompletionRequest, prompt="x = 1\n" * PREFIX_CHARS + "y = 2"),
        body(CompletionRequest, prompt="x = 2\n" * PREFIX_CHARS),
    ),
    "a completion of tokens": (
        body(CompletionRequest, prompt=list(range(CONTEXT_CHARS))),
        body(CompletionRequest, prompt=list(range(CONTEXT_CHARS + 9))),
        body(CompletionRequest, prompt=list(range(1, CONTEXT_CHARS))),
    ),
    "a list of completions": (
        body(CompletionRequest, prompt=["x" * PREFIX_CHARS, "y"]),
        body(CompletionRequest, prompt=["x" * PREFIX_CHARS + "z"]),
        body(CompletionRequest, prompt=["y", "x" * PREFIX_CHARS]),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("first", "later", "other"), GROWING.values(), ids=GROWING)
def test_a_conversation_keeps_its_key_while_it_grows(first: Body, later: Body, other: Body) -> None:
    assert key(first) == key(later)
    assert fine(first) != fine(other)


@pytest.mark.parametrize(("first", "_", "__"), GROWING.values(), ids=GROWING)
def test_tenants_have_different_keys_of_64_bits(first: Body, _: Body, __: Body) -> None:
    acme, other = key(first, "acme"), key(first, "other")
    assert 0 < acme < 2**64
    assert acme >> 32 != other >> 32
    assert acme & 0xFFFFFFFF != other & 0xFFFFFFFF


def test_an_adapter_has_keys_of_its_own_since_its_cache_is() -> None:
    plain = [prefix_key.key(one, "tenant") for one in (chat(QUESTION), chat(system(LONG), QUESTION))]
    for one in plain:
        keys = {one, for_adapter(one, "tone"), for_adapter(one, "desk")}
        assert len(keys) == 3 and max(keys) < 2**64
    assert for_adapter(0, "tone") == 0, "what gains nothing from a cache has no key"


def test_every_generation_endpoint_has_a_key_where_prompts_are_cached() -> None:
    kinds = {endpoint.body.__name__ for endpoint in GENERATION}
    others = (CountRequest, EmbeddingsRequest, RerankRequest, ScoreRequest, TokenizeRequest, DetokenizeRequest)
    assert kinds == {type(first).__name__ for first, *_ in GROWING.values()} | {kind.__name__ for kind in others}


def test_conversations_over_a_long_context_share_the_coarse_half() -> None:
    first, other = chat(system(LONG), QUESTION), chat(system(LONG), OTHER)
    assert coarse(first) == coarse(other)
    assert fine(first) != fine(other)
    assert coarse(chat(system(LONG.upper()), QUESTION)) != coarse(first)


def test_a_long_first_message_is_a_shared_context_too() -> None:
    first, other = chat(system("Be kind."), LONG + QUESTION), chat(system("Be kind."), LONG + OTHER)
    assert coarse(first) == coarse(other)
    assert fine(first) != fine(other)


def test_a_short_context_is_not_shared() -> None:
    first, other = chat(system("Be kind."), QUESTION), chat(system("Be kind."), OTHER)
    assert coarse(first) == fine(first)
    assert coarse(first) != coarse(other)


@pytest.mark.parametrize("greeting", ["Hi", "", "x" * (GREETING_CHARS - 2)])
def test_conversations_that_begin_with_a_greeting_differ_by_the_next_message(greeting: str) -> None:
    first, other = (chat(greeting, {"role": "assistant", "content": "?"}, message) for message in (QUESTION, OTHER))
    assert key(first) != key(other)
    assert key(first) == key(chat(greeting, {"role": "assistant", "content": "?"}, QUESTION, ANSWER, AND_THEN))


def test_a_first_message_longer_than_a_greeting_is_the_key() -> None:
    message = "x" * GREETING_CHARS
    assert key(chat(message)) == key(chat(message, ANSWER, QUESTION)) == key(chat(message, ANSWER, OTHER))


def test_a_message_without_text_does_not_change_the_key() -> None:
    call = {"role": "assistant", "tool_calls": [{"id": "1"}]}
    assert key(chat(call, QUESTION)) == key(chat(QUESTION))


@pytest.mark.parametrize("size", [PREFIX_CHARS, CONTEXT_CHARS - 1])
def test_a_completion_is_identified_by_its_beginning(size: int) -> None:
    first, other = (body(CompletionRequest, prompt="x" * size + end) for end in ("", "!"))
    assert coarse(first) == coarse(other)
    assert coarse(body(CompletionRequest, prompt="x" * (PREFIX_CHARS - 1) + "y")) != coarse(first)


def test_long_prompts_that_begin_alike_share_the_coarse_half_only() -> None:
    first, other = (body(CompletionRequest, prompt="x" * PREFIX_CHARS + end * CONTEXT_CHARS) for end in "ab")
    assert coarse(first) == coarse(other)
    assert fine(first) != fine(other)


def test_token_ids_are_identified_by_as_much_as_text() -> None:
    several = [
        body(CompletionRequest, prompt=[7] * (PREFIX_CHARS // CHARS_PER_TOKEN) + rest) for rest in ([], [1], [2, 3])
    ]
    assert len({key(first) for first in several}) == 1
    assert fine(body(CompletionRequest, prompt=[8] * PREFIX_CHARS)) != fine(several[0])


def test_a_list_of_token_lists_has_the_key_of_its_first() -> None:
    tokens = list(range(CONTEXT_CHARS))
    several = body(CompletionRequest, prompt=[tokens, [1, 2]])
    assert key(several, "t") == key(body(CompletionRequest, prompt=tokens), "t")
    assert key(several, "t") != key(body(CompletionRequest, prompt=[[1, 2], tokens]), "t")


def test_a_session_replaces_the_prompt() -> None:
    assert key(chat(QUESTION), session="a") == key(chat(OTHER), session="a") != key(chat(QUESTION), session="b")
    assert key(chat(QUESTION), "ours", "a") != key(chat(QUESTION), "theirs", "a")
    assert key(chat(QUESTION), session="a") != key(chat(QUESTION))


def test_a_billing_header_is_no_part_of_the_key() -> None:
    def asked(bill: str, question: str) -> Body:
        texts = f"x-anthropic-billing-header: cc_version={bill};", LONG
        blocks = [{"type": "text", "text": text} for text in texts]
        return messages(user(question), system=blocks)

    assert key(asked("2.1.1", QUESTION)) == key(asked("2.1.2", QUESTION))
    assert coarse(asked("2.1.1", QUESTION)) == coarse(asked("2.1.2", OTHER))


@pytest.mark.parametrize("kind", [ChatRequest, ResponsesRequest, MessagesRequest])
def test_a_conversations_id_is_its_fine_half(kind: type[Body]) -> None:
    def asked(question: str, conversation: str | None) -> int:
        turn = {"role": "user", "content": question}
        openings: dict[type[Body], dict[str, Any]] = {
            ChatRequest: {"messages": [system(LONG), turn]},
            ResponsesRequest: {"input": [turn], "instructions": LONG},
            MessagesRequest: {"messages": [turn], "system": LONG, "max_tokens": 9},
        }
        opening = openings[kind]
        return prefix_key.key(body(kind, **opening), "tenant", None, conversation)

    first, compacted, other = asked(QUESTION, "one"), asked("A summary of it all.", "one"), asked(QUESTION, "other")
    assert first == compacted
    assert first >> 32 == other >> 32 == asked(OTHER, None) >> 32
    assert first & 0xFFFFFFFF != other & 0xFFFFFFFF


@pytest.mark.parametrize("kind", [ChatRequest, ResponsesRequest])
def test_prompt_cache_key_separates_conversations_that_begin_alike(kind: type[Body]) -> None:
    opening: dict[str, Any] = {"messages": [user(QUESTION)]} if kind is ChatRequest else {"input": QUESTION}
    first, other = (body(kind, prompt_cache_key=name, **opening) for name in ("one", "other"))
    assert fine(first) != fine(other)
    assert fine(first) == fine(body(kind, prompt_cache_key="one", **opening))


def test_embeddings_have_no_key() -> None:
    assert key(body(EmbeddingsRequest, input=QUESTION)) == 0


@given(st.text(max_size=200), st.text(max_size=200), st.text(max_size=200))
def test_any_text_has_a_key(first: str, second: str, third: str) -> None:
    assert 0 <= key(chat(system(first), second, {"role": "assistant", "content": third})) < 2**64
    assert 0 <= key(body(CompletionRequest, prompt=first)) < 2**64


def test_the_middle_of_a_long_text_is_not_hashed() -> None:
    """The cost of a key is bounded, however long the prompt is."""
    texts = ["a" * 10_000 + letter + "a" * 10_000 for letter in "xy"]
    first, other = (chat(system(text), QUESTION) for text in texts)
    assert key(first) == key(other)
    assert key(chat(system(texts[0] + "!"), QUESTION)) != key(first)


def test_keys_are_the_same_in_every_process() -> None:
    program = (
        "from service.routing.prefix_key import key\n"
        "from service.protocol.requests import CompletionRequest\n"
        f"print(key(CompletionRequest(model='m', prompt={LONG!r}), 'tenant'))"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert int(printed) == key(body(CompletionRequest, prompt=LONG))
