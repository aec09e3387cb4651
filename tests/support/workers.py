"""Two workers of a gateway as processes, of which one is killed."""

import subprocess
import sys
from pathlib import Path

from tests.support.fleets import ROOT


def text_after_one_was_killed(program: str, folder: Path) -> tuple[int, str]:
    """The pid of one of two workers that is killed, and what the other one prints after that.

    `program` gets the folder, prints its pid, and goes on when it may read a line.
    """
    command, pipe = [sys.executable, "-c", program, str(folder)], subprocess.PIPE
    workers = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT) for _ in range(2)]
    for worker in workers:
        assert worker.stdout
        assert int(worker.stdout.readline()) == worker.pid
    workers[0].kill()
    workers[0].communicate()
    return workers[0].pid, workers[1].communicate("\n")[0]
