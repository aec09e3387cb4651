"""The most sequences that one request may be for an engine, by which requests are checked and engines are set."""

from service.catalog.names import Variant

MAX_CHOICES = 4  # `n`
MAX_PROMPTS = 8  # of a completion, each with its choices
MAX_INPUTS = 2048  # texts to embed


def most_sequences(variant: Variant) -> int:
    """How many sequences a request to a model of this variant is at most."""
    return MAX_INPUTS if variant == "embedding" else MAX_PROMPTS * MAX_CHOICES
