"""What a request brings for an engine to compile or decode is checked before anything of it waits for a slot."""

import asyncio
import json
from collections.abc import Sequence

from service.checks.checks import BusyError, Checks, Verdict
from service.checks.process import DiedError
from service.errors import ApiError, ErrorCode
from service.fleet.fleet import Fleet
from service.fleet.request_bounds import RequestBounds
from service.protocol import validation_errors
from service.protocol.images import check_images
from service.protocol.parts import Image
from service.protocol.requests import Body
from service.relay.call import Call

SCHEMA, IMAGE = "schema", "image"  # the kinds of checks, as the metrics name them
HOW = {"deadline": "takes too long", "memory": "takes too much memory", "crash": "crashes"}
DAMAGED = "Could not process image: its data is damaged or incomplete. Send the whole file, or leave it out."


class Screening:
    """Checks what requests bring, by `checks`; without them by the headers of images alone."""

    def __init__(self, checks: Checks | None, decodes_images: bool) -> None:
        self._checks, self._decodes_images = checks, decodes_images

    async def screen(self, call: Call, fleet: Fleet) -> None:
        """Raises the 400 for what no engine may get, and the 503 if that cannot be found out."""
        if call.images:
            files = await asyncio.to_thread(check_images, call.images, fleet.images)
            if self._checks and self._decodes_images:
                await self._decode(self._checks, call, files, fleet.images.max_pixels)
        if call.constraints and self._checks:
            job = b"c%b\n%b" % (json.dumps(_most(fleet.request_bounds)).encode(), call.constraints)
            verdict = await _ask(self._checks, call, SCHEMA, job)
            if verdict.reason or verdict.died:
                raise _refused(call.request, verdict)

    async def _decode(self, checks: Checks, call: Call, files: Sequence[bytes], max_pixels: int) -> None:
        for image, file in zip(call.images, files, strict=True):
            verdict = await _ask(checks, call, IMAGE, b"i%b%b" % (max_pixels.to_bytes(8, "big"), file))
            if verdict.died:
                raise _died(image.path, "decoding", verdict.died)
            if verdict.reason:
                raise _damaged(image)


async def _ask(checks: Checks, call: Call, kind: str, job: bytes) -> Verdict:
    try:
        return await checks.check(call.tenant.id, kind, job)
    except BusyError:
        message = "Too many schemas and images wait to be checked. Try again later."
        raise ApiError(ErrorCode.OVERLOADED, message, retry_after=1.0) from None
    except (OSError, DiedError):
        message = "Schemas, grammars and images cannot be checked at the moment, so none is passed on. Try again later."
        raise ApiError(ErrorCode.CHECKS_UNAVAILABLE, message, retry_after=5.0) from None


def _most(bounds: RequestBounds) -> list[int]:
    """The bounds as the process takes them; see `Most`."""
    return [bounds.schema_depth, bounds.schema_properties, bounds.schema_enum, bounds.schema_pattern]


def _refused(request: Body, verdict: Verdict) -> ApiError:
    path = verdict.path
    if getattr(request, "output_format", None) is not None:  # which an engine gets by its later name
        path = path.replace("output_config.format", "output_format", 1)
    if verdict.died:
        return _died(path, "compiling", verdict.died)
    return validation_errors.wrong_value(type(request), path, verdict.reason)


def _died(path: str, doing: str, how: str) -> ApiError:
    message = f"'{path}' was tried where no engine suffers from it: {doing} it {HOW[how]}. Send a simpler one."
    return ApiError(ErrorCode.CHECK_FAILED, message, path)


def _damaged(image: Image) -> ApiError:
    """The words by which clients of Anthropic's API know that they should leave the image out."""
    return ApiError(ErrorCode.INVALID_VALUE, DAMAGED, image.path)
