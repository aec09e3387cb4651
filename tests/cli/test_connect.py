"""What `roundhouse connect` prints and writes, against a service that lists its models."""

import json
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import yaml
from click.testing import CliRunner, Result

from service.cli.__main__ import main
from service.gateway.console.client_settings import CLIENTS, Client

ROWS = [
    {"id": "pebble-base", "capabilities": ["completion"], "context_length": None},
    {"id": "pebble-chat", "capabilities": ["chat", "completion"], "context_length": 40_960},
]


class Models(BaseHTTPRequestHandler):
    """Lists models; a key that begins with `rh_` is none of its own."""

    def do_GET(self) -> None:
        body = json.dumps({"data": ROWS}).encode()
        wrong = self.headers.get("authorization", "").startswith("Bearer rh_")
        self.send_response(401 if wrong else 200 if self.path == "/v1/models" else 404)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def service() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Models) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with service() as address:
        yield address


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["connect", *arguments])


@pytest.mark.parametrize("client", CLIENTS)
def test_the_settings_name_address_key_and_model(client: str, url: str) -> None:
    result = run(client, "--url", url, "--key", "sk-1")
    assert result.exit_code == 0, result.output
    assert url in result.stdout
    assert "pebble-chat" in result.stdout or client == "open-webui"  # which asks for the list itself
    assert "sk-1" in result.stdout or client == "llm"  # which keeps keys in a store of its own
    base = f"{url}/v1"
    assert (base in result.stdout) == (client != "claude")


@pytest.mark.parametrize("client", [client for client in CLIENTS.values() if client.file], ids=lambda one: one.name)
def test_a_written_file_has_what_is_printed(client: Client, url: str, home: Path) -> None:
    path = home / str(client.file)
    printed = run(client.name, "--url", url).stdout
    result = run(client.name, "--url", url + "/v1/", "--write")
    assert result.exit_code == 0, result.output
    assert path.read_text() == printed
    assert path.stat().st_mode & 0o777 == 0o600
    parse = {".json": json.loads, ".toml": tomllib.loads}.get(path.suffix, yaml.safe_load)
    assert parse(printed)


def test_other_settings_of_a_json_file_stay(url: str, home: Path) -> None:
    path = home / ".claude/settings.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"theme": "dark", "env": {"MINE": "1", "ANTHROPIC_MODEL": "old"}}))
    assert run("claude", "--url", url, "--write").exit_code == 0
    written = json.loads(path.read_text())
    assert written["theme"] == "dark"
    assert written["env"]["MINE"] == "1"
    assert written["env"]["ANTHROPIC_MODEL"] == "pebble-chat"


@pytest.mark.parametrize(
    ("client", "file", "text", "part"),
    [
        ("codex", ".codex/config.toml", 'model = "x"\n', "is there already. Add what is printed"),
        ("claude", ".claude/settings.json", "{", "is not a JSON object"),
        ("claude", ".claude/settings.json", "[]", "is not a JSON object"),
    ],
)
def test_a_file_that_cannot_be_extended_is_not_touched(
    client: str, file: str, text: str, part: str, url: str, home: Path
) -> None:
    (home / file).parent.mkdir()
    (home / file).write_text(text)
    result = run(client, "--url", url, "--write")
    assert result.exit_code == 1
    assert part in result.output
    assert (home / file).read_text() == text


def test_the_model_that_is_asked_for_comes_first(url: str) -> None:
    printed = run("claude", "--url", url, "--model", "pebble-base").stdout
    assert json.loads(printed)["env"]["ANTHROPIC_MODEL"] == "pebble-base"
    result = run("claude", "--url", url, "--model", "nobody")
    assert result.exit_code == 1
    assert "does not serve 'nobody'. It serves pebble-chat, pebble-base" in result.output


def test_where_nobody_answers_that_is_said() -> None:
    result = run("aider", "--url", "http://127.0.0.1:9")
    assert result.exit_code == 1
    assert "no Roundhouse answers at http://127.0.0.1:9" in result.output


def test_a_client_without_a_file_has_a_command(url: str) -> None:
    result = run("cline", "--url", url, "--write")
    assert result.exit_code == 1
    assert "has no settings file. Run the command" in result.output


def test_llm_is_told_that_models_take_tools_and_schemas(url: str) -> None:
    """It sends neither to a model of which its settings do not say so."""
    rows = yaml.safe_load(run("llm", "--url", url).stdout)
    assert [row["model_id"] for row in rows] == ["pebble-chat", "pebble-base"]
    assert all(row["supports_tools"] and row["supports_schema"] for row in rows)


WITH_CONTEXT = [client for client in CLIENTS if client in ("claude", "codex", "opencode", "continue")]


@pytest.mark.parametrize("client", WITH_CONTEXT)
def test_a_client_is_told_the_context_of_the_model(client: str, url: str) -> None:
    """An answer may take a quarter of it; Codex asks for no length."""
    printed = run(client, "--url", url).stdout
    assert "40960" in printed
    assert ("10240" in printed) == (client != "codex")


@pytest.mark.parametrize("client", WITH_CONTEXT)
def test_of_a_context_that_is_not_known_nothing_is_said(client: str, url: str) -> None:
    printed = run(client, "--url", url, "--model", "pebble-base").stdout
    first = printed.partition("pebble-chat")[0]
    assert "None" not in printed and "null" not in printed
    assert "40960" not in first and "10240" not in first


def test_a_key_that_the_service_does_not_accept_is_named_as_the_cause(url: str) -> None:
    result = run("python", "--url", url, "--key", "rh_wrong")
    assert result.exit_code == 1 and not result.stdout
    assert f"{url} does not accept this key" in result.stderr and "rh_wrong" not in result.stderr
    shown = CliRunner().invoke(main, ["models", "--url", url, "--key", "rh_wrong"])
    assert shown.exit_code == 1 and f"{url} needs another key: --key" in shown.stderr


def test_a_token_as_the_key_is_said_to_expire(url: str) -> None:
    assert "when it has expired" in run("aider", "--url", url, "--key", "eyJhbGciOiJSUzI1NiJ9.e30.AAAA").stderr
    assert "expired" not in run("aider", "--url", url).stderr
