"""The command that starts one engine, its environment, and which optional flags the installed vLLM lacks."""

import json
import shlex
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from service.catalog.chat_templates import generation_config
from service.config.settings import Settings
from service.engine import state
from service.engine.argv import argv, environment, optional_flags
from service.fleet.engine_variables import NOT_INHERITED
from service.fleet.served_model import ServedModel


class Command:
    """The command of the engine with startup order `order`. It remembers which optional flags to leave out."""

    def __init__(self, served: ServedModel, order: int, run_dir: Path, settings: Settings) -> None:
        self._served, self._order, self._run_dir, self._settings = served, order, run_dir, settings
        self._unknown: frozenset[str] = frozenset()

    def build(self) -> list[str]:
        """The whole command line. Writes the files that it refers to; raises OSError where it cannot."""
        vllm, drain_timeout = program(self._settings.engine_program), self._settings.drain_timeout
        socket = state.socket_path(self._run_dir, self._order)
        generation, gateways = self._generation_config(), self._settings.gateway_processes
        return argv(self._served, vllm, socket, drain_timeout, generation, self._unknown, gateways)

    def newly_unknown(self, flags: frozenset[str]) -> frozenset[str]:
        """Those of the flags unknown to vLLM that are not left out yet."""
        return flags - self._unknown

    def leave_out(self, flags: frozenset[str]) -> str | None:
        """Leaves these flags out of the next command; if one of them is required, returns an error message instead."""
        required = sorted(flags - optional_flags(self._served))
        if required:
            return (
                f"this vLLM does not know {', '.join(required)}: install a release that does, or, for a setting of the "
                "fleet file, remove it or list it in 'optional_flags'"
            )
        self._unknown |= flags
        return None

    def _generation_config(self) -> Path | None:
        """The folder of the generation_config.json that this engine needs; None where the weights' own will do."""
        config = generation_config(self._served.model, Path(self._served.weights))
        if config is None:
            return None
        folder = self._run_dir / f"e{self._order}.generation"
        folder.mkdir(exist_ok=True)
        (folder / "generation_config.json").write_text(json.dumps(config))
        return folder


def program(configured: str) -> list[str]:
    """How to run vLLM's server here: the configured command, else vLLM's CLI, else its API server as a module."""
    if configured:
        return shlex.split(configured)
    try:
        metadata.version("vllm")
    except metadata.PackageNotFoundError:
        # The CPU build's distribution has another name, and the CLI does not start without the usual one.
        return [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    return [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve"]


def child_environment(served: ServedModel, environ: Mapping[str, str]) -> dict[str, str]:
    """The engine's whole environment: `environ` without the variables of BentoML and the gateway, plus the model's."""
    ours = ("ROUNDHOUSE_", "PROMETHEUS_", "BENTO")
    kept = {key: value for key, value in environ.items() if not key.startswith(ours) and key not in NOT_INHERITED}
    return {**kept, **environment(served)}
