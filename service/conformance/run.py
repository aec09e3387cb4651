"""Runs a conformance case: an engine, started as in a fleet, must give the same output as transformers."""

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
# Tokens of each prompt: more than the scaled-down sliding window and LongRoPE's scaled-down original context.
PROMPT_LENGTHS = (44, 37)
MAX_MODEL_LEN = CONTEXT // 2  # tokens
FLOAT32_BYTES = 4
MIN_COSINE = 0.9999
DEADLINES = Deadlines(connect=60.0, first_byte=300.0, idle=300.0, total=300.0)  # seconds
ENGINE_SETTINGS: dict[str, EngineValue] = {"dtype": "float32", "enforce_eager": True, "max_num_seqs": 4}
TINY = Shape(
    hidden_size=64, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, head_dim=32,
    intermediate_size=64, vocab_size=256,
)  # fmt: skip
# Engine settings that need the real tokenizer or the real weights.
LEFT_OUT = ("reasoning_parser", "tool_call_parser", "enable_auto_tool_choice", "tokenizer_mode", "quantization")
# The log lines with the memory for the KV cache in GiB: on a CPU as configured, on a GPU as measured.
MEMORY = re.compile(r"Explicitly set \(([\d.]+)/|Available KV cache memory: ([\d.]+) GiB")
BLOCKS = re.compile(r'^vllm:cache_config_info\{(?=[^}]*num_gpu_blocks="(\d+)")(?=[^}]*block_size="(\d+)")', re.M)


class ConformanceError(Exception):
    """A case could not be run, or the engine's output differs; the message gives the reason."""


@dataclass(frozen=True)
class Verdict:
    """The result of a case. `detail` is how the outputs differ, or the engine's reason for not running the model.

    `blocks` of `block_size` tokens in a KV cache of `cache_bytes` is what the engine reports; None for an encoder.
    `weight_bytes` is the size of the tensors in the weights' file.
    """

    outcome: Outcome
    detail: str = ""
    blocks: int | None = None
    block_size: int | None = None
    cache_bytes: int | None = None
    weight_bytes: int = 0


def served_model(model: Model, weights: Path, env: dict[str, str]) -> ServedModel:
    """The model as a fleet would serve it from `weights`, but in float32 so that the output can be compared."""
    own = {key: value for key, value in model.engine.items() if key not in LEFT_OUT}
    length = min(MAX_MODEL_LEN, model.context or MAX_MODEL_LEN)
    engine = {**own, **ENGINE_SETTINGS, "max_model_len": length}
    return ServedModel(model.id, model, "proof", str(weights), chat_template=None, engine=engine, env=env)


async def build_references(requests: Mapping[str, dict[str, Any]], folder: Path, built: Callable[[str], None]) -> None:
    """Has `reference_model` answer the requests, each in the subfolder of its name; calls `built` with each name.

    Raises ConformanceError if the process fails.
    """
    subfolders = {name: folder / name for name in requests}
    for name, subfolder in subfolders.items():
        subfolder.mkdir(parents=True)
        (subfolder / "request.json").write_text(json.dumps(requests[name]))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "service.conformance.reference_model", *map(str, subfolders.values()),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout and process.stderr
    errors = asyncio.create_task(process.stderr.read())
    async for line in process.stdout:
        built(Path(line.decode().strip()).name)
    last = (await errors).decode(errors="replace").strip().splitlines()[-1:]
    if await process.wait():
        raise ConformanceError(f"the reference output could not be computed: {' '.join(last)}")


def scaled_down_request(case: Case) -> dict[str, Any]:
    """The request to `reference_model` for a case: a scaled-down network with random weights."""
    model = case.scaled_down()
    bos, eos = model.tokens.bos, next(iter(model.tokens.eos), None)
    special = {"bos_token_id": bos, "eos_token_id": eos, "pad_token_id": 0}
    network = config(model.architecture or "", case.network, case.shape, CONTEXT) | special
    return {**weights_request(model, None), "config": network, "bos": bos, "eos": eos}


