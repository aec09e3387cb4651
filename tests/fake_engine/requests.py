"""What the fake engine makes of a request: its words, and the reasons for which the real one would refuse it."""

import json

from tests.fake_engine.bodies import Json, error

Refusal = tuple[int, Json]
"""HTTP status and body."""

NO_TEMPLATE = (
    "As of transformers v4.44, default chat template is no longer allowed, so you must provide a chat template if the"
    " tokenizer does not define one."
)
NO_MESSAGES = "Cannot apply chat template to an empty conversation. Provide at least one message."
NO_UNIQUE_ITEMS = 'Grammar error: Unimplemented keys: ["uniqueItems"]'
# vLLM validates its own response too, and late.
LATE_NULLS = {
    "truncation": ("literal_error", "Input should be 'auto' or 'disabled'"),
    "background": ("bool_type", "Input should be a valid boolean"),
}
MAX_CHARS_PER_TOKEN = 9  # of the longest token of the Pebble models
# Fields of which null is no value: the type of pydantic's error, its text, and what else it says.
NULLS: dict[str, dict[str, tuple[str, str]]] = {
    "/v1/completions": {"n": ("int_type", "Input should be a valid integer")},
    "/v1/responses": {
        "tools": ("list_type", "Input should be a valid list"),
        "tool_choice": ("literal_error", "Input should be 'none', 'auto' or 'required'"),
        "service_tier": ("literal_error", "Input should be 'auto', 'default', 'flex', 'scale' or 'priority'"),
    },
    "/v1/embeddings": {"encoding_format": ("literal_error", "Input should be 'float' or 'base64'")},
}
NO_SUFFIX = "suffix is only supported for models with FIM completion rendering"
# Per path: the fields that must be there.
NEEDED = {
    "/v1/chat/completions": ("messages",),
    "/v1/responses": ("input",),
    "/v1/messages": ("model", "messages", "max_tokens"),
    "/v1/messages/count_tokens": ("model", "messages"),
    "/rerank": ("query", "documents"),
    "/detokenize": ("tokens",),
}
# The names of both sides of a pair.
SIDES = (("query", "documents"), ("queries", "documents"), ("queries", "items"), ("data_1", "data_2"),
         ("text_1", "text_2"))  # fmt: skip
NUMBERS = {
    "temperature": ("float_parsing", "Input should be a valid number, unable to parse string as a number"),
    "max_tokens": ("int_parsing", "Input should be a valid integer, unable to parse string as an integer"),
}


def texts(request: Json) -> list[str]:
    """The text of every message or prompt, the last one last."""
    given = request.get("messages") or request.get("input") or request.get("prompt") or []
    if isinstance(given, str):
        return [given]
    return [_text(item) for item in given]


def _text(item: object) -> str:
    if isinstance(item, dict):
        content = item.get("content") or ""
        return content if isinstance(content, str) else " ".join(part.get("text") or "" for part in content)
    return str(item)


def pairs(request: Json) -> list[tuple[str, str]]:
    """The pairs of query and document in a request to score them; none in any other."""
    sides = next(((request[one], request[other]) for one, other in SIDES if one in request and other in request), None)
    if sides is None:
        return []
    first, second = ([side] if isinstance(side, str) else side for side in sides)
    return list(zip(first * len(second) if len(first) == 1 else first, second, strict=True))


def sequences(request: Json) -> int:
    """How many sequences it runs for a request."""
    if scored := pairs(request):
        return len(scored)
    given = request.get("input") or request.get("prompt")
    many = isinstance(given, list) and bool(given) and isinstance(given[0], str | list)
    return (len(given) if many and given else 1) * int(request.get("n") or 1)


def count(request: Json) -> int:
    """The tokens of a request: its words, and one for each message that begins."""
    said = texts(request) or [" ".join(pair) for pair in pairs(request)]
    return sum(len(text.split()) for text in said) + len(said)


def malformed(path: str, media: str, body: bytes) -> Refusal | None:
    """Why a body is no request at all."""
    if not media.startswith("application/json"):
        message = "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed"
        return 400, error(message, "Bad Request", None, 400)
    try:
        request = json.loads(body or b"null")
    except UnicodeDecodeError:
        return 400, {"detail": "There was an error parsing the body"}
    except json.JSONDecodeError as problem:
        where = f"body.{problem.pos}"
        return _invalid(where, "json_invalid", "JSON decode error", "<dict of 0 items>", ctx={"error": problem.msg})
    if request is None:
        return _invalid("body", "missing", "Field required", "None")
    if not isinstance(request, dict):
        text = "Input should be a valid dictionary or object to extract fields from"
        return _invalid("body", "model_attributes_type", text, f"<list of {len(request)} items>")
    for field in NEEDED.get(path, ()):
        if field not in request:
            return _invalid(f"body.{field}", "missing", "Field required", f"<dict of {len(request)} items>")
    if path == "/rerank" and not all(isinstance(document, str) for document in request["documents"]):
        return _invalid("body.documents", "string_type", "Input should be a valid string", "<list>")
    for field, (kind, text) in NULLS.get(path, {}).items():
        if field in request and request[field] is None:
            expected = {"ctx": {"expected": text.removeprefix("Input should be ")}} if kind == "literal_error" else {}
            return _invalid(f"body.{field}", kind, text, "None", **expected)
    for field, (kind, text) in NUMBERS.items():
        if isinstance(value := request.get(field), str):
            return _invalid(f"body.{field}", kind, text, value)
    return None


