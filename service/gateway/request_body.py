"""Reading the body of a request: only JSON, and within the limits on its size and on the time it takes."""

from msgspec import Struct

from service.config.settings import Settings
from service.errors import ApiError, ErrorCode
from service.server.asgi import (
    Receive,
    Scope,
    ServerExtension,
    buffered_body,
    derived,
    extension_of,
    headers_by_name,
    read_body,
    too_large,
)


class BodyLimits(Struct, frozen=True):
    """The most bytes of a body, and in how many seconds each part of it and all of it must arrive."""

    size: int
    timeout: float
    total_timeout: float

    @classmethod
    def of(cls, settings: Settings) -> "BodyLimits":
        """Those of the settings, of which each access costs as much as three of these."""
        return cls(settings.max_body_bytes, settings.body_timeout, settings.body_total_timeout)


async def read_json_body(scope: Scope, receive: Receive, limits: BodyLimits) -> bytes:
    """The body's bytes, not parsed. Raises ApiError (408, 413, 415), if possible before anything of it is read."""
    body = buffered_json_body(scope, extension_of(scope), limits)
    if body is None:
        length = headers_by_name(scope).get(b"content-length", b"0").strip()
        if length.isdigit() and int(length) > limits.size:
            raise too_large(limits.size)
        body = await read_body(scope, receive, limits.size, limits.timeout, limits.total_timeout)
    return body


def buffered_json_body(scope: Scope, extension: ServerExtension | None, limits: BodyLimits) -> bytes | None:
    """The body's bytes if all of it is there, and None otherwise. Raises ApiError (413, 415)."""
    derived(scope, check_content)
    return buffered_body(extension, limits.size)


def check_content(headers: list[tuple[bytes, bytes]]) -> None:
    """Raises the 415 if the headers say that the body is not JSON, or compressed.

    A missing type counts as not JSON: a browser sends bodies of other sites' pages without asking if they have none.
    """
    named = dict(headers)
    content_type = named.get(b"content-type", b"")
    if content_type != b"application/json" and content_type.split(b";")[0].strip().lower() != b"application/json":
        text = "Send the body as JSON, with the header 'Content-Type: application/json'."
        raise ApiError(ErrorCode.UNSUPPORTED_MEDIA_TYPE, text)
    encoding = named.get(b"content-encoding")
    if encoding is not None and encoding.lower() != b"identity":
        text = "Send the body uncompressed, without 'Content-Encoding'."
        raise ApiError(ErrorCode.UNSUPPORTED_MEDIA_TYPE, text)
