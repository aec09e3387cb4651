"""The probe request, which shows that an engine generates, and one HTTP exchange with an engine."""

import json
import math

from service.fleet.served_model import ServedModel
from service.transport.pool import ConnectionPool, Deadlines

# On a CPU with AMX, vLLM attends in tiles for which a matrix product of more than four tokens has asked the kernel: an
# engine whose first request is shorter dies of an illegal instruction. This is at least sixteen for any tokenizer.
TEXT = " ".join("1" * 16)
MAX_RESPONSE_BYTES = 16 * 2**20  # a page of metrics has a hundred thousand, the ids of a million tokens six million


def probe_request(served: ServedModel) -> tuple[str, bytes]:
    """Path and body of the cheapest request that makes this model compute: one token, embedding or score."""
    if served.variant == "embedding":
        return "/v1/embeddings", json.dumps({"model": served.id, "input": TEXT}).encode()
    if served.variant == "reranker":
        return "/score", json.dumps({"model": served.id, "queries": TEXT, "documents": TEXT}).encode()
    fields = {"model": served.id, "prompt": TEXT, "max_tokens": 1, "temperature": 0}
    return "/v1/completions", json.dumps(fields).encode()


async def fetch(
    transport: ConnectionPool, address: str, request: bytes, deadlines: Deadlines, remaining: float = math.inf
) -> tuple[int, bytes]:
    """Status and body of the engine's response to `request`; raises TransportError where there is none.

    `remaining` bounds the whole exchange, in seconds, beside the deadlines.
    """
    exchange = await transport.send(address, request, deadlines, remaining)
    try:
        return await exchange.head(), await exchange.read_all(MAX_RESPONSE_BYTES)
    finally:
        transport.release(address, exchange)
