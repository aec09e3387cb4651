"""Two LoRA adapters and their base on one real engine: three right answers at once, added and removed while it runs;
and evaluated, by an embedding model and a judge of the same service.
"""

import asyncio
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from models.pebble import adapter_skills, skills
from models.pebble.adapter_skills import ADAPTERS, BASE
from models.pebble.skills import Case
from service.cli.__main__ import main
from service.engine import state
from tests.support.fleets import ROOT
from tests.support.services import Service, serving, wait_for

pytestmark = pytest.mark.engine

TRIAGE, REPLY = ADAPTERS
FOLDER = ROOT / "models/pebble/adapters"
ENGINE = (ROOT / "deploy/fleets/pebble.yaml").read_text().partition("engine:")[2]
# The context has room for the prompt and the answer of a judge, which the base is, too: it must have been built for it.
LONG = "{max_model_len: 4096, hf_overrides: {max_position_embeddings: 4096}}"
EMBEDDER = "pebble-embedder"
FLEET = f"""
models:
  - {{model: {ROOT}/models/pebble/pebble-base, id: {EMBEDDER}, variant: embedding}}
  - model: {BASE}
    engine: {LONG}
    adapters:
      - {{id: {TRIAGE}, path: {FOLDER / TRIAGE}, aliases: [desk]}}
engine:{ENGINE}
"""
COUNT = 10  # held-out cases of each


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a fleet of one model with an adapter."""
    file = tmp_path_factory.mktemp("adapters") / "fleet.yaml"
    file.write_text(FLEET)
    return file


@pytest.fixture(scope="module")
def service(fleet: Path) -> Iterator[Service]:
    with serving(fleet, fleet.parent / "run") as one:
        yield one


async def ask(client: httpx.AsyncClient, model: str, case: Case) -> str:
    body = {"model": model, "messages": [one.json() for one in case.messages], "temperature": 0, "max_tokens": 60}
    response = await client.post("/v1/chat/completions", json=body)
    response.raise_for_status()
    assert response.headers["x-roundhouse-model"] in (*ADAPTERS, BASE)
    answer: str = response.json()["choices"][0]["message"]["content"]
    return answer.strip()


async def answers(service: Service, asked: Sequence[tuple[str, Case]]) -> list[str]:
    """The answers of each model to its case, all asked at once."""
    async with httpx.AsyncClient(base_url=service.url, timeout=300, trust_env=False, verify=False) as client:
        return await asyncio.gather(*(ask(client, model, case) for model, case in asked))


def right(service: Service, *asked: tuple[str, Sequence[Case]], count: int = COUNT) -> list[float]:
    """The share of cases that each model answers exactly, with those of all models at the engine at once."""
    pairs = [(model, cases[position]) for position in range(count) for model, cases in asked]
    got = asyncio.run(answers(service, pairs))
    shares = []
    for number in range(len(asked)):
        own = [(pairs[at], got[at]) for at in range(number, len(pairs), len(asked))]
        shares.append(sum(answer == case.answer for (_, case), answer in own) / count)
    return shares


def has_skill(service: Service, model: str, cases: Sequence[Case]) -> bool:
    """Whether the model answers most of the cases; not while it is being loaded."""
    try:
        return right(service, (model, cases))[0] >= 0.8
    except httpx.HTTPStatusError as error:
        assert error.response.status_code == 503 and error.response.json()["error"]["code"] == "model_loading"
        assert int(error.response.headers["retry-after"]) >= 1
        return False


def pid(service: Service) -> int | None:
    found = state.read(service.run_dir, 1)
    assert found
    return found.pid


def loaded(service: Service) -> dict[str, str | None]:
    found = state.read(service.run_dir, 1)
    assert found
    return found.adapters


def row(service: Service, id: str) -> dict[str, Any] | None:
    return service.models().get(id)


def is_ready(service: Service, id: str) -> bool:
    found = row(service, id)
    return found is not None and found["state"] == "ready"


def test_an_evaluation_says_where_a_fine_tune_wins_and_where_it_loses(service: Service, tmp_path: Path) -> None:
    cases = (FOLDER / "cases.jsonl").read_text().splitlines(keepends=True)
    held_out = [line for line in cases if '"held_out"' in line and '"reply"' not in line]
    (tmp_path / "cases.jsonl").write_text("".join(held_out[::3]))  # eight of each category
    line = ["evaluate", str(tmp_path / "cases.jsonl"), "--model", TRIAGE, "--against", BASE, "--url", service.url]
    words = ("--embedding-model", EMBEDDER, "--judge", BASE, "--run", str(tmp_path / "run"), "--max-tokens", "60")
    result = CliRunner().invoke(main, [*line, *words, "--json", str(tmp_path / "r.json")])
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "r.json").read_text())
    groups = {one["name"]: one["metrics"] for one in report["groups"]}
    for metric in ("exact-match", "rouge-l", "similarity"):
        assert groups["triage"][metric]["verdict"] == "better", groups
        assert groups["anything else"][metric]["verdict"] == "worse", "it was not shown that again while it learnt"
        assert report["metrics"][metric]["cases"] == 32
    assert groups["triage"]["similarity"]["new"] == pytest.approx(1, abs=1e-4)
    assert f"{TRIAGE} is worse in category anything else" in result.output
    # The base knows nothing of judging, so its verdicts mean nothing; but its engine lets it say nothing else.
    assert report["metrics"]["judge"]["cases"] == 32 and not [note for note in report["notes"] if "missing" in note]
    spent = {one["what"]: one for one in report["spent"]}
    assert spent[f"verdict of {BASE}"]["completion_tokens"] and spent[f"embedding of {EMBEDDER}"]["prompt_tokens"]


def test_adapters_come_and_go_on_a_running_engine(service: Service, fleet: Path) -> None:
    engine, own = pid(service), skills.held_out("instruct", COUNT)
    triage, reply = (adapter_skills.held_out(name, COUNT) for name in ADAPTERS)
    assert row(service, REPLY) is None
    found = row(service, TRIAGE)
    assert found and (found["parent"], found["root"], found["aliases"]) == (BASE, TRIAGE, ["desk"])

    added = CliRunner().invoke(main, ["add", str(FOLDER / REPLY), "--fleet", str(fleet)])
    assert added.exit_code == 0, added.output
    wait_for(lambda: is_ready(service, REPLY), 60, f"{REPLY} is served without a restart")
    shares = right(service, (TRIAGE, triage), (REPLY, reply), (BASE, own))
    assert min(shares) >= 0.8, shares
    swapped = (BASE, triage), (BASE, reply), (TRIAGE, reply), (REPLY, triage)
    assert right(service, *swapped, count=4) == [0.0] * 4, "each has its own skill alone, in one batch with the others"
    assert asyncio.run(answers(service, [("desk", triage[0])])) == [triage[0].answer]

    fleet.write_text(FLEET.replace(str(FOLDER / TRIAGE), str(FOLDER / REPLY)))
    wait_for(lambda: row(service, REPLY) is None and is_ready(service, TRIAGE), 60, "one adapter, from another folder")
    # The engine caches by name and folder: the same prompt as before now has the other adapter's answer.
    wait_for(lambda: has_skill(service, TRIAGE, reply), 60, "the new weights under the old name")
    fleet.write_text(FLEET.partition("    adapters:")[0] + "engine:" + ENGINE)
    wait_for(lambda: row(service, TRIAGE) is None, 60, "the base alone")
    body = {"model": TRIAGE, "messages": [{"role": "user", "content": "Hello"}]}
    assert httpx.post(f"{service.url}/v1/chat/completions", json=body, verify=False).status_code == 404
    assert right(service, (BASE, own))[0] >= 0.8
    assert pid(service) == engine, "no restart"
    usage = httpx.get(f"{service.url}/metrics", verify=False).text
    assert f'model="{TRIAGE}"' in usage and f'model="{REPLY}"' in usage


def test_no_client_reaches_what_loads_adapters(service: Service) -> None:
    for path in ("/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/adapters"):
        body = {"lora_name": "x", "lora_path": "/tmp", "name": "x", "src": "/tmp"}
        assert httpx.post(service.url + path, json=body, verify=False).status_code == 404
    wait_for(lambda: not loaded(service), 60, "the engine has unloaded what the fleet file has no more")
