"""vLLM's command line and environment for a served model: pure functions of catalogue and fleet."""

import json
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from service.catalog.engine_args import EngineValue
from service.engine import listening
from service.engine.listening import ListenOn, Tcp
from service.fleet.engine_variables import FIXED
from service.fleet.request_bounds import CATALOGUE_STOPS, ENGINE_LOGPROBS
from service.fleet.served_model import ServedModel

DEFAULTS = ("max_num_queued_reqs", "disable_access_log_for_endpoints")  # the names of `defaults` for every model
# One more for a model with a tool-call parser: the arguments of a call keep to the tool's schema.
TOOL_DEFAULTS: dict[str, EngineValue] = {"tool_strict_level": "parameter"}
# For a model that sees images: the gateway lets no URL pass but data: ones, and the engine would fetch no other either.
VISION_DEFAULTS: dict[str, EngineValue] = {"allowed_media_domains": ["nothing.invalid"]}
# For an engine on a CPU whose threads are not bound to cores: its worker runs in the engine core's process, as with one
# GPU. By itself vLLM gives it a process of its own there, only to bind that one's threads.
ONE_PROCESS: dict[str, EngineValue] = {
    "distributed_executor_backend": "vllm.v1.executor.uniproc_executor.UniProcExecutor"
}
BIND, PARALLEL = "VLLM_CPU_OMP_THREADS_BIND", ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")
# Flags that no release may lack: they hide the documentation pages and vLLM's version, and make `usage` complete.
ALWAYS: dict[str, EngineValue] = {
    "disable_fastapi_docs": True,
    "fingerprint_mode": "none",
    "enable_prompt_tokens_details": True,
}
UNKNOWN = re.compile(r"error: unrecognized arguments: (.*)")
FLAG = re.compile(r"--[a-z0-9-]+")
ENVIRONMENT = {
    **FIXED,
    # What torch's processes of one engine say to each other stays on this machine, whatever its name resolves to.
    "GLOO_SOCKET_IFNAME": "lo",
    # Seconds; longer than the gateway keeps idle connections, so that vLLM never closes one under a request.
    "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "75",
    "PYTHONUNBUFFERED": "1",
}


