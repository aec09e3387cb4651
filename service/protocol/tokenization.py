"""Bodies of vLLM's `/tokenize` and `/detokenize`: the token ids of a prompt or conversation, and the text of such."""

from typing import Annotated, ClassVar

from msgspec import Meta

from service.protocol import validation_errors
from service.protocol.requests import Body, Message, OpaqueObject, TokenId
from service.protocol.template_arguments import TemplateArguments

MAX_TOKENS = 2**20  # of one request to /detokenize


class TokensOnly(Body, kw_only=True):
    """A body that needs a tokenizer and no model."""

    generates: ClassVar[bool] = False

    def count_sequences(self) -> int:
        return 0


class TokenizeRequest(TokensOnly, kw_only=True):
    """`POST /tokenize`: of a `prompt`, or of `messages` as the model's chat template renders them."""

    prompt: str | None = None
    messages: Annotated[list[Message], Meta(min_length=1)] | None = None
    tools: list[OpaqueObject] | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: TemplateArguments | None = None

    @property
    def prompt_field(self) -> str:  # type: ignore[override]
        """The one of both that was sent."""
        return "prompt" if self.messages is None else "messages"

    def __post_init__(self) -> None:
        if (self.prompt is None) == (self.messages is None):
            raise validation_errors.contradiction("Send either prompt, a string, or messages.")


class DetokenizeRequest(TokensOnly, kw_only=True):
    """`POST /detokenize`."""

    prompt_field: ClassVar[str] = "tokens"
    tokens: Annotated[list[TokenId], Meta(max_length=MAX_TOKENS)]
