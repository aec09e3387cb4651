"""Where an engine listens: on a socket in the run folder, or on TCP where its gateway runs elsewhere."""

from dataclasses import dataclass
from pathlib import Path

EVERYWHERE = {  # and the address by which this machine reaches it
    "0.0.0.0": "127.0.0.1",
    "::": "::1",
}


@dataclass(frozen=True)
class Tcp:
    """A TCP port on the address `host` of this machine, or on all of its addresses (`0.0.0.0`, `::`)."""

    host: str
    port: int


ListenOn = Path | Tcp


def flags(listen_on: ListenOn) -> dict[str, str | int]:
    """vLLM's settings for it."""
    if isinstance(listen_on, Path):
        return {"uds": str(listen_on)}
    return {"host": listen_on.host, "port": listen_on.port}


def address(listen_on: ListenOn) -> str:
    """By which the processes of this machine reach the engine: a socket's path, or `host:port`."""
    if isinstance(listen_on, Path):
        return str(listen_on)
    host = EVERYWHERE.get(listen_on.host, listen_on.host)
    return f"[{host}]:{listen_on.port}" if ":" in host else f"{host}:{listen_on.port}"
