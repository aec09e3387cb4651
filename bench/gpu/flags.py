"""Which of the flags that engines get by default the installed vLLM lacks.

They are looked up in its source, because an import or `--help` takes as long as the failing start that it saves.
"""

from importlib.util import find_spec
from pathlib import Path

from service.engine.argv import DEFAULTS

# Where the releases that the kit is for declare the arguments of `vllm serve`.
DECLARED = ("engine/arg_utils.py", "entrypoints/**/cli_args.py")


def installed() -> Path | None:
    """The folder of the installed vLLM, which is not imported; None where there is none."""
    spec = find_spec("vllm")
    return Path(next(iter(spec.submodule_search_locations))) if spec and spec.submodule_search_locations else None


def lacking(vllm: Path | None) -> frozenset[str]:
    """The settings in DEFAULTS that the source in the folder `vllm` does not name; none where there is no source."""
    files = [path for pattern in DECLARED for path in vllm.glob(pattern)] if vllm else []
    text = "".join(path.read_text(encoding="utf-8", errors="replace") for path in files)
    return frozenset(name for name in DEFAULTS if text and name not in text and name.replace("_", "-") not in text)
