"""The fields of a body that are replaced for the engine, and the traces of them that are removed from its response."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from service.catalog.infill import infill, orders
from service.catalog.model import Model
from service.errors import ApiError, ErrorCode
from service.protocol import validation_errors
from service.protocol.anthropic import MessagesRequest
from service.protocol.requests import Body, CompletionRequest, Decoding
from service.protocol.streams import Dialect

# The field of each dialect for stop strings.
STOP_FIELDS: dict[Dialect, str] = {"openai": "stop", "responses": "stop", "messages": "stop_sequences"}


@dataclass(frozen=True)
class StopConditions:
    """The stop strings and stop token ids of a request: those of the client, and those that the catalogue adds."""

    requested: tuple[str | int, ...]
    added: tuple[str | int, ...]

    def fields(self, dialect: Dialect) -> dict[str, Any]:
        """The body fields that set them, as far as the catalogue adds anything.

        The Messages API has no stop token ids; an engine has them as defaults (`chat_templates.generation_config`).
        """
        fields: dict[str, Any] = {}
        if not self.added:
            return fields
        stops = (*self.requested, *self.added)
        if any(isinstance(stop, str) for stop in self.added):
            fields[STOP_FIELDS[dialect]] = [stop for stop in stops if isinstance(stop, str)]
        if dialect != "messages" and any(isinstance(stop, int) for stop in self.added):
            fields["stop_token_ids"] = [stop for stop in stops if isinstance(stop, int)]
        return fields

    def redact_stop_reason(self, dialect: Dialect) -> Callable[[bytes], bytes]:
        """A function that hides in a response body, or in complete events, at which added stop condition it ended.

        The client did not set these conditions, so for it the response ended by itself.
        """
        if not self.added:
            return bytes
        stop_conditions = b"|".join(re.escape(json.dumps(stop, ensure_ascii=False).encode()) for stop in self.added)
        if dialect == "messages":
            pattern, replacement = (
                b'"stop_reason": ?"stop_sequence", ?"stop_sequence": ?',
                b'"stop_reason":"end_turn","stop_sequence":null',
            )
        else:
            pattern, replacement = b'"stop_reason": ?', b'"stop_reason":null'
        # Generated text cannot match: within a JSON string every quotation mark is escaped.
        field = re.compile(pattern + b"(?:" + stop_conditions + b")(?=[,}])")
        return lambda response: field.sub(replacement, response)


NO_STOPS = StopConditions((), ())


def stop_conditions(request: Body, model: Model) -> StopConditions:
    """The stop conditions of a request. The catalogue adds those of the model's chat or fill-in-the-middle format."""
    spec = request.stops_of(model)
    if spec is None or not (spec.stop or spec.stop_token_ids):
        return NO_STOPS
    requested = tuple(dict.fromkeys(_requested_stops(request)))
    added: list[str | int] = [*spec.stop, *spec.stop_token_ids]
    return StopConditions(requested, tuple(dict.fromkeys(stop for stop in added if stop not in requested)))


def rewrites(
    request: Body, name: str, model: Model, dialect: Dialect, stop_conditions: StopConditions, counted: bool = False
) -> dict[str, Any]:
    """The fields to replace in the body for an engine that serves `model` under `name`.

    If it is `counted`, every event of a stream shall say how many tokens there have been.
    Raises the 400 `unsupported_infill_order` for an `infill_order` that the model was not trained on.
    """
    fields: dict[str, Any] = {}
    if request.model != name:
        fields["model"] = name
    if request.stream and dialect == "openai" and (counted or not request.wants_usage):
        # We always need the usage; StreamWatcher drops the event for clients that did not ask for it.
        fields["stream_options"] = {"include_usage": True} | ({"continuous_usage_stats": True} if counted else {})
    if dialect == "responses":
        # vLLM adds a second BOS to that of the chat template here; with this flag our templates omit theirs.
        fields["chat_template_kwargs"] = {"bos_is_added": True}
    suffix = getattr(request, "suffix", None)
    if suffix is not None and isinstance(request, CompletionRequest) and isinstance(request.prompt, str):
        fields |= _infilling(request, request.prompt, suffix, model)
    return fields | stop_conditions.fields(dialect) if stop_conditions.added else fields


def may_be_counted(request: Body, dialect: Dialect, sequences: int) -> bool:
    """Whether the engine can be asked to count in every event of its stream, of which the client learns nothing.

    Of several sequences each event counts its own alone, and a client that asked for it gets what it asked for.
    """
    options = getattr(request, "stream_options", None)
    asked = options is not None and options.include_usage and options.continuous_usage_stats
    return bool(request.stream) and dialect == "openai" and sequences == 1 and not asked


def cap_output(request: Body, tenants: int | None, sequences: int, context: int | None) -> tuple[int, dict[str, Any]]:
    """The most that each of its sequences may generate, and the fields that keep a request within that.

    That is what its tenant may have at most, and its share of what all its sequences may generate together, where
    none generates more than the `context`. Raises the 400 for a larger bound; one without a bound gets it as its own.
    """
    share = request.bounds.output_tokens // max(sequences, 1)
    most = share if tenants is None else min(tenants, share)
    for name in request.output_limit_fields:
        asked = getattr(request, name) or 0
        if tenants is not None and asked > tenants:
            raise validation_errors.invalid_value(
                name, f"it should be at most {tenants}, the largest output of this tenant"
            )
        if min(asked, context or asked) > share:
            total = f"the {sequences} sequences of a request may generate {request.bounds.output_tokens} tokens in all"
            raise validation_errors.invalid_value(name, f"it should be at most {share}, for {total}")
    fits = tenants is None and (context is None or context <= share)  # engines refuse more than their context
    if fits or not request.output_limit_fields or request.output_limit():
        return most, {}
    return most, {request.output_limit_fields[0]: most}


def _infilling(request: CompletionRequest, prefix: str, suffix: str, model: Model) -> dict[str, Any]:
    if model.infill is None:
        return {}
    order, supported = request.infill_order or "prefix_first", orders(model.infill)
    if order not in supported:
        names = " or ".join(f"'{name}'" for name in supported)
        message = f"'{model.id}' does not support infill_order '{order}': use {names}."
        raise ApiError(ErrorCode.UNSUPPORTED_INFILL_ORDER, message, "infill_order")
    return {"prompt": infill(model.infill, prefix, suffix, order), "suffix": None}


def _requested_stops(request: Body) -> list[str | int]:
    if isinstance(request, Decoding):
        texts = [request.stop] if isinstance(request.stop, str) else request.stop or []
        return [*texts, *(request.stop_token_ids or [])]
    if isinstance(request, MessagesRequest):
        return [*(request.stop_sequences or [])]
    return []