def weights_request(model: Model, weights: Path | None) -> dict[str, Any]:
    """The request to `reference_model` for a model's own weights in the folder `weights`."""
    pooling = None
    if model.variant == "embedding":
        pooler = model.engine.get("pooler_config")
        default = "CLS" if model.network and model.network.attention == "encoder" else "LAST"
        pooling = pooler.get("pooling_type", default) if isinstance(pooler, dict) else default
    token_ids = prompts(model.shape.vocab_size or 1)
    return {"weights": weights and str(weights), "prompts": token_ids, "new_tokens": NEW_TOKENS, "pooling": pooling}


def prompts(vocab_size: int) -> list[list[int]]:
    """Prompts of token ids from all over the vocabulary, without a regular pattern. Pure."""
    return [[(7919 * position * position + 31 * position + 5) % vocab_size for position in range(length)]
            for length in PROMPT_LENGTHS]  # fmt: skip


async def run(case: Case, folder: Path, env: dict[str, str], settings: Settings) -> Verdict:
    """Runs a case, whose weights and reference are in its subfolder of `folder`."""
    weights = folder / case.name
    served = served_model(case.scaled_down(), weights, env)
    verdict = await compare(served, prompts(case.shape.vocab_size or 1), weights, settings)
    return replace(verdict, weight_bytes=tensor_bytes(weights / "model.safetensors"))


async def compare(served: ServedModel, token_ids: list[list[int]], folder: Path, settings: Settings) -> Verdict:
    """Starts an engine, compares its output for the prompts with `reference.json` in `folder`, and stops the engine."""
    reference = json.loads((folder / "reference.json").read_text())
    if error := reference.get("error"):
        return Verdict("refused", error)
    fleet = Fleet((served,), {}, {}, "parallel", frozenset())
    # A socket path has at most 107 bytes, and `folder` may be deeply nested.
    with TemporaryDirectory(prefix="roundhouse-prove-") as short:
        run_dir = Path(short)
        supervisor = Supervisor(served, 0, 0, fleet, settings.model_copy(update={"run_dir": run_dir}), lambda _: None)
        supervisor.start()
        try:
            if reason := await _until_ready(run_dir):
                return Verdict("refused", reason)
            log = (run_dir / f"{state.replica_id(served.id, 0)}.log").read_text()
            return await _compare(served.id, token_ids, state.socket_path(run_dir, 0), reference, log)
        finally:
            await supervisor.stop()


async def removal_reason(model: Model, folder: Path, env: dict[str, str], settings: Settings) -> str:
    """The engine's own error for a network class that vLLM has removed."""
    weights = folder / model.id
    weights.mkdir()
    # transformers does not know these classes either, so this is the configuration of a Llama with another class name.
    llama = config("LlamaForCausalLM", ARCHITECTURES["LlamaForCausalLM"], TINY, CONTEXT)
    (weights / "config.json").write_text(json.dumps({**llama, "architectures": [model.architecture]}))
    (weights / "reference.json").write_text("{}")
    engine: dict[str, EngineValue] = {**ENGINE_SETTINGS, "load_format": "dummy", "skip_tokenizer_init": True}
    served = ServedModel(model.id, model, "proof", str(weights), chat_template=None, engine=engine, env=env)
    return (await compare(served, [], weights, settings)).detail


def planned_blocks(model: Model, verdict: Verdict) -> Blocks | None:
    """The planner's figures for the engine's KV cache; None if the engine reported no cache."""
    if not (verdict.cache_bytes and verdict.block_size):
        return None
    return blocks(model, verdict.cache_bytes, verdict.block_size, MAX_MODEL_LEN, kv_bytes=FLOAT32_BYTES)


def tensor_bytes(weights: Path) -> int:
    """The bytes of all tensors in a safetensors file, without its header; 0 if there is no such file."""
    if not weights.is_file():
        return 0
    with weights.open("rb") as file:
        return weights.stat().st_size - 8 - int.from_bytes(file.read(8), "little")


