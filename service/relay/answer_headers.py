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
from service.upstreams.replica import Replica


def answer_headers(call: Call, replica: Replica | None, budgets: Sequence[BudgetState]) -> list[tuple[bytes, bytes]]:
    """The headers of the response to a request; the replica is None while none has been chosen.

    `budgets` are those of its tenant, if it has some.
    """
    headers = [(b"x-roundhouse-model", _in_ascii(call.target.name))]
    if replica:
        headers.append((b"x-roundhouse-replica", _in_ascii(replica.id)))
    headers.append((b"x-roundhouse-route-reason", _in_ascii(call.target.reason)))
    if call.ignored_fields:
        headers.append((b"x-roundhouse-ignored-fields", header_value(call.ignored_fields)))
    return headers + budget_headers(call.dialect, budgets) if budgets else headers


def budget_headers(dialect: Dialect, budgets: Sequence[BudgetState]) -> list[tuple[bytes, bytes]]:
    """What remains of the tenant's budgets, as the API of the endpoint tells it."""
    return anthropic_headers(budgets, time.time()) if dialect == "messages" else openai_headers(budgets)


def with_budgets(error: OverLimitError, dialect: Dialect) -> OverLimitError:
    """The refusal, whose answer tells the tenant's budgets from now on."""
    error.more_headers = {name.decode(): value.decode() for name, value in budget_headers(dialect, error.states)}
    return error


@lru_cache
def _in_ascii(text: str) -> bytes:
    """A header's value: percent-encoded as in a path, where it is not ASCII."""
    return text.encode() if text.isascii() else quote(text, safe=string.punctuation + " ").encode()
