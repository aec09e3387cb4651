"""What the environment may set."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from service.config.paths import ROOT
from service.config.settings import VARIABLES, Settings, summary, variable
from service.config.strict_yaml import ConfigError
from tests.support.each import each

FIELDS = Settings.model_fields
# What each kind of setting may be given, and what becomes of it.
SECRET = "redis://localhost:6379/0"  # it would do as an API key, too
GIVEN: dict[Any, tuple[str, object]] = {
    int: ("7", 7), float: ("7.5", 7.5), str: ("text", "text"), Path: ("a/b", Path("a/b")), bool: ("off", False),
    FIELDS["run_dir"].annotation: ("a/b", Path("a/b")), SecretStr: (SECRET, SecretStr(SECRET)),
}  # fmt: skip
NAMED: dict[str, tuple[str, object]] = {
    "guardrail_keys": ("words=key", SecretStr("words=key")), "log_format": ("text", "text"),
    "log_level": ("error", "error"), "log_engines": ("all", "all"), "log_sample": ("0.5", 0.5),
}  # fmt: skip

every_setting = each("name", FIELDS)


def given(name: str) -> tuple[str, object]:
    """What a setting may be given that is not its default, and what becomes of it."""
    if name in NAMED:
        return NAMED[name]
    kind, default = FIELDS[name].annotation, FIELDS[name].default
    return (str(not default).lower(), not default) if kind is bool else GIVEN[kind]


def numbers(*kinds: type) -> list[str]:
    return [name for name, field in FIELDS.items() if field.annotation in kinds]


def problems(environ: dict[str, str]) -> list[str]:
    """What is wrong with an environment."""
    with pytest.raises(ConfigError) as caught:
        Settings.from_environ(environ)
    return caught.value.problems


def test_an_empty_environment_gives_the_defaults() -> None:
    assert Settings.from_environ({"HOME": "/root"}) == Settings()
    assert Settings().fleet == ROOT / "deploy/fleets/pebble.yaml"
    assert Settings().fleet.is_file() and Settings().models.is_dir()


@every_setting
def test_each_setting_can_be_set_and_is_described(name: str) -> None:
    text, value = given(name)
    assert getattr(Settings.from_environ({variable(name): text}), name) == value
    assert summary(name).endswith("."), "a sentence"


@every_setting
def test_a_default_is_within_its_own_bounds(name: str) -> None:
    text = str(FIELDS[name].default or "")
    assert Settings.from_environ({variable(name): text}) == Settings()


def test_only_the_given_environment_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUNDHOUSE_PORT", "4000")
    (tmp_path / ".env").write_text("ROUNDHOUSE_PORT=5000\n")
    monkeypatch.chdir(tmp_path)
    assert Settings().port == Settings.from_environ({}).port == 3000


def test_a_path_may_begin_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    found = Settings.from_environ({"ROUNDHOUSE_WEIGHTS": "~/weights", "ROUNDHOUSE_RUN_DIR": "~/run"})
    assert (found.weights, found.run_dir) == (Path("/home/ada/weights"), Path("/home/ada/run"))
    assert Settings().weights.is_absolute()


@every_setting
def test_an_empty_variable_is_an_unset_one(name: str) -> None:
    assert Settings.from_environ({variable(name): ""}) == Settings()


@each("name", numbers(int, float))
@each("text", ["soon", "0", "-1", "nan", "inf", "-inf", "1e999", "0x10", "1 2"])
def test_a_number_is_positive_and_finite(name: str, text: str) -> None:
    (problem,) = problems({variable(name): text})
    assert problem.startswith(f"environment: {variable(name)}: Input should be ")
    assert f"(found '{text}')" in problem


@each("name", numbers(int))
def test_a_count_is_whole(name: str) -> None:
    (problem,) = problems({variable(name): "1.5"})
    assert "valid integer" in problem


def test_a_port_is_one_that_there_is() -> None:
    assert Settings.from_environ({"ROUNDHOUSE_PORT": "65535"}).port == 65535
    assert "less than or equal to 65535" in problems({"ROUNDHOUSE_PORT": "65536"})[0]


def test_every_mistake_is_reported_at_once() -> None:
    unknown, *wrong = problems({
        "ROUNDHOUSE_FLEAT": "x", "ROUNDHOUSE_PORT": "x", "ROUNDHOUSE_MAX_BODY_BYTES": "1.5", "ROUNDHOUSE_WORKERS": "2",
    })  # fmt: skip
    assert unknown == "environment: ROUNDHOUSE_FLEAT: no such setting; did you mean ROUNDHOUSE_FLEET?"
    assert [line.split(": ")[1] for line in wrong] == ["ROUNDHOUSE_PORT", "ROUNDHOUSE_MAX_BODY_BYTES"]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("ROUNDHOUSE_MAX_BODY", "did you mean ROUNDHOUSE_MAX_BODY_BYTES?"),
        ("ROUNDHOUSE_READER_TIMEOUT", "did you mean ROUNDHOUSE_"),
        ("ROUNDHOUSE_", "`roundhouse --help` lists all"),
        ("ROUNDHOUSE_BANANA", "`roundhouse --help` lists all"),
    ],
)
def test_an_unknown_variable_is_told_the_nearest(name: str, hint: str) -> None:
    # Also where it is empty: it was meant to be something.
    for text in ("x", ""):
        assert problems({name: text})[0].startswith(f"environment: {name}: no such setting; {hint}")


@pytest.mark.parametrize("name", ["roundhouse_port", "Roundhouse_Port", "ROUND_HOUSE_PORT", "XROUNDHOUSE_PORT"])
def test_variables_of_others_are_none_of_ours(name: str) -> None:
    assert Settings.from_environ({name: "4000"}) == Settings()


@pytest.mark.parametrize("service", ["", "GATEWAY_", "MODELS_", "ENGINE_LLAMA_2_"])
def test_what_kubernetes_sets_for_services_is_ignored(service: str) -> None:
    """One Service named roundhouse, or roundhouse-gateway, …, with a port that has a name and one that has none."""
    start = "ROUNDHOUSE_" + service
    links = {start + "SERVICE_HOST": "10.0.0.1", start + "SERVICE_PORT": "3000", start + "SERVICE_PORT_HTTP": "3000"}
    for port, protocol in (("3000", "tcp"), ("53", "udp"), ("132", "sctp")):
        link = f"{start}PORT_{port}_{protocol.upper()}"
        links |= {
            link: f"{protocol}://10.0.0.1:{port}",
            link + "_PROTO": protocol,
            link + "_PORT": port,
            link + "_ADDR": "10.0.0.1",
        }
    for address in ("tcp://10.0.0.1:3000", "tcp://[fd00::1]:3000"):
        assert Settings.from_environ(links | {start + "PORT": address}) == Settings()


@pytest.mark.parametrize(
    "environ",
    [
        {"ROUNDHOUSE_GATEWAY_PORT": "3000"},
        {"ROUNDHOUSE_PORT": "http://10.0.0.1:3000"},
        {"ROUNDHOUSE_SERVICE_HOSTS": "10.0.0.1"},
        {"ROUNDHOUSE_PORT_TCP": "3000"},
        {"ROUNDHOUSE_HOST_PORT_80_TCP_NAME": "x"},
    ],
)
def test_what_only_looks_like_a_service_is_a_mistake(environ: dict[str, str]) -> None:
    assert len(problems(environ)) == 1


@every_setting
def test_no_setting_is_taken_for_a_service(name: str) -> None:
    assert VARIABLES[variable(name)] == name
    text, _ = given(name)
    assert Settings.from_environ({variable(name): text}) != Settings()


def test_keys_of_classifiers() -> None:
    given = Settings.from_environ({"ROUNDHOUSE_GUARDRAIL_KEYS": "words=a=b, more = c ,"})
    assert given.guardrail_keys_by_name == {"words": "a=b", "more": "c"}
    assert Settings().guardrail_keys_by_name == {}
    for wrong in ("words", "=key", "words=", "words=a b"):
        (problem,) = problems({"ROUNDHOUSE_GUARDRAIL_KEYS": wrong})
        assert "NAME=KEY, separated by commas" in problem
        assert wrong not in problem.replace("NAME=KEY, separated", "")


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 1


def test_a_setting_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValidationError, match="prot"):
        Settings(prot=1)  # type: ignore[call-arg]


def test_a_url_of_redis_is_checked_and_never_shown() -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.from_environ({"ROUNDHOUSE_REDIS_URL": "http://:s3cret-word@host:6379"})
    assert "ROUNDHOUSE_REDIS_URL: it should be redis://" in str(caught.value) and "s3cret" not in str(caught.value)
    for url in ("redis://:s3cret-word@host:6379/2", "rediss://host", "unix:///run/redis.sock", "redis://[::1]:6379/0"):
        settings = Settings.from_environ({"ROUNDHOUSE_REDIS_URL": url})
        assert settings.redis_url.get_secret_value() == url
        assert "s3cret" not in repr(settings)
