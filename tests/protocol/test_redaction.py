"""What is left of an engine's message when everything that it quotes is cut out."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.protocol.redaction import MAX_LENGTH, RUN, redact

REQUEST: dict[str, Any] = {
    "model": "pebble-chat",
    "messages": [{"role": "user", "content": "Hello there, tell me about Ada and 12 more"}],
    "tools": [{"type": "function", "function": {"name": "find_ada", "parameters": {"uniqueItems": True}}}],
    "prompt": [17, 4, 23],
}


@pytest.mark.parametrize(
    ("message", "left"),
    [
        ("`tools` must not be empty.", "`tools` must not be empty"),
        ("When using `tool_choice`, `tools` must be set (parameter=tools, value=find_ada)",
         "When using `tool_choice`, `tools` must be set"),
        ('Unimplemented keys: ["uniqueItems"]', 'Unimplemented keys: ["uniqueItems"]'),
        ("n must be 1, got 2.", "n must be 1, got 2"),
        ("The tool 'find_ada' is unknown", "The tool … is unknown"),
        ("A 'role' that is not 'function'", "A 'role' that is not 'function'"),
        ("It's the model's prompt that isn't right", "It's the model's prompt that isn't right"),
        ("Wrong name: find_ada!", "Wrong name: …"),
        ("Bad name=find_ada", "Bad name=…"),
        ("Unexpected: {'a': 'Ada'} here", "Unexpected: … here"),
        ("Bad ids [17, 4, 23] in it", "Bad ids … in it"),
        ("Cannot render Hello there, tell me about it", "Cannot render …"),
        ("Cannot read /srv/models/x of http://10.0.0.1:8000/v1 at 0x7f00 on host.internal:8000",
         "Cannot read … of … at … on …"),
        ("user/assistant must alternate", "user/assistant must alternate"),
        ("first\nsecond", "first"),
        ("regex parse error:\n    (Ada\n    ^\nerror: unclosed group", "regex parse error: unclosed group"),
        ("Traceback (most recent call last):\nx", ""),
        ("", ""),
    ],
)  # fmt: skip
def test_what_is_left(message: str, left: str) -> None:
    assert redact(message, REQUEST, ("tool_choice",)) == left


def test_a_request_may_be_nested_deeply() -> None:
    nested: Any = "some words that nobody else may see"
    for _ in range(10_000):
        nested = [{"a": nested}]
    assert redact("It said some words that nobody else may see", {"messages": nested}) == "It said …"


def test_a_long_message_is_cut_short() -> None:
    assert len(redact("word " * 200, {})) <= MAX_LENGTH


@given(secret=st.text("abcdefg 0123'\"`{}[]()=:,.\n", min_size=2 * RUN), before=st.text(max_size=40))
def test_no_long_quotation_is_left(secret: str, before: str) -> None:
    left = redact(f"{before} {secret}", {"messages": [{"content": secret}]})
    assert not [start for start in range(len(secret) - RUN) if secret[start : start + RUN + 1] in left]
