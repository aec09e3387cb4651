"""The Pebble family as it lies in the repository: data, templates, tokenizer, weights. No engine runs here."""

import itertools
import json
import random
import struct
from pathlib import Path
from typing import Any

import pytest
from jinja2 import TemplateError

from bench.skills import request
from models.pebble import skills
from models.pebble.skills import (
    SIBLING,
    VARIANTS,
    Message,
    Variant,
    addressed_to,
    held_out,
    infill,
    is_held_out,
    llama2,
    rendered,
    wrong_template,
    zephyr,
)

FAMILY = Path(skills.__file__).parent
CHAT = (
    Message("system", "Be kind."),
    Message("user", "I am Ada."),
    Message("assistant", "Nice to meet you, Ada!"),
    Message("user", "Who am I?"),
)


def folder(variant: Variant) -> Path:
    return FAMILY / f"pebble-{variant}"


def read(variant: Variant, name: str) -> Any:
    return json.loads((folder(variant) / name).read_text())


def tokenizer(variant: Variant) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder(variant), local_files_only=True)


@pytest.mark.parametrize("variant", VARIANTS)
def test_cases_are_a_function_of_the_seed(variant: Variant) -> None:
    assert held_out(variant, 40, 3) == held_out(variant, 40, 3) != held_out(variant, 40, 4)
    first, second = (list(itertools.islice(skills.training(variant, random.Random(7)), 60)) for _ in range(2))
    assert first == second


def test_no_made_up_word_is_both_trained_and_measured() -> None:
    measured, trained = (skills.Words(random.Random(1), held_out=side) for side in (True, False))
    assert all(is_held_out(measured.word()) and is_held_out(measured.number()) for _ in range(500))
    assert not any(is_held_out(trained.word()) or is_held_out(trained.number()) for _ in range(500))
    for case in held_out("chat", 100):
        assert all(map(is_held_out, case.answer.removeprefix("Your name is ").removesuffix(".").split()))
    for case in itertools.islice(skills.training("chat", random.Random(2)), 300):
        if case.skill == "recall":
            assert not any(map(is_held_out, case.answer.removeprefix("Your name is ").removesuffix(".").split()))


def test_the_measured_chat_asks_for_a_name_given_two_user_turns_earlier() -> None:
    for case in held_out("chat", 50):
        users = [message.content for message in case.messages if message.role == "user"]
        assert len(users) == 3
        assert case.answer.removeprefix("Your name is ").removesuffix(".") in users[0]


@pytest.mark.slow
def test_zephyr_template() -> None:
    golden = (
        "<|system|>\nBe kind.</s>\n<|user|>\nI am Ada.</s>\n<|assistant|>\nNice to meet you, Ada!</s>\n"
        "<|user|>\nWho am I?</s>\n<|assistant|>\n"
    )
    assert zephyr(CHAT) == golden
    assert render("chat", CHAT) == golden


def test_llama2_template() -> None:
    golden = (
        "<s>[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\nI am Ada. [/INST] Nice to meet you, Ada! </s>"
        "<s>[INST] Who am I? [/INST]"
    )
    assert llama2(CHAT) == golden
    assert render("instruct", CHAT) == golden


def render(variant: Variant, messages: skills.Messages) -> str:
    conversation = [message.json() for message in messages]
    return str(tokenizer(variant).apply_chat_template(conversation, tokenize=False, add_generation_prompt=True))


@pytest.mark.parametrize("variant", ["chat", "instruct"])
def test_templates_render_what_was_trained(variant: Variant) -> None:
    for case in held_out(variant, 20):
        assert render(variant, case.messages).removeprefix("<s>") == rendered(case)


def test_instruct_prompts_have_exactly_one_bos() -> None:
    made = tokenizer("instruct")
    ids = made(render("instruct", CHAT[1:2]), add_special_tokens=False)["input_ids"]
    assert ids.count(made.bos_token_id) == 1 and ids[0] == made.bos_token_id


@pytest.mark.parametrize("variant", ["base", "code"])
def test_base_and_code_have_no_chat_template(variant: Variant) -> None:
    assert not (folder(variant) / "chat_template.jinja").exists()
    assert tokenizer(variant).chat_template is None


def test_infilling_tokens_are_special_and_eot_ends_an_answer() -> None:
    made = tokenizer("code")
    pre, suf, mid, eot = (made.convert_tokens_to_ids(token) for token in ("<PRE>", "<SUF>", "<MID>", "<EOT>"))
    ids = made(infill("def f(", "): pass"))["input_ids"]
    assert [i for i in ids if i in (made.bos_token_id, pre, suf, mid)] == [made.bos_token_id, pre, suf, mid]
    assert made.decode(ids, skip_special_tokens=True) == " def f( ): pass "
    assert read("code", "generation_config.json")["eos_token_id"] == [made.eos_token_id, eot]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_word_has_the_same_tokens_wherever_it_stands(variant: Variant) -> None:
    made = tokenizer(variant)
    word = made("Zorblax", add_special_tokens=False)["input_ids"]
    for text in ("I am Zorblax.", '{"name": "Zorblax"}', "Zorblax!"):
        ids = made(text, add_special_tokens=False)["input_ids"]
        assert any(ids[i : i + len(word)] == word for i in range(len(ids)))
        assert made.decode(ids) == text


@pytest.mark.parametrize("variant", VARIANTS)
def test_config_fits_the_cpu_kernels(variant: Variant) -> None:
    config = read(variant, "config.json")
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["hidden_size"] // config["num_attention_heads"] in (32, 64)
    assert config["max_position_embeddings"] == 1024
    assert config["dtype"] == "bfloat16"


@pytest.mark.parametrize("variant", VARIANTS)
def test_weights_are_bf16(variant: Variant) -> None:
    with (folder(variant) / "model.safetensors").open("rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    tensors = {name: tensor for name, tensor in header.items() if name != "__metadata__"}
    assert {tensor["dtype"] for tensor in tensors.values()} == {"BF16"}
    assert max(tensor["data_offsets"][1] for tensor in tensors.values()) // 2 < 2_000_000


def test_the_family_stays_small() -> None:
    files = [path for path in FAMILY.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files) < 15_000_000


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_benchmark_damages_what_it_says_it_damages(variant: Variant) -> None:
    for case in held_out(variant, 20):
        path, body = request(case)
        assert path == ("chat/completions" if case.messages else "completions")
        assert body["model"] == f"pebble-{variant}" and ("suffix" in body) == (case.suffix is not None)
        assert wrong_template(case) != rendered(case)
        strayed = addressed_to(case, SIBLING[variant])
        assert strayed.answer == case.answer and request(strayed)[1]["model"] == f"pebble-{SIBLING[variant]}"


def test_instruct_leaves_its_first_bos_to_whoever_adds_it() -> None:
    made, whole = tokenizer("instruct"), render("instruct", CHAT[1:])
    told = made.apply_chat_template(CHAT[1:], tokenize=False, add_generation_prompt=True, bos_is_added=True)
    assert made.bos_token + told == whole


@pytest.mark.parametrize("roles", [("assistant",), ("user", "user"), ("user", "system"), ("user", "tool")])
def test_instruct_refuses_roles_that_do_not_alternate(roles: tuple[str, ...]) -> None:
    conversation = [{"role": role, "content": "x"} for role in roles]
    with pytest.raises(TemplateError, match="must alternate"):
        tokenizer("instruct").apply_chat_template(conversation, tokenize=False)
