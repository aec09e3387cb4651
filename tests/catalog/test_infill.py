"""Fill-in-the-middle prompts, compared with exact strings for every family that has them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.catalog.infill import Order, infill, orders
from service.catalog.model import Infill, Model
from tests.support.fleets import CATALOG

BEFORE, AFTER = "def f(x):\n    ", "\n    return y"
# For each family and order: the prompt for BEFORE and AFTER, and that for empty texts. Code Llama's tokens begin with
# U+2581, and DeepSeek's bars are U+FF5C; test_templates.py checks Code Llama's token ids.
EXPECTED: dict[str, dict[Order, tuple[str, str]]] = {
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
    "qwen3-coder": {
        "prefix_first": (
            "<|im_start|>system\nYou are a code completion assistant.<|im_end|>\n<|im_start|>user\n"
            "<|fim_prefix|>def f(x):\n    <|fim_suffix|>\n    return y<|fim_middle|><|im_end|>\n"
            "<|im_start|>assistant\n",
            "<|im_start|>system\nYou are a code completion assistant.<|im_end|>\n<|im_start|>user\n"
            "<|fim_prefix|><|fim_suffix|><|fim_middle|><|im_end|>\n<|im_start|>assistant\n",
        ),
    },
    "codestral": {
        "prefix_first": ("[SUFFIX]\n    return y[PREFIX]def f(x):\n    ", "[SUFFIX][PREFIX]"),
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
WITH_INFILL = [model for model in CATALOG.models.values() if model.infill]


def test_every_family_with_infill_is_tested() -> None:
    assert {CATALOG.family_of[model.id] for model in WITH_INFILL} == set(EXPECTED)


@pytest.mark.parametrize("model", WITH_INFILL, ids=lambda model: model.id)
def test_prompts_in_each_order(model: Model) -> None:
    template = model.infill
    assert template
    assert {
        order: (infill(template, BEFORE, AFTER, order), infill(template, "", "", order)) for order in orders(template)
    } == EXPECTED[CATALOG.family_of[model.id]]


def test_unsupported_order_is_an_error() -> None:
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
def test_placeholders_in_the_clients_code_are_not_replaced(prefix: str, suffix: str) -> None:
    assert infill(Infill(prompt="<P>{prefix}<S>{suffix}<M>"), prefix, suffix) == f"<P>{prefix}<S>{suffix}<M>"


@given(st.text(min_size=1), st.text(min_size=1))
def test_suffix_first(prefix: str, suffix: str) -> None:
    template = Infill(prompt="<P>{prefix}<S>{suffix}", suffix_first="<S>{suffix}<P> {prefix}")
    assert infill(template, prefix, suffix, "suffix_first") == f"<S>{suffix}<P> {prefix}"
    assert infill(template, prefix, suffix) == f"<P>{prefix}<S>{suffix}"
