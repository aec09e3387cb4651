"""The command line and environment of an engine: one row per rule."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.catalog.engine_args import RESERVED_FLAGS, EngineValue
from service.engine.argv import (
    ALWAYS,
    DEFAULTS,
    ENVIRONMENT,
    ONE_PROCESS,
    argv,
    defaults,
    environment,
    optional_flags,
    unknown_flags,
)
from service.engine.command import child_environment
from service.engine.listening import Tcp
from service.fleet.engine_variables import FIXED, NOT_INHERITED
from service.fleet.request_bounds import RequestBounds
from service.fleet.served_model import ServedModel
from service.transport.pool import IDLE_TIMEOUT
from service.upstreams.limit import ceiling
from tests.support.each import each
from tests.support.fleets import CATALOG, ROOT, only

SOCKET = Path("/run/e0.sock")


def command(folder: Path, entry: str) -> list[str]:
    return argv(only(folder, entry), ["vllm", "serve"], SOCKET, drain_timeout=20.0)


def flags(folder: Path, entry: str) -> dict[str, list[str]]:
    """Each flag of the command with its values."""
    return parsed(command(folder, entry)[2:])


def parsed(args: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for arg in args:
        if arg.startswith("--"):
            assert arg not in found, "each flag once"
            found[arg] = values = []
        else:
            values.append(arg)
    return found


def test_the_whole_command_of_an_embedded_model(tmp_path: Path) -> None:
    assert command(tmp_path, "model: pebble-chat\nengine: {enforce_eager: true, max_model_len: 1024}") == [
        "vllm", "serve",
        "--model", str(ROOT / "models/pebble/pebble-chat"),
        "--served-model-name", "pebble-chat",
        "--uds", "/run/e0.sock",
        "--shutdown-timeout", "20",
        "--max-num-queued-reqs", "4608",
        "--disable-access-log-for-endpoints", "/metrics,/health",
        "--enforce-eager",
        "--max-model-len", "1024",
        "--disable-fastapi-docs",
        "--fingerprint-mode", "none",
        "--enable-prompt-tokens-details",
    ]  # fmt: skip


@each(
    ("entry", "flag", "values"),
    [
        ("model: llama-2-7b", "--model", ["meta-llama/Llama-2-7b-hf"]),
        ("model: llama-2-7b\nid: mine", "--served-model-name", ["mine"]),
        ("model: org/tune-chat", "--model", ["org/tune-chat"]),
        ("model: llama-2-7b\ngpus: 4", "--tensor-parallel-size", ["4"]),
        ("model: llama-2-7b\ngpus: 1", "--tensor-parallel-size", None),
        ("model: llama-2-7b", "--tensor-parallel-size", None),
        ("model: llama-2-7b\ngpus: 4\nengine: {tensor_parallel_size: 2}", "--tensor-parallel-size", ["2"]),
        ("model: llama-2-7b", "--chat-template", None),
        ("model: llama-2-7b-chat", "--chat-template", [str(ROOT / "models/templates/llama-2.jinja")]),
        ("model: llama-2-7b", "--enable-lora", None),
        ("model: llama-2-7b\nengine: {max_num_queued_reqs: 7}", "--max-num-queued-reqs", ["7"]),
        ("model: llama-2-7b\nengine: {max_num_queued_reqs: null}", "--max-num-queued-reqs", None),
        ("model: llama-2-7b\nengine: {enforce_eager: true}", "--enforce-eager", []),
        ("model: llama-2-7b\nengine: {enable_prefix_caching: false}", "--no-enable-prefix-caching", []),
        ("model: llama-2-7b\nengine: {gpu_memory_utilization: 0.9}", "--gpu-memory-utilization", ["0.9"]),
        ("model: llama-2-7b\nengine: {dtype: half}", "--dtype", ["half"]),
        ("model: llama-2-7b\nengine: {sizes: [a, 2]}", "--sizes", ["a", "2"]),
        ("model: llama-2-7b\nengine: {speculative_config: {num: 3}}", "--speculative-config", ['{"num": 3}']),
        ("model: llama-2-7b\nengine: {quantization: null}", "--quantization", None),
        ("model: qwen3-8b", "--tool-call-parser", ["hermes"]),
        ("model: qwen3-8b", "--tool-strict-level", ["parameter"]),
        ("model: qwen3-8b\nengine: {tool_strict_level: auto}", "--tool-strict-level", ["auto"]),
        ("model: pebble-chat\nvision: true", "--allowed-media-domains", ["nothing.invalid"]),
        ("model: llama-2-7b", "--tool-strict-level", None),
        ("model: qwen3-8b\nengine: {tool_call_parser: null}", "--tool-strict-level", None),
        ("model: qwen3-8b\nengine: {tool_call_parser: null}", "--enable-auto-tool-choice", None),
        ("model: qwen3-8b\nengine: {reasoning_parser: null}", "--reasoning-parser", None),
        ("model: qwen3-4b-instruct-2507", "--reasoning-parser", None),
        ("model: llama-2-7b-chat\nengine: {tool_call_parser: pythonic}", "--enable-auto-tool-choice", []),
    ],
)
def test_a_setting_becomes_a_flag(tmp_path: Path, entry: str, flag: str, values: list[str] | None) -> None:
    assert flags(tmp_path, entry).get(flag) == values


def test_the_template_of_the_fleet(tmp_path: Path) -> None:
    entry = "model: llama-2-7b\nchat_template: ./custom.jinja"
    found = flags(tmp_path, entry)
    assert found["--chat-template"] == [str(tmp_path / "custom.jinja")]


@pytest.mark.parametrize(
    ("entry", "room"),
    [
        ("adapters: [{id: a, path: ./a}, {id: b, path: ./b}]\ngpus: 1", ("2", "16", "64")),
        ("adapters: [{id: a, path: ./a}]", ("17", "16", "64")),
        ("engine: {max_loras: 3}", ("3", "16", "64")),
        ("adapters: [{id: a, path: ./a}]\nengine: {max_loras: 70, max_lora_rank: 32}", ("70", "32", "70")),
        ("max_in_flight: 9", None),
    ],
)
def test_an_engine_has_room_for_adapters_where_the_fleet_file_wants_some(
    tmp_path: Path, entry: str, room: tuple[str, ...] | None
) -> None:
    served = only(tmp_path, f"model: llama-2-7b\n{entry}")
    found = parsed(argv(served, [], SOCKET, 30))
    names = ("--max-loras", "--max-lora-rank", "--max-cpu-loras")
    assert ("--enable-lora" in found) is bool(room)
    assert [found.get(name) for name in names] == ([[one] for one in room] if room else [None] * 3)
    assert "--lora-modules" not in found, "one that fails would keep the engine from starting"
    assert environment(served, SOCKET)["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == ("1" if room else "0")


def test_an_engine_on_tcp_gets_its_adapters_at_the_start_and_never_later(tmp_path: Path) -> None:
    served = only(tmp_path, "model: llama-2-7b\nadapters: [{id: a, path: ./a}, {id: b, path: ./b}]")
    tcp = Tcp("0.0.0.0", 8000)
    assert parsed(argv(served, [], tcp, 30))["--lora-modules"] == [f"a={tmp_path}/a", f"b={tmp_path}/b"]
    assert environment(served, tcp)["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "0"


def test_a_pinned_revision_is_passed_for_hub_weights_only(tmp_path: Path) -> None:
    served = only(tmp_path, "model: llama-2-7b")
    pinned = replace(served, model=served.model.model_copy(update={"revision": "a" * 40}))
    assert argv(pinned, [], SOCKET, 1)[-2:] == ["--revision", "a" * 40]
    assert "--revision" not in argv(replace(pinned, weights="/weights"), [], SOCKET, 1)


@pytest.mark.parametrize("name", ALWAYS)
def test_flags_that_the_gateway_relies_on_are_always_set(tmp_path: Path, name: str) -> None:
    assert "--" + name.replace("_", "-") in flags(tmp_path, "model: llama-2-7b")
    assert name in RESERVED_FLAGS


def test_releases_without_strict_tools_still_start(tmp_path: Path) -> None:
    served = only(tmp_path, "model: qwen3-8b")
    assert "--tool-strict-level" in optional_flags(served)
    unknown = frozenset({"--tool-strict-level"})
    assert "--tool-strict-level" not in argv(served, [], SOCKET, 1, unknown=unknown)
    chosen = only(tmp_path, "model: qwen3-8b\nengine: {tool_strict_level: function}")
    assert "--tool-strict-level" not in optional_flags(chosen)


def test_default_flags_are_not_reserved() -> None:
    assert not set(defaults(ServedModel("x", CATALOG.models["qwen3-8b"], "qwen3", "/x", None), 1)) & {
        *ALWAYS,
        *RESERVED_FLAGS,
    }


KEYS = st.from_regex(r"x[a-z0-9_]{0,9}", fullmatch=True)


@given(st.dictionaries(KEYS, st.integers() | st.booleans() | st.text(max_size=5)))
def test_every_setting_becomes_one_flag_in_vllms_spelling(settings: dict[str, EngineValue]) -> None:
    model = CATALOG.models["pebble-chat"]
    args = argv(ServedModel("x", model, "pebble", "/x", chat_template=None, engine=settings), [], SOCKET, 1)
    for name, value in settings.items():
        flag = ("--no-" if value is False else "--") + name.replace("_", "-")
        assert flag in args
        if not isinstance(value, bool):
            assert args[args.index(flag) + 1] == str(value)


UNBOUND = "model: pebble-chat\nenv: {VLLM_CPU_OMP_THREADS_BIND: nobind}"


@pytest.mark.parametrize(
    ("entry", "backend"),
    [
        (UNBOUND, ONE_PROCESS["distributed_executor_backend"]),
        (f"{UNBOUND}\nengine: {{distributed_executor_backend: mp}}", "mp"),
        (f"{UNBOUND}\nengine: {{tensor_parallel_size: 2}}", None),
        (f"{UNBOUND}\ngpus: 1", None),
        ("model: pebble-chat\nenv: {VLLM_CPU_OMP_THREADS_BIND: auto}", None),
        ("model: pebble-chat", None),
    ],
)
def test_a_worker_whose_threads_are_not_bound_runs_in_the_core(entry: str, backend: str | None, tmp_path: Path) -> None:
    args, flag = argv(only(tmp_path, entry), [], SOCKET, 1), "--distributed-executor-backend"
    assert (args[args.index(flag) + 1] if flag in args else None) == backend


@pytest.mark.parametrize(
    ("entry", "offline"),
    [
        ("model: pebble-chat", True),
        ("model: llama-2-7b", False),
        ("model: llama-2-7b\nweights: ./here", True),
        ("model: ./tune-chat", True),
        ("model: org/tune-chat", False),
    ],
)
def test_local_weights_never_contact_the_hub(tmp_path: Path, entry: str, offline: bool) -> None:
    found = environment(only(tmp_path, entry))
    assert (found.get("HF_HUB_OFFLINE"), found.get("TRANSFORMERS_OFFLINE")) == (("1", "1") if offline else (None, None))
    assert found.items() >= ENVIRONMENT.items()


def test_the_fleet_files_environment_overrides_ours(tmp_path: Path) -> None:
    found = environment(only(tmp_path, "model: pebble-chat\nenv: {HF_HUB_OFFLINE: 0, MINE: x}"))
    assert (found["HF_HUB_OFFLINE"], found["MINE"]) == ("0", "x")


def test_nothing_from_outside_opens_an_engine(tmp_path: Path) -> None:
    opened = dict.fromkeys((*FIXED, *NOT_INHERITED, "VLLM_MAX_N_SEQUENCES", "VLLM_MAX_COMPLETION_PROMPTS"), "1")
    found = child_environment(only(tmp_path, "model: pebble-chat"), opened)
    assert found.items() >= FIXED.items()
    assert not NOT_INHERITED & found.keys()
    assert (found["VLLM_MAX_N_SEQUENCES"], found["VLLM_MAX_COMPLETION_PROMPTS"]) == ("4", "128")
    own = child_environment(only(tmp_path, "model: pebble-chat\nenv: {VLLM_PLUGINS: mine}"), opened)
    assert own["VLLM_PLUGINS"] == "mine"
    assert not [arg for arg in command(tmp_path, "model: pebble-chat") if "trust" in arg]


def test_an_engine_keeps_idle_connections_for_longer_than_the_gateway(tmp_path: Path) -> None:
    inside = child_environment(only(tmp_path, "model: pebble-chat"), {"VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "5"})
    assert float(inside["VLLM_HTTP_TIMEOUT_KEEP_ALIVE"]) > 2 * IDLE_TIMEOUT


def test_an_engine_exports_its_traces_where_the_gateway_does(tmp_path: Path) -> None:
    served, outside = only(tmp_path, "model: pebble-chat"), {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}
    inside = child_environment(served, outside, "pebble-chat-1")
    assert inside["OTEL_RESOURCE_ATTRIBUTES"] == "service.instance.id=pebble-chat-1"
    assert not [name for name in child_environment(served, {}) if name.startswith("OTEL_")]
    url = "http://collector:4318/v1/traces"
    told = argv(served, ["vllm"], tmp_path / "e0.sock", 1.0, traces_endpoint=url)
    assert told[told.index("--otlp-traces-endpoint") + 1] == url
    assert "--otlp-traces-endpoint" not in argv(served, ["vllm"], tmp_path / "e0.sock", 1.0)


def test_vllms_usage_reporting_is_off() -> None:
    assert (ENVIRONMENT["VLLM_NO_USAGE_STATS"], ENVIRONMENT["DO_NOT_TRACK"]) == ("1", "1")


@pytest.mark.parametrize(
    ("entry", "gateways", "bound"),
    [
        ("model: pebble-chat", 1, 2 * (256 + 2048)),
        ("model: pebble-chat\nmax_in_flight: 1000", 1, 2 * (1000 + 2048)),
        ("model: pebble-chat\nmax_in_flight: 1000", 3, 2 * (1000 + 3 * 2048)),
        ("model: pebble-chat\nmax_in_flight: 2", 50, 2 * (50 + 50 * 2048)),
        ("model: org/tiny-embedding", 1, 2 * (256 + 2048)),
        ("model: org/tiny-embedding\nmax_in_flight: 64", 2, 2 * (64 + 2 * 2048)),
    ],
)
def test_an_engine_takes_twice_what_the_gateways_admit(tmp_path: Path, entry: str, gateways: int, bound: int) -> None:
    served = only(tmp_path, entry)
    assert defaults(served, gateways)["max_num_queued_reqs"] == bound
    command = argv(served, [], SOCKET, 1, gateways=gateways)
    assert command[command.index("--max-num-queued-reqs") + 1] == str(bound)
    admitted = gateways * (ceiling(served, gateways) - 1 + RequestBounds().sequences)
    assert admitted < bound
    assert tuple(defaults(served, gateways)) == DEFAULTS


@pytest.mark.parametrize(
    ("bounds", "stops", "logprobs", "queued"),
    [
        (RequestBounds(), "16", None, 2 * (256 + 2048)),
        (RequestBounds(stop=32, logprobs=20, sequences=4096), "40", None, 2 * (256 + 4096)),
        (RequestBounds(logprobs=50, prompt_logprobs=100), "16", "100", 2 * (256 + 2048)),
    ],
)
def test_an_engine_allows_what_a_request_may_ask_for(
    tmp_path: Path, bounds: RequestBounds, stops: str, logprobs: str | None, queued: int
) -> None:
    served = replace(only(tmp_path, "model: pebble-chat"), request_bounds=bounds)
    assert environment(served)["VLLM_MAX_STOP_STRINGS"] == stops
    assert defaults(served, 1)["max_num_queued_reqs"] == queued
    command = argv(served, [], SOCKET, 1)
    assert ("--max-logprobs" in command) is (logprobs is not None)
    assert logprobs is None or command[command.index("--max-logprobs") + 1] == logprobs


@pytest.mark.parametrize(
    ("entry", "is_extended"),
    [
        ("model: code-llama-7b", False),
        ("model: code-llama-7b\nengine: {max_model_len: 16384}", False),
        ("model: code-llama-7b\nengine: {max_model_len: 16385}", True),
        ("model: phi-3-mini-128k-instruct\nengine: {max_model_len: 131072}", False),
    ],
)
def test_a_context_beyond_config_json_is_allowed_by_environment(tmp_path: Path, entry: str, is_extended: bool) -> None:
    assert ("VLLM_ALLOW_LONG_MAX_MODEL_LEN" in environment(only(tmp_path, entry))) is is_extended


QUEUE_FLAG, LOG_FLAG = "--max-num-queued-reqs", "--disable-access-log-for-endpoints"


@pytest.mark.parametrize(
    ("entry", "flags"),
    [
        ("model: llama-2-7b", {QUEUE_FLAG, LOG_FLAG}),
        ("model: llama-2-7b\nengine: {max_num_queued_reqs: 7}", {LOG_FLAG}),
        (
            "model: llama-2-7b\nengine: {max_num_queued_reqs: 7}\noptional_flags: [max_num_queued_reqs]",
            {QUEUE_FLAG, LOG_FLAG},
        ),
        (
            "model: llama-2-7b\nengine: {new_one: 1, old_one: 2}\noptional_flags: [new_one]",
            {QUEUE_FLAG, LOG_FLAG, "--new-one"},
        ),
        (
            "model: llama-2-7b\nengine: {new_one: false}\noptional_flags: [new_one]",
            {QUEUE_FLAG, LOG_FLAG, "--no-new-one"},
        ),
        ("model: llama-2-7b\nengine: {new_one: null}\noptional_flags: [new_one]", {QUEUE_FLAG, LOG_FLAG}),
    ],
)
def test_optional_flags_are_our_defaults_and_those_of_the_fleet_file(
    tmp_path: Path, entry: str, flags: set[str]
) -> None:
    assert optional_flags(only(tmp_path, entry)) == flags


def test_only_optional_flags_are_left_out_along_with_their_values(tmp_path: Path) -> None:
    served = only(tmp_path, "model: llama-2-7b\nengine: {kept: 1, gone: [a, b]}\noptional_flags: [gone]")
    args = argv(served, [], SOCKET, 1)
    unknown = frozenset({QUEUE_FLAG, "--gone", "--kept", "--disable-fastapi-docs"})
    gone, queue = args.index("--gone"), args.index(QUEUE_FLAG)
    left_out = {queue, queue + 1, gone, gone + 1, gone + 2}
    expected = [arg for index, arg in enumerate(args) if index not in left_out]
    assert argv(served, [], SOCKET, 1, None, unknown) == expected
    assert argv(served, [], SOCKET, 1, None, frozenset({"--elsewhere"})) == args


@pytest.mark.parametrize(
    ("line", "flags"),
    [
        # As vLLM 0.25.1 and 0.32.0 print it: with the flags' values, but for one that was taken for the model.
        ("api_server.py: error: unrecognized arguments: --max-num-queued-reqs", {QUEUE_FLAG}),
        ('vllm serve: error: unrecognized arguments: --fooled 3 --bar {"a": 1}', {"--fooled", "--bar"}),
        ("api_server.py: error: argument --dtype: invalid choice: 'x'", set()),
        ("INFO unrecognized arguments: --x", set()),
    ],
)
def test_unknown_flags_are_read_from_vllms_error(line: str, flags: set[str]) -> None:
    assert unknown_flags(["usage: api_server.py [--dtype X]", line, "the end"]) == flags
