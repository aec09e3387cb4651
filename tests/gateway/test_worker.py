"""How a process of the gateway listens: alone as uvicorn does, and beside others so that they share connections."""

import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import uvicorn

from service.config.settings import Settings
from service.gateway import process, worker
from service.server.shared_listener import SharedServer
from tests.support.fleets import CATALOG


@pytest.mark.parametrize(("workers", "kind"), [(1, uvicorn.Server), (2, SharedServer)])
def test_only_several_workers_share_connections(
    workers: int, kind: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[tuple[Any, int]] = []

    def run(server: uvicorn.Server, sockets: list[socket.socket]) -> None:
        served.append((type(server), sockets[0].fileno()))
        sockets[0].close()
        if isinstance(server, SharedServer):
            server._counts.bell.close()

    monkeypatch.setattr(uvicorn.Server, "run", run)
    monkeypatch.setattr(process, "GatewayProcess", lambda *_: SimpleNamespace(is_ready=None, start=None, stop=None))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        descriptor = listener.detach()
    options = worker.parsed(["x", "--service-name", "gateway", "--fd", str(descriptor), "--worker-id", "1"])
    worker.serve(options, Settings(run_dir=tmp_path, workers=workers), CATALOG, cast(Any, None), None)
    assert served == [(kind, descriptor)]
    assert (tmp_path / "connections").exists() == (workers > 1), "one worker has nothing of this"
