"""Programs for the command line: aider, llm, the evaluation harness and vLLM's own load generator."""

import json
import sys
from pathlib import Path

import pytest

from tests.clients.programs import CLIENT, Desk, python
from tests.fake_engine import Call, FakeEngine, Script
from tests.support.fleets import ROOT
from tests.support.gateways import RunningGateway

pytestmark = CLIENT

TASK = "Write the word hello into hello.txt."
END = "The file hello.txt is written."
TOKENIZER = ROOT / "models/pebble/pebble-chat"
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
WRITE_FILE = """
def write_file(path: str, content: str) -> str:
    "Write a file."
    from pathlib import Path
    Path(path).write_text(content)
    return "written"
"""


def url(gateway: RunningGateway) -> str:
    return f"http://127.0.0.1:{gateway.port}"


def assert_all_answered(gateway: RunningGateway) -> None:
    assert {line["outcome"] for line in gateway.lines} == {"complete"}


async def test_aider_edits_a_file(gateway: RunningGateway, engine: FakeEngine, desk: Desk) -> None:
    engine.agent = Script((), f"{END}\n\nhello.txt\n```\nhello\n```\n")
    assert (await desk.connect("aider", url(gateway), "--write")).status == 0
    aider = python("aider", venv="clients-aider")
    options = ("--yes-always", "--no-git", "--no-check-update", "--analytics-disable", "--no-detect-urls")
    done = await desk.run(aider, *options, "--message", TASK, "hello.txt")
    assert done.status == 0, done
    assert END in done.stdout
    assert (desk.work / "hello.txt").read_text() == "hello\n"
    assert_all_answered(gateway)


@pytest.mark.parametrize("options", [(), ("--no-stream",)], ids=["streamed", "whole"])
async def test_llm_calls_a_tool_and_goes_on(
    options: tuple[str, ...], gateway: RunningGateway, engine: FakeEngine, desk: Desk
) -> None:
    engine.agent = Script((Call("write_file", json.dumps({"path": "hello.txt", "content": "hello\n"})),), END)
    assert (await desk.connect("llm", url(gateway), "--write")).status == 0
    done = await desk.run(python("llm"), "-m", "qwen3-8b", "--key", "none", "--functions", WRITE_FILE, *options, TASK)
    assert done.status == 0, done
    assert done.stdout.strip() == END
    assert (desk.work / "hello.txt").read_text() == "hello\n"
    again = await desk.run(python("llm"), "-c", "--key", "none", *options, "And now?")
    assert again.stdout.strip() == END, again
    assert_all_answered(gateway)


async def test_lm_eval_generates(gateway: RunningGateway, desk: Desk) -> None:
    """Prompts as lists of token ids, and five stop texts."""
    data = desk.work / "data.jsonl"
    data.write_text('{"question": "one two", "answer": "3 4"}\n')
    (desk.work / "echo.yaml").write_text(
        f"""
task: echo
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["a1", "b2", "c3", "d4"], max_gen_toks: 4}}
metric_list: [{{metric: exact_match}}]
"""
    )
    arguments = f"model=qwen3-8b,base_url={url(gateway)}/v1/completions,tokenizer={TOKENIZER},num_concurrent=1"
    done = await desk.run(
        python("lm_eval"), "run", "--model", "local-completions", "--model_args", arguments,
        "--include_path", str(desk.work), "--tasks", "echo", OPENAI_API_KEY="none", **OFFLINE,
    )  # fmt: skip
    assert done.status == 0, done
    assert "exact_match" in done.stdout
    (line,) = [line for line in gateway.lines if line["endpoint"] == "/v1/completions"]
    assert line["outcome"] == "complete"
    (seen,) = gateway.seen
    assert isinstance(seen.json["prompt"][0], list)
    assert len(seen.json["stop"]) == 5


@pytest.mark.parametrize("backend", ["openai", "openai-chat"])
async def test_vllm_bench_serve_measures(backend: str, gateway: RunningGateway, desk: Desk) -> None:
    path = "/v1/completions" if backend == "openai" else "/v1/chat/completions"
    options = {
        "--backend": backend, "--base-url": url(gateway), "--endpoint": path, "--model": "qwen3-8b",
        "--tokenizer": TOKENIZER, "--dataset-name": "random", "--random-input-len": "8", "--random-output-len": "4",
        "--num-prompts": "4",
    }  # fmt: skip
    program = Path(__file__).parent / "python" / "vllm_bench.py"
    words = [str(word) for pair in options.items() for word in pair]
    done = await desk.run(sys.executable, program, *words, **OFFLINE, VLLM_NO_USAGE_STATS="1")
    assert done.status == 0, done
    results = dict(line.split(":") for line in done.stdout.splitlines() if line.startswith(("Successful", "Failed")))
    assert {name: int(count) for name, count in results.items()} == {"Successful requests": 4, "Failed requests": 0}
    assert gateway.seen[-1].json["ignore_eos"] is True
    assert {line["status"] for line in gateway.lines} == {200}
    assert "/tokenize" in {line["endpoint"] for line in gateway.lines}
