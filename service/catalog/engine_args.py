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
        "hf_token": "the variable HF_TOKEN: other users can read the command line of a process",
        "config": "this file: vLLM's own configuration file could override any setting unseen",
        "disable_fastapi_docs": "Roundhouse: always on",
        "fingerprint_mode": "Roundhouse: always 'none'",
        "enable_prompt_tokens_details": "Roundhouse: always on",
        "middleware": "Roundhouse: always off, since ASGI middleware breaks the cancellation of requests",
        "chat_template": "the entry's 'template'",
        "lora_modules": "the entry's 'adapters'",
        "enable_lora": "the entry's 'adapters'",
        "shutdown_timeout": "ROUNDHOUSE_DRAIN_TIMEOUT",
        "allowed_media_domains": "Roundhouse: engines fetch nothing that a request names",
        "allowed_local_media_path": "Roundhouse: engines open no file that a request names",
        "enable_prompt_embeds": "Roundhouse: always off, since tensors of clients have crashed engines, and worse",
        "enable_mm_embeds": "Roundhouse: always off, since tensors of clients have crashed engines, and worse",
        "trust_request_chat_template": "Roundhouse: always off, since a template is a program",
        "trust_request_mm_kwargs": "Roundhouse: always off, since it changes how the engine decodes media",
        "prefix_caching_hash_algo": "Roundhouse: always sha256, so that nobody finds two prompts with the same hash",
        "tool_server": "Roundhouse: always off, since engines reach no other servers",
        "enable_tokenizer_info_endpoint": "Roundhouse: always off",
        "enable_scale_out": "Roundhouse: always off",
        "tokens_only": "Roundhouse: always off",
        "grpc": "Roundhouse: engines listen on private sockets",
        "grpc_port": "Roundhouse: engines listen on private sockets",
        "enable_log_requests": "Roundhouse: always off, so that prompts are never logged",
        "enable_log_outputs": "Roundhouse: always off, so that outputs are never logged",
    }
)


def _unreserved(key: str) -> str:
    if key in RESERVED_FLAGS:
        raise ValueError(f"is set by {RESERVED_FLAGS[key]}")
    if name := next(
        (name for name in RESERVED_FLAGS if name.startswith(key)), None
    ):  # vLLM takes the beginning of a name
        raise ValueError(f"is short for {name!r}, which is set by {RESERVED_FLAGS[name]}")
    return key


EngineKey = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$"), AfterValidator(_unreserved)]
EngineSettings = dict[EngineKey, EngineValue]
