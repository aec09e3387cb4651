"""vLLM's own `bench serve`, several runs in one process. A separate program, so that nothing else imports vLLM.

Reads one job per line from its standard input, an object of `address` (a socket's path, or host:port) and `arguments`
(those of `vllm bench serve`), and appends one line of JSON per job to the file named on its command line: the figures,
or `error`. Standard output is left to vLLM and to what it imports, some of which prints there. vLLM's tool cannot
connect to a socket's path, so its connector is replaced by one that can.
"""

import asyncio
import functools
import json
import sys
from pathlib import Path
from typing import Any

import aiohttp
from vllm.benchmarks import serve
from vllm.utils.argparse_utils import FlexibleArgumentParser


def main(results: Path) -> None:
    """Does every job of the standard input; `results` is the file for the figures."""
    tcp = aiohttp.TCPConnector
    for line in sys.stdin:
        job = json.loads(line)
        setattr(aiohttp, "TCPConnector", functools.partial(_unix, job["address"])  # noqa: B010
                if job["address"].startswith("/") else tcp)  # fmt: skip
        try:
            found = asyncio.run(_run(job["arguments"]))
        except (OSError, RuntimeError, SystemExit, TypeError, ValueError, aiohttp.ClientError) as error:
            found = {"error": f"{type(error).__name__}: {error}"}
        with results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(found) + "\n")


async def _run(arguments: list[str]) -> dict[str, Any]:
    parser = FlexibleArgumentParser()  # type: ignore[no-untyped-call]
    serve.add_cli_args(parser)
    found = await serve.main_async(parser.parse_args(arguments))
    return {key: value for key, value in found.items() if isinstance(value, int | float | str)}


def _unix(path: str, limit: int = 100, keepalive_timeout: float = 60, **_: Any) -> aiohttp.UnixConnector:
    return aiohttp.UnixConnector(path, limit=limit, keepalive_timeout=keepalive_timeout)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
