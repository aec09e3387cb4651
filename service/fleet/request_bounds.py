"""The most sequences that one request may be for an engine, by which requests are checked and engines are set."""

MAX_CHOICES = 128  # `n`
MAX_PROMPTS = 128  # of a completion, each with its choices
MAX_INPUTS = 2048  # texts to embed
MAX_SEQUENCES = 2048
