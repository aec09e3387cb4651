"""What an engine must get otherwise than a client wrote it, and what of that must not show in the answer."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from service.catalog import chat_templates
from service.catalog.model import Chat, Infill, Model
from service.errors import ApiError, ErrorCode
from service.protocol.requests import Body, ChatRequest, CompletionRequest, MessagesRequest, ResponsesRequest, Sampling
from service.protocol.streams import Dialect

# The field of each dialect that holds the texts which end an answer.
TEXTS: dict[Dialect, str] = {"openai": "stop", "responses": "stop", "messages": "stop_sequences"}

CONVERSATIONS = (ChatRequest, MessagesRequest, ResponsesRequest)


@dataclass(frozen=True)
class StopConditions:
    """What ends an answer besides the tokenizer's EOS: what the catalogue adds, and then what the client asked for."""

    asked: tuple[str | int, ...]
    added: tuple[str | int, ...]

    def fields(self, dialect: Dialect) -> dict[str, Any]:
        """The fields that say so to an engine, where the catalogue adds anything to them.

        Messages carry no token ids: there the engine knows them from its start (`prompts.generation_config`).
        """
        fields: dict[str, Any] = {}
        if not self.added:
            return fields
        every = (*self.asked, *self.added)
        if any(isinstance(end, str) for end in self.added):
            fields[TEXTS[dialect]] = [end for end in every if isinstance(end, str)]
        if dialect != "messages" and any(isinstance(end, int) for end in self.added):
            fields["stop_token_ids"] = [end for end in every if isinstance(end, int)]
        return fields

    def redact_stop_reason(self, dialect: Dialect) -> Callable[[bytes], bytes]:
        """Takes out of an answer, or out of whole events of one, which of the added ends it came to.

        The client knows nothing of them: to it the turn just ended.
        """
        if not self.added:
            return bytes
        stop_conditions = b"|".join(re.escape(json.dumps(end, ensure_ascii=False).encode()) for end in self.added)
        if dialect == "messages":
            said, instead = (
                b'"stop_reason": ?"stop_sequence", ?"stop_sequence": ?',
                b'"stop_reason":"end_turn","stop_sequence":null',
            )
        else:
            said, instead = b'"stop_reason": ?', b'"stop_reason":null'
        # Within a text every quotation mark is escaped, so what an engine wrote is never taken for one of its fields.
        field = re.compile(said + b"(?:" + stop_conditions + b")(?=[,}])")
        return lambda answer: field.sub(instead, answer)


NONE_ADDED = StopConditions((), ())


def stop_conditions(request: Body, model: Model) -> StopConditions:
    """What must end the answer to `request`: a model that converses has its own, and so has one that fills in."""
    form: Chat | Infill | None = None
    if isinstance(request, CONVERSATIONS):
        form = model.chat
    elif isinstance(request, CompletionRequest) and request.suffix is not None:
        form = model.infill
    if form is None or not (form.stop or form.stop_token_ids):
        return NONE_ADDED
    asked = tuple(dict.fromkeys(_asked(request)))
    added: list[str | int] = [*form.stop, *form.stop_token_ids]
    return StopConditions(asked, tuple(dict.fromkeys(end for end in added if end not in asked)))


def rewrites(
    request: Body, name: str, model: Model, dialect: Dialect, stop_conditions: StopConditions
) -> dict[str, Any]:
    """The fields of the body that the engine, which knows `model` as `name`, must get otherwise than written.

    `ends` are what must end the answer. Raises the 400 for an order of infilling that the model was not trained on.
    """
    fields: dict[str, Any] = {}
    if request.model != name:
        fields["model"] = name
    if request.stream and dialect == "openai" and not request.wants_usage:
        # Usage is always counted; Watch keeps the event from a client that did not ask for it.
        fields["stream_options"] = {"include_usage": True}
    if dialect == "responses":
        # vLLM lets a template write its BOS there and adds one more; our templates heed this and leave theirs out.
        fields["chat_template_kwargs"] = {"bos_is_added": True}
    if isinstance(request, CompletionRequest) and request.suffix is not None and isinstance(request.prompt, str):
        fields |= _infilling(request, request.prompt, request.suffix, model)
    return fields | stop_conditions.fields(dialect) if stop_conditions.added else fields


def _infilling(request: CompletionRequest, prefix: str, suffix: str, model: Model) -> dict[str, Any]:
    if model.infill is None:
        return {}
    order, known = request.infill_order or "prefix_first", chat_templates.orders(model.infill)
    if order not in known:
        names = " or ".join(f"'{one}'" for one in known)
        message = f"'{model.id}' does not fill in the middle '{order}': send {names}."
        raise ApiError(ErrorCode.UNSUPPORTED_INFILL_ORDER, message, "infill_order")
    return {"prompt": chat_templates.infill(model.infill, prefix, suffix, order), "suffix": None}


def _asked(request: Body) -> list[str | int]:
    if isinstance(request, Sampling):
        texts = [request.stop] if isinstance(request.stop, str) else request.stop or []
        return [*texts, *(request.stop_token_ids or [])]
    if isinstance(request, MessagesRequest):
        return [*(request.stop_sequences or [])]
    return []
