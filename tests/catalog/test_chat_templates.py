"""Which template and which stop tokens the weights in a folder get from the catalogue."""

import json
from pathlib import Path
from typing import Any

import pytest

from service.catalog.chat_templates import generation_config, own_template, template_for
from service.catalog.model import Chat, Model, Tokens

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
def test_fallback_is_only_used_for_weights_without_a_template(
    chat: Chat, files: dict[str, str], template: str | None, tmp_path: Path
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    assert template_for(chat, tmp_path) == template


@pytest.mark.parametrize(
    ("files", "text"),
    [
        ({}, None),
        ({"chat_template.jinja": "x", "tokenizer_config.json": '{"chat_template": "y"}'}, "x"),
        ({"tokenizer_config.json": '{"chat_template": "y"}'}, "y"),
        ({"chat_template.json": '{"chat_template": "z"}'}, "z"),
        (
            {"tokenizer_config.json": '{"chat_template": [{"name": "rag", "template": "r"}, '
                                      '{"name": "default", "template": "d"}]}'},
            "d",
        ),
        ({"tokenizer_config.json": '{"chat_template": [{"name": "tool_use", "template": "t"}]}'}, "t"),
    ],
)  # fmt: skip
def test_text_of_the_weights_own_template(files: dict[str, str], text: str | None, tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    assert own_template(tmp_path) == text


def test_fallback_is_not_used_if_the_folder_is_unknown(tmp_path: Path) -> None:
    assert template_for(FALLBACK, None) is None
    assert template_for(FALLBACK, tmp_path / "gone") is None
    assert template_for(Chat(template="a.jinja"), None) == "a.jinja"


# Stop tokens in generation_config.json


@pytest.mark.parametrize(
    ("own", "config"),
    [
        (None, {"eos_token_id": [2, 32015]}),
        ({"eos_token_id": 2, "temperature": 0.6}, {"eos_token_id": [2, 32015], "temperature": 0.6}),
        ({"eos_token_id": [2, 7]}, {"eos_token_id": [2, 7, 32015]}),
        ({"eos_token_id": None}, {"eos_token_id": [32015]}),
        ({"eos_token_id": [32015, 2]}, None),
        ({"eos_token_id": 32015}, None),
        ({"eos_token_id": 2.5}, {"eos_token_id": [32015]}),
        ({"eos_token_id": ["x", 2]}, {"eos_token_id": [2, 32015]}),
    ],
)
def test_stop_tokens_are_added_to_eos_token_id(
    own: dict[str, Any] | None, config: dict[str, Any] | None, tmp_path: Path
) -> None:
    if own is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(own))
    model = Model(id="m", variant="chat", hub="a/b", tokens=Tokens(eos=(2,)), chat=Chat(stop_token_ids=(32015,)))
    assert generation_config(model, tmp_path) == config


def test_no_generation_config_without_stop_tokens_or_folder(tmp_path: Path) -> None:
    stops = Chat(stop_token_ids=(7,))
    assert generation_config(Model(id="m", variant="chat", hub="a/b", chat=stops), None) is None
    assert generation_config(Model(id="m", variant="chat", hub="a/b", chat=stops), tmp_path / "gone") is None
    assert generation_config(Model(id="m", variant="chat", hub="a/b", chat=Chat(stop=("x",))), tmp_path) is None
    assert generation_config(Model(id="m", variant="base", hub="a/b"), tmp_path) is None
