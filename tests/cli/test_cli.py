"""The `roundhouse` commands that need no running service."""

import socket
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from service.cli.__main__ import main
from service.config.release import release
from service.config.settings import PREFIX, VARIABLES, Settings
from service.protocol.generation import GENERATION
from tests.routing.cases import CASES, FLEETS, Case
from tests.support.fleets import ROOT, write

ENDPOINT = {"completion": "/v1/completions", "infill": "/v1/completions", "embedding": "/v1/embeddings",
            "rerank": "/rerank", "tokens": "/tokenize"}  # fmt: skip


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings from the environment, and a terminal that is wide enough for every table."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "400")


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def test_help_lists_every_setting_with_its_meaning() -> None:
    result = run("--help")
    assert result.exit_code == 0
    lines = {line.split()[0]: line for line in result.output.splitlines() if PREFIX in line}
    assert len(lines) == len(VARIABLES)
    for variable, name in VARIABLES.items():
        assert (Settings.model_fields[name].description or "?").splitlines()[0] in lines[variable]


@pytest.mark.parametrize("command", sorted(main.commands))
def test_every_command_has_help(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert main.commands[command].help


def test_check_lists_the_models_that_would_be_served() -> None:
    result = run("check")
    assert result.exit_code == 0, result.output
    for words in (("pebble-chat", "chat, completion"), ("pebble-code", "completion, infill")):
        assert any(all(word in line for word in words) for line in result.output.splitlines())
    assert f"{ROOT / 'deploy/fleets/pebble.yaml'}: 4 models, nothing wrong." in result.output


def test_check_shows_the_kv_cache_of_a_long_context(tmp_path: Path) -> None:
    text = "models:\n- model: phi-3-mini-128k-instruct\n  engine: {max_model_len: 131072}\n- model: bge-small-en-v1.5\n"
    (tmp_path / "fleet.yaml").write_text(text)
    output = run("check", "--fleet", tmp_path / "fleet.yaml").output
    assert "49,152 MiB" in output


def test_check_shows_the_choice_of_parsers(tmp_path: Path) -> None:
    (tmp_path / "fleet.yaml").write_text("models:\n  - model: org/tune-chat\n")
    output = run("check", "--fleet", tmp_path / "fleet.yaml").output
    assert "tune-chat: no tool_call_parser and no reasoning_parser" in output


def test_check_distinguishes_local_remote_and_on_demand_engines() -> None:
    output = run("check", "--fleet", ROOT / "deploy/fleets/many-replicas.yaml").output
    rows = {line.split()[0]: line for line in output.splitlines() if line.strip()}
    assert "elsewhere" in rows["zephyr-7b-beta"]
    assert "0-1 x 1 GPU" in rows["code-llama-7b"]
    assert "zephyr-7b-beta: zephyr-engines:8000" in output


@pytest.mark.parametrize("path", sorted((ROOT / "deploy/fleets").glob("*.yaml")), ids=lambda path: path.stem)
def test_check_accepts_every_shipped_fleet(path: Path) -> None:
    assert run("check", "--fleet", path).exit_code == 0


@pytest.mark.parametrize("command", [("check",), ("route", "chat"), ("serve",)], ids=lambda command: command[0])
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "models:\n  - model: pebbel-chat\n",
            "fleet.yaml:2: models[0].model: 'pebbel-chat' is neither an id of the catalogue",
        ),
        ("models:\n  - model: pebble-chat\nport: 80\n", "fleet.yaml:3: port: unknown key"),
    ],
)
def test_invalid_fleet_is_reported_before_anything_starts(
    tmp_path: Path, command: tuple[str, ...], text: str, problem: str
) -> None:
    result = run(*command, "--fleet", write(tmp_path, text))
    assert result.exit_code == 2
    assert problem in result.stderr
    assert not result.stdout


def test_invalid_environment_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUNDHOUSE_FLEAT", "x")
    result = run("check")
    assert result.exit_code == 2
    assert "ROUNDHOUSE_FLEAT: no such setting" in result.stderr


def test_fleet_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUNDHOUSE_FLEET", str(write(tmp_path, "models:\n  - model: pebble-base\n")))
    assert "1 models" in run("check").output


def options(case: Case) -> list[str]:
    """The options that describe the request of a case."""
    need = case.requirements
    flags = {"--suffix": need.kind == "infill", "--code": need.code, "--tools": need.tools, "--images": need.vision}
    endpoint = ENDPOINT.get(need.kind, "/v1/chat/completions")
    return ["--endpoint", endpoint, "--turns", str(need.turns), *(flag for flag, is_set in flags.items() if is_set)]


