"""Fetches an issuer's signing keys: from a file, or over HTTPS from where the issuer's own configuration says."""

import asyncio
import json
import ssl
from pathlib import Path

import httpx2

from service.auth.sign_on import SignOn, check_url
from service.config.run_dir import WRITE_BY_OTHERS

TIMEOUT = 5.0  # seconds for each of two exchanges, from its first byte to its last
MAX_BYTES = 2**20
CONFIGURATION = "/.well-known/openid-configuration"  # OpenID Connect Discovery 1.0, section 4
# What is compressed could be larger than what arrives.
HEADERS = {"accept": "application/json", "accept-encoding": "identity"}


class FetchError(Exception):
    """Why the keys cannot be had, in one sentence that names the URL or the file."""


class JwksSource:
    """Where signing keys come from. It follows no redirects, and takes proxies and authorities from the environment."""

    def __init__(self) -> None:
        self._tls: ssl.SSLContext | None = None

    async def fetch(self, sign_on: SignOn) -> bytes:
        """The key set of the issuer as it is now, unread; raises FetchError."""
        if path := sign_on.jwks_path:
            return await asyncio.to_thread(_read, path)
        try:
            if self._tls is None:  # reading the authorities takes a tenth of a second
                self._tls = await asyncio.to_thread(httpx2.create_ssl_context)
        except OSError as error:
            raise FetchError(f"the certificate authorities cannot be read: {error}") from None
        async with httpx2.AsyncClient(timeout=None, verify=self._tls) as client:  # `_get` has one for the whole
            return await _get(client, sign_on.jwks or await _discovered(client, sign_on.issuer))


async def _discovered(client: httpx2.AsyncClient, issuer: str) -> str:
    """The URL of the key set, as the issuer's configuration has it; that must be of this very issuer."""
    url = issuer.rstrip("/") + CONFIGURATION
    body = await _get(client, url)
    try:
        found = json.loads(body)
        named, place = found["issuer"], found["jwks_uri"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise FetchError(f"{url} is no configuration of an issuer with 'issuer' and 'jwks_uri'") from None
    if named != issuer:
        raise FetchError(f"{url} is of the issuer {named!r:.200}: write 'issuer' like that if it is the one you mean")
    try:
        return check_url(str(place))
    except ValueError as error:
        raise FetchError(f"{url}: jwks_uri: {error}") from None


async def _get(client: httpx2.AsyncClient, url: str) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(TIMEOUT), client.stream("GET", url, headers=HEADERS) as answer:
            if answer.status_code != 200:
                redirect = ", and redirects are not followed" if answer.is_redirect else ""
                raise FetchError(f"{url} answers {answer.status_code}{redirect}")
            async for piece in answer.aiter_raw():
                body += piece
                if len(body) > MAX_BYTES:
                    raise FetchError(f"{url} is larger than {MAX_BYTES:,} bytes")
    except TimeoutError:
        raise FetchError(f"{url} did not answer within {TIMEOUT:g} s") from None
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
        raise FetchError(f"{url} cannot be reached: {error or type(error).__name__}") from None
    return bytes(body)


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_mode & WRITE_BY_OTHERS:
            raise FetchError(f"other users can change {path}, and so let themselves in: chmod go-w {path}")
        with path.open("rb") as file:
            body = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise FetchError(f"{path} cannot be read: {error.strerror}") from None
    if len(body) > MAX_BYTES:
        raise FetchError(f"{path} is larger than {MAX_BYTES:,} bytes")
    return body
