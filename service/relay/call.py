"""One request as the relay processes it: parsed, resolved to a model, and with its timeouts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from service.auth.tenants import Priority, Tenant
from service.config.settings import Settings
from service.fleet.served_model import ServedModel
from service.observability.record import Record
from service.protocol.images import prompt_estimate
from service.protocol.parts import Image
from service.protocol.request_headers import RequestOptions
from service.protocol.requests import Body
from service.protocol.sequences import estimate_output_tokens, estimate_prompt_bytes
from service.protocol.streams import Dialect
from service.relay.quarantine import fingerprint
from service.relay.stored import Storing
from service.routing.resolve import Target
from service.transport.pool import Deadlines
from service.upstreams.upstream import Upstream

BYTES_PER_TOKEN = 4


class Spent(NamedTuple):
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


@dataclass(eq=False)
class Call:
    """One request. `body` is what the client sent, `upstream_request` the whole HTTP request that an engine gets.

    `sequences` is how many an engine runs for it; 0 if it only counts tokens.

    `deadline` is in monotonic seconds, and so is `sent_at`, when an engine got the request: None while none has, and
    again when that engine has refused it. `redact` is applied to complete events or a whole response body: it
    removes stop reasons that the catalogue added (see `StopConditions`), and documents that the client does not want.

    `constraints` are the members of the body that an engine may compile, as a JSON object; empty if there are none.
    `output_cap` is the most tokens that each sequence may generate where the request itself has no bound.

    `storing` stores the response; `prefix_key` is that of the stored conversation which the request belongs to. Both
    are None for most requests.
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
    ignored_fields: tuple[str, ...]
    upstream_request: bytes
    redact: Callable[[bytes], bytes]
    sequences: int
    deadline: float
    images: Sequence[Image] = ()
    constraints: bytes = b""
    sent_at: float | None = None
    storing: Storing | None = None
    output_cap: int | None = None
    prefix_key: int | None = None

    @property
    def served(self) -> ServedModel:
        """The model that the request was resolved to."""
        return self.target.served

    def outgoing(self, events: bytes) -> bytes:
        """Complete events of the engine as the client gets them."""
        events = self.redact(events)
        return self.storing.watch(events) if self.storing else events

    @property
    def in_background(self) -> bool:
        """Whether it runs without its client."""
        return self.storing is not None and self.storing.background

    @property
    def session(self) -> str | None:
        """What takes turns with the tenant's other sessions in the queue: the client's own name for it, if it has one.

        Sub-agents are of their agent's session.
        """
        options = self.options
        return options.session or options.client_session or getattr(self.request, "prompt_cache_key", None)

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

    @property
    def cost(self) -> float:
        """The estimated tokens of prompt and output, which rate limits and fair queueing are charged with."""
        return self.prompt_estimate + self.output_estimate

    def waits_for(self, position: int) -> str:
        """What the request waits for at this position of the queue, as its client is told."""
        condition, phase = self.upstream.condition()
        if condition == "ready":
            return f"queued at position {position}"
        return f"waiting for {self.served.id}: {condition.replace('_', ' ')}{f', {phase}' if phase else ''}"

    def add_gpu_time(self, seconds: float) -> None:
        """Notes the GPU seconds that it has had, and what they cost."""
        self.record.gpu_seconds += seconds
        self.record.cost += seconds / 3600 * (self.served.gpu_hour_price or 0.0)

    @property
    def prompt_tokens(self) -> float:
        """The tokens of the prompt, estimated by its bytes until an engine has counted them."""
        return self.record.prompt_tokens or self.prompt_estimate

    def spent(self, now: float) -> Spent:
        """The tokens that an engine has spent on the request until `now`, whether or not it was completed.

        What the engine did not count is estimated: the prompt by its bytes, and the output by what was streamed, or for
        a response that is not streamed by what the model generates in this time, `cost` at most.
        """
        if self.sent_at is None or not self.sequences:
            return Spent(0, 0, counted=True)
        record = self.record
        completion = record.completion_tokens
        if record.prompt_tokens and (completion or not record.streamed):
            return Spent(record.prompt_tokens, completion, counted=True)
        prompt = self.prompt_tokens
        if completion or record.streamed:
            return Spent(prompt, completion or len(record.output_times), counted=False)
        generated = (now - self.sent_at) * self.upstream.token_rate.value * self.sequences
        return Spent(prompt, min(generated, self.output_estimate), counted=False)

    def measure_rate(self, last_output_at: float) -> None:
        """Measures the token rate of the model by this response."""
        if self.sent_at is not None and self.sequences and self.record.completion_tokens:
            tokens = self.record.completion_tokens / self.sequences
            self.upstream.token_rate.observe(tokens, last_output_at - self.sent_at)

    @cached_property
    def prompt_estimate(self) -> float:
        """The tokens of the prompt, by its bytes."""
        return prompt_estimate(estimate_prompt_bytes(self.request, self.body), BYTES_PER_TOKEN, self.images)

    @property
    def output_estimate(self) -> int:
        """The tokens that all its sequences may generate."""
        return self.sequences * estimate_output_tokens(self.request, self.output_cap)

    @property
    def deadlines(self) -> Deadlines:
        """The deadlines of an exchange with a replica."""
        return self.timeouts.streamed if self.record.streamed else self.timeouts.unstreamed