async def _until_ready(run_dir: Path) -> str | None:
    """Waits until the engine is ready; returns the reason if it does not start."""
    while True:
        current = state.read(run_dir, 0)
        if current and current.condition == "ready":
            return None
        if current and current.condition == "failed":
            return current.reason or "the engine did not start"
        await asyncio.sleep(0.25)


async def _compare(
    model: str, token_ids: list[list[int]], socket: Path, reference: dict[str, Any], log: str
) -> Verdict:
    client = ConnectionPool()
    differences = []
    cache: dict[str, int] = {}
    try:
        metrics = await _send(client, socket, pool.get_request("/metrics"))
        if (found := BLOCKS.search(metrics.decode())) and (memory := MEMORY.search(log)):
            size = int(float(memory[1] or memory[2]) * 2**30)
            cache = {"blocks": int(found[1]), "block_size": int(found[2]), "cache_bytes": size}
        for number, prompt in enumerate(token_ids):
            if "vectors" in reference:
                vector = await _embed(client, socket, model, prompt)
                difference = vector_difference(vector, reference["vectors"][number])
            else:
                tokens = await _generate(client, socket, model, prompt)
                difference = token_difference(tokens, reference["tokens"][number])
            if difference:
                differences.append(f"prompt {number}: {difference}")
    except (TransportError, ValueError, LookupError) as error:
        return Verdict("refused", f"the engine started, but a request to it failed: {error}")
    finally:
        client.close()
    return Verdict("different" if differences else "equal", "; ".join(differences), **cache)


def token_difference(tokens: list[int], expected: list[int]) -> str | None:
    """How the engine's tokens differ from transformers'; None if they are equal."""
    if tokens == expected:
        return None
    pairs = zip(tokens, expected, strict=False)
    shorter = min(len(tokens), len(expected))
    equal = next((index for index, (left, right) in enumerate(pairs) if left != right), shorter)
    token, wanted = tokens[equal : equal + 1], expected[equal : equal + 1]
    return f"{equal} of {len(expected)} tokens are equal, then {token} instead of {wanted}"


def vector_difference(vector: list[float], expected: list[float]) -> str | None:
    """The cosine similarity of the engine's embedding and transformers'; None if it is at least `MIN_COSINE`."""
    cosine = sum(x * y for x, y in zip(vector, expected, strict=True)) / (math.hypot(*vector) * math.hypot(*expected))
    return None if cosine >= MIN_COSINE else f"the cosine similarity of the vectors is {cosine:.4f}"


async def _generate(client: ConnectionPool, socket: Path, model: str, prompt: list[int]) -> list[int]:
    body = {
        "model": model, "prompt": prompt, "max_tokens": NEW_TOKENS, "temperature": 0, "ignore_eos": True,
        "return_token_ids": True,
    }  # fmt: skip
    response = json.loads(await _send(client, socket, _post("/v1/completions", body)))
    return response["choices"][0]["token_ids"] or []


async def _embed(client: ConnectionPool, socket: Path, model: str, prompt: list[int]) -> list[float]:
    body = {"model": model, "input": prompt}
    response = json.loads(await _send(client, socket, _post("/v1/embeddings", body)))
    return response["data"][0]["embedding"] or []


def _post(path: str, body: dict[str, Any]) -> bytes:
    return pool.post_request(path, json.dumps(body).encode())


async def _send(client: ConnectionPool, socket: Path, request: bytes) -> bytes:
    """The body of the engine's response; raises ValueError unless its status is 200."""
    exchange = await client.send(str(socket), request, DEADLINES)
    try:
        status = await exchange.head()
        body = await exchange.read_all(2**26)
    finally:
        client.release(str(socket), exchange)
    if status != 200:
        raise ValueError(f"status {status}: {body[:300].decode(errors='replace')}")
    return body
