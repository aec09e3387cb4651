"""A cross-encoder on the real engine: it ranks through the gateway as transformers does."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from service.fleet.served_model import ServedModel
from tests.fake_engine import FakeEngine
from tests.support import fleets, gateways
from tests.support.gateways import RunningGateway
from tests.support.services import ROOT
from tests.support.waiting import until
from tests.vllm.conftest import RealEngine, engine_of
from tests.vllm.transcript import ask

pytestmark = pytest.mark.engine

QUERY = "Where do red apples grow?"
DOCUMENTS = [
    "Apples grow on trees, red ones too.", "The sky is blue.", "zebra 123 !!", "", "Δοκιμή: δέντρα", "Pears",
    "In 1999 it rained.",
]  # fmt: skip
TOLERANCE = 1e-2
ENTRY = """
model: {weights}
id: ranker
variant: reranker
engine: {{enforce_eager: true, dtype: float32, max_num_seqs: 32}}
env: {{VLLM_CPU_OMP_THREADS_BIND: nobind, OMP_NUM_THREADS: 1, VLLM_CPU_KVCACHE_SPACE: 1, TORCHDYNAMO_DISABLE: 1}}
"""


@dataclass(frozen=True)
class Ranker:
    """A running engine, what it serves, and the scores of `DOCUMENTS` that transformers computed."""

    engine: RealEngine
    served: ServedModel
    scores: list[float]


@pytest.fixture(scope="module")
def ranker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranker]:
    weights, folder = tmp_path_factory.mktemp("weights"), tmp_path_factory.mktemp("engine")
    (weights / "pairs.json").write_text(json.dumps([[QUERY, document] for document in DOCUMENTS]))
    subprocess.run([sys.executable, "-m", "tests.vllm.cross_encoder", str(weights)], cwd=ROOT, check=True)
    scores = json.loads((weights / "scores.json").read_text())
    served = fleets.only(folder, ENTRY.format(weights=weights))
    with engine_of(served, folder) as engine:
        yield Ranker(engine, served, scores)


@pytest.fixture
async def gateway(ranker: Ranker, tmp_path: Path) -> AsyncIterator[RunningGateway]:
    """A gateway to it, which has found it ready."""
    entry = f"{{model: {ranker.served.weights}, id: ranker, variant: reranker, addresses: ['{ranker.engine.socket}']}}"
    async with gateways.running(tmp_path, f"models: [{entry}]") as running:
        running.expected_unseen = None
        await until(lambda: any(replica.ready for replica in running.replicas), "the answer to the probe")
        yield running


async def post(gateway: RunningGateway, path: str, **fields: Any) -> Any:
    response = await gateway.post(path, {"model": "ranker", **fields})
    assert response.status_code == 200, response.text
    return response.json()


def test_the_scores_differ_by_more_than_what_is_tolerated(ranker: Ranker) -> None:
    ordered = sorted(ranker.scores)
    assert all(0 < low < high - 2 * TOLERANCE for low, high in pairwise(ordered))


async def test_it_ranks_as_transformers_does(ranker: Ranker, gateway: RunningGateway) -> None:
    documents = [{"text": document} if index % 2 else document for index, document in enumerate(DOCUMENTS)]
    results = (await post(gateway, "/v1/rerank", query=QUERY, documents=documents))["results"]
    assert [result["index"] for result in results] == sorted(range(len(DOCUMENTS)), key=lambda at: -ranker.scores[at])
    for result in results:
        assert result["relevance_score"] == pytest.approx(ranker.scores[result["index"]], abs=TOLERANCE)
        assert result["document"]["text"] == DOCUMENTS[result["index"]]
    bare = await post(gateway, "/v2/rerank", query=QUERY, documents=documents, top_n=2, return_documents=False)
    assert [set(result) for result in bare["results"]] == [{"index", "relevance_score"}] * 2
    scored = await post(gateway, "/v1/score", text_1=QUERY, text_2=DOCUMENTS)
    assert [row["score"] for row in scored["data"]] == pytest.approx(ranker.scores, abs=TOLERANCE)
    assert gateway.lines[0]["prompt_tokens"] > len(DOCUMENTS) * len(QUERY)


async def test_what_is_too_long_is_refused_or_cut(gateway: RunningGateway) -> None:
    long = {"query": QUERY, "documents": ["fits", "word " * 200]}
    error = (await gateway.post("/rerank", {"model": "ranker", **long})).json()["error"]
    assert (error["code"], error["param"]) == ("context_length_exceeded", "documents")
    assert "A query with one of its documents has at least 513 tokens" in error["message"]
    assert len((await post(gateway, "/rerank", **long, truncate_prompt_tokens=-1))["results"]) == 2
    assert len((await post(gateway, "/rerank", **long, max_tokens_per_doc=100))["results"]) == 2
    error = (await gateway.post("/rerank", {"model": "ranker", **long, "max_tokens_per_doc": 4096})).json()["error"]
    assert error["param"] == "max_tokens_per_doc"
    assert "is 4096 and must be less than the context of 'ranker', which is 512 tokens" in error["message"]


async def test_tokens_and_version(gateway: RunningGateway) -> None:
    answer = await post(gateway, "/tokenize", prompt="ab", add_special_tokens=False, return_token_strs=True)
    assert (answer["count"], answer["token_strs"]) == (2, ["a", "b"])
    assert await post(gateway, "/detokenize", tokens=answer["tokens"]) == {"prompt": "ab"}
    assert set((await gateway.http.get("/version")).json()["engines"]) == {"ranker"}


ROWS = [
    ("/rerank", {"query": "one", "documents": ["two", "one"]}),
    ("/rerank", {"query": "one", "documents": ["two", "one"], "top_n": 1}),
    ("/rerank", {"query": "one"}),
    ("/rerank", {"model": "nope", "query": "one", "documents": ["two"]}),
    ("/rerank", {"query": "one", "documents": ["word " * 700]}),
    ("/score", {"text_1": "one", "text_2": ["two", "one"]}),
    ("/score", {"queries": ["one", "two"], "items": ["two", "one"]}),
    ("/v1/embeddings", {"input": "one"}),
    ("/tokenize", {"prompt": "one"}),
]


@pytest.mark.parametrize(("path", "fields"), ROWS)
async def test_fake_answers_like_vllm(path: str, fields: dict[str, Any], ranker: Ranker, tmp_path: Path) -> None:
    body = {"model": "ranker", **fields}
    fake = FakeEngine("ranker", "reranker")
    fake.context = 512
    async with fake.listen(tmp_path / "fake.sock"):
        assert await ask(tmp_path / "fake.sock", "POST", path, body) == await ask(
            ranker.engine.socket, "POST", path, body
        )
