"""The command that starts one engine, its environment, and which optional flags the installed vLLM lacks."""

import json
import os
import shlex
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from service.catalog.chat_templates import generation_config
from service.config.settings import Settings
from service.engine import compile_cache
from service.engine.argv import argv, environment, optional_flags
from service.engine.listening import ListenOn, Tcp
from service.engine.unknown_flags import UnknownFlags
from service.fleet.engine_variables import inherited
from service.fleet.schema import KV_CACHE_SPACE
from service.fleet.served_model import ServedModel
from service.observability import trace_settings


class Command:
    """The command of the engine with startup order `order`, without the optional flags that its vLLM does not know.

    `cards` are the GPUs that it may see, as the driver numbers them; None where BentoML has chosen them.
    """

    def __init__(
        self, served: ServedModel, order: int, run_dir: Path, settings: Settings, listen_on: ListenOn,
        cards: tuple[int, ...] | None = None,
    ) -> None:  # fmt: skip
        self._served, self._order, self._run_dir, self._settings = served, order, run_dir, settings
        self._listen_on, self._cards = listen_on, cards
        self._known_of = UnknownFlags(settings.engine_cache, settings.engine_program)
        self._unknown = self._known_of.read()

    def build(self) -> list[str]:
        """The whole command line. Writes the files that it refers to; raises OSError where it cannot."""
        vllm, drain_timeout = program(self._settings.engine_program), self._settings.drain_timeout
        generation, gateways = self._generation_config(), self._settings.gateway_processes
        traces, where = trace_settings.read(os.environ), self._listen_on
        endpoint = traces.endpoint if traces else None
        return argv(self._served, vllm, where, drain_timeout, generation, self._unknown, gateways, endpoint)

    def environment(self, environ: Mapping[str, str], replica: str) -> dict[str, str]:
        """The whole environment. An engine that others reach asks for the key, which no command line shows."""
        key = self._settings.engine_key.get_secret_value() if isinstance(self._listen_on, Tcp) else ""
        return {
            **child_environment(self._served, environ, replica, self._listen_on),
            **({"VLLM_API_KEY": key} if key else {}),
            **_cards(self._cards),
        }

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
        self._known_of.add(flags)
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


def child_environment(
    served: ServedModel, environ: Mapping[str, str], replica: str = "", where: ListenOn | None = None
) -> dict[str, str]:
    """The engine's whole environment: what it needs of `environ`, no keys and tokens among it, and the model's own."""
    traces = trace_settings.read(environ)
    tracing = trace_settings.engine_variables(traces, replica or served.id, environ) if traces else {}
    found = {**inherited(environ, served.downloads), **tracing, **environment(served, where)}
    if served.part:  # it would overrule the part's own KV cache
        found.pop(KV_CACHE_SPACE, None)
    root = compile_cache.root(found)
    return {**({compile_cache.INDUCTOR_CACHE: str(root / "inductor")} if root else {}), **found}


def _cards(cards: tuple[int, ...] | None) -> dict[str, str]:
    if cards is None:
        return {}
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(map(str, cards))}
