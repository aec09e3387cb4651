"""What the relay has of a replica's response once that has begun."""

from msgspec import Struct

from service.observability.record import Attempt
from service.protocol.streams import StreamWatcher
from service.transport.pool import Exchange
from service.upstreams.replica import Replica


class UpstreamResponse(Struct, eq=False):
    """A response of a replica that has begun successfully.

    `buffered` is the part of its body that was read: of a stream, which `watcher` follows, up to the first output.
    `incarnation` counts the restarts of the replica before this one. `attempt` is the exchange in the request's trace.
    """

    replica: Replica
    exchange: Exchange
    buffered: bytes
    watcher: StreamWatcher | None
    incarnation: int
    attempt: Attempt | None = None
