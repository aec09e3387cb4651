"""The most sequences that one request may be for an engine, by which requests are checked and engines are set."""

MAX_CHOICES = 128  # `n`
MAX_PROMPTS = 128  # of a completion, each with its choices
MAX_INPUTS = 2048  # texts to embed, or documents to score
MAX_PAIRED_CHARS = 2**24  # of a query, once for each of its documents, and of these
MAX_SEQUENCES = 2048
