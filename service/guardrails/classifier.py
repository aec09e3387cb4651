"""Asks an HTTP classifier, which answers as OpenAI's moderation endpoint does."""

import json
from collections.abc import Mapping
from urllib.parse import urlsplit

from service.errors import ApiError, ErrorCode
from service.fleet.guardrail import UNIX, Guardrail
from service.guardrails.verdicts import Verdict, read_moderation
from service.transport.pool import ConnectionPool, Deadlines

MOST_BYTES = 2**20  # of an answer


class Classifiers:
    """The classifiers of the fleet; `keys` are sent to them as bearer tokens, by the names of their steps."""

    def __init__(self, transport: ConnectionPool, keys: Mapping[str, str]) -> None:
        self._transport, self._keys = transport, keys

    async def classify(self, step: Guardrail, text: str) -> Verdict:
        """The verdict of the step's classifier on a text.

        Raises TransportError, UnreadableVerdictError, and ApiError where it answers with an error.
        """
        address, host, path = endpoint_of(step.url or "")
        request = _post(host, path, self._keys.get(step.name), json.dumps({"input": text}).encode())
        deadlines = Deadlines(step.timeout, step.timeout, step.timeout, step.timeout)
        exchange = await self._transport.send(address, request, deadlines)
        try:
            status = await exchange.head()
            body = await exchange.read_all(MOST_BYTES)
        finally:
            self._transport.release(address, exchange)
        if status != 200:
            raise ApiError(ErrorCode.UPSTREAM_ERROR, f"it answered with status {status}")
        return read_moderation(body)


def endpoint_of(url: str) -> tuple[str, str, str]:
    """Where a classifier is: an address of the transport, the `Host` that it is asked for, and the path. Pure."""
    if found := UNIX.fullmatch(url):
        return found[1], "localhost", found[2]
    parts = urlsplit(url)
    path = f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"
    port = parts.port or (443 if parts.scheme == "https" else 80)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{'tls:' if parts.scheme == 'https' else ''}{host}:{port}", parts.netloc, path


def _post(host: str, path: str, key: str | None, body: bytes) -> bytes:
    bearer = f"authorization: Bearer {key}\r\n" if key else ""
    head = (
        f"POST {path} HTTP/1.1\r\nhost: {host}\r\n{bearer}accept: application/json\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
