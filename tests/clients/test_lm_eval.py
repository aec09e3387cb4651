"""The evaluation harness scores answers by their log probabilities, which only a real engine has."""

import json
import re
from collections.abc import Iterator

import pytest

from models.pebble import skills
from tests.clients.programs import CLIENT, Desk, python, skip_if_missing
from tests.support.services import ROOT, Service, serving

pytestmark = [pytest.mark.engine, *CLIENT[:1]]

MODEL = "pebble-base"
TASK = """
task: continuation
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{text}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: 0
metric_list: [{{metric: acc}}]
"""


def rows() -> list[dict[str, object]]:
    """Stories that the model has not seen, with the right name first and one from another story beside it."""
    cases = [case for case in skills.held_out("base", 40, 1) if case.skill == "story"][:8]
    others = [*cases[1:], cases[0]]
    return [
        {"text": case.prompt, "choices": [case.answer.strip(), other.answer.strip()]}
        for case, other in zip(cases, others, strict=True)
    ]


@pytest.fixture(scope="module")
def one_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    skip_if_missing((python("lm_eval"),))  # before an engine is started for nothing
    folder = tmp_path_factory.mktemp("one")
    fleet = (ROOT / "deploy/fleets/pebble.yaml").read_text()
    others, aliases = r"  - model: pebble-(chat|instruct|code)\n", r"^aliases:\n(  .*\n)+"
    (folder / "fleet.yaml").write_text(re.sub(aliases, "", re.sub(others, "", fleet), flags=re.MULTILINE))
    with serving(folder / "fleet.yaml", folder / "run") as service:
        yield service


async def test_lm_eval_scores_choices(one_model: Service, desk: Desk) -> None:
    data = desk.work / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    (desk.work / "continuation.yaml").write_text(TASK.format(data=data))
    tokenizer = ROOT / "models/pebble" / MODEL
    arguments = f"model={MODEL},base_url={one_model.url}/v1/completions,tokenizer={tokenizer}"
    done = await desk.run(
        python("lm_eval"), "run", "--model", "local-completions", "--model_args", arguments,
        "--include_path", str(desk.work), "--tasks", "continuation",
        OPENAI_API_KEY="none", HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1",
    )  # fmt: skip
    assert done.status == 0, done
    (accuracy,) = re.findall(r"\|acc +\|[^|]*\| *([\d.]+)\|", done.stdout)
    assert float(accuracy) == 1.0, done
