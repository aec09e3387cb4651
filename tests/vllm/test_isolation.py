"""A real engine is reachable from this machine alone, and two tenants of it do not find each other's prompts."""

from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from service.auth.cache_salt import CacheSalts
from tests.conftest import Start
from tests.support.gateways import RunningGateway
from tests.support.waiting import until
from tests.vllm.conftest import MODEL, RealEngine

pytestmark = pytest.mark.engine

# Long enough for several blocks of the prefix cache, in the words of each endpoint.
PROMPT = "one two three four five six seven eight nine " * 20
TALK = [{"role": "user", "content": PROMPT}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": TALK, "max_tokens": 1},
    "/v1/completions": {"prompt": PROMPT, "max_tokens": 1},
    "/v1/responses": {"input": PROMPT, "max_output_tokens": 1},
    "/v1/messages": {"messages": TALK, "max_tokens": 1},
}
HITS = "vllm:prefix_cache_hits_total"


async def hits(socket: Path) -> float:
    """The tokens that the engine has found in its prefix cache so far."""
    transport = httpx.AsyncHTTPTransport(uds=str(socket))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        lines = (await client.get("/metrics")).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(HITS))


async def found(gateway: RunningGateway, engine: RealEngine, path: str, tenant: str, **more: Any) -> float:
    """How much of the prompt the engine had when this tenant sent it."""
    before = await hits(engine.socket)
    body = BODIES[path] | {"model": MODEL} | more
    response = await gateway.http.post(path, json=body, headers={"x-roundhouse-tenant": tenant})
    assert response.status_code == 200, response.text
    return await hits(engine.socket) - before


@pytest.mark.parametrize("path", BODIES)
async def test_no_tenant_finds_what_another_has_sent(path: str, real_engine: RealEngine, start: Start) -> None:
    gateway = await start(
        f"models: [{{model: {MODEL}, addresses: ['{real_engine.socket}']}}]\ntenants: {{a: {{}}, b: {{}}}}"
    )
    gateway.expected_unseen = None
    await until(gateway.gateway.is_ready, "the engine is found")
    assert await found(gateway, real_engine, path, "a") == 0
    assert await found(gateway, real_engine, path, "a") > 100, "its own"
    assert await found(gateway, real_engine, path, "b") == 0
    # Nor by guessing, nor by sending the salt of another as its own.
    secret = gateway.gateway._relay._secret
    assert await found(gateway, real_engine, path, "b", cache_salt=CacheSalts(secret).salt("a", None)) == 0
    assert await found(gateway, real_engine, path, "b") > 100


def test_nothing_of_an_engine_listens_where_others_reach_it(real_engine: RealEngine) -> None:
    process = psutil.Process(real_engine.pid)
    listening = {
        one.laddr.ip
        for each in (process, *process.children(recursive=True))
        for one in each.net_connections("inet")
        if one.status == psutil.CONN_LISTEN or one.type.name == "SOCK_DGRAM"
    }
    assert listening <= {"127.0.0.1", "::1"}, "torch's processes talk to each other there"


def test_what_an_engine_makes_is_for_its_user_alone(real_engine: RealEngine) -> None:
    process = psutil.Process(real_engine.pid)
    families = (each.net_connections("unix") for each in (process, *process.children(recursive=True)))
    sockets = {Path(str(one.laddr)) for found in families for one in found if str(one.laddr).startswith("/")}
    assert real_engine.socket in sockets
    assert not [str(path) for path in sockets if path.exists() and path.stat().st_mode & 0o077]
    assert real_engine.socket.parent.stat().st_mode & 0o077 == 0
