"""A spare process: a fork that waits until this process spawns another, and becomes that one.

`multiprocessing` spawns a process by running a new Python, which imports everything again. An engine that was forked
from the fork server makes a fork of itself first, before it has threads. When vLLM spawns its engine core, this fork
takes the place of the new Python: it has the same parent, descriptors, variables and command as that would have.
"""

import contextlib
import fcntl
import json
import multiprocessing.util
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

MARK = "--multiprocessing-fork"  # in the command of every process that multiprocessing spawns
MAX_MESSAGE = 2**18  # bytes
MAX_DESCRIPTORS = 32
# What an engine sets for its core beside vLLM's own variables. They are read when they are needed, or were set before.
LATE = frozenset({
    "NUMEXPR_MAX_THREADS", "LOCAL_WORLD_SIZE", "TORCHINDUCTOR_COMPILE_THREADS", "TORCHINDUCTOR_CPP_DYNAMIC_THREADS",
})  # fmt: skip
Spawn = Callable[[Any, Sequence[Any], Sequence[int]], int]


def prepare() -> None:
    """Forks the spare process, and has multiprocessing use it for the first process that it spawns."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if not pid:
        ours.close()
        wait_and_become(theirs)
    theirs.close()
    spawn, before = multiprocessing.util.spawnv_passfds, dict(os.environ)
    setattr(multiprocessing.util, "spawnv_passfds", using(pid, ours, before, spawn))  # noqa: B010  it has other types


def using(pid: int, connection: socket.socket, before: Mapping[str, str], spawn: Spawn) -> Spawn:
    """multiprocessing's `spawnv_passfds`, which has the process `pid` do the first command, if it can."""
    spare = [pid]

    def spawn_or_use(path: Any, command: Sequence[Any], descriptors: Sequence[int]) -> int:
        words = [os.fsdecode(word) for word in command]
        if spare and MARK in words and os.fsdecode(path) == sys.executable:
            pid = spare.pop()
            if suits(before, os.environ) and hand_over(connection, words, descriptors):
                return pid
            connection.close()
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
        return spawn(path, command, descriptors)

    return spawn_or_use


def suits(before: Mapping[str, str], now: Mapping[str, str]) -> bool:
    """Whether a process with the variables `before` may take the place of one with those of `now`.

    It has imported its libraries already: what these read then must be as it was.
    """
    changed = {name for name, _ in before.items() ^ now.items()}
    return all(name in LATE or name.startswith("VLLM_") for name in changed)


def hand_over(connection: socket.socket, words: list[str], descriptors: Sequence[int]) -> bool:
    """Gives the spare process its command; False where it is gone, or has too much to take over."""
    numbers = sorted(set(descriptors))
    message = json.dumps({"words": words, "environment": dict(os.environ), "descriptors": numbers}).encode()
    try:
        socket.send_fds(connection, [message], numbers)
        return connection.recv(1) != b""
    except OSError:
        return False


def wait_and_become(connection: socket.socket) -> None:
    """What the spare process does: it waits for its command, runs it, and exits."""
    message, received, _, _ = socket.recv_fds(connection, MAX_MESSAGE, MAX_DESCRIPTORS)
    if not message:
        os._exit(0)
    connection.send(b"t")
    connection.close()
    order = json.loads(message)
    place(received, order["descriptors"])
    os.environ.clear()
    os.environ.update(order["environment"])
    words = order["words"]
    code = words.index("-c")
    sys.argv = words[code:]
    del sys.argv[1]
    exec(words[code + 1], {"__name__": "__main__"})
    sys.exit(0)


def place(received: Sequence[int], numbers: Sequence[int]) -> None:
    """Gives each received descriptor its number, and leaves no other copy of it."""
    above = max(numbers, default=0) + 1
    moved = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, above) for descriptor in received]
    for descriptor in received:
        os.close(descriptor)
    for descriptor, number in zip(moved, numbers, strict=True):
        os.dup2(descriptor, number)
        os.close(descriptor)
