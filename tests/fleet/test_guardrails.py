"""Guardrails of a fleet file: what is read, what is refused, and what a reload may change."""

from pathlib import Path

import pytest

from service.config.strict_yaml import ConfigError
from service.fleet.guardrail import Guardrail, Guardrails
from service.fleet.reload import needs_restart
from tests.support import fleets
from tests.support.each import each

MODELS = """
models:
  - model: pebble-chat
  - {model: pebble-instruct, guardrails: {}}
  - {model: pebble-code, guardrails: {output: [words]}}
  - {model: acme/tiny-embedding, id: embedder}
  - model: llama-guard-3-8b
  - {model: acme/my-guard, variant: guard, family: qwen3guard}
"""
STEPS = """
guardrails:
  safety: {model: llama-guard-3-8b, categories: [S1], timeout: 3, scope: turn}
  words: {url: "https://classifier.example/v1", on_error: pass}
  mine: {model: my-guard}
default_guardrails: {input: [words, safety]}
"""
SAFETY = Guardrail(
    "safety", "llama-guard-3-8b", "llama-guard", timeout=3, categories=frozenset({"S1"}), scope="turn"
)  # fmt: skip
WORDS = Guardrail("words", url="https://classifier.example/v1", on_error="pass")


def test_each_model_has_its_steps(tmp_path: Path) -> None:
    fleet = fleets.load(tmp_path, MODELS + STEPS)
    assert fleet.guardrails == {"safety": SAFETY, "words": WORDS, "mine": Guardrail("mine", "my-guard", "qwen3guard")}
    around = {served.id: served.guardrails for served in fleet.served}
    none = Guardrails()
    assert around == {
        "pebble-chat": Guardrails((WORDS, SAFETY)),
        "pebble-instruct": none,
        "pebble-code": Guardrails((), (WORDS,)),
        "embedder": none,
        "llama-guard-3-8b": none,
        "my-guard": none,
    }


def test_a_reload_changes_them_while_engines_run(tmp_path: Path) -> None:
    before, after = fleets.load(tmp_path, MODELS.replace("[words]", "[]")), fleets.load(tmp_path, MODELS + STEPS)
    assert before.guardrails == {}
    assert not needs_restart(before, after)
    assert not needs_restart(after, before)


def step(text: str) -> str:
    return f"models:\n- model: pebble-chat\n- model: llama-guard-3-8b\n- model: gpt-oss-safeguard-20b\n{text}"


@each(
    ("text", "problem"),
    [
        ("guardrails: {a: {}}", "5: guardrails.a: needs either 'model', a served guard, or 'url'"),
        ("guardrails: {a: {model: llama-guard-3-8b, url: 'https://x'}}", "5: guardrails.a: needs either"),
        ("guardrails:\n  a:\n    model: pebble-code", "7: guardrails.a.model: 'pebble-code' is not the id of a served"),
        ("guardrails:\n  a:\n    model: pebble-chat", "7: guardrails.a.model: 'pebble-chat' is no guard whose"),
        ("guardrails: {a: {model: gpt-oss-safeguard-20b}}", "5: guardrails.a.model: 'gpt-oss-safeguard-20b' is no"),
        ("guardrails: {a: {model: llama-guard-3-8b, categories: [S1, S15]}}", "5: guardrails.a.categories: 'S15' is"),
        ("guardrails: {a: {model: llama-guard-3-8b, categories: []}}", "5: guardrails.a.categories: "),
        ("guardrails: {a: {model: llama-guard-3-8b, timeout: 31}}", "5: guardrails.a.timeout: "),
        ("guardrails: {a: {model: llama-guard-3-8b, window: 5}}", "5: guardrails.a.window: "),
        ("guardrails: {a: {model: llama-guard-3-8b, key: x}}", "5: guardrails.a.key: unknown key"),
        ("guardrails: {a: {url: 'http://classifier.example/'}}", "5: guardrails.a.url: would send texts"),
        ("guardrails: {a: {url: 'http://10.0.0.1/'}}", "5: guardrails.a.url: would send texts"),
        ("guardrails: {a: {url: 'http://localhost.example/'}}", "5: guardrails.a.url: would send texts"),
        ("guardrails: {a: {url: 'https://me:pw@x/'}}", "5: guardrails.a.url: should be 'https:"),
        ("guardrails: {a: {url: 'https://x:99999/'}}", "5: guardrails.a.url: should be 'https:"),
        ("guardrails: {a: {url: \"https://x/ HTTP/1.1\\r\\nx: y\"}}", "5: guardrails.a.url: should be"),
        ("guardrails: {a: {url: 'file:///etc/passwd'}}", "5: guardrails.a.url: should be 'https:"),
        ("guardrails: {a: {url: 'unix:c.sock:/v1'}}", "5: guardrails.a.url: should be 'https:"),
        ("default_guardrails:\n  input: [a]", "6: default_guardrails.input[0]: 'a' is not one of the 'guardrails'"),
        ("guardrails: {a: {model: llama-guard-3-8b}}\ndefault_guardrails:\n  output: [a, a]",
         "7: default_guardrails.output[1]: 'a' is listed twice"),
    ],
)  # fmt: skip
def test_mistakes_have_file_line_and_key(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        fleets.load(tmp_path, step(text))
    (found,) = caught.value.problems
    assert found.startswith(f"{tmp_path}/fleet.yaml:{problem}"), found


def test_what_generates_no_text_for_clients_has_none(tmp_path: Path) -> None:
    text = "guardrails: {a: {model: llama-guard-3-8b}}\nmodels:\n- {model: pebble-chat}\n"
    for entry in ("{model: acme/tiny-embedding, guardrails: {input: [a]}}\n- {model: llama-guard-3-8b}",
                  "{model: llama-guard-3-8b, guardrails: {output: [a]}}"):  # fmt: skip
        with pytest.raises(ConfigError, match=r"answers no requests that guardrails judge"):
            fleets.load(tmp_path, f"{text}- {entry}")


def test_loopback_addresses_and_sockets_may_be_plain(tmp_path: Path) -> None:
    for url in (
        "http://127.0.0.1:8000/x",
        "http://[::1]:80/",
        "http://localhost/",
        "unix:/run/c.sock:/v1",
        "https://x",
    ):
        fleet = fleets.load(tmp_path, step(f"guardrails: {{a: {{url: '{url}'}}}}"))
        assert fleet.guardrails["a"].url == url
