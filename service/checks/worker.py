"""The process in which schemas and grammars are compiled and images are decoded, run as a program.

It reads jobs from standard input and writes a result for each to standard output: both are frames of a length in four
bytes and that many bytes, and the first byte of a job says its kind. A result is JSON: `{}` for what an engine may get,
`{"path": …, "reason": …}` for what it may not, and `{"at": path}` before that for each field that it comes to. The
first frame of all says which compilers are installed. They take 50 MB, so they are loaded when an empty frame asks for
it, whose result says which could be. What kills it, or takes longer than its parent waits, does so here and not in an
engine.
"""

import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from service.checks import pictures
from service.checks.grammars import REFUSALS, Compilers, installed, present
from service.checks.schema_bounds import Most, RefusedError, check
from service.checks.structured import Constraint, constraints

COMPILE, DECODE = b"c", b"i"
MOST_FILES = 64


def main(max_bytes: int, max_seconds: int) -> None:
    """Serves jobs until standard input ends; each may take `max_bytes` more of memory, and `max_seconds` of CPU."""
    # A process manager that stops a service signals all its processes at once, but requests that still run need this
    # one. It ends with its parent.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    jobs, results = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    _close_others({jobs.fileno(), results.fileno()})
    _write(results, {"found": [*present(), *pictures.present()]})
    if not jobs.read(4):
        return
    compilers, can_decode = installed(), pictures.can_decode()
    _limit_memory(max_bytes)
    _write(results, {"found": [*compilers.names, *(pictures.present() if can_decode else ())]})
    while size := jobs.read(4):
        job = jobs.read(int.from_bytes(size, "big"))
        _limit_time(max_seconds)
        _write(results, result_of(job[:1], job[1:], compilers, lambda path: _write(results, {"at": path})))


def result_of(kind: bytes, payload: bytes, compilers: Compilers, come_to: Callable[[str], None]) -> dict[str, str]:
    """The result of one job; `come_to` is called with the path of each field before it is checked."""
    path = ""
    try:
        if kind == DECODE:
            most_pixels, data = int.from_bytes(payload[:8], "big"), payload[8:]
            pictures.decode(data, most_pixels)
            return {}
        most, _, members = payload.partition(b"\n")
        for found in constraints(json.loads(members)):
            path = found.path
            come_to(path)
            _check(found, Most(*json.loads(most)), compilers)
    except RefusedError as error:
        return {"path": path, "reason": str(error)}
    except RecursionError:
        return {"path": path, "reason": "it is nested too deeply"}
    except MemoryError:
        return {"path": path, "reason": "it takes too much memory", "died": "memory"}
    return {}


def _check(found: Constraint, most: Most, compilers: Compilers) -> None:
    if found.schema is not None:
        check(found.schema, most)
    try:
        compilers.compile(found.kind, found.text)
    except REFUSALS as error:
        if not found.optional:
            raise RefusedError(f"it cannot be compiled: {_in_short(error)}") from None


def _in_short(error: Exception) -> str:
    """The words of a compiler, without the place in its source; they may quote the schema, which is the client's."""
    first = str(error).partition("\n")[0]
    while first.startswith("["):
        first = first.partition("] ")[2]
    return (first.rpartition(".cc:")[2].partition(": ")[2] or first)[:200].rstrip(".") or type(error).__name__


def _limit_memory(more: int) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (MOST_FILES, MOST_FILES))


def _limit_time(seconds: int) -> None:
    """Should the parent be gone, or stuck, the kernel ends a job that does not end."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + seconds + 1, resource.RLIM_INFINITY))


def _close_others(kept: set[int]) -> None:
    """Closes what was inherited, such as listening sockets; what libraries print goes nowhere, for it may quote."""
    for descriptor in list(_descriptors()):
        if descriptor > 2 and descriptor not in kept:
            with suppress(OSError):
                os.close(descriptor)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)


def _descriptors() -> Iterator[int]:
    for entry in list(Path("/proc/self/fd").iterdir()):
        yield int(entry.name)


def _write(results: BinaryIO, result: dict[str, Any]) -> None:
    data = json.dumps(result).encode()
    results.write(len(data).to_bytes(4, "big") + data)
    results.flush()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
