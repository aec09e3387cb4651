"""The smallest real request that a model can answer, and one exchange with an engine."""

import json

from service.fleet.served_model import ServedModel
from service.transport.pool import ConnectionPool, Deadlines

LARGEST = 4 * 2**20  # bytes of an answer; a page of metrics has about a hundred thousand


def probe(served: ServedModel) -> tuple[str, bytes]:
    """Path and body of the smallest real request that this model can answer."""
    if served.variant == "embedding":
        return "/v1/embeddings", json.dumps({"model": served.id, "input": "1"}).encode()
    fields = {"model": served.id, "prompt": "1", "max_tokens": 1, "temperature": 0}
    return "/v1/completions", json.dumps(fields).encode()


async def ask(transport: ConnectionPool, address: str, request: bytes, deadlines: Deadlines) -> tuple[int, bytes]:
    """Status and body of the engine's answer to `request`; raises TransportError where there is none."""
    exchange = await transport.send(address, request, deadlines)
    try:
        return await exchange.head(), await exchange.read_all(LARGEST)
    finally:
        transport.release(address, exchange)
