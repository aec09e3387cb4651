"""The headers by which a response says who answered, why, and what was ignored."""

import string
import time
from collections.abc import Sequence
from functools import lru_cache
from urllib.parse import quote

from service.admission.budgets import BudgetState, anthropic_headers, openai_headers
from service.admission.rate_limits import OverLimitError
from service.protocol.fields import header_value
from service.protocol.streams import Dialect
from service.relay.call import Call
from service.server.asgi import Headers
from service.upstreams.replica import Replica


def answer_headers(call: Call, replica: Replica | None, budgets: Sequence[BudgetState]) -> Headers:
    """The headers of the response to a request; the replica is None while none has been chosen.

    `budgets` are those of its tenant, if it has some.
    """
    headers = _origin(call.target.name, replica.id if replica else None, call.target.reason)
    if call.ignored_fields:
        headers = (*headers, (b"x-roundhouse-ignored-fields", header_value(call.ignored_fields)))
    return (*headers, *budget_headers(call.dialect, budgets)) if budgets else headers


@lru_cache
def _origin(model: str, replica: str | None, reason: str) -> tuple[tuple[bytes, bytes], ...]:
    """Who answers, and why."""
    replicas = ((b"x-roundhouse-replica", _in_ascii(replica)),) if replica else ()
    return (b"x-roundhouse-model", _in_ascii(model)), *replicas, (b"x-roundhouse-route-reason", _in_ascii(reason))


def budget_headers(dialect: Dialect, budgets: Sequence[BudgetState]) -> list[tuple[bytes, bytes]]:
    """What remains of the tenant's budgets, as the API of the endpoint tells it."""
    return anthropic_headers(budgets, time.time()) if dialect == "messages" else openai_headers(budgets)


def with_budgets(error: OverLimitError, dialect: Dialect) -> OverLimitError:
    """The refusal, whose answer tells the tenant's budgets from now on."""
    error.more_headers = {name.decode(): value.decode() for name, value in budget_headers(dialect, error.states)}
    return error


def _in_ascii(text: str) -> bytes:
    """A header's value: percent-encoded as in a path, where it is not ASCII."""
    return text.encode() if text.isascii() else quote(text, safe=string.punctuation + " ").encode()
