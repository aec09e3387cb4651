"""Variables of an engine's environment that nobody may set otherwise: what they open would bypass the gateway."""

from collections.abc import Mapping
from types import MappingProxyType

FIXED: Mapping[str, str] = MappingProxyType(
    {
        "VLLM_SERVER_DEV_MODE": "0",  # endpoints that pause an engine, change its weights, run what they are sent
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "0",  # endpoints that load adapters from any path
        "VLLM_ALLOW_INSECURE_SERIALIZATION": "0",  # pickles between an engine's processes
        "VLLM_ENABLE_RESPONSES_API_STORE": "0",  # would keep every response, for everybody, for ever
        "VLLM_ENABLE_COHERE_API": "0",
        "VLLM_DEBUG_LOG_API_SERVER_RESPONSE": "false",  # outputs in the log
        "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    }
)
# They never enter an engine from outside: a key that the gateway does not send, Python without assertions.
NEVER = frozenset({"VLLM_API_KEY", "PYTHONOPTIMIZE"})
# They enter from the fleet file alone.
NOT_INHERITED = NEVER | {"VLLM_PLUGINS"}
