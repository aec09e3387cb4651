"""The engine settings that YAML files may give: vLLM's own names, without those that Roundhouse sets itself."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated

from pydantic import AfterValidator, Field

Scalar = str | int | float | bool
EngineValue = Scalar | None | list[str | int] | dict[str, Scalar | list[int] | list[str]]

# What sets each setting instead; completes "is set by". A second value would contradict it, or expose the engine.
RESERVED_FLAGS: Mapping[str, str] = MappingProxyType(
    {
        "model": "the entry's 'model' or 'weights'",
        "served_model_name": "the entry's 'id'",
        "uds": "Roundhouse: engines listen on private sockets",
        "host": "Roundhouse: engines listen on private sockets",
        "port": "Roundhouse: engines listen on private sockets",
        "api_key": "Roundhouse: engines listen on private sockets",
        "config": "this file: vLLM's own configuration file could override any setting unseen",
        "disable_fastapi_docs": "Roundhouse: always on",
        "fingerprint_mode": "Roundhouse: always 'none'",
        "enable_prompt_tokens_details": "Roundhouse: always on",
        "middleware": "Roundhouse: always off, since ASGI middleware breaks the cancellation of requests",
        "chat_template": "the entry's 'template'",
        "lora_modules": "the entry's 'adapters'",
        "enable_lora": "the entry's 'adapters'",
        "shutdown_timeout": "ROUNDHOUSE_DRAIN_TIMEOUT",
        "enable_log_requests": "Roundhouse: always off, so that prompts are never logged",
        "enable_log_outputs": "Roundhouse: always off, so that outputs are never logged",
    }
)


def _unreserved(key: str) -> str:
    if key in RESERVED_FLAGS:
        raise ValueError(f"is set by {RESERVED_FLAGS[key]}")
    return key


EngineKey = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$"), AfterValidator(_unreserved)]
EngineSettings = dict[EngineKey, EngineValue]
