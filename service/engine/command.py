"""The command that starts one engine: its words, its environment, and the flags that this vLLM does not know."""

import json
import shlex
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from service.catalog.chat_templates import generation_config
from service.config.settings import Settings
from service.engine import state
from service.engine.argv import argv, environment, optional
from service.fleet.served_model import ServedModel


class Command:
    """The command of the fleet's engine `order`. It remembers the flags that it has to do without."""

    def __init__(self, served: ServedModel, order: int, run_dir: Path, settings: Settings) -> None:
        self._served, self._order, self._run_dir, self._settings = served, order, run_dir, settings
        self._unknown: frozenset[str] = frozenset()

    def words(self) -> list[str]:
        """The whole command line; writes the files that it refers to, and raises OSError where it cannot."""
        vllm, drain = program(self._settings.engine_program), self._settings.drain_timeout
        socket = state.socket_path(self._run_dir, self._order)
        return argv(self._served, vllm, socket, drain, self._generation(), self._unknown)

    def news(self, unknown: frozenset[str]) -> frozenset[str]:
        """Those of the unknown flags that were not known to be so."""
        return unknown - self._unknown

    def learn(self, unknown: frozenset[str]) -> str | None:
        """Does without these flags from now on; returns why it cannot, if it needs one of them."""
        needed = sorted(unknown - optional(self._served))
        if needed:
            return (
                f"this vLLM does not know {', '.join(needed)}: install a release that does, or, for a setting of the "
                "fleet file, leave it out or mark it 'optional' there"
            )
        self._unknown |= unknown
        return None

    def _generation(self) -> Path | None:
        """The folder of the generation_config.json that this engine needs; None where the weights' own will do."""
        config = generation_config(self._served.model, Path(self._served.weights))
        if config is None:
            return None
        folder = self._run_dir / f"e{self._order}.generation"
        folder.mkdir(exist_ok=True)
        (folder / "generation_config.json").write_text(json.dumps(config))
        return folder


def program(configured: str) -> list[str]:
    """The command that is vLLM's server here: what is configured, or the CLI, or where there is none its module."""
    if configured:
        return shlex.split(configured)
    try:
        metadata.version("vllm")
    except metadata.PackageNotFoundError:
        # The CPU build's distribution has another name, and the CLI does not start without the usual one.
        return [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    return [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve"]


def child_environment(served: ServedModel, environ: Mapping[str, str]) -> dict[str, str]:
    """The engine's whole environment: ours without what is meant for BentoML and the gateway."""
    kept = {key: value for key, value in environ.items() if not key.startswith(("ROUNDHOUSE_", "PROMETHEUS_", "BENTO"))}
    return {**kept, **environment(served)}
