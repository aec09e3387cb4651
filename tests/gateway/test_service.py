"""The BentoML side of the gateway: its services, what bypasses BentoML, the GPUs of each replica."""

import asyncio
import gc
import importlib
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import httpx
import pytest
import uvicorn
from starlette.testclient import TestClient

from service.auth import keys_file
from service.auth.keys import digest
from service.catalog import catalog
from service.config import file_watch
from service.config.paths import ROOT
from service.config.settings import Settings
from service.fleet import fleet
from service.gateway.configuration import load_configuration
from service.gateway.process import GC_THRESHOLD
from service.server.asgi import Receive, Scope, Send
from tests.support.services import wait_for
from tests.support.waiting import PATIENCE, until
from tests.support.workers import text_after_one_was_killed

pytestmark = pytest.mark.usefixtures("restored_gc")


@pytest.fixture
def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_once: None) -> Iterator[ModuleType]:
    """The module of the BentoML services, imported with a run folder of its own."""
    monkeypatch.setenv("ROUNDHOUSE_RUN_DIR", str(tmp_path))
    yield importlib.reload(importlib.import_module("service.gateway.service"))


def built_service(gateway: ModuleType, text: str, folder: Path) -> Any:
    path = folder / "fleet.yaml"
    path.write_text(text)
    settings = Settings(run_dir=folder)
    models = catalog.load(ROOT / "models")
    return gateway.build_service(settings, models, fleet.load(path, models))


def test_each_replica_has_an_engine_service(gateway: ModuleType) -> None:
    names = set(gateway.Gateway.all_services())
    engines = {f"engine-{model}-0" for model in ("pebble-chat", "pebble-instruct", "pebble-code", "pebble-base")}
    assert names == {"gateway", *engines}


