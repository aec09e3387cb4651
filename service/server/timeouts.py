"""How long the server waits for a client: for its requests, and until it reads what it is sent. Pure."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class ClientTimeouts:
    """How long a client may take, in float seconds.

    `head` is for a request head, from its first byte, `keep_alive` for the next request to begin, and `write` for
    reading anything of what it is sent. For `linger`, input is discarded after a response that was sent before the
    request had arrived completely.
    """

    head: float = 5.0
    keep_alive: float = 75.0
    write: float = 60.0
    linger: float = 2.0

    def to_head(self, has_begun: bool) -> float:
        """How long the rest of a head may take, or the next one to begin."""
        return self.head if has_begun else self.keep_alive


class WriteProgress:
    """Whether a client reads what it is sent, seen from how many bytes are unsent at some moments."""

    __slots__ = ("_since", "_timeout", "_unsent")

    def __init__(self, timeout: float) -> None:
        self._timeout, self._unsent, self._since = timeout, math.inf, 0.0

    def restart(self) -> None:
        """Forgets what was unsent: the client has read some of it."""
        self._unsent = math.inf

    def has_stalled(self, now: float, unsent: int, may_grow: bool) -> bool:
        """Whether the client has read nothing for the whole timeout, at `now` in the loop's seconds.

        `may_grow` says that more may have been written since the last look, so that nothing follows from the number.
        """
        if may_grow or not unsent or unsent < self._unsent:
            self._since = now
        self._unsent = unsent
        return now >= self._since + self._timeout
