"""How much memory this machine and its cards have."""

import subprocess

import psutil

QUERY = ("nvidia-smi", "--query-gpu=index,memory.total", "--format=csv,noheader,nounits")
TIMEOUT = 20.0  # seconds; the first call after a boot loads the driver


def memory() -> dict[int | None, int]:
    """Bytes of each card, by the driver's number, and of the machine (None). No cards where there is no driver."""
    found: dict[int | None, int] = {None: psutil.virtual_memory().total}
    try:
        said = subprocess.run(QUERY, capture_output=True, text=True, timeout=TIMEOUT, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return found
    for line in said.splitlines():
        number, _, mebibytes = line.partition(",")
        if number.strip().isdecimal() and mebibytes.strip().isdecimal():
            found[int(number)] = int(mebibytes) * 2**20
    return found
