"""What our processes keep in memory: the modules that each imports, and that configuration takes little."""

import subprocess
import sys

from tests.support.each import each
from tests.support.fleets import ROOT

IMPORTS = "import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
GROWN = """
from pathlib import Path
import pydantic, pydantic_settings, yaml, jinja2
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
before = resident()
import service.fleet.fleet
print(resident() - before)
"""


def printed(program: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def imported(module: str) -> set[str]:
    return set(printed(IMPORTS.format(module=module)).split())


HEAVY = {"bentoml", "starlette", "numpy", "redis", "opentelemetry", "jwt", "cryptography", "httpx2", "rich"}
# What must not be in a process, by what it imports first.
ABSENT = {
    "service.gateway.process": HEAVY,
    # What a worker imports before it knows its service, and an engine's in all.
    "service.gateway.worker, service.engine.worker": HEAVY | {"uvicorn", "uvloop", "prometheus_client", "click"},
    "service.gateway.supervisor": HEAVY | {"pydantic", "uvicorn", "click"},
    "service.checks.worker": HEAVY | {"PIL", "xgrammar", "llguidance", "outlines_core", "pydantic", "asyncio"},
}


@each("modules", ABSENT)
def test_no_process_imports_what_it_does_not_need(modules: str) -> None:
    assert not imported(modules) & ABSENT[modules]


def test_reading_files_takes_little_memory() -> None:
    """A pattern that repeats a class of all scripts takes 10 MB of each process."""
    assert int(printed(GROWN)) < 12e6
