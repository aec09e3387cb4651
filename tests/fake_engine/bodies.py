"""The small bodies that vLLM 0.32 answers with, key for key: errors, counts, models, metrics; and its framing."""

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any, Literal

Json = dict[str, Any]
End = Literal["close", "reset", "hang"]

DEATH = "EngineCore encountered an issue. See stack trace (above) for the root cause."
BUSY = "The engine is currently busy and cannot accept new requests. Please try again later or on a different instance."
DRAINING = "cannot schedule new futures after shutdown"
DONE = b"data: [DONE]\n\n"


class Cut(Exception):
    """The connection ends here, without the rest of the answer."""

    def __init__(self, end: End) -> None:
        self.end = end


def dumps(value: Any) -> bytes:
    """JSON as the engine writes it: no spaces, no escapes."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def data(value: Any) -> bytes:
    """One event without a name."""
    return b"data: " + dumps(value) + b"\n\n"


def named(value: Json) -> bytes:
    """One event with the name that its `type` says."""
    return f"event: {value['type']}\n".encode() + data(value)


def error(message: str, kind: str, param: str | None, code: int) -> Json:
    """The engine's envelope. `code` is the HTTP status."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def death_event() -> bytes:
    """What a running stream gets when the engine core dies; the only event written with spaces."""
    body = error(DEATH, "InternalServerError", None, 500)
    return f"data: {json.dumps(body)}\n\n".encode()


def refused(path: str, message: str) -> bytes:
    """A refusal without a param, in the words of the endpoint at `path`."""
    return dumps(dialect(path, error(message, "BadRequestError", None, 400)))


async def late_events(path: str, message: str, opening: list[bytes]) -> AsyncIterator[bytes]:
    """What a stream, which has an `opening`, gets instead of output when the request turns out to be unfit."""
    body = error(message, "BadRequestError", None, 400)
    if path == "/v1/responses":
        # Its own response, which is not valid, would be in the first event already.
        for event in () if "validation error" in message else opening[:2]:
            yield event
        raise Cut("close")
    if path != "/v1/messages":
        yield f"data: {json.dumps(body)}\n\n".encode()
        yield DONE
        return
    shown = repr(body)
    given = f"[type=missing, input_value={shown[:25]}...{shown[-24:]}, input_type=dict]"
    more = "    For further information visit https://errors.pydantic.dev/2.14/v/missing"
    lines = "\n".join(f"{field}\n  Field required {given}\n{more}" for field in ("model", "choices"))
    text = f"2 validation errors for ChatCompletionStreamResponse\n{lines}"
    yield b"event: error\n" + data({"type": "error", "error": {"type": "internal_error", "message": text}})


def dialect(path: str, body: Json) -> Json:
    """The same error in the words of the endpoint at `path`."""
    if not path.startswith("/v1/messages"):
        return body
    return {"type": "error", "error": {"type": body["error"]["type"], "message": body["error"]["message"]}}


def models(model: str, context: int, now: int, adapters: Mapping[str, str] | None = None) -> Json:
    """`/v1/models`: the one that is served, and the folders of its adapters.

    `context` is in tokens, `now` in seconds since the epoch.
    """
    may = ("allow_sampling", "allow_logprobs", "allow_view")
    may_not = ("allow_create_engine", "allow_search_indices", "allow_fine_tuning", "is_blocking")
    permission = {"id": "modelperm-0", "object": "model_permission", "created": now, "organization": "*", "group": None}
    permission |= dict.fromkeys(may, True) | dict.fromkeys(may_not, False)
    entry = {"id": model, "object": "model", "created": now, "owned_by": "vllm", "root": model, "parent": None}
    rows = [entry | {"max_model_len": context, "permission": [permission]}]
    rows += [entry | {"id": id, "root": path, "parent": model} for id, path in (adapters or {}).items()]
    return {"object": "list", "data": rows}


def counted(path: str, request: Json, tokens: int, context: int) -> Json:
    """The answer of the endpoint at `path` that only counts, or only turns text into tokens and back."""
    if path == "/tokenize":
        strings = [f"t{number}" for number in range(tokens)] if request.get("return_token_strs") else None
        return {"count": tokens, "max_model_len": context, "tokens": list(range(tokens)), "token_strs": strings}
    if path == "/detokenize":
        return {"prompt": " ".join(f"t{token}" for token in request["tokens"])}
    return {"input_tokens": tokens, "context_management": {"original_input_tokens": tokens}}


