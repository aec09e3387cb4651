"""One request as the relay processes it: parsed, resolved to a model, and with its timeouts."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from msgspec import Struct

from service.admission.slots import Slot
from service.auth.tenants import Priority, Tenant
from service.config.settings import Settings
from service.errors import ApiError
from service.fleet.served_model import ServedModel
from service.observability.record import Record
from service.protocol.parts import Image
from service.protocol.request_headers import RequestOptions
from service.protocol.requests import Body
from service.protocol.streams import Dialect
from service.relay.quarantine import fingerprint
from service.relay.stored import Storing
from service.routing.resolve import Target
from service.transport.pool import Deadlines
from service.upstreams.upstream import Upstream

BYTES_PER_TOKEN = 4


class Spent(Struct, frozen=True):
    """Tokens of prompt and completion; `counted` says that they are the engine's own count."""

    prompt: float
    completion: float
    counted: bool


@dataclass(frozen=True)
class RequestTimeouts:
    """The timeouts of requests to one model, in seconds: in the queue, for activation from zero, and of the exchange.

    A response that is not streamed has no first token to wait for, so `unstreamed` has the total timeout in its place.
    """

    queue: float
    activation: float
    streamed: Deadlines
    unstreamed: Deadlines

    @classmethod
    def of(cls, served: ServedModel, settings: Settings) -> "RequestTimeouts":
        """The timeouts that the fleet file sets for this model, and otherwise those of the settings."""
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


class Call(Struct, eq=False, dict=True):
    """One request. `body` is what the client sent, `upstream_request` the whole HTTP request that an engine gets.

    It was resolved to the model `served`, and to its `adapter` if it is for one.

    `sequences` is how many an engine runs for it; 0 if it only counts tokens. `prompt_estimate` is the tokens of the
    prompt by its bytes, and `output_estimate` those that all its sequences may generate; rate limits and fair queueing
    are charged with their sum, `cost`. A `session` takes turns with the tenant's others in the queue: it is the
    client's own name for it, if it has one, and sub-agents are of their agent's.

    `deadlines` are those of an exchange with a replica. `deadline` is in monotonic seconds, and so is `sent_at`, when
    an engine got the request: None while none has, and again when that engine has refused it. `redact` is applied to
    complete events or a whole response body: it removes stop reasons that the catalogue added (see `StopConditions`),
    and documents that the client does not want.

    `constraints` are the members of the body that an engine may compile, as a JSON object; empty if there are none.

    `counted` says that every event of its stream has the usage so far, for us and not for the client.

    `storing` stores the response; `prefix_key` is known already of a stored conversation, and of a request to an alias
    that several models share; `fall_back` prepares it for another model, until an answer has begun (see `Fallbacks`).
    All three are None for most requests.
    """

    request: Body
    path: str
    dialect: Dialect
    target: Target
    served: ServedModel
    adapter: str | None
    upstream: Upstream
    tenant: Tenant
    priority: Priority
    options: RequestOptions
    timeouts: RequestTimeouts
    record: Record
    body: bytes
    ignored_fields: tuple[str, ...]
    upstream_request: bytes
    redact: Callable[[bytes], bytes]
    sequences: int
    prompt_estimate: float
    output_estimate: int
    cost: float
    session: str | None
    deadline: float
    deadlines: Deadlines
    images: Sequence[Image] = ()
    constraints: bytes = b""
    counted: bool = False
    sent_at: float | None = None
    storing: Storing | None = None
    prefix_key: int | None = None
    fall_back: "Callable[[Call, ApiError], Call] | None" = None

    def outgoing(self, events: bytes) -> bytes:
        """Complete events of the engine as the client gets them."""
        events = self.redact(events)
        return self.storing.watch(events) if self.storing else events

    @property
    def in_background(self) -> bool:
        """Whether it runs without its client."""
        return self.storing is not None and self.storing.background

    @property
    def payload(self) -> bytes:
        """The body that an engine gets."""
        return self.upstream_request.partition(b"\r\n\r\n")[2]

    @property
    def ends_early(self) -> bool:
        """Whether its client has set a shorter time for the whole answer than the service does."""
        own = self.options.timeout
        return own is not None and own < self.timeouts.unstreamed.total

    @cached_property
    def fingerprint(self) -> bytes:
        """What other requests share that ask the same."""
        return fingerprint(self.path, self.body)

    def waits_for(self, position: int) -> str:
        """What the request waits for at this position of the queue, as its client is told."""
        condition, phase = self.upstream.condition()
        if condition == "ready":
            return f"queued at position {position}"
        seconds = self.upstream.ready_in(time.monotonic())
        about = f", about {seconds:.0f} s" if seconds else ""
        return f"waiting for {self.served.id}: {condition.replace('_', ' ')}{f', {phase}' if phase else ''}{about}"

    def add_gpu_time(self, seconds: float) -> None:
        """Notes the GPU seconds that it has had, and what they cost."""
        self.record.gpu_seconds += seconds
        if price := self.served.gpu_hour_price:
            self.record.cost += seconds / 3600 * price

    @property
    def prompt_tokens(self) -> float:
        """The tokens of the prompt, estimated by its bytes until an engine has counted them."""
        return self.record.prompt_tokens or self.prompt_estimate

    def spent(self, now: float) -> Spent:
        """The tokens that an engine has spent on the request until `now`, whether or not it was completed.

        What the engine did not count is estimated: of a stream that broke off what it had counted until then, if it was
        asked to; otherwise the prompt by its bytes, and the output by what was streamed, or for
        a response that is not streamed by what the model generates in this time, `cost` at most.
        """
        if self.sent_at is None or not self.sequences:
            return Spent(0, 0, counted=True)
        record = self.record
        completion = record.completion_tokens
        if record.prompt_tokens and (completion or not record.streamed):
            return Spent(record.prompt_tokens, completion, counted=True)
        if record.streamed_usage:
            return Spent(*record.streamed_usage, counted=False)
        prompt = self.prompt_tokens
        if completion or record.streamed:
            return Spent(prompt, completion or len(record.output_times), counted=False)
        generated = (now - self.sent_at) * self.upstream.token_rate.value * self.sequences
        return Spent(prompt, min(generated, self.output_estimate), counted=False)

    def report_usage(self, slot: Slot, now: float) -> None:
        """Reports what the request has spent until `now`, whether or not it was completed."""
        spent = self.spent(now)
        slot.tokens = spent.prompt + spent.completion
        if not spent.counted:
            self.record.estimate = round(spent.prompt), round(spent.completion)

    def measure_rate(self, last_output_at: float) -> None:
        """Measures the token rate of the model by this response."""
        if self.sent_at is not None and self.sequences and self.record.completion_tokens:
            tokens = self.record.completion_tokens / self.sequences
            self.upstream.token_rate.observe(tokens, last_output_at - self.sent_at)
