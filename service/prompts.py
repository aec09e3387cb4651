"""Prompts that vLLM does not write itself: fill in the middle. Conversations are rendered by vLLM."""

import re

from service.catalog import Infill

PLACES = re.compile(r"\{(prefix|suffix)\}")


def infill(form: Infill, prefix: str, suffix: str) -> str:
    """The prompt in `form` that asks for the text between `prefix` and `suffix`."""
    texts = {"prefix": prefix, "suffix": suffix}
    # One pass, so that a place's name inside the client's own code stays as it is.
    return PLACES.sub(lambda place: texts[place[1]], form.prompt)