def embedded(model: str, texts: list[str], now: int) -> Json:
    """The answer of `/v1/embeddings`: each text as its length and its number of words."""
    rows = [
        {"index": index, "object": "embedding", "embedding": [float(len(text)), float(len(text.split()))]}
        for index, text in enumerate(texts)
    ]
    tokens = sum(len(text.split()) for text in texts)
    usage: Json = {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0}
    usage |= dict.fromkeys(("prompt_tokens_details", "completion_tokens_details"))
    return {"id": "embd-0", "object": "list", "created": now, "model": model, "data": rows, "usage": usage}


def relevance(query: str, document: str) -> float:
    """The part of the document's words that the query has too."""
    words = document.split()
    return sum(word in query.split() for word in words) / (len(words) or 1)


def _pair_tokens(pairs: list[tuple[str, str]]) -> int:
    return sum(len(query.split()) + len(document.split()) for query, document in pairs)


def reranked(model: str, pairs: list[tuple[str, str]], top_n: int) -> Json:
    """The answer of `/rerank`, the best document first; all of them if `top_n` is 0."""
    results = [
        {"index": index, "document": {"text": pair[1], "multi_modal": None}, "relevance_score": relevance(*pair)}
        for index, pair in enumerate(pairs)
    ]
    results.sort(key=lambda result: -float(str(result["relevance_score"])))
    tokens = _pair_tokens(pairs)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"id": "score-0", "model": model, "usage": usage, "results": results[: top_n or None]}


def scored(model: str, pairs: list[tuple[str, str]], now: int) -> Json:
    """The answer of `/score`: the relevance of each pair."""
    rows = [{"index": index, "object": "score", "score": relevance(*pair)} for index, pair in enumerate(pairs)]
    tokens = _pair_tokens(pairs)
    usage: Json = {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0}
    usage |= dict.fromkeys(("prompt_tokens_details", "completion_tokens_details"))
    return {"id": "score-0", "object": "list", "created": now, "model": model, "data": rows, "usage": usage}


def metrics(model: str, running: int, waiting: int, totals: Mapping[str, int]) -> bytes:
    """The series that the gateway reads, with the labels of the real ones.

    `totals` counts tokens, prompt tokens, those of them in the cache, answers, and what ended for which reason. Its
    histograms say that everything took no time.
    """
    where = f'engine="0",model_name="{model}"'
    rows: dict[str, float] = {
        f"num_requests_running{{{where}}}": running,
        f"num_requests_waiting{{{where}}}": waiting,
        f'num_requests_waiting_by_reason{{{where},reason="capacity"}}': waiting,
        f'num_requests_waiting_by_reason{{{where},reason="deferred"}}': 0,
        f"kv_cache_usage_perc{{{where}}}": running / 512,
        f"prefix_cache_queries_total{{{where}}}": totals["prompt"],
        f"prefix_cache_hits_total{{{where}}}": totals["cached"],
        f"num_preemptions_total{{{where}}}": 0,
        f"prompt_tokens_total{{{where}}}": totals["prompt"],
        f"generation_tokens_total{{{where}}}": totals["said"],
        f"iteration_tokens_total_count{{{where}}}": totals["said"],
    }
    histograms = {
        "time_to_first_token_seconds": (("0.001", "0.005", "1.0", "+Inf"), totals["begun"]),
        "inter_token_latency_seconds": (("0.01", "0.025", "1.0", "+Inf"), totals["said"] - totals["begun"]),
        "request_queue_time_seconds": (("0.3", "0.5", "1.0", "+Inf"), totals["begun"]),
    }
    for name, (bounds, count) in histograms.items():
        rows |= {f'{name}_bucket{{{where},le="{bound}"}}': count for bound in bounds}
        rows |= {f"{name}_sum{{{where}}}": 0, f"{name}_count{{{where}}}": count}
    for reason in ("stop", "length", "abort", "error", "repetition"):
        name = f'request_success_total{{engine="0",finished_reason="{reason}",model_name="{model}"}}'
        rows[name] = totals[reason]
    for reason in ("max_num_queued_reqs", "max_num_queued_tokens"):
        rows[f'admission_rejections_total{{model_name="{model}",reason="{reason}"}}'] = totals[reason]
    return "".join(f"vllm:{series} {float(value)}\n" for series, value in rows.items()).encode()
