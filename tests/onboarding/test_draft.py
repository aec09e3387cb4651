"""The drafted entry says what the files say, and names what they do not."""

from dataclasses import replace
from typing import Any

import pytest

from service.onboarding.description import Description, IntakeError, Weights, describe
from service.onboarding.draft import Overrides, draft
from tests.support.fleets import ROOT

PEBBLE = describe(ROOT / "models/pebble/pebble-chat")
SAID = Overrides("org/Pebble-v2-1m-chat", is_path=False)


def missing(description: Description, said: Overrides = SAID) -> str:
    return "\n".join(draft(said, description).unknown)


def with_config(**changes: Any) -> Description:
    return replace(PEBBLE, config={**PEBBLE.config, **changes})


def test_an_entry_from_a_name_and_its_files() -> None:
    found = draft(SAID, PEBBLE)
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
    assert [one.split(":")[0] for one in found.unknown] == ["its licence"]


def test_a_folder_becomes_a_path() -> None:
    found = draft(Overrides("/data/my-7b-base", is_path=True), PEBBLE)
    assert found.fields["path"] == "/data/my-7b-base"
    assert "hub" not in found.fields and "chat" not in found.fields


def test_what_the_user_says_counts_more_than_the_name() -> None:
    said = Overrides(
        "/x/thing", True, id="mine", family="ours", variant="code", specialty="instruct", template="llama-2.jinja"
    )
    found = draft(said, PEBBLE)
    assert (found.family, found.fields["id"], found.fields["variant"]) == ("ours", "mine", "code")
    assert (found.fields["specialty"], found.fields["chat"]) == ("instruct", {"template": "llama-2.jinja"})
    assert "fills in the middle" in missing(PEBBLE, said)


@pytest.mark.parametrize(
    ("description", "problem"),
    [
        (with_config(architectures=["NovelForCausalLM"]), "'NovelForCausalLM' is no class that the planner knows"),
        (with_config(architectures=["Phi3SmallForCausalLM"]), "vLLM removed Phi3SmallForCausalLM"),
        (with_config(vocab_size=None), "vocab_size are not in config.json"),
        (with_config(max_position_embeddings=None), "its context length"),
        (replace(PEBBLE, has_template=False), "its chat template"),
        (replace(PEBBLE, config={**PEBBLE.config, "eos_token_id": None}, generation={}), "which token ends a text"),
        (with_config(intermediate_size=512), "the files hold 918656"),
    ],
)
def test_names_what_is_missing(description: Description, problem: str) -> None:
    assert problem in missing(description)
    assert problem not in missing(PEBBLE)


def test_a_network_nobody_knows_has_neither_architecture_nor_shape() -> None:
    fields = draft(SAID, with_config(architectures=["NovelForCausalLM"])).fields
    assert not {"architecture", "shape"} & fields.keys()


@pytest.mark.parametrize(("names", "tied"), [({"lm_head.weight"}, False), ({"model.embed_tokens.weight"}, True)])
def test_the_tensors_show_whether_head_and_embeddings_are_one(names: set[str], tied: bool) -> None:
    description = replace(with_config(tie_word_embeddings=None), weights=Weights(1, 2, "bfloat16", frozenset(names)))
    assert draft(SAID, description).fields["shape"]["tie_word_embeddings"] is tied


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        (Overrides("org/Mystery-7b", False), "does not tell the variant: say one of base, chat"),
        (Overrides("/x/…", True, variant="base"), "gives no id"),
        (Overrides("org/x-base", False, template="llama-2.jinja"), "holds no conversation"),
    ],
)
def test_asks_what_only_the_user_knows(said: Overrides, problem: str) -> None:
    with pytest.raises(IntakeError, match=problem):
        draft(said, PEBBLE)


def test_a_configuration_that_cannot_be_is_refused() -> None:
    with pytest.raises(IntakeError, match="cannot share"):
        draft(SAID, with_config(num_key_value_heads=3))
