"""Drafting an entry from a model's files, and the list of what they do not say."""

from dataclasses import replace
from typing import Any

import pytest

from service.onboarding.draft import Overrides, draft
from service.onboarding.model_files import ModelFiles, OnboardingError, Tensors, read_model_files
from tests.support.fleets import ROOT

PEBBLE = read_model_files(ROOT / "models/pebble/pebble-chat")
OVERRIDES = Overrides("org/Pebble-v2-1m-chat", is_path=False)


def missing(files: ModelFiles, overrides: Overrides = OVERRIDES) -> str:
    return "\n".join(draft(overrides, files).missing)


def with_config(**changes: Any) -> ModelFiles:
    return replace(PEBBLE, config={**PEBBLE.config, **changes})


def test_entry_from_name_and_files() -> None:
    found = draft(OVERRIDES, PEBBLE)
    assert found.family == "pebble"
    assert found.fields["id"] == "pebble-v2-1m-chat"
    assert found.fields["hub"] == "org/Pebble-v2-1m-chat"
    assert (found.fields["variant"], found.fields["version"], found.fields["size"]) == ("chat", "2", "1m")
    assert found.fields["architecture"] == "LlamaForCausalLM"
    assert found.fields["parameters"] == 918656
    assert (found.fields["dtype"], found.fields["context"]) == ("bfloat16", 1024)
    assert found.fields["shape"]["num_key_value_heads"] == 4
    assert found.fields["tokens"] == {"bos": 1, "eos": [2]}
    assert found.fields["chat"] == {}
    assert [item.split(":")[0] for item in found.missing] == ["licence"]


def test_folder_is_written_as_path() -> None:
    found = draft(Overrides("/data/my-7b-base", is_path=True), PEBBLE)
    assert found.fields["path"] == "/data/my-7b-base"
    assert "hub" not in found.fields and "chat" not in found.fields


def test_overrides_take_precedence_over_the_name() -> None:
    overrides = Overrides(
        "/x/thing", True, id="mine", family="ours", variant="code", specialty="instruct", template="llama-2.jinja"
    )
    found = draft(overrides, PEBBLE)
    assert (found.family, found.fields["id"], found.fields["variant"]) == ("ours", "mine", "code")
    assert (found.fields["specialty"], found.fields["chat"]) == ("instruct", {"template": "llama-2.jinja"})
    assert "infill format" in missing(PEBBLE, overrides)


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        (with_config(architectures=["NovelForCausalLM"]), "the planner does not know the class 'NovelForCausalLM'"),
        (with_config(architectures=["Phi3SmallForCausalLM"]), "vLLM removed Phi3SmallForCausalLM"),
        (with_config(vocab_size=None), "config.json does not give vocab_size"),
        (with_config(max_position_embeddings=None), "context length"),
        (replace(PEBBLE, template=None), "chat template"),
        (replace(PEBBLE, config={**PEBBLE.config, "eos_token_id": None}, generation={}), "end-of-text token"),
        (with_config(intermediate_size=512), "the files have 918656"),
    ],
)
def test_missing_facts_are_listed(files: ModelFiles, problem: str) -> None:
    assert problem in missing(files)
    assert problem not in missing(PEBBLE)


def test_unknown_class_gives_neither_architecture_nor_shape() -> None:
    fields = draft(OVERRIDES, with_config(architectures=["NovelForCausalLM"])).fields
    assert not {"architecture", "shape"} & fields.keys()


@pytest.mark.parametrize(("names", "tied"), [({"lm_head.weight"}, False), ({"model.embed_tokens.weight"}, True)])
def test_tied_embeddings_are_derived_from_the_tensors(names: set[str], tied: bool) -> None:
    files = replace(with_config(tie_word_embeddings=None), tensors=Tensors(1, 2, "bfloat16", frozenset(names)))
    assert draft(OVERRIDES, files).fields["shape"]["tie_word_embeddings"] is tied


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (Overrides("org/Mystery-7b", False), "no variant can be derived from .*: give base, chat"),
        (Overrides("/x/…", True, variant="base"), "no id can be derived"),
        (Overrides("org/x-base", False, template="llama-2.jinja"), "has no chat template: leave out"),
    ],
)
def test_error_if_only_the_user_can_give_it(overrides: Overrides, problem: str) -> None:
    with pytest.raises(OnboardingError, match=problem):
        draft(overrides, PEBBLE)


def test_contradictory_config_is_an_error() -> None:
    with pytest.raises(OnboardingError, match="cannot share"):
        draft(OVERRIDES, with_config(num_key_value_heads=3))


def test_parsers_follow_from_the_chat_template() -> None:
    hermes = replace(PEBBLE, template='<tool_call>{"name": {{ name }}}</tool_call>')
    overrides = Overrides("org/x-7b-chat", False)
    assert draft(overrides, hermes).fields["engine"] == {"enable_auto_tool_choice": True, "tool_call_parser": "hermes"}
    assert "engine" not in draft(replace(overrides, template="llama-2.jinja"), hermes).fields
    assert "engine" not in draft(Overrides("org/x-7b-base", False), hermes).fields
    assert "engine" not in draft(overrides, PEBBLE).fields
