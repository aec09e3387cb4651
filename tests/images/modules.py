"""Run inside the image for GPUs: loads what is compiled in vLLM, and prints as JSON what it finds.

Without a driver there is no libcuda.so.1. With the argument `stub` one is made whose functions do nothing: what then
loads finds everything else that it needs.
"""

import ctypes
import json
import subprocess
import sys
from pathlib import Path

import torch
import vllm
from vllm.platforms import current_platform


def load(path: Path) -> str | None:
    """Why a library cannot be loaded, all its symbols included; None if it can."""
    try:
        ctypes.CDLL(str(path))
    except OSError as error:
        return str(error)
    return None


def load_stub(libraries: list[Path], folder: Path) -> None:
    """Compiles and loads a libcuda.so.1 with the functions of the driver that these libraries call."""
    listed = subprocess.run(["nm", "-D", "--undefined-only", *libraries], capture_output=True, text=True, check=True)
    names = {line.split()[-1] for line in listed.stdout.splitlines() if " U cu" in line}
    source, stub = folder / "stub.c", folder / "libcuda.so.1"
    source.write_text("".join(f"int {name}(void) {{ return 100; }}\n" for name in sorted(names) if name[2].isupper()))
    subprocess.run(["g++", "-x", "c", "-shared", "-Wl,-soname,libcuda.so.1", source, "-o", stub], check=True)
    ctypes.CDLL(str(stub))


if __name__ == "__main__":
    found = sorted(Path(vllm.__file__).parent.rglob("*.so"))
    if sys.argv[1:] == ["stub"]:
        load_stub(found, Path("/tmp"))
    print(json.dumps({
        "cuda": torch.version.cuda, "available": torch.cuda.is_available(), "release": vllm.__version__,
        "platform": type(current_platform).__name__, "libraries": {path.name: load(path) for path in found},
    }))  # fmt: skip
