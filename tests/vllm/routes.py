"""Every route of the installed vLLM's and BentoML's servers, with whatever adds routes switched on.

It runs as a process of its own, because it imports vLLM: `python -m tests.vllm.routes > tests/golden/routes.yaml`.
"""

import os
from importlib.metadata import version
from typing import Any, get_args
from unittest.mock import MagicMock

os.environ |= {"VLLM_SERVER_DEV_MODE": "1", "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}  # read when it is imported

import bentoml
import yaml
from vllm import __version__ as vllm_version
from vllm.entrypoints.launchers.app import build_app
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.tasks import FrontendTask, GenerationTask, PoolingTask
from vllm.utils.argparse_utils import FlexibleArgumentParser

HEAD = """\
# The routes of the servers behind the gateway, as `METHOD /path`; those that are mounted, and websockets, as GET.
# Written by `python -m tests.vllm.routes > tests/golden/routes.yaml`.
"""
FLAGS = ("--enable-scale-out", "--enable-tokenizer-info-endpoint", "--enable-fault-tolerance")


class Example:
    """A service with a method of each kind."""

    @bentoml.api  # type: ignore[untyped-decorator]
    def generate(self, text: str) -> str:
        """A method."""
        return text

    @bentoml.task  # type: ignore[untyped-decorator]
    def job(self, text: str) -> str:
        """A task."""
        return text


def vllm_app() -> Any:
    """vLLM's server for a model that can do everything."""
    parser = make_arg_parser(FlexibleArgumentParser())  # type: ignore[no-untyped-call]
    known = {option for action in parser._actions for option in action.option_strings}
    arguments = parser.parse_args([flag for flag in FLAGS if flag in known])
    tasks = tuple(task for kind in (GenerationTask, PoolingTask, FrontendTask) for task in get_args(kind))
    model = MagicMock()
    model.get_pooling_task.return_value = "embed"
    return build_app(arguments, tasks, model)


def bentoml_app() -> Any:
    """BentoML's server for a service with methods."""
    service = bentoml.service(name="example")(Example)
    service.inject_config()
    return service.to_asgi()


def routes(app: Any) -> list[str]:
    """The routes of an app, by path."""
    found = {f"{method} {one.path}" for one in app.routes for method in getattr(one, "methods", None) or ("GET",)}
    return sorted(found, key=lambda one: one.split()[::-1])


if __name__ == "__main__":
    page = {
        "vllm": {"version": vllm_version, "routes": routes(vllm_app())},
        "bentoml": {"version": version("bentoml"), "routes": routes(bentoml_app())},
    }
    print(HEAD + yaml.safe_dump(page, sort_keys=False), end="")
