"""`roundhouse keys`: keys are made, listed, replaced and taken away, and each is shown once."""

import asyncio
import json
import os
import re
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner, Result

from service.auth import keys_file
from service.auth.keys import Key, authenticate, digest
from service.auth.keys_file import KeyEntry, read
from service.cli.__main__ import main
from service.config import file_watch
from service.config.file_watch import FileWatch
from service.config.settings import Settings
from service.errors import ApiError
from tests.conftest import Start
from tests.support.gateways import ONE
from tests.support.waiting import PATIENCE, until

SECRET = re.compile(r"rh_[A-Za-z0-9_-]{43}")


@pytest.fixture(autouse=True)
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ROUNDHOUSE_KEYS", str(tmp_path / "keys.yaml"))
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path / "keys.yaml"


def run(*words: str) -> Result:
    return CliRunner().invoke(main, ["keys", *words])


def made(*words: str) -> str:
    """The key that a command prints, which is all of its standard output."""
    result = run(*words)
    assert result.exit_code == 0, result.output
    assert SECRET.fullmatch(result.stdout.strip())
    return result.stdout.strip()


def bearer_of(secret: str, path: Path) -> Key | None:
    keys = keys_file.load(Settings(keys=path))
    try:
        return authenticate(keys, {b"x-api-key": secret.encode()}, datetime.now(UTC).timestamp())
    except ApiError:
        return None


def test_a_key_that_was_made_is_valid_and_nowhere_else(path: Path) -> None:
    first, second, other = made("create", "acme"), made("create", "acme"), made("create", "other")
    assert [entry.id for entry in read(path)] == ["acme-1", "acme-2", "other-1"]
    assert bearer_of(first, path) == Key("acme-1", "acme")
    assert bearer_of(other, path) == Key("other-1", "other")
    shown = run("list").output + path.read_text()
    assert len({first, second, other}) == 3
    assert not [secret for secret in (first, second, other) if secret in shown or secret[3:] in shown]
    assert digest(first.encode()).hex() not in run("list").output
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_key_can_be_limited(path: Path) -> None:
    words = ("--expires", "30d", "--models", "a, b", "--endpoints", "metrics,models", "--proxy")
    key = bearer_of(made("create", "acme", *words), path)
    assert key and key.expires
    assert timedelta(days=29.9) < datetime.fromtimestamp(key.expires, UTC) - datetime.now(UTC) < timedelta(days=30.1)
    assert (key.models, key.endpoints, key.proxy) == (frozenset("ab"), frozenset({"metrics", "models"}), True)
    listed = run("list").output
    assert all(word in listed for word in ("acme-1", "a, b", "metrics, models, naming tenants"))


def test_a_key_that_is_revoked_is_none(path: Path) -> None:
    gone, stays = made("create", "acme"), made("create", "acme")
    assert run("revoke", "acme-1").exit_code == 0
    assert bearer_of(gone, path) is None
    assert bearer_of(stays, path)


