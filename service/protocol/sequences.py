"""One request can be several sequences for an engine: its prompts times its choices, or its texts. Pure."""

from service.errors import ApiError
from service.protocol import validation_errors
from service.protocol.prompts import count_prompts
from service.protocol.requests import Body, CompletionRequest

DEFAULT_OUTPUT_TOKENS = 256  # of a sequence, assumed where a request does not limit them


def too_many_sequences(request: Body, sequences: int, bound: int) -> ApiError:
    """The 400 for a request of more sequences than an engine takes at once, so that it could never be served."""
    what = f"its {sequences} sequences are more than the {bound} that the model's engine is set to take at once"
    return validation_errors.invalid_value(_several(request), f"it should ask for less in one request: {what}")


def _several(request: Body) -> str:
    """The field that makes a request several sequences."""
    if not request.generates:
        return request.prompt_field
    return "prompt" if isinstance(request, CompletionRequest) and count_prompts(request.prompt) > 1 else "n"


def estimate_output_tokens(request: Body, cap: int | None = None) -> int:
    """The tokens that each of its sequences may generate, as far as the request limits them, or `cap` does."""
    return request.output_limit() or cap or DEFAULT_OUTPUT_TOKENS if request.generates else 0
