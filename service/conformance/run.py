"""One proof: a small network on a real engine, started as the fleet would start it, held against transformers."""

import asyncio
import json
import math
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from service.architectures.config import config
from service.architectures.registry import ARCHITECTURES
from service.architectures.scaled_down import CONTEXT
from service.architectures.shape import Shape
from service.catalog.engine_args import EngineValue
from service.catalog.model import Model
from service.config.settings import Settings
from service.conformance.cases import Case
from service.engine import state
from service.engine.supervisor import Supervisor
from service.fleet.fleet import Fleet
from service.fleet.served_model import ServedModel
from service.planner.blocks import Blocks, blocks
from service.transport import pool
from service.transport.pool import ConnectionPool, Deadlines, TransportError

Outcome = Literal["equal", "different", "refused"]
NEW_TOKENS = 32
LENGTHS = (44, 37)  # tokens of the prompts: more than the small window and the small original length of LongRoPE
LENGTH = CONTEXT // 2  # the longest text that the engine is asked to take, in tokens
NUMBER = 4  # bytes of a float32
LEAST_COSINE = 0.9999
ANSWER = Deadlines(connect=60.0, first_byte=300.0, idle=300.0, total=300.0)
SETTINGS: dict[str, EngineValue] = {"dtype": "float32", "enforce_eager": True, "max_num_seqs": 4}
TINY = Shape(
    hidden_size=64, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, head_dim=32,
    intermediate_size=64, vocab_size=256,
)  # fmt: skip
# What belongs to conversations finds nothing to hold on to in a small vocabulary.
OF_CONVERSATIONS = ("reasoning_parser", "tool_call_parser", "enable_auto_tool_choice", "tokenizer_mode", "quantization")
# What the engine says of the memory it found for its cache: on a CPU what it was given, on a GPU what was left.
MEMORY = re.compile(r"Explicitly set \(([\d.]+)/|Available KV cache memory: ([\d.]+) GiB")
BLOCKS = re.compile(r'^vllm:cache_config_info\{(?=[^}]*num_gpu_blocks="(\d+)")(?=[^}]*block_size="(\d+)")', re.M)


class ProofError(Exception):
    """There is nothing to hold the engine against: transformers could not be asked."""


@dataclass(frozen=True)
class Verdict:
    """What came of one proof. `detail` says how answers differ, or the engine's own reason for not running it.

    `blocks` of `block_size` tokens are what the engine itself reports of its KV cache of `cache_bytes`; None for an
    encoder. `weight_bytes` is the size of the tensors in the weights' file.
    """

    outcome: Outcome
    detail: str = ""
    blocks: int | None = None
    block_size: int | None = None
    cache_bytes: int | None = None
    weight_bytes: int = 0


def served(model: Model, weights: Path, env: dict[str, str]) -> ServedModel:
    """The model as a fleet would serve it from `weights`, computing as exactly as transformers does."""
    own = {key: value for key, value in model.engine.items() if key not in OF_CONVERSATIONS}
    length = min(LENGTH, model.context or LENGTH)
    engine = {**own, **SETTINGS, "max_model_len": length}
    return ServedModel(model.id, model, "proof", str(weights), chat_template=None, engine=engine, env=env)


async def build(requests: Mapping[str, dict[str, Any]], folder: Path, built: Callable[[str], None]) -> None:
    """Makes weights and reference answers as requested, in folders of the requests' names; `built` gets each name."""
    homes = {name: folder / name for name in requests}
    for name, home in homes.items():
        home.mkdir(parents=True)
        (home / "request.json").write_text(json.dumps(requests[name]))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "service.conformance.reference_model", *map(str, homes.values()),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout and process.stderr
    errors = asyncio.create_task(process.stderr.read())
    async for line in process.stdout:
        built(Path(line.decode().strip()).name)
    if await process.wait():
        last = (await errors).decode(errors="replace").strip().splitlines()[-1:]
        raise ProofError(f"the builder of reference answers failed: {' '.join(last)}")


