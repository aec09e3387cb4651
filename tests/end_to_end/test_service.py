"""What the whole service promises besides answers: the engine's own bytes, freed engines, recovery, a clean end."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from bench.load import ask
from bench.skills import measured
from models.pebble import skills
from service.engine import state
from service.transport.pool import ConnectionPool
from tests.support.services import PATIENCE, ROOT, Service, descendants_of, serving, wait_for

pytestmark = pytest.mark.engine


def test_greedy_answers_are_the_engine_s_own(pebble: Service) -> None:
    async def both(number: int) -> tuple[str, str]:
        messages = [{"role": "user", "content": f"My name is Person{number}."}]
        fields = {"model": "pebble-chat", "messages": messages, "temperature": 0, "max_tokens": 30}
        transport = ConnectionPool()
        ours = await ask(transport, pebble.url.removeprefix("http://"), fields)
        theirs = await ask(transport, str(pebble.socket_of(0)), fields)
        transport.close()
        return ours.text, theirs.text

    for number in range(10):
        ours, theirs = asyncio.run(both(number))
        assert ours == theirs


@pytest.mark.parametrize("variant", skills.VARIANTS)
def test_each_variant_shows_its_skill_only_in_its_own_format(pebble: Service, variant: skills.Variant) -> None:
    row = measured(pebble.url, None, variant, skills.held_out(variant, 40, seed=7), direct=False, show=0)
    assert row.own_format >= 90, row
    assert row.wrong_template < 20, row
    assert row.wrong_variant < 20, row


def test_bentoml_s_own_paths_are_hidden_and_its_probes_are_not(pebble: Service) -> None:
    assert httpx.get(pebble.url, timeout=PATIENCE).json()["service"] == "roundhouse"
    for path in ("/docs.json", "/schema.json", "/static_content/index.html"):
        assert httpx.get(pebble.url + path, timeout=PATIENCE).status_code == 404
    assert httpx.get(pebble.url + "/livez", timeout=PATIENCE).status_code == 200
    assert httpx.get(pebble.url + "/readyz", timeout=PATIENCE).status_code == 200


def test_metrics_count_what_was_answered(pebble: Service) -> None:
    httpx.post(f"{pebble.url}/v1/completions", json={"model": "base", "prompt": "x", "max_tokens": 3}, timeout=PATIENCE)
    text = httpx.get(f"{pebble.url}/metrics", timeout=PATIENCE).text
    row = 'roundhouse_tokens_total{endpoint="/v1/completions",kind="completion",model="pebble-base",variant="base"}'
    assert any(line.startswith(row) and float(line.split()[-1]) > 0 for line in text.splitlines())


def fleet_of_one(folder: Path) -> Path:
    """A fleet of pebble-base that lets a test ask for long answers."""
    settings = {"enforce_eager": True, "max_model_len": 1024, "max_num_seqs": 8}
    path = folder / "fleet.yaml"
    path.write_text(
        json.dumps(
            {
                "models": [{"model": "pebble-base"}],
                "extra_fields": ["ignore_eos"],
                "engine": settings,
                "env": {"VLLM_CPU_KVCACHE_SPACE": 1, "TORCHDYNAMO_DISABLE": 1},
            }
        )
    )
    return path


def test_nothing_outlives_a_killed_service(tmp_path: Path) -> None:
    with serving(fleet_of_one(tmp_path), tmp_path / "run", until_ready=False) as service:
        wait_for(lambda: has_engine(service), PATIENCE, "an engine process")
        service.process.kill()
        service.process.wait()
        wait_for(lambda: not descendants_of(service.run_dir), PATIENCE, "every process gone")


def has_engine(service: Service) -> bool:
    first = state.read(service.run_dir, 0)
    return first is not None and first.pid is not None and first.phase == "reading the model's configuration"


def test_a_mistake_in_the_fleet_is_told_without_a_traceback(tmp_path: Path) -> None:
    fleet = tmp_path / "fleet.yaml"
    fleet.write_text("models:\n  - model: pebble-chat\n    replica: 2\n")
    environment = os.environ | {"ROUNDHOUSE_FLEET": str(fleet)}
    for command in (["service.cli", "serve"], ["bentoml", "serve"]):
        done = subprocess.run(
            [sys.executable, "-m", *command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode != 0
        assert f"{fleet}:3: models[0].replica: unknown key" in done.stderr
        assert "Traceback" not in done.stderr
