"""The measured rate at which the engines of a model generate the tokens of one sequence. Pure: time is passed in."""

PRIOR = 50.0  # tokens per second of a model never measured
PRIOR_SECONDS = 0.1  # what the prior weighs; the first response outweighs it
WINDOW = 600.0  # seconds of responses that the rate rests on at least; older ones lose weight exponentially


class TokenRate:
    """The output tokens per second of a sequence, waiting and prefill included, averaged over complete responses."""

    def __init__(self) -> None:
        self._tokens, self._seconds = PRIOR * PRIOR_SECONDS, PRIOR_SECONDS

    @property
    def value(self) -> float:
        """Tokens per second."""
        return self._tokens / self._seconds

    def observe(self, tokens: float, seconds: float) -> None:
        """Notes that a sequence had `tokens` output tokens, `seconds` after its request was sent to the engine."""
        self._tokens += tokens
        self._seconds += seconds
        if self._seconds > 2 * WINDOW:
            self._tokens /= 2
            self._seconds /= 2
