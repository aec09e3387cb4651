"""Files read strictly: whatever is wrong with one, it is said with file, line and key, and everything at once."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import Field

from service.config.strict_yaml import ConfigError, Document, Frozen


class Engine(Frozen):
    dtype: str = "auto"
    length: int | None = None


class House(Frozen):
    name: str
    engines: tuple[Engine, ...] = ()
    labels: dict[str, str] = Field(default_factory=dict)


def read(folder: Path, text: str | bytes) -> House:
    path = folder / "house.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return Document(path).read(House)


def test_reads_and_merges(tmp_path: Path) -> None:
    house = read(
        tmp_path, "name: a\nengines:\n  - &one {dtype: half, length: 1}\n  - <<: *one\n    length: 2\n  - *one\n"
    )
    assert house.engines == (
        Engine(dtype="half", length=1),
        Engine(dtype="half", length=2),
        Engine(dtype="half", length=1),
    )


def test_an_alias_to_a_merged_mapping_repeats_nothing(tmp_path: Path) -> None:
    text = "name: a\nengines:\n  - &one {length: 1}\n  - &two {<<: *one, length: 2}\n  - *two\n  - {<<: *two}\n"
    assert [engine.length for engine in read(tmp_path, text).engines] == [1, 2, 2, 2]


def test_an_empty_file_lacks_what_is_needed(tmp_path: Path) -> None:
    assert problems(tmp_path, "# nothing yet\n") == ["1: name: is missing"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: a\nnam: b\n", "2: nam: unknown key; see the documentation for the keys that exist"),
        ("name: [a]\n", "1: name: Input should be a valid string (found ['a'])"),
        ("name: 3.10\n", "1: name: Input should be a valid string (found 3.1)"),
        (
            "name: a\nengines:\n  - dtype: half\n  - length: x\n",
            "4: engines[1].length: Input should be a valid integer",
        ),
        ("name: a\nname: b\n", "2: name: stands twice in one mapping"),
        ("name: a\nlabels:\n  x: b\n  x: c\n", "4: labels.x: stands twice in one mapping"),
        ("name: a\n1: b\n", "2: [1]: Keys should be strings (found 1)"),
        ("name: a\n? [b]\n: c\n", "2: document: has a key that is not plain text"),
        ("name: a\nlabels: {day: 2024-99-99}\n", "2: labels.day: '2024-99-99' is no valid timestamp"),
        ("name: a\nlabels: {bits: 0b_}\n", "2: labels.bits: '0b_' is no valid int"),
        ("- a\n", "1: document: Input should be a valid dictionary"),
        ("name: a\n---\nname: b\n", "2: but found another document"),
        ("name: *b\n", "1: found undefined alias 'b'"),
        ("name: a\n\tb: c\n", "2: found character '\\t' that cannot start any token"),
        ("name: a\nlabels: {b: !!python/name:os.system x}\n", "2: could not determine a constructor for the tag"),
        ("name: a\nlabels: &a {b: *a}\n", "1: is nested too deeply, or holds itself through an alias"),
        ("[" * 5000, "1: is nested too deeply, or holds itself through an alias"),
        ("name: a\n\nlabels: \0\n", "3: special characters are not allowed"),
    ],
)
def test_a_mistake_names_its_line_and_key(tmp_path: Path, text: str, expected: str) -> None:
    (problem,) = problems(tmp_path, text)
    assert problem.startswith(expected)


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    wrong = problems(tmp_path, "engines:\n  - dtype: 1\n  - size: 2\n    length: x\n")
    assert [problem.split(" ")[0:2] for problem in wrong] == [
        ["1:", "name:"],
        ["2:", "engines[0].dtype:"],
        ["4:", "engines[1].length:"],
        ["3:", "engines[1].size:"],
    ]
    assert len(problems(tmp_path, "name: a\nname: b\nlabels: {x: a, x: b, y: 0x_}\n")) == 3


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.yaml: cannot be read: No such file"):
        Document(tmp_path / "gone.yaml")
    with pytest.raises(ConfigError, match=r"house\.yaml: is not UTF-8 text \(byte 6\)"):
        read(tmp_path, b"name: \xff")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(codec="utf-8")) | st.text("{}[]<>*&!?:-#|'\"\\ \nab01_.x"))
def test_any_text_is_read_or_refused(tmp_path: Path, text: str) -> None:
    try:
        read(tmp_path, text)
    except ConfigError as error:
        assert error.problems
        assert all(str(tmp_path) in problem for problem in error.problems)


def problems(folder: Path, text: str) -> list[str]:
    """The mistakes in `text`, each without the file's name, which every one must carry."""
    with pytest.raises(ConfigError) as caught:
        read(folder, text)
    name = f"{folder / 'house.yaml'}:"
    assert all(problem.startswith(name) for problem in caught.value.problems)
    return [problem.removeprefix(name) for problem in caught.value.problems]
