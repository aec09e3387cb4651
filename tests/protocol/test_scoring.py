"""Pairs of query and documents: how many an engine scores, how much it reads, and what it is sent."""

import json
from typing import Any

import pytest

from service.protocol.generation import PATHS
from service.protocol.parse_body import parse_body
from service.protocol.requests import Body
from service.protocol.scoring import RerankRequest, ScoreRequest, is_bare_ranking, without_documents
from service.protocol.sequences import estimate_output_tokens


def parse(kind: type[Body], **fields: Any) -> tuple[Body, bytes]:
    body = json.dumps({"model": "m", **fields}).encode()
    return parse_body(kind, body).request, body


def rerank(*documents: Any, **fields: Any) -> tuple[Body, bytes]:
    return parse(RerankRequest, query="q" * 100, documents=list(documents), **fields)


@pytest.mark.parametrize(
    ("request_", "sequences", "chars"),
    [
        (rerank("a"), 1, 101),
        (rerank("a" * 10, {"text": "b" * 5}, ""), 3, 315),
        (parse(ScoreRequest, text_1="a", text_2="bc"), 1, 3),
        (parse(ScoreRequest, text_1="abc", text_2=["d", "e"]), 2, 8),
        (parse(ScoreRequest, queries=["abc", "d"], items=["e", "f"]), 2, 6),
        (parse(ScoreRequest, data_1=["abc"], data_2=["d"] * 4), 4, 16),
    ],
)
def test_what_a_request_is_for_an_engine(request_: tuple[Body, bytes], sequences: int, chars: int) -> None:
    request, body = request_
    assert request.count_sequences() == sequences
    assert request.prompt_bytes(len(body)) == max(chars, len(body))
    assert estimate_output_tokens(request) == 0


def test_documents_that_are_objects_are_sent_as_texts() -> None:
    request, body = rerank("a", {"text": "b", "title": "c"})
    assert PATHS["/rerank"].adapt(request, body, False).fields == {"documents": ["a", "b"]}
    assert PATHS["/rerank"].adapt(*rerank("a", "b"), False).fields == {}


@pytest.mark.parametrize(("wanted", "bare"), [(None, False), (True, False), (False, True)])
def test_documents_are_left_out_where_they_are_not_wanted(wanted: bool | None, bare: bool) -> None:
    assert is_bare_ranking(rerank("a", return_documents=wanted)[0]) == bare


def test_a_ranking_without_its_documents() -> None:
    results = [{"index": 1, "document": {"text": "é", "multi_modal": None}, "relevance_score": 0.9990965127944946}]
    body = {"id": "é", "model": "m", "usage": {"prompt_tokens": 3, "total_tokens": 3}, "results": results}
    left = json.loads(without_documents(json.dumps(body).encode()))
    assert left == body | {"results": [{"index": 1, "relevance_score": 0.9990965127944946}]}


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b'{"results": [1]}', b'{"results": [{}]}', b"[" * 10**5])
def test_what_is_no_ranking_stays_as_it_is(body: bytes) -> None:
    assert without_documents(body) == body
