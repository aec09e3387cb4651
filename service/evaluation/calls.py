"""What the service is asked, under which key the reply is kept, and what is kept of it. Pure."""

import base64
import hashlib
import json
from array import array
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import msgspec

from service.evaluation import judging
from service.evaluation.cases import Case
from service.evaluation.scoring import Vector

Purpose = Literal["answer", "embedding", "verdict"]

CHAT, COMPLETION, EMBEDDING = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"


@dataclass(frozen=True)
class Settings:
    """How answers are generated: tokens at most, temperature, seed."""

    max_tokens: int = 512
    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Call:
    """One request, and what for. `case` is the case's id, or empty where the request is no case's own."""

    purpose: Purpose
    path: str
    body: dict[str, Any]
    case: str = ""

    @property
    def model(self) -> str:
        """The model that is asked."""
        return str(self.body["model"])

    @cached_property
    def key(self) -> str:
        """The same for the same prompt, model and settings, whatever the case is called."""
        text = json.dumps([self.path, self.body], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:32]


class Reply(msgspec.Struct, omit_defaults=True, kw_only=True):
    """What came back, as one line of the run's file. `vector` is base64 of 32-bit floats."""

    key: str
    purpose: Purpose
    model: str
    case: str = ""
    text: str = ""
    vector: str = ""
    finish: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    request_id: str = ""


def answer_call(case: Case, model: str, settings: Settings) -> Call:
    """The request that has a model answer a case."""
    body = {"model": model, **case.prompt, **vars(settings)}
    return Call("answer", CHAT if case.is_chat else COMPLETION, body, case.id)


def embedding_call(text: str, model: str) -> Call:
    """The request for the vector of a text, which is not empty."""
    return Call("embedding", EMBEDDING, {"model": model, "input": text, "encoding_format": "float"})


def verdict_calls(case: Case, judge: str, new: str, against: str) -> tuple[Call, Call]:
    """The judge's two requests for a case: the new model's answer as the first one, and as the second one."""
    bodies = judging.question(judge, case, new, against), judging.question(judge, case, against, new)
    first, second = (Call("verdict", CHAT, body, case.id) for body in bodies)
    return first, second


def reply_of(call: Call, body: bytes, request_id: str) -> Reply:
    """What is kept of an answer with status 200; raises ValueError where it has not the shape of one."""
    try:
        answer = json.loads(body)
        usage = answer.get("usage") or {}
        reply = Reply(
            key=call.key, purpose=call.purpose, model=call.model, case=call.case, request_id=request_id,
            prompt_tokens=usage.get("prompt_tokens") or 0, completion_tokens=usage.get("completion_tokens") or 0,
        )  # fmt: skip
        if call.path == EMBEDDING:
            reply.vector = packed(answer["data"][0]["embedding"])
            return reply
        choice = answer["choices"][0]
        reply.text = (choice["message"]["content"] if call.path == CHAT else choice["text"]) or ""
        reply.finish = choice.get("finish_reason") or ""
        return reply
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"the answer is not one of OpenAI's API ({type(error).__name__}: {error})") from None


def packed(vector: Vector) -> str:
    """A vector as text."""
    return base64.b64encode(array("f", vector).tobytes()).decode()


def unpacked(text: str) -> Vector:
    """The vector of such a text."""
    return array("f", base64.b64decode(text))
