"""Stored responses of the whole service: two gateway workers, a real engine, the official SDK, and a SIGKILL."""

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.support.services import PATIENCE, Service, descendants_of, serving, wait_for

if TYPE_CHECKING:
    import openai

pytestmark = pytest.mark.engine


def fleet_with(engine: Path, folder: Path) -> Path:
    """A fleet of one model, whose engine somebody else has started: it outlives the service."""
    (file := folder / "fleet.yaml").write_text(f"models: [{{model: pebble-chat, addresses: ['{engine}']}}]\n")
    return file


def client_of(service: Service) -> "openai.OpenAI":
    import openai

    return openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0)


def kill_all(service: Service) -> None:
    """SIGKILL to the service and to all that it started, as when a machine's memory is exhausted."""
    for process in [psutil.Process(service.process.pid), *descendants_of(service.run_dir)]:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    service.process.wait(PATIENCE)


def test_conversations_survive_a_killed_service(pebble: Service, tmp_path: Path) -> None:
    fleet, folder = fleet_with(pebble.socket_of(0), tmp_path), tmp_path / "responses"
    with serving(fleet, tmp_path / "one", workers=2, responses_dir=folder) as service, client_of(service) as client:
        introduction = "Hello! My name is Zorvina."
        first = client.responses.create(model="chat", input=introduction, temperature=0, max_output_tokens=40)
        second = client.responses.create(
            model="chat", input="What is my name?", previous_response_id=first.id, temperature=0, max_output_tokens=40
        )
        assert "Zorvina" in second.output_text
        assert second.previous_response_id == first.id
        stream = client.responses.create(
            model="chat", input="What is my name?", previous_response_id=first.id, temperature=0,
            max_output_tokens=40, stream=True,
        )  # fmt: skip
        assert list(stream)[-1].response.output_text == second.output_text  # type: ignore[union-attr]
        done = client.responses.create(model="chat", input="Hello!", background=True, max_output_tokens=5)
        wait_for(
            lambda: client.responses.retrieve(done.id).status in ("completed", "incomplete"), PATIENCE, "the run"
        )  # fmt: skip
        long = {"ignore_eos": True}
        cancelled = client.responses.create(model="chat", input="Hello!", background=True, extra_body=long)
        assert client.responses.cancel(cancelled.id).status == "cancelled"
        begun = client.responses.create(
            model="chat", input="Hello!", background=True, max_output_tokens=900, extra_body=long
        )  # fmt: skip
        assert client.responses.retrieve(begun.id).status == "in_progress"
        kill_all(service)
    with serving(fleet, tmp_path / "two", workers=2, responses_dir=folder) as service, client_of(service) as client:
        failed = client.responses.retrieve(begun.id)
        assert failed.status == "failed" and failed.error
        assert client.responses.retrieve(second.id).output_text == second.output_text
        items = client.responses.input_items.list(second.id, order="asc").data
        assert [item.type for item in items] == ["message", "message", "message"]
        third = client.responses.create(
            model="chat", input="What is my name?", previous_response_id=second.id, temperature=0, max_output_tokens=40
        )
        assert "Zorvina" in third.output_text
        log = service.log.read_text()
        assert "Zorvina" not in log and "responses" in log