def test_a_key_that_is_rotated_is_another_for_the_same(path: Path) -> None:
    old = made("create", "acme", "--models", "a", "--expires", "2w")
    made("create", "acme")
    new = made("rotate", "acme-1")
    assert bearer_of(old, path) is None
    key = bearer_of(new, path)
    assert key and (key.id, key.tenant, key.models) == ("acme-1", "acme", frozenset("a"))
    entry: KeyEntry = read(path)[0]
    assert entry.expires and entry.expires - entry.created == timedelta(weeks=2)
    assert [one.id for one in read(path)] == ["acme-1", "acme-2"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("create", "Not A Name"), "tenant: String should match pattern"),
        (("create", "acme", "--expires", "soon"), "'soon' is none: a number and m, h, d or w"),
        (("create", "acme", "--endpoints", "everything"), "everything is not among inference, models, metrics"),
        (("create", "acme", "--models", ","), "nothing is not among names"),
        (("revoke", "nobody-1"), "there is no key 'nobody-1'; `roundhouse keys list` shows"),
        (("rotate", "nobody-1"), "there is no key 'nobody-1'"),
        (("create", "acme", "--file", "/no/such/folder/keys.yaml"), "/no/such/folder/keys.yaml cannot be written"),
        (("list", "--file", "/no/such/file"), "/no/such/file: cannot be read: No such file"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_changed(words: tuple[str, ...], message: str, path: Path) -> None:
    made("create", "acme")
    before = path.read_bytes()
    result = run(*words)
    assert result.exit_code != 0
    assert message in result.stderr and not result.stdout
    assert path.read_bytes() == before


def test_a_file_with_a_mistake_is_left_alone(path: Path) -> None:
    path.write_text("keys: [{id: x}]\n")
    path.chmod(0o600)
    result = run("create", "acme")
    assert (result.exit_code, path.read_text()) == (2, "keys: [{id: x}]\n")
    assert "keys[0].tenant: is missing" in result.stderr


def test_check_names_models_of_keys_that_are_not_served() -> None:
    made("create", "acme", "--models", "pebble-chat,gone")
    result = CliRunner().invoke(main, ["check"])
    assert result.exit_code == 0, result.output
    assert "API keys: 1; every request but a probe needs one." in result.output
    assert [line for line in result.output.splitlines() if "acme-1" in line] == [
        "acme-1: its key is for 'gone', which is not served"
    ]


def test_without_a_file_it_says_how_to_name_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ROUNDHOUSE_KEYS")
    assert "no keys file: set ROUNDHOUSE_KEYS" in run("list").stderr


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


async def test_a_running_gateway_notices_keys_that_are_made_and_revoked(
    start: Start, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a real socket, by the watch that the service runs; a mistake in the file leaves the keys in use."""
    monkeypatch.setattr(file_watch, "POLL_INTERVAL", 0.01)
    made("create", "first")
    settings = Settings(keys=path)
    running = await start(ONE, keys=keys_file.load(settings))
    gateway = running.gateway
    load = partial(keys_file.load, settings)
    watching = asyncio.create_task(FileWatch(path, load, gateway.use_keys, gateway.log_keys_reload).watch())
    secret = made("create", "acme")

    async def answered(status: int) -> None:
        answers: list[httpx.Response] = []
        while not answers or answers[-1].status_code != status:
            answers.append(await running.http.get("/v1/models", headers={"x-api-key": secret}))

    async with asyncio.timeout(PATIENCE):
        await answered(200)
        replace(path, "tenant: acme", "tenant: 'A B'")
        await until(lambda: running.sample("roundhouse_keys_last_reload_successful") == 0, "the refusal")
        await answered(200)
        replace(path, "tenant: 'A B'", "tenant: acme")
        await until(lambda: running.sample("roundhouse_keys_last_reload_successful") == 1, "the file is mended")
        assert run("revoke", "acme-1").exit_code == 0
        await answered(401)
    watching.cancel()
    events = [line for line in running.output if '"event": "keys_reload"' in line]
    assert any("refused: the previous keys stay in use" in line and "keys[1].tenant" in line for line in events)
    assert not [line for line in events if secret in line]


def test_who_changes_keys_is_in_the_audit_log(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = path.with_name("audit")
    monkeypatch.setenv("ROUNDHOUSE_AUDIT_LOG", str(log))
    secrets = [made("create", "acme"), made("rotate", "acme-1")]
    assert run("revoke", "acme-1").exit_code == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(one["action"], one["key"], one["tenant"], one["uid"]) for one in lines] == [
        (action, "acme-1", "acme", os.getuid()) for action in ("key_created", "key_rotated", "key_revoked")
    ]
    assert not [secret for secret in secrets if secret in log.read_text()]
    monkeypatch.setenv("ROUNDHOUSE_AUDIT_LOG", str(path.parent))
    result = run("create", "acme")
    assert result.exit_code == 1 and "nothing was changed: the audit log" in result.output
    assert read(path) == ()
