"""The arguments of a chat template that a request may have."""

from msgspec import Struct


class TemplateArguments(Struct, gc=False):
    """Variables of the model's own template, forwarded unread. transformers' parameters among them must be absent.

    What the engine renders with is its own: the template, the conversation, the tools, and what becomes of the text.
    """

    chat_template: None = None
    conversation: None = None
    messages: None = None
    tools: None = None
    tokenize: None = None
    padding: None = None
    truncation: None = None
    max_length: None = None
    return_tensors: None = None
    return_dict: None = None
    return_assistant_tokens_mask: None = None
    tokenizer_kwargs: None = None
    processor_kwargs: None = None