async def failing_app(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError("the request reached BentoML's middleware")


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[int]:
    """The app on uvicorn's own server; gives its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None))
    task = asyncio.create_task(server.serve([listener]))
    await until(lambda: server.started)
    yield listener.getsockname()[1]
    server.should_exit = True
    await task


async def test_requests_bypass_bentomls_middleware(gateway: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    app = bentoml_app(gateway)
    async with serving(app) as port:
        app.middleware_stack = failing_app
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            assert (await client.get("/v1/models")).status_code == 200
            assert not caplog.records
            assert (await client.get("/livez")).status_code == 500
        app.middleware_stack = app.build_middleware_stack()  # for the shutdown
    caplog.clear()


async def test_the_server_gets_our_connections(gateway: ModuleType, capfd: pytest.CaptureFixture[str]) -> None:
    async with serving(bentoml_app(gateway)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"hello\r\n\r\n")
        response = await reader.read()
        writer.close()
    assert b'"invalid_http"' in response and b"\r\nx-request-id: " in response
    assert '"event": "invalid_request"' in capfd.readouterr().out


def test_bentomls_own_metrics_and_access_log_are_off(gateway: ModuleType) -> None:
    middleware_names = {layer.cls.__name__ for layer in bentoml_app(gateway).user_middleware}
    assert not middleware_names & {"AccessLogMiddleware", "RunnerTrafficMetricsMiddleware"}


def bentoml_app(gateway: ModuleType) -> Any:
    """The app that BentoML builds, with the configuration that `bentoml serve` injects."""
    gateway.Gateway.inject_config()
    return gateway.Gateway.to_asgi()


def test_bentomls_own_page_is_not_served(gateway: ModuleType) -> None:
    response = TestClient(bentoml_app(gateway), base_url="http://localhost").get("/")
    assert response.json()["service"] == "roundhouse"


@pytest.mark.parametrize("path", ["/docs.json", "/schema.json", "/static_content/x", "/assets/x", "/v1/unknown"])
def test_bentomls_own_paths_get_404(gateway: ModuleType, path: str) -> None:
    response = TestClient(bentoml_app(gateway), base_url="http://localhost").get(path)
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "unknown_url"


def test_bentomls_probes_are_served(gateway: ModuleType) -> None:
    with TestClient(bentoml_app(gateway), base_url="http://localhost") as client:
        assert client.get("/livez").status_code == 200
        assert client.get("/readyz").status_code == 503  # no engine is ready
        assert client.get("/metrics").text.startswith("# HELP roundhouse_")


def test_objects_from_start_up_are_frozen_and_the_collector_runs_less_often(gateway: ModuleType) -> None:
    assert gc.get_freeze_count() == 0
    with TestClient(bentoml_app(gateway)):
        assert gc.get_freeze_count() > 100_000
        assert gc.get_threshold()[0] == GC_THRESHOLD > 2_000


GPUS = "models:\n  - {model: llama-2-7b-chat, gpus: 2, min_replicas: 2}\n  - {model: llama-2-7b, gpus: 1}\n"


def test_each_replica_gets_its_own_gpus(gateway: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from _bentoml_impl.server import allocator  # an import that takes a second

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(allocator, "system_resources", lambda: {"cpu": 8, allocator.NVIDIA_GPU: [0, 1, 2, 3, 4]})
    built = built_service(gateway, GPUS, tmp_path)
    resources = allocator.ResourceAllocator()
    visible_gpus = []
    for name, service in built.all_services().items():
        service.inject_config()
        workers, environments = resources.get_worker_env(service)
        if name != "gateway":
            assert workers == 1
            visible_gpus += environments_of(environments)
    assert visible_gpus == ["0,1", "2,3", "4"]


def environments_of(environments: dict[str, str]) -> list[str]:
    return [value for key, value in environments.items() if key == "CUDA_VISIBLE_DEVICES"]


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("ROUNDHOUSE_FLEET", "/no/such/fleet.yaml", "/no/such/fleet.yaml: cannot be read"),
        ("ROUNDHOUSE_PORT", "many", "ROUNDHOUSE_PORT: Input should be a valid integer"),
        ("ROUNDHOUSE_FLEE", "x", "ROUNDHOUSE_FLEE: no such setting"),
        ("ROUNDHOUSE_HOST", "0.0.0.0", "0.0.0.0 can be reached from other machines, and no API key is set"),
        ("ROUNDHOUSE_API_KEY", "hunter2", "ROUNDHOUSE_API_KEY: a key has at least 16 characters"),
        ("ROUNDHOUSE_KEYS", "/no/such/keys.yaml", "/no/such/keys.yaml: cannot be read"),
        ("ROUNDHOUSE_RUN_DIR", "/dev/null/x", "ROUNDHOUSE_RUN_DIR: the folder /dev/null/x cannot be made"),
        ("ROUNDHOUSE_RESPONSES_DIR", "/dev/null/x", "ROUNDHOUSE_RESPONSES_DIR: the folder /dev/null/x cannot be made"),
    ],
)
def test_configuration_error_exits_with_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, message: str
) -> None:
    monkeypatch.setenv("ROUNDHOUSE_RUN_DIR", str(tmp_path))
    monkeypatch.setenv(variable, value)
    with pytest.raises(SystemExit, match=message):
        load_configuration()


def test_the_address_of_bentomls_command_counts(gateway: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """`bentoml serve --host` and `BENTOML_HOST`, of which the settings know nothing; its workers are told, too."""
    monkeypatch.setenv("ROUNDHOUSE_HOST", "127.0.0.1")
    monkeypatch.setenv("ROUNDHOUSE_API_KEY", "")
    serve = click.Command("serve", params=[click.Option(["--host"], envvar="BENTOML_HOST")])
    for words, environment in ((["--host", "0.0.0.0"], ""), ([], "0.0.0.0")):
        monkeypatch.setenv("BENTOML_HOST", environment)
        with serve.make_context("serve", words), pytest.raises(SystemExit, match="can be reached from other machines"):
            gateway.declare()
    monkeypatch.setenv("ROUNDHOUSE_API_KEY", "rh_0123456789abcdef")
    with serve.make_context("serve", []):
        gateway.declare()
    settings, *_, keys = load_configuration()
    assert (settings.host, os.environ["ROUNDHOUSE_HOST"], len(keys or ())) == ("0.0.0.0", "0.0.0.0", 1)


def test_the_service_asks_for_the_configured_key(gateway: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUNDHOUSE_API_KEY", "rh_0123456789abcdef")
    module = importlib.reload(gateway)
    with TestClient(bentoml_app(module), base_url="http://localhost") as client:
        assert client.get("/livez").status_code == 200
        assert client.get("/readyz").status_code == 503  # no engine is ready
        for path in ("/metrics", "/v1/models", "/docs.json", "/schema.json", "/static_content/x", "/"):
            assert client.get(path).status_code == 401
        assert client.get("/v1/models", headers={"x-api-key": "rh_0123456789abcdef"}).status_code == 200


def test_without_a_key_nobody_gets_in_where_the_socket_is_bound_elsewhere(gateway: ModuleType) -> None:
    """By a program that starts BentoML's server itself, say."""
    with socket.create_server(("0.0.0.0", 0)), TestClient(bentoml_app(gateway), base_url="http://localhost") as client:
        assert client.get("/v1/models").status_code == 401
        assert client.get("/livez").status_code == 200


def test_the_service_reads_its_keys_again(gateway: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_watch, "POLL_INTERVAL", 0.01)
    path, secret = tmp_path / "keys.yaml", "rh_0123456789abcdef"
    entry = {"id": "a", "tenant": "a", "sha256": digest(secret.encode()).hex(), "created": "2026-11-28T00:00:00Z"}
    with keys_file.edited(path) as entries:
        entries.append(keys_file.KeyEntry.model_validate(entry))
    monkeypatch.setenv("ROUNDHOUSE_KEYS", str(path))
    module = importlib.reload(gateway)
    with TestClient(bentoml_app(module), base_url="http://localhost", headers={"x-api-key": secret}) as client:
        assert client.get("/v1/models").status_code == 200
        with keys_file.edited(path) as entries:
            entries.clear()
        wait_for(lambda: client.get("/v1/models").status_code == 401, PATIENCE, "the end of the key")


@pytest.mark.parametrize("name", ["run_dir", "responses_dir"])
def test_a_folder_that_does_not_exist_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("ROUNDHOUSE_RUN_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(f"ROUNDHOUSE_{name.upper()}", "new/folder")
    settings, *_ = load_configuration()
    folder = getattr(settings, name)
    assert folder == tmp_path / "new/folder"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert os.environ[f"ROUNDHOUSE_{name.upper()}"] == str(folder)


def test_run_folder_is_created_once_for_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUNDHOUSE_RUN_DIR", "")  # restored at the end
    monkeypatch.delenv("ROUNDHOUSE_RUN_DIR")
    settings, *_ = load_configuration()
    assert settings.run_dir and settings.run_dir.is_dir()
    assert settings.run_dir.stat().st_mode & 0o777 == 0o700
    again = load_configuration()[0]
    assert (again.run_dir, again.cache_secret) == (settings.run_dir, settings.cache_secret)
    assert settings.cache_secret
    (secret,) = settings.run_dir.iterdir()
    secret.unlink()
    settings.run_dir.rmdir()


WORKER = """
import os, sys
from pathlib import Path
os.environ["ROUNDHOUSE_RUN_DIR"] = sys.argv[1]
from service.gateway import app, configuration, process
from service.config.settings import Settings
folder = Path(sys.argv[1])
settings, models, fleet, _ = configuration.load_configuration()
gateway = app.Gateway(settings, models, fleet, process.setup_multiprocess_metrics(folder, 2))
gateway.admission.demand = lambda model: 7
gateway.update_gauges()
print(os.getpid(), flush=True)
sys.stdin.readline()
print(gateway.render_metrics().decode())
"""


@pytest.mark.slow
def test_a_killed_worker_leaves_no_gauges(tmp_path: Path) -> None:
    _, text = text_after_one_was_killed(WORKER, tmp_path)
    assert 'roundhouse_demand{model="pebble-chat"} 7.0' in text, "not twice"
