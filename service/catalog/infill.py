"""Fill-in-the-middle (FIM) prompts: how a model is given the text before and after a gap.

vLLM refuses the `suffix` field of `/v1/completions`, so the gateway writes these prompts itself. Pure.
"""

import re
from typing import Literal

from service.catalog.model import Infill

Order = Literal["prefix_first", "suffix_first"]

# A placeholder, with the space before it.
PLACEHOLDER = re.compile(r"( ?)\{(prefix|suffix)\}")


def orders(template: Infill) -> tuple[Order, ...]:
    """The orders of prefix and suffix that the model was trained on, the default first."""
    return ("prefix_first", "suffix_first") if template.suffix_first else ("prefix_first",)


def infill(template: Infill, prefix: str, suffix: str, order: Order = "prefix_first") -> str:
    """The prompt that asks for the text between `prefix` and `suffix`.

    Raises ValueError if `order` is not one of `orders(template)`.
    """
    prompt = template.prompt
    if order == "suffix_first":
        if template.suffix_first is None:
            raise ValueError("this infill block has no prompt with the suffix first")
        prompt = template.suffix_first
    texts = {"prefix": prefix, "suffix": suffix}
    # One pass, so that "{prefix}" inside the client's own code is not replaced. A space before a placeholder is
    # sentencepiece's start of a word and belongs to the text after it, so an empty text gets none.
    return PLACEHOLDER.sub(lambda match: match[1] + texts[match[2]] if texts[match[2]] else "", prompt)
