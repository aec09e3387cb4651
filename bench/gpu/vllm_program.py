"""vLLM's own `bench serve`, several times in one process: a program, since nothing else here imports vLLM.

Reads one job per line from its standard input, an object of `address` (a socket's path, or host:port) and `arguments`
(those of `vllm bench serve`), and writes one line of JSON per job: its figures, or `error`. Everything that vLLM prints
goes to standard error. A socket's path is not an address that vLLM's tool knows, so its connector is one for sockets.
"""

import asyncio
import contextlib
import functools
import json
import sys
from typing import Any

import aiohttp
from vllm.benchmarks import serve
from vllm.utils.argparse_utils import FlexibleArgumentParser


def main() -> None:
    """Does every job of the standard input."""
    tcp = aiohttp.TCPConnector
    for line in sys.stdin:
        job = json.loads(line)
        with contextlib.redirect_stdout(sys.stderr):
            setattr(aiohttp, "TCPConnector", functools.partial(_unix, job["address"])  # noqa: B010
                    if job["address"].startswith("/") else tcp)  # fmt: skip
            try:
                found = asyncio.run(_run(job["arguments"]))
            except (OSError, RuntimeError, SystemExit, TypeError, ValueError, aiohttp.ClientError) as error:
                found = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(found), flush=True)


async def _run(arguments: list[str]) -> dict[str, Any]:
    parser = FlexibleArgumentParser()  # type: ignore[no-untyped-call]
    serve.add_cli_args(parser)
    found = await serve.main_async(parser.parse_args(arguments))
    return {key: value for key, value in found.items() if isinstance(value, int | float | str)}


def _unix(path: str, limit: int = 100, keepalive_timeout: float = 60, **_: Any) -> aiohttp.UnixConnector:
    return aiohttp.UnixConnector(path, limit=limit, keepalive_timeout=keepalive_timeout)


if __name__ == "__main__":
    main()