# One case for each kind of request and outcome in a section.
DISTINCT = list({(case.section, str(case.requirements), type(case.expected)): case for case in CASES}.values())


@pytest.mark.parametrize(
    "case", DISTINCT, ids=lambda case: f"{case.fleet}: {case.requested} for {case.requirements.kind}"
)
def test_route_agrees_with_the_router(tmp_path: Path, case: Case) -> None:
    result = run("route", case.requested, *options(case), "--fleet", write(tmp_path, FLEETS[case.fleet]))
    if isinstance(case.expected, str):
        assert result.exit_code == 0, result.stderr
        assert result.stdout.startswith(f"{case.requested} -> {case.expected} (")
        first, *more = result.stdout.splitlines()
        assert first.endswith(f"because of {case.reason}")
        assert bool(more) == ("weight" in case.reason), "the parts of all models under the alias"
    else:
        assert result.exit_code == 1
        assert result.stderr.startswith(f"{case.expected.status} {case.expected.code}: ")
        assert not result.stdout


@pytest.mark.parametrize("endpoint", [one.path for one in GENERATION])
def test_route_accepts_every_endpoint(endpoint: str) -> None:
    assert run("route", "pebble", "--endpoint", endpoint).exit_code == (
        1 if endpoint in ("/v1/embeddings", "/rerank", "/score") else 0
    )


def test_models_without_a_running_service() -> None:
    result = run("models", "--url", "http://127.0.0.1:9")
    assert result.exit_code == 1
    assert "no Roundhouse answers at http://127.0.0.1:9" in result.stderr


def test_port_in_use_is_reported_before_anything_starts() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = CliRunner().invoke(main, ["serve", "--port", str(port)])
    assert result.exit_code == 1
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use. Choose another with --port" in result.output


def test_a_run_folder_that_cannot_be_used_is_reported_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUNDHOUSE_RUN_DIR", "/dev/null/run")
    result = CliRunner().invoke(main, ["serve"])
    assert result.exit_code == 2
    assert result.output.startswith("environment: ROUNDHOUSE_RUN_DIR: the folder /dev/null/run cannot be made: ")


REACHABLE = "0.0.0.0 can be reached from other machines, and no API key is set"


def test_without_a_key_an_address_that_others_reach_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run("serve", "--host", "0.0.0.0")
    assert result.exit_code == 2
    assert result.stderr.startswith(REACHABLE) and "export ROUNDHOUSE_API_KEY=" in result.stderr
    monkeypatch.setenv("ROUNDHOUSE_HOST", "0.0.0.0")
    assert run("check").stderr.startswith(REACHABLE)
    fleet = write(tmp_path, "auth: none\nmodels: [{model: pebble-chat}]\n")
    for more, words in ((("--fleet", fleet), "by 'auth: none'"), ((), "API keys: 1; every request but a probe")):
        if not more:
            monkeypatch.setenv("ROUNDHOUSE_API_KEY", "rh_0123456789abcdef")
        result = run("check", *more)
        assert result.exit_code == 0, result.output
        assert words in result.output and "rh_0123" not in result.output
        with socket.socket() as taken:  # so that nothing is started
            taken.bind(("0.0.0.0", 0))
            taken.listen()
            result = run("serve", *more, "--port", taken.getsockname()[1])
        assert "cannot listen on 0.0.0.0" in result.stderr


def test_check_says_who_may_sign_on_and_then_the_service_may_listen_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROUNDHOUSE_HOST", "0.0.0.0")
    grant = "{ml: {tenant: default, models: [pebble-chat, nope]}}"
    sign_on = f"sign_on: {{issuer: 'https://id.example', audience: rh, tenants: {grant}}}"
    result = run("check", "--fleet", write(tmp_path, f"{sign_on}\nmodels: [{{model: pebble-chat}}]\n"))
    assert result.exit_code == 0, result.output
    assert "Sign-on: tokens of https://id.example for rh" in result.output
    assert "sign_on: the group 'ml' may use 'nope', which is not served" in result.output


def test_a_weak_first_key_is_refused_with_the_line_that_makes_a_good_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUNDHOUSE_API_KEY", "hunter2")
    for command in ("serve", "check"):
        result = run(command)
        assert result.exit_code == 2
        assert "a key has at least 16 characters. A good one: python3 -c" in result.stderr
        assert "hunter2" not in result.output


def test_the_version_is_asked_of_the_command() -> None:
    assert run("--version").output == f"roundhouse {release()}\n"
