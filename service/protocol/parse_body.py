"""Parses a body once; engines get the client's own bytes, with a few fields appended that replace earlier ones."""

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec

from service.fleet.fleet import Fleet
from service.fleet.request_bounds import RequestBounds
from service.protocol import fields, validation_errors
from service.protocol.bounded import bounded
from service.protocol.requests import Body
from service.protocol.structure import check_structure
from service.protocol.unique_names import check_names

MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
ITEMS = msgspec.json.Decoder(list[msgspec.Raw])
# Fields with a schema, a grammar or arguments of a template, of all kinds of bodies; each of `tools` has a schema.
SCHEMAS = ("response_format", "structured_outputs", "text", "output_config", "output_format", "chat_template_kwargs")

Decoders = Mapping[type[Body], msgspec.json.Decoder[Body]]


def decoders_for(bounds: RequestBounds) -> Decoders:
    """The decoders of all kinds of bodies, for requests within `bounds`."""
    return MappingProxyType({kind: msgspec.json.Decoder(bounded(kind, bounds)) for kind in fields.RULES})


class FieldPolicy(NamedTuple):
    """What the fleet file says about the fields of requests: those that an endpoint does not read, and bounds.

    `allowed` are passed to the engines unread (`extra_fields`); one that no table has is refused if `refuse_unknown`.
    """

    allowed: Collection[str] = ()
    refuse_unknown: bool = False
    decoders: Decoders = decoders_for(RequestBounds())
    bounds: RequestBounds = RequestBounds()

    @classmethod
    def of(cls, fleet: Fleet) -> "FieldPolicy":
        """What this fleet says."""
        return cls(
            fleet.extra_fields, fleet.refuse_unknown_fields, decoders_for(fleet.request_bounds), fleet.request_bounds
        )


class Parsed(msgspec.Struct, frozen=True):
    """A request, its body without the fields that were ignored, and the names of these."""

    request: Body
    body: bytes
    ignored: tuple[str, ...] = ()


def parse_body(kind: type[Body], body: bytes, policy: FieldPolicy = FieldPolicy()) -> Parsed:  # noqa: B008  immutable
    """The body as a `kind`; raises the 400 that names the field which is wrong.

    A body whose fields all belong to `kind` is parsed once and stays as it is. Only others are taken apart.
    """
    try:
        if not body.isascii():
            body.decode()  # msgspec does not check the UTF-8 of what it skips
        try:
            request = policy.decoders[kind].decode(body)
            check_structure(body, request.bounds)
            check_names(body)
            if len(body) > request.bounds.schema_bytes:
                _check_schemas(request, body)
            return Parsed(request, body)
        except msgspec.ValidationError as error:
            if not validation_errors.is_unknown_field(error):
                raise
        check_structure(body, policy.bounds)
        members = MEMBERS.decode(body)
        check_names(body)
        known = {name: value for name, value in members.items() if name in kind.__struct_fields__}
        accepted = msgspec.json.encode(known)
        request = policy.decoders[kind].decode(accepted)
        if len(accepted) > request.bounds.schema_bytes:
            _check_schemas(request, accepted)
        passed, ignored = _sort_out(kind, members, policy)
        return Parsed(request, msgspec.json.encode(known | passed) if passed else accepted, ignored)
    except (ValueError, RecursionError) as error:
        raise validation_errors.api_error(error, kind) from None


def _check_schemas(request: Body, body: bytes) -> None:
    """Raises the 400 for a schema that is too large. A body that is smaller itself need not be taken apart for that."""
    most = request.bounds.schema_bytes
    members = MEMBERS.decode(body)
    sizes = {name: len(bytes(members[name])) for name in SCHEMAS if name in members}
    if getattr(request, "tools", None):
        sizes |= {f"tools[{index}]": len(bytes(raw)) for index, raw in enumerate(ITEMS.decode(members["tools"]))}
    for name, size in sizes.items():
        if size > most:
            raise validation_errors.invalid_value(name, f"it has {size} bytes and should have at most {most}")


def _sort_out(
    kind: type[Body], members: dict[str, msgspec.Raw], policy: FieldPolicy
) -> tuple[dict[str, msgspec.Raw], tuple[str, ...]]:
    """The members beyond those of `kind` that are passed, and the names of those that are ignored; null is nothing."""
    passed, ignored = {}, []
    for name, value in members.items():
        if name in kind.__struct_fields__:
            continue
        if name in policy.allowed:
            passed[name] = value
        elif bytes(value).strip() != b"null":
            fields.check(kind, name, policy.refuse_unknown)
            ignored.append(name)
    return passed, tuple(ignored)


def engine_body(body: bytes, request: Body, rewritten: dict[str, Any], streams: bool) -> bytes:
    """The body that an engine gets for `request`, which was parsed from `body`.

    `rewritten` are fields that it gets otherwise than the client sent them. Members that are null are left out, because
    to OpenAI and Anthropic null means absent and to vLLM not always; so is what identifies a person, and `stream` where
    the endpoint has none.
    """
    dropped = set()
    for name in request.private_fields:
        if getattr(request, name) is not None:
            dropped.add(name)
    if request.stream is not None and not streams:
        dropped.add("stream")
    opened = rewritten and {name for name, value in rewritten.items() if _may_be_set(request, body, name, value)}
    if dropped or opened or body.find(b"null") >= 0:  # `in` first takes the bytes for a number, and raises
        members = MEMBERS.decode(body)
        rewritten = rewritten | {name: _merged(members.get(name), rewritten[name]) for name in opened}
        kept = {name: raw for name, raw in members.items() if name not in dropped and bytes(raw) != b"null"}
        if len(kept) < len(members):
            body = msgspec.json.encode(kept)
    return with_fields(body, rewritten)


def _may_be_set(request: Body, body: bytes, name: str, ours: Any) -> bool:
    """Whether the client may have set a field that we set too, and both values count: an object, or an opened field."""
    if name in request.__struct_fields__:
        return isinstance(ours, dict) and getattr(request, name) is not None
    return f'"{name}"'.encode() in body


def with_fields(body: bytes, fields: dict[str, Any]) -> bytes:
    """The JSON object `body` with `fields` replaced or added, and the client's bytes otherwise untouched.

    The fields are appended: every JSON parser in use here takes the last of two members with the same name. Clients
    cannot make use of that, see `unique_names`.
    """
    if not fields:
        return body
    return b"".join((memoryview(body.rstrip())[:-1], b",", msgspec.json.encode(fields)[1:]))


def with_salt(body: bytes, salt: str) -> bytes:
    """The JSON object `body` with this `cache_salt`, which needs no escapes; as `with_fields`, sooner."""
    return b"".join((body.rstrip()[:-1], b',"cache_salt": "', salt.encode(), b'"}'))


def _merged(sent: msgspec.Raw | None, ours: Any) -> Any:
    """Our value of a field that the client has set as well, with what it holds of the client's."""
    theirs = msgspec.json.decode(sent) if sent is not None else None
    if isinstance(theirs, dict) and isinstance(ours, dict):
        return theirs | ours
    if isinstance(ours, list) and theirs is not None:
        theirs = theirs if isinstance(theirs, list) else [theirs]
        return [*theirs, *(item for item in ours if item not in theirs)]
    return ours