def scaled_down(case: Case) -> dict[str, Any]:
    """The request for a case: a small network with random weights."""
    model = case.scaled_down()
    bos, eos = model.tokens.bos, next(iter(model.tokens.eos), None)
    special = {"bos_token_id": bos, "eos_token_id": eos, "pad_token_id": 0}
    written = config(model.architecture or "", case.network, case.shape, CONTEXT) | special
    return {**as_it_is(model, None), "config": written, "bos": bos, "eos": eos}


def as_it_is(model: Model, weights: Path | None) -> dict[str, Any]:
    """The request for a model's own weights in the folder `weights`."""
    pooling = None
    if model.variant == "embedding":
        asked = model.engine.get("pooler_config")
        usual = "CLS" if model.network and model.network.attention == "encoder" else "LAST"
        pooling = asked.get("pooling_type", usual) if isinstance(asked, dict) else usual
    texts = prompts(model.shape.vocab_size or 1)
    return {"weights": weights and str(weights), "prompts": texts, "new_tokens": NEW_TOKENS, "pooling": pooling}


def prompts(vocabulary: int) -> list[list[int]]:
    """Token ids all over the vocabulary, without a pattern that a network could follow by chance."""
    return [[(7919 * position * position + 31 * position + 5) % vocabulary for position in range(length)]
            for length in LENGTHS]  # fmt: skip


async def run(case: Case, folder: Path, env: dict[str, str], settings: Settings) -> Verdict:
    """Starts the engine on the case's small weights in `folder`, asks it, and compares."""
    weights = folder / case.name
    one = served(case.scaled_down(), weights, env)
    verdict = await examine(one, prompts(case.shape.vocab_size or 1), weights, settings)
    return replace(verdict, weight_bytes=tensor_bytes(weights / "model.safetensors"))


async def examine(one: ServedModel, texts: list[list[int]], home: Path, settings: Settings) -> Verdict:
    """Starts `one` and asks it the prompts that `reference.json` in `home` answers; the engine is gone afterwards."""
    reference = json.loads((home / "reference.json").read_text())
    if error := reference.get("error"):
        return Verdict("refused", error)
    fleet = Fleet((one,), {}, {}, "parallel", frozenset())
    # The name of a socket has at most 107 bytes, and `home` may be deep.
    with TemporaryDirectory(prefix="roundhouse-proof-") as short:
        run_dir = Path(short)
        supervisor = Supervisor(one, 0, 0, fleet, settings.model_copy(update={"run_dir": run_dir}), lambda _: None)
        supervisor.start()
        try:
            if reason := await _until_ready(run_dir):
                return Verdict("refused", reason)
            log = (run_dir / f"{state.replica_id(one.id, 0)}.log").read_text()
            return await _compare(one.id, texts, state.socket_path(run_dir, 0), reference, log)
        finally:
            await supervisor.stop()


async def refusal(model: Model, folder: Path, env: dict[str, str], settings: Settings) -> str:
    """What the engine itself says of a network class that it has no more."""
    weights = folder / model.id
    weights.mkdir()
    # transformers does not know these classes either, so the configuration is a Llama's but for the class's name.
    llama = config("LlamaForCausalLM", ARCHITECTURES["LlamaForCausalLM"], TINY, CONTEXT)
    (weights / "config.json").write_text(json.dumps({**llama, "architectures": [model.architecture]}))
    (weights / "reference.json").write_text("{}")
    engine: dict[str, EngineValue] = {**SETTINGS, "load_format": "dummy", "skip_tokenizer_init": True}
    one = ServedModel(model.id, model, "proof", str(weights), chat_template=None, engine=engine, env=env)
    return (await examine(one, [], weights, settings)).detail


def planned(model: Model, verdict: Verdict) -> Blocks | None:
    """What the planner makes of the same cache; None where there is none, or the engine did not say how large it is."""
    if not (verdict.cache_bytes and verdict.block_size):
        return None
    return blocks(model, verdict.cache_bytes, verdict.block_size, LENGTH, kv_bytes=NUMBER)


