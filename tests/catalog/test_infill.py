"""Prompts that fill in the middle: exact strings; and which template and which stop tokens weights need from us."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.catalog.chat_templates import Order, generation_config, infill, orders, template_for
from service.catalog.model import Chat, Infill, Model, Tokens
from tests.support.fleets import CATALOG

BEFORE, AFTER = "def f(x):\n    ", "\n    return y"
# For each family the prompt of each order that it knows, and what is left of it around nothing. Code Llama's pieces
# begin with U+2581 and DeepSeek's bars are U+FF5C; tests/catalog/test_templates.py checks the tokens of Code Llama's.
INFILLING: dict[str, dict[Order, tuple[str, str]]] = {
    "pebble": {
        "prefix_first": ("<PRE> def f(x):\n     <SUF>\n    return y <MID>", "<PRE> <SUF> <MID>"),
    },
    "code-llama": {
        "prefix_first": (
            "\u2581<PRE> def f(x):\n    \u2581<SUF>\n    return y\u2581<MID>",
            "\u2581<PRE>\u2581<SUF>\u2581<MID>",
        ),
        "suffix_first": (
            "\u2581<PRE>\u2581<SUF>\n    return y\u2581<MID> def f(x):\n    ",
            "\u2581<PRE>\u2581<SUF>\u2581<MID>",
        ),
    },
    "qwen2.5-coder": {
        "prefix_first": (
            "<|fim_prefix|>def f(x):\n    <|fim_suffix|>\n    return y<|fim_middle|>",
            "<|fim_prefix|><|fim_suffix|><|fim_middle|>",
        ),
    },
    "deepseek-coder": {
        "prefix_first": (
            "<\uff5cfim\u2581begin\uff5c>def f(x):\n    <\uff5cfim\u2581hole\uff5c>\n    return y"
            "<\uff5cfim\u2581end\uff5c>",
            "<\uff5cfim\u2581begin\uff5c><\uff5cfim\u2581hole\uff5c><\uff5cfim\u2581end\uff5c>",
        ),
    },
    "starcoder2": {
        "prefix_first": (
            "<fim_prefix>def f(x):\n    <fim_suffix>\n    return y<fim_middle>",
            "<fim_prefix><fim_suffix><fim_middle>",
        ),
    },
}
FILLING = [model for model in CATALOG.models.values() if model.infill]


def test_every_family_that_fills_in_is_tested() -> None:
    assert {CATALOG.family_of[model.id] for model in FILLING} == set(INFILLING)


@pytest.mark.parametrize("model", FILLING, ids=lambda model: model.id)
def test_the_prompts_of_a_model(model: Model) -> None:
    form = model.infill
    assert form
    golden = INFILLING[CATALOG.family_of[model.id]]
    assert {
        order: (infill(form, BEFORE, AFTER, order), infill(form, "", "", order)) for order in orders(form)
    } == golden


def test_an_order_that_a_model_was_not_trained_on() -> None:
    with pytest.raises(ValueError, match="suffix first"):
        infill(Infill(prompt="{prefix}{suffix}"), "a", "b", "suffix_first")


@pytest.mark.parametrize(
    ("prefix", "suffix"),
    [
        ("f'{suffix}'", "f'{prefix}'"),
        ("{prefix}{suffix}", "{suffix}{prefix}"),
        ("{0} {} {{x}} %s \\1 \\g<0>", "{'a': {1}}"),
        ("<SUF>", "<PRE>"),
        (" ", "  "),
    ],
)
def test_the_clients_own_code_stays_as_it_is(prefix: str, suffix: str) -> None:
    assert infill(Infill(prompt="<P>{prefix}<S>{suffix}<M>"), prefix, suffix) == f"<P>{prefix}<S>{suffix}<M>"


@given(st.text(min_size=1), st.text(min_size=1))
def test_the_suffix_may_come_first(prefix: str, suffix: str) -> None:
    form = Infill(prompt="<P>{prefix}<S>{suffix}", suffix_first="<S>{suffix}<P> {prefix}")
    assert infill(form, prefix, suffix, "suffix_first") == f"<S>{suffix}<P> {prefix}"
    assert infill(form, prefix, suffix) == f"<P>{prefix}<S>{suffix}"


# Whose template


FALLBACK = Chat(fallback="chatml.jinja")


@pytest.mark.parametrize(
    ("chat", "files", "template"),
    [
        (Chat(template="a.jinja"), {}, "a.jinja"),
        (Chat(template="a.jinja"), {"chat_template.jinja": "x"}, "a.jinja"),
        (Chat(), {}, None),
        (FALLBACK, {}, "chatml.jinja"),
        (FALLBACK, {"tokenizer_config.json": '{"chat_template": null}'}, "chatml.jinja"),
        (FALLBACK, {"tokenizer_config.json": "{"}, "chatml.jinja"),
        (FALLBACK, {"tokenizer_config.json": "[]"}, "chatml.jinja"),
        (FALLBACK, {"tokenizer_config.json": '{"chat_template": "x"}'}, None),
        (FALLBACK, {"tokenizer_config.json": '{"chat_template": [{"name": "default", "template": "x"}]}'}, None),
        (FALLBACK, {"chat_template.json": '{"chat_template": "x"}'}, None),
        (FALLBACK, {"chat_template.jinja": "x", "tokenizer_config.json": "{}"}, None),
    ],
)
def test_a_fallback_is_for_weights_without_a_template(
    chat: Chat, files: dict[str, str], template: str | None, tmp_path: Path
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    assert template_for(chat, tmp_path) == template


def test_weights_that_nobody_can_see_have_their_own_template(tmp_path: Path) -> None:
    assert template_for(FALLBACK, None) is None
    assert template_for(FALLBACK, tmp_path / "gone") is None
    assert template_for(Chat(template="a.jinja"), None) == "a.jinja"


# What ends a turn where a request cannot say it


@pytest.mark.parametrize(
    ("own", "config"),
    [
        (None, {"eos_token_id": [2, 32015]}),
        ({"eos_token_id": 2, "temperature": 0.6}, {"eos_token_id": [2, 32015], "temperature": 0.6}),
        ({"eos_token_id": [2, 7]}, {"eos_token_id": [2, 7, 32015]}),
        ({"eos_token_id": None}, {"eos_token_id": [32015]}),
        ({"eos_token_id": [32015, 2]}, None),
        ({"eos_token_id": 32015}, None),
    ],
)
def test_stop_tokens_join_what_the_weights_say(
    own: dict[str, Any] | None, config: dict[str, Any] | None, tmp_path: Path
) -> None:
    if own is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(own))
    model = Model(id="m", variant="chat", hub="a/b", tokens=Tokens(eos=(2,)), chat=Chat(stop_token_ids=(32015,)))
    assert generation_config(model, tmp_path) == config


def test_nothing_is_said_where_nothing_is_known(tmp_path: Path) -> None:
    stops = Chat(stop_token_ids=(7,))
    assert generation_config(Model(id="m", variant="chat", hub="a/b", chat=stops), None) is None
    assert generation_config(Model(id="m", variant="chat", hub="a/b", chat=stops), tmp_path / "gone") is None
    assert generation_config(Model(id="m", variant="chat", hub="a/b", chat=Chat(stop=("x",))), tmp_path) is None
    assert generation_config(Model(id="m", variant="base", hub="a/b"), tmp_path) is None
