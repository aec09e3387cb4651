"""The BentoML side of the gateway: which services there are, what was taken out of BentoML, who gets which GPU."""

import asyncio
import gc
import importlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
import uvicorn
from _bentoml_impl.server import allocator
from starlette.testclient import TestClient

from bench.processes import free_port
from service.catalog import catalog
from service.config.settings import ROOT, Settings
from service.fleet import fleet
from service.gateway import app
from service.server.asgi import Receive, Scope, Send
from tests.support.waiting import until


@pytest.fixture(autouse=True)
def garbage() -> Iterator[None]:
    """The settings of the garbage collector, which belong to the whole process, are ours again afterwards."""
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


@pytest.fixture
def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_once: None) -> Iterator[ModuleType]:
    """The composition root, imported with a run folder of its own."""
    monkeypatch.setenv("ROUNDHOUSE_RUN_DIR", str(tmp_path))
    yield importlib.reload(importlib.import_module("service.gateway.service"))


def declared(gateway: ModuleType, text: str, folder: Path) -> Any:
    path = folder / "fleet.yaml"
    path.write_text(text)
    settings = replace(Settings(), run_dir=folder)
    known = catalog.load(ROOT / "models")
    return gateway.declare(settings, known, fleet.load(path, known))


def test_one_engine_service_for_each_replica(gateway: ModuleType) -> None:
    names = set(gateway.Gateway.all_services())
    engines = {f"engine-{model}-0" for model in ("pebble-chat", "pebble-instruct", "pebble-code", "pebble-base")}
    assert names == {"gateway", *engines}


async def broken(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError("a layer of BentoML's")


async def test_a_request_passes_no_layer_of_bentoml_s(gateway: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    app, port = app_of(gateway), free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None))
    serving = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    app.middleware_stack = broken
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        assert (await client.get("/v1/models")).status_code == 200
        assert not caplog.records
        assert (await client.get("/livez")).status_code == 500
    server.should_exit = True
    app.middleware_stack = app.build_middleware_stack()  # for the end
    await serving
    caplog.clear()


def test_what_bentoml_would_count_and_log_itself_is_off(gateway: ModuleType) -> None:
    layers = {layer.cls.__name__ for layer in app_of(gateway).user_middleware}
    assert not layers & {"AccessLogMiddleware", "RunnerTrafficMetricsMiddleware"}


def app_of(gateway: ModuleType) -> Any:
    """The app that BentoML builds; its configuration is what `bentoml serve` would inject."""
    gateway.Gateway.inject_config()
    return gateway.Gateway.to_asgi()


@pytest.mark.parametrize("path", ["/", "/docs.json", "/schema.json", "/static_content/x", "/assets/x", "/v1/unknown"])
def test_only_our_paths_exist(gateway: ModuleType, path: str) -> None:
    answer = TestClient(app_of(gateway)).get(path)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "unknown_url"


def test_bentoml_s_probes_stay(gateway: ModuleType) -> None:
    with TestClient(app_of(gateway)) as client:
        assert client.get("/livez").status_code == 200
        assert client.get("/readyz").status_code == 503  # no engine has said that it is ready
        assert client.get("/metrics").text.startswith("# HELP roundhouse_")


def test_what_start_has_made_is_no_work_for_the_garbage_collector(gateway: ModuleType) -> None:
    assert gc.get_freeze_count() == 0
    with TestClient(app_of(gateway)):
        assert gc.get_freeze_count() > 100_000
        assert gc.get_threshold()[0] == gateway.YOUNG > 2_000


GPUS = "models:\n  - {model: llama-2-7b-chat, gpus: 2, replicas: 2}\n  - {model: llama-2-7b, gpus: 1}\n"


def test_every_replica_sees_gpus_of_its_own(
    gateway: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(allocator, "system_resources", lambda: {"cpu": 8, allocator.NVIDIA_GPU: [0, 1, 2, 3, 4]})
    service = declared(gateway, GPUS, tmp_path)
    machine = allocator.ResourceAllocator()
    seen = []
    for name, one in service.all_services().items():
        one.inject_config()
        workers, environments = machine.get_worker_env(one)
        if name != "gateway":
            assert workers == 1
            seen += environments_of(environments)
    assert seen == ["0,1", "2,3", "4"]


def environments_of(environments: dict[str, str]) -> list[str]:
    return [value for key, value in environments.items() if key == "CUDA_VISIBLE_DEVICES"]


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("ROUNDHOUSE_FLEET", "/no/such/fleet.yaml", "/no/such/fleet.yaml: cannot be read"),
        ("ROUNDHOUSE_PORT", "many", "ROUNDHOUSE_PORT: 'many' is not a number"),
        ("ROUNDHOUSE_FLEE", "x", "ROUNDHOUSE_FLEE: no such setting"),
    ],
)
def test_a_mistake_ends_the_process_in_words(
    gateway: ModuleType, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, message: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SystemExit, match=message):
        gateway.configure()


def test_without_a_run_folder_it_makes_one_for_all_processes(
    gateway: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ROUNDHOUSE_RUN_DIR")
    settings, _, _ = gateway.configure()
    assert settings.run_dir.is_dir()
    assert settings.run_dir.stat().st_mode & 0o777 == 0o700
    assert gateway.configure()[0].run_dir == settings.run_dir
    settings.run_dir.rmdir()


def test_a_log_that_cannot_be_written_fails_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("sys.stdout", Full())
    app._write("a line")
