"""The probes as BentoML answers them, over a real server."""

import asyncio
import socket

import httpx
import pytest
import uvicorn

from service.gateway.probes import Probes
from tests.support.waiting import until


async def test_probes_answer_as_bentoml_s_do() -> None:
    heard: list[str] = []

    async def start() -> None:
        heard.append("start")

    async def stop() -> None:
        heard.append("stop")

    ready, listener = False, socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(Probes(lambda: ready, start, stop), log_config=None))
    serving = asyncio.create_task(server.serve([listener]))
    await until(lambda: server.started)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        for path in ("/livez", "/healthz"):
            answer = await client.get(path)
            assert (answer.status_code, answer.text) == (200, "\n")
        assert (await client.get("/readyz")).status_code == 503
        ready = True
        assert (await client.get("/readyz")).status_code == 200
        head, post = await client.head("/readyz"), await client.post("/livez")
        assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", "1")
        assert (post.status_code, post.headers["allow"]) == (405, "GET, HEAD")
        assert (await client.get("/schema.json")).status_code == 404
    assert heard == ["start"]
    server.should_exit = True
    await serving
    assert heard == ["start", "stop"]


async def test_a_start_that_fails_ends_the_server(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise OSError("no space left")

    server = uvicorn.Server(uvicorn.Config(Probes(lambda: True, fail, fail), port=0, log_config=None, lifespan="on"))
    with pytest.raises(SystemExit):
        await server.serve()
    assert not server.started and "no space left" in caplog.text
    caplog.clear()