def limit(request: Json) -> int:
    """The tokens that an answer may have at most; 0 if the request does not say."""
    names = ("max_completion_tokens", "max_tokens", "max_output_tokens")
    return next((request[name] for name in names if request.get(name)), 0)


def unfit(path: str, request: Json, model: str, variant: str, context: int) -> Refusal | None:
    """Why this model cannot do what a well-formed request asks for."""
    field, most = _limit(path, request)
    # Texts to embed and pairs to score are prompts of their own, and messages one together.
    prompts = texts(request) if path == "/v1/embeddings" else [" ".join(pair) for pair in pairs(request)]
    tokens = max(len(text.split()) + 1 for text in prompts) if prompts else count(request)
    if (asked := request.get("model", model)) != model:
        message = f"The model `{asked}` does not exist."
        if path in ("/v1/embeddings", "/rerank", "/score"):
            return 404, error(message, "NotFoundError", None, 404)
        message += f" Valid aliases: {model}."
        return 404, error(message, "NotFoundError", "model", 404)
    if (temperature := request.get("temperature") or 0) < 0:
        return _bad(f"temperature must be non-negative, got {float(temperature)}.", "temperature", float(temperature))
    if request.get("stream_options") and not request.get("stream"):
        return _bad("Stream options can only be defined when `stream=True`.", "stream_options")
    if request.get("suffix"):
        return 400, error(NO_SUFFIX, "BadRequestError", "suffix", 400)
    if variant == "base" and ("messages" in request or "input" in request):
        return 400, error(NO_TEMPLATE, "BadRequestError", None, 400)
    if path == "/v1/completions" and not request.get("prompt"):
        return _bad("Either prompt or prompt_embeds must be provided and non-empty.", "prompt")
    if request.get("messages") == []:
        return 400, error(NO_MESSAGES, "BadRequestError", None, 400)
    characters = sum(map(len, texts(request)))
    if path != "/tokenize" and characters > context * MAX_CHARS_PER_TOKEN:
        message = (
            f"This model's maximum context length is {context} tokens. However, your prompt contains {characters}"
            f" characters (more than {context * MAX_CHARS_PER_TOKEN} characters, which is the upper bound for {context}"
            " input tokens). Please reduce the length of the input prompt."
        )
        return _bad(message, "input_text", characters)
    if path != "/tokenize" and tokens > context:
        message = (
            f"This model's maximum context length is {context} tokens. However, your prompt contains at least"
            f" {context + 1} input tokens, which exceeds this limit even without any output tokens. Please reduce the"
            " length of the input prompt."
        )
        return _bad(message, "input_tokens", context + 1)
    if most > context:
        message = f"{field}={most} cannot be greater than max_model_len={context}. Please request fewer output tokens."
        return _bad(message, field, most)
    return None


def _limit(path: str, request: Json) -> tuple[str, int]:
    """The limit of output tokens, and what vLLM calls it."""
    if path == "/v1/responses":
        return "max_output_tokens", request.get("max_output_tokens") or 0
    if limit := request.get("max_completion_tokens"):
        return "max_completion_tokens", limit
    return "max_completion_tokens" if path == "/v1/messages" else "max_tokens", request.get("max_tokens") or 0


def late(path: str, request: Json) -> str | None:
    """The message for a request that is found to be unfit only when a stream has begun."""
    formats = request.get("response_format"), request.get("output_config"), request.get("text")
    if "uniqueItems" in json.dumps(formats):
        return NO_UNIQUE_ITEMS
    for field, (kind, text) in LATE_NULLS.items():
        if path == "/v1/responses" and field in request and request[field] is None:
            given = f"[type={kind}, input_value=None, input_type=NoneType]"
            more = f"    For further information visit https://errors.pydantic.dev/2.14/v/{kind}"
            return f"1 validation error for ResponsesResponse\n{field}\n  {text} {given}\n{more}"
    return None


def _bad(message: str, param: str, value: object = None) -> Refusal:
    shown = f"parameter={param}" + (f", value={value}" if value is not None else "")
    return 400, error(f"{message} ({shown})", "BadRequestError", param, 400)


def _invalid(where: str, kind: str, text: str, given: str, **context: object) -> Refusal:
    detail = {"type": kind, "loc": where, "msg": text, "input": given, **context}
    return 400, error(f"1 validation error:\n  {detail}", "Bad Request", where, 400)
