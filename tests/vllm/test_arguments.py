"""Command lines as `argv` writes them are read by the installed vLLM as they are meant."""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from service.catalog.engine_args import RESERVED_FLAGS, EngineSettings
from service.engine.argv import ALWAYS, argv, defaults
from service.engine.listening import Tcp
from service.fleet.adapters import MOST_VOCABULARY
from service.fleet.request_bounds import RequestBounds
from service.fleet.served_model import ServedModel
from tests.support.fleets import CATALOG, only

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # importing vLLM takes many seconds
Parse = Callable[[list[str]], dict[str, Any]]
SOCKET = Path("/run/e0.sock")
SETTINGS = TypeAdapter(EngineSettings)


@pytest.fixture(scope="module")
def parser() -> argparse.ArgumentParser:
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    made: argparse.ArgumentParser = make_arg_parser(FlexibleArgumentParser())  # type: ignore[no-untyped-call]
    return made


@pytest.fixture(scope="module")
def parse(parser: argparse.ArgumentParser) -> Parse:
    """The values of a command line by the names of their settings; fails the test where vLLM refuses it."""

    def parsed(args: list[str]) -> dict[str, Any]:
        try:
            return vars(parser.parse_args(args))
        except SystemExit:
            pytest.fail(f"vLLM refuses {args}")

    return parsed


def setting(option: argparse.Action) -> str:
    """The name of an option in a fleet file."""
    long = next((name for name in option.option_strings if name.startswith("--")), "")
    return long.removeprefix("--").replace("-", "_")


def test_the_command_of_every_model_of_the_catalogue(parse: Parse, tmp_path: Path) -> None:
    bounds = RequestBounds(logprobs=50)
    for model in CATALOG.models.values():
        entry = f"model: {model.id}\ngpus: 2\nvision: {str(model.vision).lower()}"
        adapts = (model.shape.vocab_size or 0) <= MOST_VOCABULARY
        entry += "\nadapters: [{id: a, path: ./a}]" if adapts else ""
        entry += "" if model.chat else "\nchat_template: ./custom.jinja"
        served = replace(only(tmp_path, entry), request_bounds=bounds)
        found = parse(argv(served, [], SOCKET, 5, Path("/generation"), gateways=3))
        expected = {
            **served.engine, **defaults(served, 3), **ALWAYS, "model": served.weights, "uds": str(SOCKET),
            "served_model_name": [served.id], "tensor_parallel_size": 2, "max_logprobs": 50,
            "enable_lora": adapts or None,
        }  # fmt: skip
        assert {name: found[name] for name in expected if not isinstance(expected[name], dict)} == {
            name: value for name, value in expected.items() if not isinstance(value, dict)
        }, model.id
        if adapts:
            assert (found["max_loras"], found["max_lora_rank"], found["max_cpu_loras"]) == (2, 16, 64), model.id
    served = only(tmp_path, "model: pebble-chat\nadapters: [{id: a, path: ./a}]")
    found = parse(argv(served, [], Tcp("127.0.0.1", 8000), 5))
    assert [(one.name, one.path) for one in found["lora_modules"]] == [("a", str(tmp_path / "a"))]


def values_for(option: argparse.Action) -> list[Any]:
    """Values of several kinds of which one should suit the option; vLLM's parser does not tell which."""
    if option.nargs == 0:
        return [True]
    if option.choices:
        return [next(iter(option.choices))]
    return [1, 0.5, {}, ["a"], "a", "[]"]


def test_every_setting_of_vllm_can_be_given_in_a_fleet_file_unless_it_is_reserved(
    parser: argparse.ArgumentParser,
) -> None:
    """A flag that `argv` would spell otherwise, or whose kind of value it cannot write, fails here."""
    model, unreadable = CATALOG.models["pebble-chat"], []
    for option in parser._actions:
        name = setting(option)
        if not name or name == "help" or name in RESERVED_FLAGS:
            continue
        for value in values_for(option):
            engine = SETTINGS.validate_python({name: value})
            command = argv(ServedModel("x", model, "pebble", "/x", None, engine=engine), [], SOCKET, 1)
            try:
                found = vars(parser.parse_args(command))
            except SystemExit:
                continue
            assert found["uds"] == str(SOCKET), name
            assert value is not True or found[option.dest] is True, name
            break
        else:
            unreadable.append(name)
    assert not unreadable


def test_what_is_reserved_cannot_be_given_under_another_name(parser: argparse.ArgumentParser) -> None:
    """vLLM takes the beginning of a flag for the flag, where no other begins so."""
    others = {setting(option) for option in parser._actions} - RESERVED_FLAGS.keys() - {"", "help"}
    SETTINGS.validate_python(dict.fromkeys(others))  # none of them is taken for the beginning of a reserved one
    for name in RESERVED_FLAGS:
        assert name in {setting(option) for option in parser._actions}
        for short in (name[:end] for end in range(2, len(name) + 1)):
            if short in others or short.endswith("_"):
                continue
            with pytest.raises(ValidationError):
                SETTINGS.validate_python({short: "x"})
