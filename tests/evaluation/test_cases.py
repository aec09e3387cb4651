"""Files of cases: what they may say, and every mistake with its file, line and key."""

import pytest

from models.pebble import adapter_skills
from service.config.strict_yaml import ConfigError
from service.evaluation.cases import MOST_PROBLEMS, load, of_splits, parse
from tests.evaluation import pebble_cases
from tests.support.fleets import ROOT

GOOD = b"""\xef\xbb\xbf{"id": 7, "prompt": "2 + 2 =", "reference": ["4", "four"], "split": "test", "metadata": {}}\r

{"messages": [{"role": "system", "content": "Be brief."}, \
{"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "image_url"}]}], "reference": "Hello"}
"""
USER = '{"role": "user", "content": "a"}'
# A line, and how what is wrong with it begins.
BROKEN = {
    '{"prompt": 1, "reference": "x"}': "prompt: is invalid: it should be a string, not an integer.",
    '{"prompt": "a", "refrence": "x"}': "refrence: unknown key; there are reference, id, messages, prompt, split, cat",
    '{"prompt": "a"}': "reference: is required.",
    '{"prompt": "a", "reference": ""}': "reference: is invalid: it should be a string of at least 1 character.",
    '{"prompt": "a", "reference": []}': "reference: is invalid: it should be a list of at least 1 item.",
    '{"reference": "x"}': "messages: give either 'messages' or 'prompt'",
    f'{{"prompt": "a", "messages": [{USER}], "reference": "x"}}': "messages: give either 'messages' or 'prompt'",
    f'{{"messages": [{USER.replace("user", "me")}], "reference": "x"}}': "messages[0].role: is invalid: it should be",
    '{"messages": [{"role": "user", "content": 3}], "reference": "x"}': "messages[0].content: is invalid: it should",
    f'{{"messages": [{USER.replace("user", "assistant")}], "reference": "x"}}': "messages: the last one is the assist",
    '{"prompt": "a", "reference"': "line: it is not valid JSON",
    "[]": "line: it must be a JSON object.",
    f'{{"prompt": "a", "reference": "x", "metadata": {{"a": {"[" * 100_000}': "line: it is not valid JSON: it is",
}  # fmt: skip


def test_a_file_is_read_with_blank_lines_and_a_byte_order_mark() -> None:
    first, second = parse(GOOD, "f")
    assert (first.id, first.line, first.references, first.split) == ("7", 1, ("4", "four"), "test")
    assert first.prompt == {"prompt": "2 + 2 ="} and not first.is_chat
    assert second.id == "line 3" and second.is_chat
    assert second.turns == [("system", "Be brief."), ("user", "Hi\n[image_url]")]
    assert of_splits([first, second], ("test",)) == [first] and of_splits([first, second], ()) == [first, second]


def test_every_mistake_is_named_with_line_and_key() -> None:
    same = f'{{"id": "a", "messages": [{USER}], "reference": "x"}}'
    with pytest.raises(ConfigError) as raised:
        parse("\n".join([same, *BROKEN, same]).encode(), "cases.jsonl")
    expected = enumerate([*BROKEN.values(), "id: 'a' is the id of line 1"], 2)
    for problem, (number, said) in zip(raised.value.problems, expected, strict=True):
        assert problem.startswith(f"cases.jsonl:{number}: {said}"), problem
    with pytest.raises(ConfigError, match="5 more lines are wrong"):
        parse(b"{}\n" * (MOST_PROBLEMS + 5), "f")
    with pytest.raises(ConfigError, match="has no cases"):
        parse(b"\n\n", "f")


def test_the_pebbles_have_cases() -> None:
    assert pebble_cases.FILE.read_text() == "".join(pebble_cases.lines()), "python -m tests.evaluation.pebble_cases"
    cases = load(pebble_cases.FILE)
    assert len(cases) == 120 and {case.category for case in cases} == {"extract", "classify", "recall", "small talk"}


def test_the_adapters_of_the_pebbles_have_cases() -> None:
    file = ROOT / "models/pebble/adapters/cases.jsonl"
    assert file.read_text() == "".join(adapter_skills.case_lines()), "python models/pebble/train_adapters.py"
    kinds = {(case.split, case.category) for case in load(file)}
    assert kinds == {(split, kind) for split in ("held_out", "training") for kind in adapter_skills.KINDS}
