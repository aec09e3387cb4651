"""One request on its way: what was asked, by whom, where it goes, and how long that may take."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from service.auth.tenants import Priority, Tenant
from service.config.settings import Settings
from service.fleet.served_model import ServedModel
from service.observability.record import Record
from service.protocol.request_headers import RequestOptions
from service.protocol.requests import Body
from service.protocol.streams import Dialect
from service.relay.quarantine import fingerprint
from service.routing.resolve import Target
from service.transport.pool import Deadlines
from service.upstreams.upstream import Upstream

TYPICAL_ANSWER = 256  # tokens that a request counts for, beside its prompt, where it sets no bound
BYTES_PER_TOKEN = 4


@dataclass(frozen=True)
class RequestTimeouts:
    """The timeouts of requests to one model, in seconds: in the queue, for activation from zero, and of the exchange.

    `streamed` and `whole` are deadlines of an exchange; a response that is not streamed has no first token to wait for.
    """

    queue: float
    activation: float
    streamed: Deadlines
    whole: Deadlines

    @classmethod
    def of(cls, served: ServedModel, settings: Settings) -> "RequestTimeouts":
        """What the fleet says for this model, and the settings where it does not."""
        timeouts = served.timeouts
        idle, total = timeouts.idle or settings.idle_timeout, timeouts.total or settings.total_timeout
        first = timeouts.first_token or settings.first_token_timeout
        connect, reader = settings.connect_timeout, settings.client_write_timeout
        return cls(
            timeouts.queue or settings.queue_timeout,
            timeouts.activation or settings.activation_timeout,
            Deadlines(connect, min(first, total), idle, total, reader),
            Deadlines(connect, total, idle, total, reader),
        )


@dataclass(eq=False)
class Call:
    """One request on its way. `wire` are the bytes that an engine gets; `until` is the monotonic end of all patience.

    `hidden` takes out of whole events, or a whole answer, what the client should not see of it.
    """

    request: Body
    path: str
    dialect: Dialect
    target: Target
    upstream: Upstream
    tenant: Tenant
    priority: Priority
    options: RequestOptions
    timeouts: RequestTimeouts
    record: Record
    body: bytes
    wire: bytes
    redact_stop_reason: Callable[[bytes], bytes]
    deadline: float

    @property
    def served(self) -> ServedModel:
        """The model that it goes to."""
        return self.target.served

    @cached_property
    def fingerprint(self) -> bytes:
        """What other requests share that ask the same."""
        return fingerprint(self.path, self.body)

    @property
    def cost(self) -> float:
        """About how many tokens it will take: a fair share is one of tokens, not of requests."""
        return len(self.body) / BYTES_PER_TOKEN + (self.request.bound or TYPICAL_ANSWER)

    @property
    def tokens(self) -> float:
        """How many it took: what the engine counted, or for an answer that broke off what was seen of it."""
        record = self.record
        if counted := record.prompt_tokens + record.completion_tokens:
            return counted
        return len(self.body) / BYTES_PER_TOKEN + len(record.output_times) if record.output_times else 0

    @property
    def deadlines(self) -> Deadlines:
        """Those of its exchange with a replica."""
        return self.timeouts.streamed if self.record.streamed else self.timeouts.whole
