"""Prompts that fill in the middle: exact strings."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.catalog import Infill
from service.prompts import infill
from tests.fleets import CATALOG


@pytest.mark.parametrize(
    ("model", "prompt"),
    [
        ("pebble-code", "<PRE> def f(x):\n     <SUF>\n    return y <MID>"),
        ("code-llama-7b", "<PRE> def f(x):\n    \u2581<SUF>\n    return y\u2581<MID>"),
        ("code-llama-13b-instruct", "<PRE> def f(x):\n    \u2581<SUF>\n    return y\u2581<MID>"),
    ],
)
def test_the_prompt_of_a_family(model: str, prompt: str) -> None:
    form = CATALOG.models[model].infill
    assert form
    assert infill(form, "def f(x):\n    ", "\n    return y") == prompt


@pytest.mark.parametrize(
    ("prefix", "suffix"),
    [
        ("", ""),
        ("f'{suffix}'", "f'{prefix}'"),
        ("{prefix}{suffix}", "{suffix}{prefix}"),
        ("{0} {} {{x}} %s \\1 \\g<0>", "{'a': {1}}"),
        ("<SUF>", "<PRE>"),
    ],
)
def test_the_clients_own_code_stays_as_it_is(prefix: str, suffix: str) -> None:
    assert infill(Infill(prompt="<P>{prefix}<S>{suffix}<M>"), prefix, suffix) == f"<P>{prefix}<S>{suffix}<M>"


@given(st.text(), st.text())
def test_the_suffix_may_come_first(prefix: str, suffix: str) -> None:
    assert infill(Infill(prompt="<S>{suffix}<P>{prefix}"), prefix, suffix) == f"<S>{suffix}<P>{prefix}"
