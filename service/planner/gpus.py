"""The GPUs that plans are made for, as written in `deploy/gpus.yaml`."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from service.config.strict_yaml import ConfigError, Document, Frozen

GIB = 2**30


class Gpu(Frozen):
    """One GPU model; the file explains each figure and names its source."""

    name: Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9-]*$")]
    usable_gib: PositiveFloat
    bandwidth_gb_per_s: PositiveFloat
    tflops_16bit: PositiveFloat | None = None
    tflops_fp8: PositiveFloat | None = None
    bf16: bool
    fp8: Literal["arithmetic", "weights"] | None = None
    mxfp4: bool
    per_node: PositiveInt
    interconnect: str
    source: str

    @property
    def memory(self) -> int:
        """Bytes of memory that vLLM sees as the GPU's total."""
        return int(self.usable_gib * GIB)

    @property
    def bandwidth(self) -> float:
        """Peak memory bandwidth in bytes per second."""
        return self.bandwidth_gb_per_s * 1e9


class GpuFile(Frozen):
    """The schema of the file."""

    gpus: Annotated[tuple[Gpu, ...], Field(min_length=1)]


def load(path: Path) -> dict[str, Gpu]:
    """All GPUs of the file by name, in the file's order; raises ConfigError with every mistake in it."""
    document = Document(path)
    found: dict[str, Gpu] = {}
    problems = []
    for index, gpu in enumerate(document.read(GpuFile).gpus):
        if gpu.name in found:
            problems.append(document.problem(("gpus", index, "name"), f"'{gpu.name}' is defined twice"))
        found[gpu.name] = gpu
    if problems:
        raise ConfigError(problems)
    return found


def find(name: str, gpus: dict[str, Gpu]) -> Gpu | None:
    """The GPU with this name in any common spelling, such as `h100`, `A100 80GB`, `NVIDIA L4`; None if unknown."""
    wanted = _normalized(name)
    return next((gpu for gpu in gpus.values() if _normalized(gpu.name) == wanted), None)


def _normalized(name: str) -> str:
    letters = "".join(char for char in name.lower() if char.isalnum())
    for brand in ("nvidia", "amd", "instinct"):
        letters = letters.removeprefix(brand)
    return letters.removesuffix("b").removesuffix("g") if letters.endswith(("0gb", "0g")) else letters
