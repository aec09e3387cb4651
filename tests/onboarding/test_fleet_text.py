"""An adapter in the text of a fleet file: written under its base, with every other character left as it is."""

import pytest
import yaml

from service.onboarding.fleet_text import with_adapter
from tests.support.each import each

TONE = {"id": "tone", "path": "./tone"}


@each(
    ("text", "expected"),
    [
        ("models:\n  - model: a\n", "models:\n  - model: a\n    adapters: [{id: tone, path: ./tone}]\n"),
        ("models:\n  - model: a", "models:\n  - model: a\n    adapters: [{id: tone, path: ./tone}]\n"),
        (
            "models:\n  - model: a  # ours\n    engine:\n      x: 1  # why\n\n# end\nauth: none\n",
            "models:\n  - model: a  # ours\n    engine:\n      x: 1  # why\n    adapters: [{id: tone, path: ./tone}]\n"
            "\n# end\nauth: none\n",
        ),
        ("models: [{model: a}]\n", "models: [{model: a, adapters: [{id: tone, path: ./tone}]}]\n"),
        ("models: [{model: a, adapters: []}]\n", "models: [{model: a, adapters: [{id: tone, path: ./tone}]}]\n"),
        (
            "models:\n- model: a\n  adapters: [{id: b, path: c}]  # b\n",
            "models:\n- model: a\n  adapters: [{id: b, path: c}, {id: tone, path: ./tone}]  # b\n",
        ),
        (
            "models:\n- model: a\n  adapters:\n    - id: b\n      path: c\n- model: d\n",
            "models:\n- model: a\n  adapters:\n    - id: b\n      path: c\n    - {id: tone, path: ./tone}\n"
            "- model: d\n",
        ),
        (
            "models:\n- model: a\n  chat_template: >\n    x\n\nauth: none\n",
            "models:\n- model: a\n  chat_template: >\n    x\n\n  adapters: [{id: tone, path: ./tone}]\nauth: none\n",
        ),
    ],
)
def test_an_adapter_is_added_to_the_first_model(text: str, expected: str) -> None:
    found = with_adapter(text, 0, TONE)
    before, after = yaml.safe_load(text), yaml.safe_load(found)
    before["models"][0]["adapters"] = [*(before["models"][0].get("adapters") or []), TONE]
    assert after == before
    assert found == expected


def test_an_entry_that_is_no_mapping() -> None:
    with pytest.raises(ValueError, match="'adapters' is no list"):
        with_adapter("models: [{model: a, adapters: 3}]", 0, TONE)