def argv(
    served: ServedModel, program: list[str], where: ListenOn, drain_timeout: float, generation: Path | None = None,
    unknown: frozenset[str] = frozenset(), gateways: int = 1, traces_endpoint: str | None = None,
) -> list[str]:  # fmt: skip
    """The whole command: `program`, which runs vLLM's server, with every flag that this model needs to listen there.

    `drain_timeout` is how many seconds running requests may take to finish after SIGTERM. `generation` is the folder
    of a `generation_config.json` that replaces the weights' own. `unknown` are flags that the installed release does
    not have: those of them that are optional are left out. `gateways` processes send requests to the engine.
    `traces_endpoint` is the URL that the engine exports its spans to, None where traces are off.
    """
    settings: dict[str, EngineValue] = {
        "model": served.weights,
        "served_model_name": served.id,
        **listening.flags(where),
        "shutdown_timeout": int(drain_timeout),
        **defaults(served, gateways),
        **({"otlp_traces_endpoint": traces_endpoint} if traces_endpoint else {}),
        **_logprobs(served),
        **_part(served),
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
    if room := served.adapter_room:
        settings |= room.settings
        if served.adapters and isinstance(where, Tcp):
            settings["lora_modules"] = [f"{adapter.id}={adapter.path}" for adapter in served.adapters]
    left_out = unknown & optional_flags(served)
    flags = [list(_flag(name, value)) for name, value in settings.items()]
    return [*program, *(arg for flag in flags if not left_out.intersection(flag[:1]) for arg in flag)]


def defaults(served: ServedModel, gateways: int) -> dict[str, EngineValue]:
    """Flags that the fleet file may override, and that a vLLM release may lack.

    vLLM bounds the sequences that it runs and queues, which must never refuse what the gateways admit. Each of them may
    have its share of `max_in_flight` there, and one request beyond; twice as much leaves room for retries, and for what
    has been abandoned and is still being aborted.
    """
    admitted = max(served.max_in_flight, gateways) + gateways * served.request_bounds.sequences
    return {
        "max_num_queued_reqs": 2 * admitted,
        # They are polled every second, which would fill the engine's log.
        "disable_access_log_for_endpoints": "/metrics,/health",
        **(TOOL_DEFAULTS if served.engine.get("tool_call_parser") else {}),
        **(VISION_DEFAULTS if served.model.vision else {}),
        **(ONE_PROCESS if _computes_in_one_process(served) else {}),
    }


def _computes_in_one_process(served: ServedModel) -> bool:
    unbound = served.env.get(BIND) == "nobind"
    return not served.gpus and unbound and all(served.engine.get(name) in (None, 1) for name in PARALLEL)


def optional_flags(served: ServedModel) -> frozenset[str]:
    """The flags without which this model may start: its own `optional_flags`, and our defaults that it leaves be."""
    ours = defaults(served, 1)
    names = {*(name for name in ours if name not in served.engine), *served.optional_flags}
    settings = {**ours, **served.engine}
    return frozenset(arg for name in names for arg in list(_flag(name, settings.get(name, True)))[:1])


def unknown_flags(log: Iterable[str]) -> frozenset[str]:
    """The flags that vLLM rejected as unknown, from the last error of its argument parser in `log`; empty if none.

    vLLM parses its command line before anything else, and one error names all unknown flags.
    """
    errors = [match[1] for line in log if (match := UNKNOWN.search(line))]
    return frozenset(arg for arg in errors[-1].split() if FLAG.fullmatch(arg)) if errors else frozenset()


def environment(served: ServedModel, where: ListenOn | None = None) -> dict[str, str]:
    """The variables to add to an engine's environment; with local weights the hub is never contacted.

    Only an engine on a private socket takes adapters while it runs: on TCP vLLM's endpoints for that ask for no key.
    """
    runtime = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"} if served.adapter_room and isinstance(where, Path) else {}
    offline = {} if served.downloads else {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    # Without it vLLM refuses a context beyond config.json's; the fleet file's check has bounded it by `longest`.
    extended = (served.context or 0) > (served.model.context or served.context or 0)
    long_context = {"VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1"} if extended and served.model.longest else {}
    # vLLM's default of four stop strings is fewer than a client may send; those of the model come on top.
    # Its others are far more than any client may ask for.
    bounds = {
        "VLLM_MAX_STOP_STRINGS": str(served.request_bounds.stop + CATALOGUE_STOPS),
        "VLLM_MAX_N_SEQUENCES": str(served.request_bounds.n),
        "VLLM_MAX_COMPLETION_PROMPTS": str(served.request_bounds.prompts),
    }
    return {**ENVIRONMENT, **bounds, **offline, **long_context, **_sleeps(served), **served.env, **runtime}


def _part(served: ServedModel) -> dict[str, EngineValue]:
    """What holds an engine to its part of a memory that it shares.

    vLLM allocates exactly this KV cache, on a card as on the CPU. On a card it still wants `gpu_memory_utilization` of
    the whole free before it starts, which is more than what others leave unless it is told its own fraction.
    """
    part = served.part
    if part is None:
        return {}
    on_card: dict[str, EngineValue] = {
        "gpu_memory_utilization": math.floor(part.memory / part.share.memory * 1000) / 1000
    }
    sleeps: dict[str, EngineValue] = {"enable_sleep_mode": True} if part.keep == "warm" else {}
    return {"kv_cache_memory_bytes": part.cache, **(on_card if part.share.gpus else {}), **sleeps}


def _sleeps(served: ServedModel) -> dict[str, str]:
    """vLLM has its routes for sleeping among those for development alone; they are on a private socket."""
    return {"VLLM_SERVER_DEV_MODE": "1"} if served.part and served.part.keep == "warm" else {}


def _logprobs(served: ServedModel) -> dict[str, EngineValue]:
    """The engine's own bound of log probabilities, where requests may ask for more than its default."""
    most = served.request_bounds.most_logprobs
    return {"max_logprobs": most} if most > ENGINE_LOGPROBS else {}


def _flag(name: str, value: EngineValue) -> Iterator[str]:
    """The arguments of one setting, flag first; none for None."""
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
