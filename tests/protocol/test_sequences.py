"""How many sequences a request is for an engine, and how many tokens it may generate."""

import json
from typing import Any

import pytest

from service.protocol.parse_body import parse_body
from service.protocol.requests import Body
from service.protocol.sequences import (
    DEFAULT_OUTPUT_TOKENS,
    estimate_output_tokens,
    too_many_sequences,
)
from tests.protocol.test_generation import (
    CHAT,
    COMPLETIONS,
    COUNT,
    EMBEDDINGS,
    ENDPOINTS,
    MESSAGES,
    MINIMAL,
    RESPONSES,
)


def parse(path: str, **fields: Any) -> Body:
    return parse_body(ENDPOINTS[path].body, json.dumps(MINIMAL[path] | fields).encode()).request


@pytest.mark.parametrize(
    ("path", "fields", "sequences"),
    [
        *((path, {}, 1) for path in (CHAT, COMPLETIONS, RESPONSES, MESSAGES, EMBEDDINGS)),
        (COUNT, {}, 0),
        (CHAT, {"n": 3}, 3),
        (COMPLETIONS, {"n": 2}, 2),
        (COMPLETIONS, {"prompt": ["a"] * 8}, 8),
        (COMPLETIONS, {"prompt": ["a"] * 8, "n": 4}, 32),
        (COMPLETIONS, {"prompt": ["a"] * 8, "n": 4, "best_of": 1}, 32),
        (COMPLETIONS, {"prompt": [1, 2, 3]}, 1),
        (COMPLETIONS, {"prompt": [1] * 4096, "n": 4}, 4),
        (COMPLETIONS, {"prompt": [[1, 2], [3]], "n": 2}, 4),
        (EMBEDDINGS, {"input": ["a"] * 2048}, 2048),
        (EMBEDDINGS, {"input": [1, 2, 3]}, 1),
        (EMBEDDINGS, {"input": [[1, 2, 3], [4]]}, 2),
    ],
)
def test_prompts_choices_and_inputs_are_sequences(path: str, fields: dict[str, Any], sequences: int) -> None:
    assert parse(path, **fields).count_sequences() == sequences


@pytest.mark.parametrize(
    ("path", "fields", "tokens"),
    [
        (CHAT, {}, DEFAULT_OUTPUT_TOKENS),
        (CHAT, {"max_tokens": 7, "n": 4}, 7),
        (RESPONSES, {"max_output_tokens": 8}, 8),
        (MESSAGES, {"max_tokens": 9}, 9),
        (EMBEDDINGS, {}, 0),
    ],
)
def test_the_output_of_a_sequence_is_what_the_request_limits_it_to(
    path: str, fields: dict[str, Any], tokens: int
) -> None:
    assert estimate_output_tokens(parse(path, **fields)) == tokens


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        (CHAT, {"n": 4}, "n"),
        (COMPLETIONS, {"n": 4}, "n"),
        (COMPLETIONS, {"prompt": ["a"] * 8}, "prompt"),
        (EMBEDDINGS, {"input": ["a"] * 8}, "input"),
    ],
)
def test_more_than_an_engine_takes_at_once_names_the_field(path: str, fields: dict[str, Any], param: str) -> None:
    error = too_many_sequences(parse(path, **fields), 8, 4)
    assert (error.status, error.param) == (400, param)
    assert "its 8 sequences are more than the 4" in error.message
