"""How the card of tool calls cuts texts, and what it says of readings. No vLLM is needed."""

import pytest

from service.catalog import parsers
from tests.support.fleets import CATALOG
from tests.vllm.thinking_formats import THINKINGS
from tests.vllm.tool_card import thinking_families
from tests.vllm.tool_formats import BROKEN, FORMATS, NOT_RUN, Call
from tests.vllm.tool_streams import (
    Outcome,
    Parsed,
    broken,
    by_token,
    characters,
    difference,
    expected,
    few,
    many,
    words,
)

TOKENS = ("<call>", "</call>")
TEXT = f'<call>{{"a": "{broken("</call>", TOKENS)} b"}}</call>'


def test_tokens_stay_whole_and_what_is_none_is_cut() -> None:
    pieces = characters(TEXT, TOKENS)
    assert (pieces[0], pieces[-1]) == TOKENS
    assert pieces.count("</call>") == 1
    assert "".join(pieces) == '<call>{"a": "</call> b"}</call>' == "".join(words(TEXT, TOKENS))
    assert words("<call>get_weather {}", TOKENS) == ["<call>", "get_", "weat", "her", " ", "{}"]
    assert characters("", TOKENS) == []
    assert characters("<call>", ()) == list("<call>")


def test_every_way_of_streaming_has_the_whole_text() -> None:
    for deltas in by_token(TEXT, TOKENS) + few(TEXT, TOKENS) + many(TEXT, TOKENS):
        assert "".join(piece for pieces in deltas for piece in pieces) == TEXT.replace(BROKEN, "")


def test_ways_of_streaming() -> None:
    assert by_token("<call>ab", TOKENS) == [[["<call>"], ["ab"], []], [["<call>"], ["a"], ["b"], []]]
    whole, *halves = many("<call>ab", TOKENS)
    assert whole == [["<call>", "a", "b"]]
    assert halves == [[["<call>"], ["a", "b"]], [["<call>", "a"], ["b"]]]
    assert few("<call>a b c", TOKENS)[0] == [["<call>", "a"], [" b", " c"]]


RIGHT = expected("Hello.", [Call("f", {"n": 1, "s": f"x{BROKEN}y"})], "Hm.")


@pytest.mark.parametrize(
    ("got", "words"),
    [
        (Parsed("\nHm.\n", "Hello.\n\n", (("f", '{"s":"xy","n":1}'),)), ""),
        (Parsed(error="KeyError raised"), "KeyError raised"),
        (Parsed("Hm.", "Hello. <call>", ()), "no call, content has ` <call>` more"),
        (Parsed("", "Hello.", RIGHT.calls), "reasoning lost"),
        (Parsed("<think>Hm.", "Hi", RIGHT.calls), "reasoning has `<think>` before it, content is `Hi`"),
        (Parsed("Hm.", "Hello.", RIGHT.calls * 2), "2 calls instead of 1"),
        (Parsed("Hm.", "Hello.", (("", ""),)), "the name is ``, arguments are empty"),
        (Parsed("Hm.", "Hello.", (("f", '{"n": 1'),)), 'arguments are not JSON: `{"n": 1`'),
        (Parsed("Hm.", "Hello.", (("f", "[1]"),)), "arguments are `[1]`"),
        (Parsed("Hm.", "Hello.", (("f", '{"n": true, "t": "`"}'),)), '`n` is `true`, `s` is missing, `t` is `` "`" ``'),
    ],
)
def test_difference(got: Parsed, words: str) -> None:
    assert difference(RIGHT, got) == words


@pytest.mark.parametrize(
    ("outcome", "letters", "sentence"),
    [
        (Outcome("", "", ("",), ("", "")), "ok", ""),
        (Outcome("x", "x", ("x",), ("x", "x")), "W S F M", "always: x"),
        (Outcome("x", "", ("",), ("", "")), "W", "whole: x"),
        (Outcome("", "x", ("",), ("y", "")), "S M", "token by token: x; many tokens, sometimes: y"),
        (Outcome("", "", ("y", "z", "z", ""), ()), "F", "few tokens, mostly: z (or another mistake)"),
        (Outcome("", "", ("x",), ("", "z", *[""] * 10)), "F M", "few tokens, always: x; many tokens, rarely: z"),
    ],
)
def test_words_of_an_outcome(outcome: Outcome, letters: str, sentence: str) -> None:
    assert (outcome.letters, outcome.sentence) == (letters, sentence)


def test_every_parser_that_is_chosen_has_a_format() -> None:
    chosen = {model.engine.get("tool_call_parser") for model in CATALOG.models.values()}
    chosen |= {one.tool_call for one in (*parsers.FORMATS, *parsers.CLASSES.values())}
    assert chosen - {None} == {one.tool_parser for one in FORMATS} | set(NOT_RUN)


def test_every_family_that_thinks_has_a_row() -> None:
    thinking = {
        CATALOG.family_of[model.id] for model in CATALOG.models.values() if model.engine.get("reasoning_parser")
    }
    assert {family for one in THINKINGS for family in thinking_families(one)} == thinking
    assert all(thinking_families(one) for one in THINKINGS)
