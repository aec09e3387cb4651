"""How a stream ends when a guardrail blocks the rest of it, so that each API's own libraries understand it. Pure."""

import json
from typing import Any

from service.guardrails.chunks import Chunk
from service.protocol.streams import Dialect

Json = dict[str, Any]
CONTENT_FILTER = "content_filter"  # OpenAI's finish reason, and the reason of an incomplete response


class Progress:
    """What a client has had of a stream. `begun` says whether it had any event, `next_number` counts those of the
    Responses API.
    """

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self.begun, self.next_number = False, 0
        self._head: Json = {}
        self._choices: dict[int, bool] = {}  # by index, whether it has ended
        self._open_block: int | None = None
        self._deltas = 0
        self._response: Json = {}
        self._text = ""

    def note(self, value: Chunk | Json | None) -> None:
        """Notes an event that the client gets; None is one without JSON."""
        self.begun = True
        if isinstance(value, Chunk):
            self._head = self._head or value.head()
            for choice in value.choices:
                if choice.finish_reason is not None or choice.index not in self._choices:
                    self._choices[choice.index] = choice.finish_reason is not None
        elif isinstance(value, dict):
            self._note_event(value)

    def _note_event(self, value: Json) -> None:
        kind = value.get("type")
        self._deltas += kind == "content_block_delta"
        if kind == "content_block_start":
            self._open_block = value["index"]
        elif kind == "content_block_stop":
            self._open_block = None
        self.next_number = value.get("sequence_number", -1) + 1 or self.next_number
        self._response = value.get("response") or self._response
        if kind == "response.output_text.delta":
            self._text += value["delta"]

    def ending(self) -> bytes:
        """The events that end the stream as one whose rest was filtered."""
        if self._dialect == "openai":
            return self._ending_of_choices()
        return self._ending_of_message() if self._dialect == "messages" else self._ending_of_response()

    def _ending_of_choices(self) -> bytes:
        chat = self._head.get("object") == "chat.completion.chunk"
        said: Json = {"delta": {}} if chat else {"text": ""}
        after = {"logprobs": None, "finish_reason": CONTENT_FILTER}
        running = [index for index, ended in sorted(self._choices.items()) if not ended] or [0]
        choices = [{"index": index, **said, **after} for index in running]
        return _data({**self._head, "choices": choices}) + b"data: [DONE]\n\n"

    def _ending_of_message(self) -> bytes:
        events: list[Json] = []
        if self._open_block is not None:
            events.append({"type": "content_block_stop", "index": self._open_block})
        delta = {"stop_reason": "refusal", "stop_sequence": None}
        events.append({"type": "message_delta", "delta": delta, "usage": {"output_tokens": self._deltas}})
        return b"".join(map(_named, [*events, {"type": "message_stop"}]))

    def _ending_of_response(self) -> bytes:
        part = {"type": "output_text", "text": self._text, "annotations": []}
        item = {"type": "message", "id": f"msg_{self._response.get('id', '')}", "role": "assistant",
                "status": "incomplete", "content": [part]}  # fmt: skip
        response = {
            **self._response,
            "status": "incomplete",
            "incomplete_details": {"reason": CONTENT_FILTER},
            "output": [item] if self._text else [],
        }
        fields = {"type": "response.incomplete", "sequence_number": self.next_number, "response": response}
        return _named(fields)


def _data(value: Json) -> bytes:
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


def _named(value: Json) -> bytes:
    return f"event: {value['type']}\n".encode() + _data(value)
