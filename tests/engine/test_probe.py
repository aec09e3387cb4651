"""The request that shows that an engine computes, for each kind of model."""

import json
from typing import Any

import pytest

from service.engine.probe import TEXT, probe_request
from service.fleet.served_model import ServedModel
from tests.support.fleets import CATALOG


@pytest.mark.parametrize(
    ("model", "path", "fields"),
    [
        ("llama-2-7b", "/v1/completions", {"prompt": TEXT, "max_tokens": 1, "temperature": 0}),
        ("llama-guard-3-8b", "/v1/completions", {"prompt": TEXT, "max_tokens": 1, "temperature": 0}),
        ("bge-m3", "/v1/embeddings", {"input": TEXT}),
        ("bge-reranker-v2-m3", "/score", {"queries": TEXT, "documents": TEXT}),
    ],
)
def test_probe(model: str, path: str, fields: dict[str, Any]) -> None:
    served = ServedModel("x", CATALOG.models[model], "family", "/weights", chat_template=None)
    found, body = probe_request(served)
    assert (found, json.loads(body)) == (path, {"model": "x", **fields})


def test_a_probe_is_long_enough_for_the_matrix_products_that_ask_for_amx() -> None:
    assert len(TEXT.split()) >= 16
