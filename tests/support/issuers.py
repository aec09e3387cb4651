"""Identity providers for tests: one that signs what a test likes, and whose server answers as a test likes."""

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

NAME = "https://id.example/realms/acme"
AUDIENCE = "roundhouse"
KINDS = {"RS256": "RSA", "PS256": "RSA", "ES256": "EC", "EdDSA": "OKP"}


def private_key(kid: str, kind: str = "RSA", size: int = 2048) -> Any:
    """The private key with this id; a key for each id, kind and size in a run of the tests."""
    return _generated(kid, kind, size)


@cache
def _generated(_kid: str, kind: str, size: int) -> Any:
    if kind == "EC":
        return ec.generate_private_key(ec.SECP256R1())
    return ed25519.Ed25519PrivateKey.generate() if kind == "OKP" else rsa.generate_private_key(65537, size)


def jwk(kid: str | None, kind: str = "RSA", size: int = 2048, **members: Any) -> dict[str, Any]:
    """The public key with this id as a member of a key set; members that are None are left out."""
    algorithm = {"RSA": "RS256", "EC": "ES256", "OKP": "EdDSA"}[kind]
    public = private_key(kid or "", kind, size).public_key()
    row = jwt.PyJWS().get_algorithm_by_name(algorithm).to_jwk(public, as_dict=True)
    found = {**row, "key_ops": None, "kid": kid, "use": "sig", **members}
    return {name: value for name, value in found.items() if value is not None}


def key_set(*rows: Mapping[str, Any]) -> bytes:
    return json.dumps({"keys": rows}).encode()


def claims(**members: Any) -> dict[str, Any]:
    """The claims of a valid token of `alice`, with `members` instead; those that are None are left out."""
    given = {"iss": NAME, "sub": "alice", "aud": AUDIENCE, "exp": int(time.time()) + 600, "groups": ["ml"], **members}
    return {name: value for name, value in given.items() if value is not None}


def token(
    kid: str | None = "a", algorithm: str = "RS256", head: Mapping[str, Any] | None = None, key: Any = None,
    **members: Any,
) -> str:  # fmt: skip
    """A token signed with the key of that id; `head` has more members of its header."""
    header = {**({} if kid is None else {"kid": kid}), **(head or {})}
    return jwt.encode(claims(**members), key or private_key(kid or "", KINDS[algorithm]), algorithm, headers=header)


@dataclass
class Provider:
    """What a server of an identity provider answers on `port`, by path: bytes, or what is sent as it stands."""

    port: int = 0
    answers: dict[str, bytes] = field(default_factory=dict)
    status: str = "200 OK\r\ncontent-type: application/json"
    held: asyncio.Event = field(default_factory=asyncio.Event)  # answers come once it is set
    asked: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def publish(self, *rows: Mapping[str, Any], **members: Any) -> None:
        """Answers with this key set, and with the configuration that names it; `members` are others of that."""
        configuration = {"issuer": self.url, "jwks_uri": f"{self.url}/keys", **members}
        self.answers["/.well-known/openid-configuration"] = json.dumps(configuration).encode()
        self.answers["/keys"] = key_set(*rows)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        path = head.split()[1].decode()
        self.asked.append(path)
        await self.held.wait()
        body = self.answers.get(path)
        status = "404 Not Found" if body is None else self.status
        length = len(body or b"")
        writer.write(f"HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n".encode())
        writer.write(body or b"")
        writer.close()


@asynccontextmanager
async def provider(*rows: Mapping[str, Any], held: bool = False) -> AsyncIterator[Provider]:
    """A provider that publishes these keys."""
    one = Provider()
    if not held:
        one.held.set()
    server = await asyncio.start_server(one.answer, "127.0.0.1", 0)
    one.port = server.sockets[0].getsockname()[1]
    one.publish(*rows)
    try:
        yield one
    finally:
        one.held.set()
        server.close()
        await server.wait_closed()


@contextmanager
def mock_provider() -> Iterator[str]:
    """The URL of a real identity provider, a process of its own, that has the user alice."""
    user = json.dumps({"sub": "alice@example.com", "groups": ["everyone", "ml"]})
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "oidc_provider_mock", "--port", "0", "--user-claims", user],
        stderr=subprocess.PIPE, text=True, env={**os.environ, "NO_COLOR": "1"},
    )  # fmt: skip
    assert process.stderr
    with process, process.stderr as log:
        try:
            yield next(found[0] for line in log if (found := re.search(r"http://127\.0\.0\.1:\d+", line)))
        finally:
            process.kill()
