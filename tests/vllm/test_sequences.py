"""Requests of many sequences to a real engine: a scaled-down embedding model, served as a user would serve it."""

import asyncio
import json
from collections.abc import Iterator

import httpx
import pytest

from service.conformance import run
from service.conformance.cases import cases
from tests.support.fleets import CATALOG
from tests.support.services import Service, serving

pytestmark = pytest.mark.engine

MODEL = "bge-small-en-v1.5"
LARGEST = 2048


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("embedder")
    (case,), _ = cases(CATALOG, [MODEL])
    asyncio.run(run.build_references({MODEL: run.scaled_down_request(case)}, folder, lambda _: None))
    settings = {**run.ENGINE_SETTINGS, "max_num_seqs": 256, "max_model_len": run.MAX_MODEL_LEN}
    entry = {
        "model": MODEL,
        "weights": str(folder / MODEL),
        "engine": settings,
        "max_in_flight": 8,
        "timeouts": {"queue": 120},
        "env": {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"},
    }
    (folder / "fleet.yaml").write_text(json.dumps({"models": [entry]}))
    with serving(folder / "fleet.yaml", folder / "run") as service:
        yield service


async def embed(client: httpx.AsyncClient, count: int) -> tuple[int, int]:
    """Status and number of vectors of a request with so many texts."""
    body = {"model": MODEL, "input": [f"text {number}" for number in range(count)]}
    response = await client.post("/v1/embeddings", json=body)
    return response.status_code, len(response.json().get("data", []))


@pytest.mark.parametrize("count", [1024, 1025, LARGEST])
async def test_an_idle_engine_embeds_as_many_texts_as_a_request_may_have(embedder: Service, count: int) -> None:
    async with httpx.AsyncClient(base_url=embedder.url, timeout=120, verify=False) as client:
        assert await embed(client, count) == (200, count)


async def test_the_gateway_queues_before_the_engine_refuses(embedder: Service) -> None:
    sizes = [LARGEST, 1, 600, 3, LARGEST, 1, 600, 7] * 2
    async with httpx.AsyncClient(base_url=embedder.url, timeout=120, verify=False) as client:
        found = await asyncio.gather(*(embed(client, size) for size in sizes))
        assert found == [(200, size) for size in sizes]
    engine = httpx.AsyncHTTPTransport(uds=str(embedder.socket_of(0)))
    async with httpx.AsyncClient(transport=engine, base_url="http://engine") as direct:
        lines = (await direct.get("/metrics")).text.splitlines()
    rejections = [line for line in lines if line.startswith("vllm:admission_rejections_total")]
    assert rejections
    assert {line.rpartition(" ")[2] for line in rejections} == {"0.0"}