def tensor_bytes(weights: Path) -> int:
    """The bytes of all tensors in a safetensors file, without its header; 0 where there is none."""
    if not weights.is_file():
        return 0
    with weights.open("rb") as file:
        return weights.stat().st_size - 8 - int.from_bytes(file.read(8), "little")


async def _until_ready(run_dir: Path) -> str | None:
    """Waits for the engine; returns the reason when it does not start."""
    while True:
        seen = state.read(run_dir, 0)
        if seen and seen.condition == "ready":
            return None
        if seen and seen.condition == "failed":
            return seen.reason or "it did not start"
        await asyncio.sleep(0.25)


async def _compare(model: str, texts: list[list[int]], socket: Path, reference: dict[str, Any], log: str) -> Verdict:
    client = ConnectionPool()
    differences = []
    cache: dict[str, int] = {}
    try:
        metrics = await _ask(client, socket, pool.get_request("/metrics"))
        if (found := BLOCKS.search(metrics.decode())) and (memory := MEMORY.search(log)):
            size = int(float(memory[1] or memory[2]) * 2**30)
            cache = {"blocks": int(found[1]), "block_size": int(found[2]), "cache_bytes": size}
        for number, text in enumerate(texts):
            if "vectors" in reference:
                difference = vector_difference(await _vector(client, socket, model, text), reference["vectors"][number])
            else:
                difference = token_difference(await _tokens(client, socket, model, text), reference["tokens"][number])
            if difference:
                differences.append(f"prompt {number}: {difference}")
    except (TransportError, ValueError, LookupError) as error:
        return Verdict("refused", f"the engine started but did not answer: {error}")
    finally:
        client.close()
    return Verdict("different" if differences else "equal", "; ".join(differences), **cache)


def token_difference(tokens: list[int], expected: list[int]) -> str | None:
    """How the engine's tokens differ from transformers'; None where they are the same."""
    if tokens == expected:
        return None
    pairs = zip(tokens, expected, strict=False)
    same = next((at for at, (one, other) in enumerate(pairs) if one != other), min(len(tokens), len(expected)))
    got, wanted = tokens[same : same + 1], expected[same : same + 1]
    return f"{same} of {len(expected)} tokens are equal, then {got} came for {wanted}"


def vector_difference(vector: list[float], expected: list[float]) -> str | None:
    """How far the engine's embedding is from transformers'; None where they point the same way."""
    cosine = sum(x * y for x, y in zip(vector, expected, strict=True)) / (math.hypot(*vector) * math.hypot(*expected))
    return None if cosine >= LEAST_COSINE else f"the vectors' cosine is {cosine:.4f}"


async def _tokens(client: ConnectionPool, socket: Path, model: str, prompt: list[int]) -> list[int]:
    body = {
        "model": model, "prompt": prompt, "max_tokens": NEW_TOKENS, "temperature": 0, "ignore_eos": True,
        "return_token_ids": True,
    }  # fmt: skip
    answer = json.loads(await _ask(client, socket, _post("/v1/completions", body)))
    return answer["choices"][0]["token_ids"] or []


async def _vector(client: ConnectionPool, socket: Path, model: str, prompt: list[int]) -> list[float]:
    body = {"model": model, "input": prompt}
    answer = json.loads(await _ask(client, socket, _post("/v1/embeddings", body)))
    return answer["data"][0]["embedding"] or []


def _post(path: str, body: dict[str, Any]) -> bytes:
    return pool.post_request(path, json.dumps(body).encode())


async def _ask(client: ConnectionPool, socket: Path, wire: bytes) -> bytes:
    exchange = await client.send(str(socket), wire, ANSWER)
    try:
        status = await exchange.head()
        answer = await exchange.read_all(2**26)
    finally:
        client.release(str(socket), exchange)
    if status != 200:
        raise ValueError(f"status {status}: {answer[:300].decode(errors='replace')}")
    return answer
