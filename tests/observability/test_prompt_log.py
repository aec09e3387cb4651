"""The log of prompts: what is redacted, what a stream said, and that it is bounded."""

import json
import re
from pathlib import Path
from typing import Any

from service.observability import prompt_log
from service.observability.prompt_log import (
    LONGEST_SECRET,
    MAX_BODY,
    MAX_QUEUED,
    MAX_TEXT,
    PATTERNS,
    PromptLog,
    fits,
    redacted_line,
)
from service.observability.record import Record
from service.observability.rotating_file import RotatingFile
from tests.support.each import each

SECRETS = (
    "jane.doe+x@mail.example.co.uk", "4111 1111 1111 1111", "4111-1111-1111-1111", "378282246310005",
    "sk-proj-abcdefghij0123456789", "rh_abcdefghij0123456789_-", "hf_abcdefghij0123456789", "AKIAABCDEFGHIJ012345",
)  # fmt: skip
KEPT = ("version 3.11.7", "call 555 1234", "a@b", "2026-11-28T04:04:21Z", "risk-free and sk-1", "1 2 3 4 5 6")


def redacted(request: str, response: str | None = "{}", patterns: tuple[str, ...] = PATTERNS) -> dict[str, Any]:
    line = json.dumps({"request": request, "response": response}).encode()
    found: dict[str, Any] = json.loads(redacted_line(line, [*map(re.compile, patterns)]))
    return found


@each("secret", SECRETS)
def test_what_is_secret_is_redacted_by_default(secret: str) -> None:
    escaped = "".join(f"\\u{ord(letter):04x}" for letter in secret)
    for text in (secret, f"it is {secret}, yes", escaped):
        found = redacted(f'{{"a": [{{"{text}": "{text}"}}]}}')["request"]
        assert secret not in json.dumps(found) and "[redacted]" in json.dumps(found)


@each("text", KEPT)
def test_other_texts_stay(text: str) -> None:
    assert redacted(json.dumps({"a": text}))["request"] == {"a": text}


def test_a_secret_that_a_stream_says_in_pieces_is_redacted() -> None:
    def event(value: object) -> str:
        return f"data: {json.dumps(value)}\n\n"

    chat = "".join(
        event({"choices": [{"delta": {"content": piece}}]}) for piece in ("to jane@", "mail.exa", "mple now")
    )
    assert redacted("{}", chat + "data: [DONE]\n\n")["response"] == "to [redacted] now"
    message = "".join(
        event({"delta": {"type": "text_delta", "text": piece}}) for piece in ("sk-abcdefgh", "ij0123456789")
    )
    assert redacted("{}", message)["response"] == "[redacted]"
    response = "".join(event({"type": "response.output_text.delta", "delta": piece}) for piece in ("a", "b"))
    assert redacted("{}", response)["response"] == "ab"
    text = event({"choices": [{"text": "x"}]}) + ": comment\n\n" + "data: {broken\n\n"
    assert redacted("{}", text)["response"] == "x"


def test_patterns_of_one_s_own_replace_those() -> None:
    found = redacted('{"a": "tulip jane@mail.example"}', patterns=("tul.p",))
    assert found["request"] == {"a": "[redacted] jane@mail.example"}


def test_it_is_bounded(tmp_path: Path) -> None:
    assert fits(MAX_BODY - 1, 1) and not fits(MAX_BODY, 1)
    assert redacted("{}", None)["response"] == f"[longer than {MAX_BODY} bytes]"
    long = redacted(json.dumps({"a": "é" * (MAX_TEXT + 5)}))["request"]["a"]
    assert long == "é" * (MAX_TEXT + 5 - LONGEST_SECRET) + f"[cut: {MAX_TEXT + 5} characters]"
    half = redacted(json.dumps({"a": " " * (MAX_TEXT + 500) + "rh_abcdefghij0123456789"}))["request"]["a"]
    assert "rh_" not in half
    dropped: list[int] = []
    log = PromptLog(RotatingFile(tmp_path / "prompts", 2**20, 2), (), dropped.append)
    for _ in range(MAX_QUEUED * 3):
        log.write(Record("r", "/v1/chat/completions", 0.0), b"{}", b"x" * (MAX_BODY + 1))
    log.close()
    lines = [json.loads(line) for line in (tmp_path / "prompts").read_text().splitlines()]
    assert len(lines) + sum(dropped) == MAX_QUEUED * 3 and len(lines) >= MAX_QUEUED
    assert lines[0]["response"] == prompt_log._redacted(f"[longer than {MAX_BODY} bytes]", ())
