"""What the environment may set: one frozen `Settings`, read once."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from service.config.paths import ROOT
from service.config.strict_yaml import ConfigError

PREFIX = "ROUNDHOUSE_"
CONVERSIONS: Mapping[str, Callable[[str], Any]] = {"int": int, "float": float, "str": str}


def _path(text: str) -> Path:
    return Path(os.path.expanduser(text))  # noqa: PTH111  unlike Path's own it does not fail where there is no home


def _row(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Settings:
    """One row per variable `ROUNDHOUSE_<NAME>`. Durations are seconds, sizes are bytes."""

    fleet: Path = _row(ROOT / "deploy/fleets/pebble.yaml", "the fleet file: which models are served")
    models: Path = _row(ROOT / "models", "the catalogue's folder")
    weights: Path = _row(_path("~/.cache/roundhouse/weights"), "folder where pulled weights live")
    run_dir: Path | None = _row(None, "private folder for sockets and state; a temporary one if unset")
    host: str = _row("127.0.0.1", "address that `roundhouse serve` listens on")
    port: int = _row(3000, "port that `roundhouse serve` listens on")
    engine_program: str = _row("", "command that is vLLM's server, if not the installed one")
    max_body: int = _row(4 * 2**20, "largest request body")
    max_headers: int = _row(32 * 2**10, "largest sum of header names and values")
    body_timeout: float = _row(30.0, "longest wait for the next part of a request body")
    connect_timeout: float = _row(1.0, "longest wait for a connection to an engine")
    first_byte_timeout: float = _row(300.0, "longest wait for an engine's first byte")
    idle_timeout: float = _row(60.0, "longest silence of an engine within an answer")
    total_timeout: float = _row(1800.0, "longest time for a whole answer")
    queue_timeout: float = _row(10.0, "longest wait of a request for a place at an engine")
    wake_timeout: float = _row(600.0, "longest wait of a request for an engine that is started on demand")
    hang_timeout: float = _row(60.0, "how long an engine may make no progress before it counts as hung")
    reader_timeout: float = _row(60.0, "how long a client may take nothing of a stream")
    keep_alive: float = _row(10.0, "how often a stream that waits for its first token says so")
    workers: int = _row(1, "gateway processes on this machine; each grants its part of the places and budgets")
    gateways: int = _row(1, "machines or pods that run a gateway for the same engines; places and budgets are divided")
    start_timeout: float = _row(900.0, "longest time from an engine's start to its first token")
    drain_grace: float = _row(0.5, "how long new requests are still taken after SIGTERM, while saying that it ends")
    drain_timeout: float = _row(20.0, "how long running requests may finish after SIGTERM")

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Settings:
        """The settings that `environ` asks for; raises ConfigError naming every variable that is unknown or wrong."""
        known = {PREFIX + row.name.upper(): row for row in fields(cls)}
        values: dict[str, Any] = {}
        problems = []
        for name, text in environ.items():
            if name.startswith(PREFIX) and name not in known:
                problems.append(f"environment: {name}: no such setting; known are {', '.join(sorted(known))}")
            elif name in known and text:
                row = known[name]
                try:
                    value = CONVERSIONS.get(str(row.type), _path)(text)
                except ValueError:
                    problems.append(f"environment: {name}: '{text}' is not a number")
                    continue
                if isinstance(value, int | float) and not 0 < value < math.inf:
                    problems.append(f"environment: {name}: '{text}' must be above zero")
                values[row.name] = value
        if problems:
            raise ConfigError(problems)
        return cls(**values)
