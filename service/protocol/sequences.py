"""One request can be several sequences for an engine: its prompts times its choices, or its texts. Pure."""

from collections.abc import Sequence
from typing import Any

from service.errors import ApiError
from service.protocol import validation_errors
from service.protocol.anthropic import CountRequest, MessagesRequest
from service.protocol.requests import Body, CompletionRequest, EmbeddingsRequest, Sampling
from service.protocol.scoring import Scoring
from service.protocol.tokenization import DetokenizeRequest, TokenizeRequest

TOKENS_ONLY = (CountRequest, TokenizeRequest, DetokenizeRequest)  # which need a tokenizer and no model
DEFAULT_OUTPUT_TOKENS = 256  # of a sequence, assumed where a request does not limit them


def count_sequences(request: Body) -> int:
    """How many sequences an engine runs for the request; 0 if it only counts tokens."""
    if isinstance(request, Sampling):
        choices = request.n or 1
        if isinstance(request, CompletionRequest):
            return _count_prompts(request.prompt) * max(choices, request.best_of or 1)
        return choices
    if isinstance(request, EmbeddingsRequest):
        return _count_prompts(request.input)
    if isinstance(request, Scoring):
        return request.sequences
    return 0 if isinstance(request, TOKENS_ONLY) and not isinstance(request, MessagesRequest) else 1


def too_many_sequences(request: Body, sequences: int, bound: int) -> ApiError:
    """The 400 for a request of more sequences than an engine takes at once, so that it could never be served."""
    what = f"its {sequences} sequences are more than the {bound} that the model's engine is set to take at once"
    return validation_errors.invalid_value(_several(request), f"it should ask for less in one request: {what}")


def _several(request: Body) -> str:
    """The field that makes a request several sequences."""
    if isinstance(request, EmbeddingsRequest | Scoring):
        return request.prompt_field
    return "prompt" if isinstance(request, CompletionRequest) and _count_prompts(request.prompt) > 1 else "n"


def estimate_output_tokens(request: Body, cap: int | None = None) -> int:
    """The tokens that each of its sequences may generate, as far as the request limits them, or `cap` does."""
    generates = not isinstance(request, EmbeddingsRequest | Scoring)
    return request.output_limit() or cap or DEFAULT_OUTPUT_TOKENS if generates else 0


def estimate_prompt_bytes(request: Body, body: bytes) -> float:
    """The bytes that an engine reads for a request: a query that goes with many documents is read with each."""
    return max(len(body), request.paired_chars) if isinstance(request, Scoring) else len(body)


def _count_prompts(prompts: str | Sequence[Any]) -> int:
    """The prompts in a field that is one text, a list of texts, the token ids of one, or a list of such."""
    return 1 if isinstance(prompts, str) or isinstance(prompts[0], int) else len(prompts)
