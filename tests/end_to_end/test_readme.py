"""README's code blocks, executed: each prints what README says it prints."""

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.services import ROOT, Service

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
README = (ROOT / "README.md").read_text()
COMMANDS = {
    "bash": ["bash", "-euo", "pipefail", "-s"],
    "python": [sys.executable, "-"],
    "javascript": ["node", "--input-type=module", "-"],
}


@dataclass(frozen=True)
class Example:
    """A block of code and, where a block of text follows it, what it prints."""

    language: str
    code: str
    output: str | None

    @property
    def sets_up(self) -> bool:
        """Whether it is the set-up itself, which these tests have done otherwise."""
        return self.language == "bash" and re.search(r"^(\w+=\S+ )*(make|git|cd|npm|pip) ", self.code, re.M) is not None


def examples(text: str) -> list[Example]:
    """The blocks of code in `text`, in order."""
    blocks = BLOCK.findall(text)
    following = [*blocks[1:], ("", "")]
    return [
        Example(language, code, output if kind == "text" else None)
        for (language, code), (kind, output) in zip(blocks, following, strict=True)
        if language in COMMANDS
    ]


EXAMPLES = examples(README)


def test_readme_shows_each_language() -> None:
    assert {example.language for example in EXAMPLES if not example.sets_up} == set(COMMANDS)
    assert sum(example.output is not None for example in EXAMPLES) >= 3


@pytest.mark.engine
@pytest.mark.parametrize("example", [one for one in EXAMPLES if not one.sets_up], ids=lambda one: one.code[:40])
def test_an_example_prints_what_it_says(pebble: Service, example: Example) -> None:
    code = example.code.replace("http://127.0.0.1:3000", pebble.url)
    done = subprocess.run(
        COMMANDS[example.language],
        input=code,
        cwd=ROOT / "tests/node" if example.language == "javascript" else ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    if example.output is not None:
        assert done.stdout == example.output


@pytest.mark.parametrize("example", [one for one in EXAMPLES if one.sets_up], ids=lambda one: one.code[:40])
def test_a_command_of_the_set_up_exists(example: Example) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for line in example.code.splitlines():
        words = [word for word in line.split() if "=" not in word]
        for assignment in re.findall(r"ROUNDHOUSE_FLEET=(\S+)", line):
            assert (ROOT / assignment).is_file()
        if words[:1] == ["make"]:
            assert set(words[1:2]) <= targets


def test_links_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "bench/README.md"]:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / Path(target)).exists(), f"{page.name}: {target}"
