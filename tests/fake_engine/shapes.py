"""The answers of the generating endpoints of vLLM 0.32, key for key: whole, and as the events of a stream."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any, Protocol

from tests.fake_engine.bodies import DONE, Json, data, named


@dataclass
class Turn:
    """One answer in the making. `prompt` and `said` count tokens; `words` is all there is to say, a token each.

    With a `tool` the words are the arguments of a call of that tool; `tools` and `choice` are those of the request.
    """

    id: str
    model: str
    created: int
    prompt: int
    words: tuple[str, ...]
    finish: str
    usage: bool = False
    counts: bool = False  # usage in every event, as `continuous_usage_stats` asks for
    limit: int | None = None
    form: Json | None = None  # what the Responses API was asked for as `text`
    said: int = 0
    tool: str | None = None
    tools: tuple[Json, ...] = ()
    choice: Any = None
    cached: int = 0  # tokens of the prompt

    @property
    def text(self) -> str:
        return "".join(self.words[: self.said])

    @property
    def call(self) -> str:
        """The id of the call."""
        return f"chatcmpl-tool-{self.id}"


FORM: Json = {"description": None, "strict": None}  # what the engine adds to a format of texts


class Shape(Protocol):
    """How one endpoint dresses a turn."""

    def whole(self, turn: Turn) -> Json:
        """The body of an answer that is not streamed."""

    def opening(self, turn: Turn) -> list[bytes]:
        """The events sent with the first token."""

    def token(self, turn: Turn, text: str, last: bool) -> bytes:
        """The event of one token."""

    def closing(self, turn: Turn) -> list[bytes]:
        """The events after the last token."""


def usage(turn: Turn, **details: Any) -> Json:
    return {
        "prompt_tokens": turn.prompt,
        "total_tokens": turn.prompt + turn.said,
        "completion_tokens": turn.said,
        "prompt_tokens_details": {"cached_tokens": turn.cached} | details,
    }


def so_far(turn: Turn) -> Json:
    """What each event has of the usage, if anything."""
    if not turn.counts:
        return {}
    counts = usage(turn)
    del counts["prompt_tokens_details"]
    return {"usage": counts | {"completion_tokens_details": None}}


class Chat:
    def whole(self, turn: Turn) -> Json:
        extra = ("refusal", "annotations", "audio", "function_call", "reasoning")
        message = {"role": "assistant", "content": turn.text} | dict.fromkeys(extra)
        if turn.tool:
            function = {"name": turn.tool, "arguments": turn.text}
            message |= {"content": None, "tool_calls": [{"id": turn.call, "type": "function", "function": function}]}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": turn.finish}
        after = ("prompt_logprobs", "prompt_token_ids", "prompt_text", "kv_transfer_params", "ec_transfer_params")
        return {
            **self._head(turn, "chat.completion"),
            "choices": [choice | dict.fromkeys(("stop_reason", "token_ids", "routed_experts"))],
            **dict.fromkeys(("service_tier", "system_fingerprint")),
            "usage": usage(turn, created_cache_tokens=0, multimodal_tokens=None) | {"completion_tokens_details": None},
            **dict.fromkeys((*after, "metrics")),
        }

    def opening(self, turn: Turn) -> list[bytes]:
        choice = {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
        after = {"prompt_token_ids": None, "prompt_text": None}
        begun = [data(self._head(turn) | {"choices": [choice]} | so_far(turn) | after)]
        if turn.tool:
            call = {"id": turn.call, "type": "function", "index": 0, "function": {"name": turn.tool}}
            begun.append(self._chunk(turn, {"content": None, "tool_calls": [call]}, last=False))
        return begun

    def token(self, turn: Turn, text: str, last: bool) -> bytes:
        if turn.tool:
            call = {"index": 0, "function": {"arguments": text}}
            return self._chunk(turn, {"content": None, "tool_calls": [call]}, last=False)
        return self._chunk(turn, {"content": text}, last)

    def closing(self, turn: Turn) -> list[bytes]:
        end = [self._chunk(turn, {}, last=True)] if turn.tool else []
        last = self._head(turn) | {"choices": [], "usage": usage(turn, created_cache_tokens=0)}
        return [*end, *([data(last)] if turn.usage else []), DONE]

    def _chunk(self, turn: Turn, delta: Json, last: bool) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None}
        choice |= {"finish_reason": turn.finish, "stop_reason": None} if last else {"finish_reason": None}
        return data(self._head(turn) | {"choices": [choice | {"token_ids": None}]} | so_far(turn))

    def _head(self, turn: Turn, kind: str = "chat.completion.chunk") -> Json:
        return {"id": f"chatcmpl-{turn.id}", "object": kind, "created": turn.created, "model": turn.model}


class Completion:
    def whole(self, turn: Turn) -> Json:
        choice = {"index": 0, "text": turn.text, "logprobs": None, "finish_reason": turn.finish}
        after = ("stop_reason", "token_ids", "prompt_logprobs", "prompt_token_ids", "routed_experts")
        counts = usage(turn, created_cache_tokens=None, multimodal_tokens=None) | {"completion_tokens_details": None}
        return {
            **self._head(turn),
            "choices": [choice | dict.fromkeys(after)],
            **dict.fromkeys(("service_tier", "system_fingerprint")),
            "usage": counts,
            **dict.fromkeys(("kv_transfer_params", "ec_transfer_params", "metrics")),
        }

    def opening(self, turn: Turn) -> list[bytes]:
        return []

    def token(self, turn: Turn, text: str, last: bool) -> bytes:
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": turn.finish if last else None}
        after = dict.fromkeys(("stop_reason", "prompt_token_ids", "token_ids"))
        return data(self._head(turn) | {"choices": [choice | after]} | so_far(turn))

    def closing(self, turn: Turn) -> list[bytes]:
        last = self._head(turn) | {"choices": [], "usage": usage(turn)}
        return [data(last), DONE] if turn.usage else [DONE]

    def _head(self, turn: Turn) -> Json:
        return {"id": f"cmpl-{turn.id}", "object": "text_completion", "created": turn.created, "model": turn.model}


class Response:
    """Its events carry a running number, and the whole answer so far at both ends of the stream."""

    def __init__(self) -> None:
        self._number = count()

    def whole(self, turn: Turn) -> Json:
        return self._response(
            turn, "incomplete" if turn.finish == "length" else "completed", [self._item(turn, "completed")]
        )

    def opening(self, turn: Turn) -> list[bytes]:
        running = self._response(turn, "in_progress", [])
        begun = [self._event("created", response=running), self._event("in_progress", response=running)]
        if not turn.words:
            return begun
        return [
            *begun,
            self._event("output_item.added", item=self._item(turn, "in_progress"), output_index=0),
            *([] if turn.tool else [self._event("content_part.added", **self._at(turn), part=self._part("", []))]),
        ]

    def token(self, turn: Turn, text: str, last: bool) -> bytes:
        if turn.tool:
            return self._event("function_call_arguments.delta", **self._of_call(turn), delta=text)
        return self._event("output_text.delta", **self._at(turn), delta=text, logprobs=[])

    def closing(self, turn: Turn) -> list[bytes]:
        if not turn.words:
            return [self._event("completed", response=self._response(turn, "completed", []))]
        arguments = {"arguments": turn.text, "name": turn.tool}
        return [
            *(
                [self._event("function_call_arguments.done", **self._of_call(turn), **arguments)]
                if turn.tool
                else [
                    self._event("output_text.done", **self._at(turn), logprobs=[], text=turn.text),
                    self._event("content_part.done", **self._at(turn), part=self._part(turn.text, None)),
                ]
            ),
            self._event("output_item.done", item=self._item(turn, "completed"), output_index=0),
            self._event("completed", response=self.whole(turn)),
        ]

    def _event(self, name: str, /, **fields: Any) -> bytes:
        return named(fields | {"sequence_number": next(self._number), "type": f"response.{name}"})

    def _at(self, turn: Turn) -> Json:
        return {"content_index": 0, "item_id": f"msg_{turn.id}", "output_index": 0}

    def _of_call(self, turn: Turn) -> Json:
        return {"item_id": f"fc_{turn.id}", "output_index": 0}

    def _part(self, text: str, logprobs: list[Any] | None) -> Json:
        return {"annotations": [], "text": text, "type": "output_text", "logprobs": logprobs}

    def _item(self, turn: Turn, status: str) -> Json:
        if turn.tool:
            arguments = turn.text if status == "completed" else ""
            call: Json = {"arguments": arguments, "call_id": turn.call, "name": turn.tool, "type": "function_call"}
            return call | {"id": f"fc_{turn.id}"} | dict.fromkeys(("async", "caller", "namespace")) | {"status": status}
        parts = [self._part(turn.text, None)] if turn.said and status == "completed" else []
        item: Json = {"id": f"msg_{turn.id}", "content": parts, "role": "assistant", "status": status}
        return item | {"type": "message", "phase": None}

    def _response(self, turn: Turn, status: str, output: list[Json]) -> Json:
        return {
            "id": f"resp_{turn.id}",
            "created_at": turn.created,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": None,
            "metadata": None,
            "model": turn.model,
            "object": "response",
            "output": output,
            "parallel_tool_calls": True,
            "temperature": 0.0,
            "tool_choice": turn.choice or ("auto" if turn.tools else "none"),
            "tools": [self._tool(tool) for tool in turn.tools],
            "top_p": 1.0,
            "background": False,
            "max_output_tokens": turn.limit,
            **dict.fromkeys(("max_tool_calls", "previous_response_id", "prompt", "reasoning")),
            "service_tier": "auto",
            "status": status,
            "text": turn.form
            and {
                "format": FORM | turn.form["format"] if turn.form.get("format") else None,
                "verbosity": turn.form.get("verbosity"),
            },
            "top_logprobs": None,
            "truncation": "disabled",
            "usage": None if status == "in_progress" else self._usage(turn),
            "user": None,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            **dict.fromkeys(("kv_transfer_params", "ec_transfer_params", "input_messages", "output_messages")),
        }

    def _tool(self, tool: Json) -> Json:
        unsaid = ("strict", "allowed_callers", "async", "defer_loading", "description", "output_schema")
        return dict.fromkeys(unsaid) | tool if tool.get("type") == "function" else tool

    def _usage(self, turn: Turn) -> Json:
        into = {
            "cached_tokens": turn.cached,
            "cache_write_tokens": 0,
            "input_tokens_per_turn": [],
            "cached_tokens_per_turn": [],
        }
        tools = {"tool_output_tokens": 0, "output_tokens_per_turn": [], "tool_output_tokens_per_turn": []}
        return {
            "input_tokens": turn.prompt,
            "input_tokens_details": into,
            "output_tokens": turn.said,
            "output_tokens_details": {"reasoning_tokens": 0, **tools},
            "total_tokens": turn.prompt + turn.said,
        }


class Message:
    STOP: Mapping[str, str] = {"length": "max_tokens", "stop": "end_turn", "tool_calls": "tool_use"}

    def whole(self, turn: Turn) -> Json:
        head = {"id": f"chatcmpl-{turn.id}", "type": "message", "role": "assistant"}
        return {
            **head,
            "content": [self._block(turn) | ({"input": json.loads(turn.text)} if turn.tool else {"text": turn.text})],
            "model": turn.model,
            **({"stop_reason": self.STOP[turn.finish]} if turn.finish in self.STOP else {}),
            "usage": self._usage(turn),
        }

    def opening(self, turn: Turn) -> list[bytes]:
        message: Json = {"id": f"chatcmpl-{turn.id}", "type": "message", "role": "assistant", "content": []}
        message |= {"model": turn.model, "stop_reason": None, "stop_sequence": None}
        message["usage"] = {"input_tokens": turn.prompt, "output_tokens": 0}
        block = {"type": "content_block_start", "content_block": self._block(turn), "index": 0}
        return [named({"type": "message_start", "message": message}), *([named(block)] if turn.words else [])]

    def token(self, turn: Turn, text: str, last: bool) -> bytes:
        said = {"type": "text_delta", "text": text}
        delta = {"type": "input_json_delta", "partial_json": text} if turn.tool else said
        return named({"type": "content_block_delta", "delta": delta, "index": 0})

    def closing(self, turn: Turn) -> list[bytes]:
        delta = {"stop_reason": self.STOP.get(turn.finish, "end_turn"), "stop_sequence": None}
        stop = named({"type": "content_block_stop", "index": 0})
        return [
            *([stop] if turn.words else []),
            named({"type": "message_delta", "delta": delta, "usage": self._usage(turn)}),
            named({"type": "message_stop"}),
        ]

    def _block(self, turn: Turn) -> Json:
        if turn.tool:
            return {"type": "tool_use", "id": turn.call, "name": turn.tool, "input": {}}
        return {"type": "text", "text": ""}

    def _usage(self, turn: Turn) -> Json:
        counts = {"input_tokens": turn.prompt, "output_tokens": turn.said}
        return counts | {"cache_creation_input_tokens": 0, "cache_read_input_tokens": turn.cached}
