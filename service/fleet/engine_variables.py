"""The environment of engines: what they have of ours, and what nobody may set otherwise: it would bypass the gateway.

An engine has no use for the keys that stand in a server's environment, and whoever breaks into one would.
"""

import re
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

PLAIN = frozenset({
    "PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "HOSTNAME", "LD_LIBRARY_PATH",
    "LD_PRELOAD", "CC", "CXX", "CPATH", "LIBRARY_PATH", "MAX_JOBS", "NO_COLOR", "VIRTUAL_ENV", "CONDA_PREFIX",
    "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "HF_HOME", "HF_HUB_CACHE", "TRANSFORMERS_CACHE", "TOKENIZERS_PARALLELISM",
    "RAYON_NUM_THREADS",
})  # fmt: skip
# What steers Python, the libraries that compute, and the devices.
PREFIXES = (
    "LC_", "PYTHON", "VLLM_", "CUDA_", "NVIDIA_", "NVCC_", "NCCL_", "GLOO_", "UCX_", "OMP_", "GOMP_", "KMP_", "MKL_",
    "OPENBLAS_", "NUMEXPR_", "TORCH", "PYTORCH_", "TRITON_", "FLASHINFER_", "CUTE_", "DG_", "MALLOC_", "TCMALLOC_",
    "ROCM_", "ROCR_", "HIP_", "HSA_", "AMD_", "MIOPEN_", "ZE_", "ONEAPI_", "SYCL_", "CCL_", "I_MPI_",
)  # fmt: skip
# For an engine that downloads its weights: who it is to the hub, and how it gets there.
HUB = ("HF_", "HUGGING_FACE_", "HUGGINGFACE_", "SSL_CERT_", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
PROXIES = frozenset(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"))
SECRET = re.compile(r"(?:KEY|KEY_ID|TOKEN|SECRET|PASSWORD|CREDENTIALS?)$")


def inherited(environ: Mapping[str, str], downloads: bool) -> dict[str, str]:
    """What an engine has of the variables `environ`; `downloads` says whether it gets its weights from the hub."""

    def needed(name: str) -> bool:
        if name in PLAIN or (name.startswith(PREFIXES) and not SECRET.search(name)):
            return name not in NOT_INHERITED
        return downloads and (name.startswith(HUB) or name.upper() in PROXIES)

    return {name: value for name, value in environ.items() if needed(name)}
