"""The requests of a soak test. Every response can be checked: engines echo, and no word is requested twice."""

import json
import random
from dataclasses import dataclass
from typing import Any

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
LONG = 400  # words of what a slow reader asks for
KINDS = {"plain": 12, "leaving": 4, "slow": 1, "keyed": 2}
"""What clients there are, and how often each comes beside the others."""


@dataclass(frozen=True)
class Ask:
    """One request for the echo of its `words`, at most `limit` of them.

    A client that is `leaving` does so after that many seconds. A `slow` one reads slowly. `key` is an Idempotency-Key.
    """

    path: str
    streamed: bool
    words: tuple[str, ...]
    limit: int | None = None
    leaving: float | None = None
    slow: bool = False
    key: str | None = None

    @property
    def wanted(self) -> tuple[str, ...]:
        """The words of the whole answer."""
        return self.words[: self.limit]

    def wire(self, model: str) -> bytes:
        """The request as it is sent."""
        text = " ".join(self.words)
        fields: dict[str, Any] = {"model": model, "stream": self.streamed}
        fields |= {"messages": [{"role": "user", "content": text}]} if self.path == CHAT else {"prompt": text}
        fields |= {"max_tokens": self.limit or len(self.words) + 1}
        body = json.dumps(fields).encode()
        rows = [f"POST {self.path} HTTP/1.1", "host: localhost", "connection: close", "content-type: application/json"]
        rows += [f"content-length: {len(body)}", *([f"idempotency-key: {self.key}"] if self.key else [])]
        return "\r\n".join([*rows, "", ""]).encode() + body


def drawn(source: random.Random, serial: str) -> Ask:
    """Some request; `serial` makes its words its own."""
    kind = source.choices(list(KINDS), list(KINDS.values()))[0]
    count = LONG if kind == "slow" else source.randint(3, 60)
    return Ask(
        path=source.choice((CHAT, COMPLETION)),
        streamed=kind == "slow" or source.random() < 0.6,
        words=tuple(f"{serial}.{number}" for number in range(count)),
        limit=source.choice((None, None, count // 2)),
        leaving=source.uniform(0.0, 0.5) if kind == "leaving" else None,
        slow=kind == "slow",
        key=f"key-{serial}" if kind == "keyed" else None,
    )
