"""Golden prompts and the shapes of live requests, as files give them."""

import json
from pathlib import Path

import pytest

from service.config.strict_yaml import ConfigError
from service.upgrade import golden, shapes
from service.upgrade.gate import check_context
from service.upgrade.shapes import LiveShape
from tests.support.each import each
from tests.support.fleets import ROOT

LINE = '{"messages": [{"role": "user", "content": "Hi"}]}\n'


@each("path", sorted((ROOT / "models/golden").glob("*.jsonl")), ids=lambda path: path.name)
def test_the_prompts_of_each_variant_can_be_read(path: Path) -> None:
    found = golden.read(path)
    assert len(found) >= 8
    assert {one.path for one in found} == {
        "/v1/completions" if path.stem in ("base", "code") else "/v1/chat/completions"
    }


def test_every_variant_that_generates_text_has_prompts() -> None:
    names = {path.stem for path in (ROOT / "models/golden").glob("*.jsonl")}
    assert names == {"base", "chat", "instruct", "code", "guard"}


@each(
    ("line", "problem"),
    [
        ("{", "2: line: is no JSON"),
        ("{}", "2: line: has to have either 'messages' or 'prompt'"),
        ('{"prompt": "a", "messages": [{}]}', "2: line: has to have either"),
        ('{"prompt": "a", "tools": [{}]}', "2: line: 'tools' go with 'messages'"),
        ('{"prompt": "a", "max_tokens": 0}', "2: max_tokens: Input should be greater than or equal to 1"),
        ('{"prompt": "a", "temperature": 1}', "2: temperature: unknown key"),
    ],
)
def test_a_mistake_names_file_line_and_key(line: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "golden.jsonl"
    path.write_text(f"{LINE}{line}\n")
    with pytest.raises(ConfigError) as caught:
        golden.read(path)
    assert f"{path}:{problem}" in str(caught.value)


def test_prompts_that_do_not_fit_the_context_are_named(tmp_path: Path) -> None:
    path = tmp_path / "golden.jsonl"
    path.write_text(f'{LINE}\n{{"prompt": "a b", "max_tokens": 9}}\n')
    prompts = golden.read(path)
    check_context(prompts, [[1] * 3, [1] * 91], "m", 100)
    check_context(prompts, [[1] * 3, [1] * 5000], "m", None)
    with pytest.raises(ConfigError) as caught:
        check_context(prompts, [[1] * 3, [1] * 92], "m", 100)
    assert caught.value.problems == [
        f"{path}:3: prompt: its 92 tokens and max_tokens 9 exceed the context of 100 tokens of 'm'"
    ]


def row(**fields: object) -> str:
    return json.dumps(
        {"event": "request", "endpoint": "/v1/chat/completions", "model": "m", "outcome": "complete",
         "prompt_tokens": 5, "completion_tokens": 7, "tools": False, "temperature": None, **fields}
    )  # fmt: skip


def test_shapes_are_those_of_completed_requests_of_the_model(tmp_path: Path) -> None:
    path = tmp_path / "log"
    lines = [row(), row(model="other"), row(outcome="failed"), row(event="reload"), row(endpoint="/v1/embeddings"),
             row(prompt_tokens=500, tools=True, temperature=0.5), row(completion_tokens=0), "ready",
             row()[:9]]  # fmt: skip
    path.write_text("roundhouse  starting m\n" + "\n".join(lines))
    long, short = shapes.read(path, "m", 5)
    assert (long, short) == (
        LiveShape("/v1/chat/completions", 500, 7, tools=True, temperature=0.5), LiveShape("/v1/chat/completions", 5, 7)
    )  # fmt: skip
    assert shapes.read(path, "m", 1) == [long], "the longest is always among them"
    where, body = long.request("Hello")
    assert (where, body["max_tokens"], body["temperature"], len(body["tools"])) == ("/v1/chat/completions", 7, 0.5, 1)
    assert LiveShape("/v1/completions", 1, 2).request("Hello")[1]["prompt"] == "Hello"


@each(("text", "problem"), [("", "has no completed request of 'm'"), ("12:00 200 /v1/x\n", "is no log in JSON")])
def test_what_is_no_log_is_refused(text: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "log").write_text(text)
    with pytest.raises(ConfigError, match=problem):
        shapes.read(tmp_path / "log", "m", 5)
