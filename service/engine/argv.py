"""The command line and environment that start vLLM for a served model: pure functions of catalogue and fleet."""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from service.catalog.engine_args import EngineValue
from service.fleet.served_model import ServedModel

# vLLM's own bound on waiting requests is the last line of defence; the gateway's admission refuses earlier. Looks at an
# engine, one each second, would fill its log. A release without either will do, whereas none of ALWAYS may be missing:
# they keep documentation pages and the release's name from clients, and make usage complete.
DEFAULTS: dict[str, EngineValue] = {
    "max_num_queued_reqs": 1024,
    "disable_access_log_for_endpoints": "/metrics,/health",
}
ALWAYS: dict[str, EngineValue] = {
    "disable_fastapi_docs": True,
    "fingerprint_mode": "none",
    "enable_prompt_tokens_details": True,
}
UNKNOWN = re.compile(r"error: unrecognized arguments: (.*)")
FLAG = re.compile(r"--[a-z0-9-]+")
ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    # Longer than the gateway keeps idle connections, so that a pooled one is not closed under a request.
    "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "75",
    # A client's four, which is vLLM's own limit, and the model's.
    "VLLM_MAX_STOP_STRINGS": "16",
    "PYTHONUNBUFFERED": "1",
}


def argv(
    served: ServedModel, program: list[str], socket: Path, drain_timeout: float, generation: Path | None = None,
    unknown: frozenset[str] = frozenset(),
) -> list[str]:  # fmt: skip
    """The whole command: `program`, which is vLLM's server, with every flag that this model needs.

    `drain_timeout` is how many seconds running requests may finish after SIGTERM. `generation` is the folder of a
    `generation_config.json` that takes the place of the weights' own. `unknown` are flags that the installed release
    does not have: those among them that are optional are left out.
    """
    settings: dict[str, EngineValue] = {
        "model": served.weights,
        "served_model_name": served.id,
        "uds": str(socket),
        "shutdown_timeout": int(drain_timeout),
        **DEFAULTS,
        **served.engine,
        **ALWAYS,
    }
    if served.model.hub == served.weights and served.model.revision:
        settings.setdefault("revision", served.model.revision)
    if generation:
        settings.setdefault("generation_config", str(generation))
    if served.chat_template:
        settings["chat_template"] = str(served.chat_template)
    if served.gpus > 1:
        settings.setdefault("tensor_parallel_size", served.gpus)
    if served.adapters:
        settings["enable_lora"] = True
        settings["lora_modules"] = [f"{adapter.id}={adapter.path}" for adapter in served.adapters]
    left_out = unknown & optional(served)
    flags = [list(_flag(name, value)) for name, value in settings.items()]
    return [*program, *(word for words in flags if not left_out.intersection(words[:1]) for word in words)]


def optional(served: ServedModel) -> frozenset[str]:
    """The flags without which this model may start: those that the fleet marks, and our own defence."""
    names = {*(name for name in DEFAULTS if name not in served.engine), *served.optional_flags}
    settings = {**DEFAULTS, **served.engine}
    return frozenset(word for name in names for word in list(_flag(name, settings.get(name, True)))[:1])


def unknown_flags(log: Iterable[str]) -> frozenset[str]:
    """The flags that vLLM says it does not have, as the last line of its parser names them; empty where it says none.

    It reads its command line before anything else, and names all that it does not know at once.
    """
    found = [match[1] for line in log if (match := UNKNOWN.search(line))]
    return frozenset(word for word in found[-1].split() if FLAG.fullmatch(word)) if found else frozenset()


def environment(served: ServedModel) -> dict[str, str]:
    """The variables to add to an engine's environment; local weights never make it ask a hub."""
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"} if served.weights != served.model.hub else {}
    # vLLM takes a context beyond the configuration's only so; the fleet allows none beyond what the makers vouch for.
    stretched = (served.context or 0) > (served.model.context or served.context or 0)
    longer = {"VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1"} if stretched and served.model.longest else {}
    return {**ENVIRONMENT, **offline, **longer, **served.env}


def _flag(name: str, value: EngineValue) -> Iterator[str]:
    flag = "--" + name.replace("_", "-")
    if value is None:
        return
    if value is True:
        yield flag
    elif value is False:
        yield "--no-" + name.replace("_", "-")
    elif isinstance(value, list):
        yield from (flag, *map(str, value))
    elif isinstance(value, dict):
        yield from (flag, json.dumps(value))
    else:
        yield from (flag, str(value))
