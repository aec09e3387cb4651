"""Prefix cache hit rates of two real engines behind the gateway."""

import asyncio
import random
import tempfile
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import uvloop
import yaml

from bench import processes
from bench.load import ask
from service.engine import state
from service.engine.probe import fetch
from service.transport.pool import ConnectionPool, Deadlines, get_request

MODEL = "pebble-chat"
POLICIES = ("round_robin", "prefix_affinity")
START = 600.0  # seconds that the engines may take
RUN, TEMPLATE = "run", "template.jinja"  # names in the folder of a service
BLOCK, BLOCKS = 32, 600  # tokens, and how many blocks of them an engine keeps: about all that half of the users said
PATIENT = Deadlines(connect=5.0, first_byte=30.0, idle=30.0, total=60.0)
SYSTEM = "You are a helpful assistant. Keep in mind what you are told and answer briefly."
ENVIRONMENT = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": 1, "VLLM_CPU_KVCACHE_SPACE": 1, "TORCHDYNAMO_DISABLE": 1
}  # fmt: skip


@dataclass(frozen=True)
class Chats:
    """So many users at a time, each with so many conversations of some turns; an answer has some tokens."""

    users: int = 32
    conversations: int = 3
    turns: int = 6
    answer: int = 24


def measure(replicas: int = 2, chats: Chats | None = None) -> dict[str, Any]:
    """The hit rate under each of POLICIES, each with engines of its own that nobody has asked before."""
    chats = chats or Chats()
    rates = {policy: uvloop.run(_chatted(policy, replicas, chats)) for policy in POLICIES}
    blind, ours = (rates[policy]["hit_rate"] for policy in POLICIES)
    setup = {"model": MODEL, "replicas": replicas, "blocks": BLOCKS, "block_tokens": BLOCK}
    return {**setup, **asdict(chats), "policies": rates, "over_round_robin": round(ours / blind, 2)}


@dataclass(frozen=True)
class Engines:
    """Running engines of MODEL behind a gateway at `address`; the fleet file and `log` are in a folder of their own.

    `settings` are the engines', and `template` is a chat template (Jinja) in place of the model's own.
    """

    folder: Path
    replicas: int
    settings: dict[str, Any]
    template: str | None
    port: int

    @property
    def address(self) -> str:
        """The gateway's host:port."""
        return f"127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        """The output of the service."""
        return self.folder / "service.log"

    @property
    def fleet(self) -> Path:
        """The fleet file."""
        return self.folder / "fleet.yaml"

    def write(self, policy: str) -> None:
        """Writes the fleet file."""
        text = yaml.safe_dump(_fleet(policy, self.replicas, self.settings, self.template is not None))
        self.fleet.write_text(text)

    async def change(self, policy: str) -> None:
        """Has the gateway choose by another policy, while the engines run."""
        reload = '"event": "reload"'
        before = self.log.read_text(errors="replace").count(reload)
        self.write(policy)
        while self.log.read_text(errors="replace").count(reload) == before:  # noqa: ASYNC110  another process writes it
            await asyncio.sleep(0.2)

    async def hits(self, talk: Callable[[str], Awaitable[None]]) -> dict[str, float]:
        """What the engines had cached of the prompts that `talk` sends to the gateway, whose host:port it gets."""
        sockets = [str(state.socket_path(self.folder / RUN, number)) for number in range(self.replicas)]
        before = [await _counts(socket) for socket in sockets]
        await talk(self.address)
        after = [await _counts(socket) for socket in sockets]
        queries = [late[0] - early[0] for early, late in zip(before, after, strict=True)]
        cached = sum(late[1] - early[1] for early, late in zip(before, after, strict=True))
        return {
            "hit_rate": round(cached / sum(queries), 4),
            "cached_tokens": cached,
            "prompt_tokens": sum(queries),
            "largest": round(max(queries) / (sum(queries) / self.replicas), 3),
        }


@asynccontextmanager
async def running(
    policy: str, replicas: int, settings: dict[str, Any], template: str | None = None
) -> AsyncIterator[Engines]:
    """New engines that nobody has asked before, all of them ready; see `Engines`."""
    with tempfile.TemporaryDirectory(prefix="rh-") as folder:
        engines = Engines(Path(folder), replicas, settings, template, processes.free_port())
        (engines.folder / RUN).mkdir()
        (engines.folder / TEMPLATE).write_text(template or "")
        engines.write(policy)
        environment = {"ROUNDHOUSE_RUN_DIR": str(engines.folder / RUN)}
        command = processes.serve(engines.fleet, engines.port)
        with processes.running(command, engines.log, environment=environment):
            await _until_ready(engines.port, replicas, engines.log)
            yield engines


async def _chatted(policy: str, replicas: int, chats: Chats) -> dict[str, float]:
    settings = {"num_gpu_blocks_override": BLOCKS, "max_model_len": 1024}
    async with running(policy, replicas, settings) as engines:
        return await engines.hits(lambda address: _converse(address, chats))


def _fleet(policy: str, replicas: int, settings: dict[str, Any], with_template: bool) -> dict[str, Any]:
    engine = {"enforce_eager": True, "max_num_seqs": 32, "block_size": BLOCK, **settings}
    model = {"model": MODEL, "min_replicas": replicas, "policy": policy}
    if with_template:
        model["chat_template"] = TEMPLATE
    return {"models": [model], "engine": engine, "env": ENVIRONMENT}


async def _until_ready(port: int, replicas: int, log: Path) -> None:
    """Waits until each replica is ready, not only the first."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + START
    wanted = f'roundhouse_replicas{{model="{MODEL}",state="ready"}} {replicas}'
    while clock() < deadline:
        try:
            if wanted in await asyncio.to_thread(_page, port):
                return
        except OSError:
            pass  # it does not listen yet
        await asyncio.sleep(0.5)
    said = await asyncio.to_thread(log.read_text, errors="replace")
    raise SystemExit(f"The engines are not ready: {said[-1000:]}")


def _page(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


async def _counts(socket: str) -> tuple[float, float]:
    """How many tokens of prompts an engine has looked up in its cache so far, and how many it had."""
    transport = ConnectionPool()
    try:
        _, page = await fetch(transport, socket, get_request("/metrics"), PATIENT)
    finally:
        transport.close()
    lines = page.decode().splitlines()
    queries, hits = (
        sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"vllm:prefix_cache_{what}_total{{"))
        for what in ("queries", "hits")
    )
    return queries, hits


async def _converse(address: str, chats: Chats) -> None:
    """Lets every user have their conversations, each with an answer read before the next thing is said."""
    transport = ConnectionPool()

    async def user(number: int) -> None:
        rng = random.Random(number)
        for _ in range(chats.conversations):
            messages = [{"role": "system", "content": SYSTEM}]
            for turn in range(chats.turns):
                messages.append({"role": "user", "content": _question(rng, turn)})
                fields = {"model": MODEL, "messages": messages, "max_tokens": chats.answer, "temperature": 0}
                answer = await ask(transport, address, fields)
                messages.append({"role": "assistant", "content": answer.text or "."})

    try:
        async with asyncio.TaskGroup() as group:
            for number in range(chats.users):
                group.create_task(user(number))
    finally:
        transport.close()


def _question(rng: random.Random, turn: int) -> str:
    name, apples, pears = rng.randrange(10**6), rng.randrange(100), rng.randrange(100)
    return f"Turn {turn}: my name is Person{name}. I have {apples} apples and {pears} pears. What do I have?"
