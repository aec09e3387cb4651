"""One test of many things names every one that fails."""

import inspect

import pytest

from tests.support.each import each


def test_every_thing_that_fails_is_named_with_its_line_and_its_error() -> None:
    seen: list[str] = []

    def check(thing: str) -> None:
        seen.append(thing)
        assert thing != "odd", "that is odd"
        {"even": 1, "odd": 2, "none": 3}[thing]
        if thing == "none":
            pytest.fail("not this one")

    with pytest.raises(pytest.fail.Exception) as caught:
        each("thing", ["even", "odd", "none", "strange"], ids=str.upper)(check)()
    assert seen == ["even", "odd", "none", "strange"]
    first = check.__code__.co_firstlineno
    assert [line for line in str(caught.value).splitlines() if not line.startswith("assert ")] == [
        "3 of 4 fail:",
        f"ODD: line {first + 2}: AssertionError: that is odd",
        f"NONE: line {first + 5}: Failed: not this one",
        f"STRANGE: line {first + 3}: KeyError: 'strange'",
    ]


def test_several_arguments_and_several_lists_are_combined() -> None:
    seen: list[tuple[int, int, str]] = []

    @each(("one", "other"), [(1, 2), (3, 4)])
    @each("word", ["a", "b"])
    def test_it(one: int, other: int, word: str) -> None:
        seen.append((one, other, word))
        assert (other, word) != (4, "b")

    with pytest.raises(pytest.fail.Exception, match=r"(?s)1 of 2 fail:\n3, 4: .*1 of 2 fail:\n'b': line"):
        test_it()
    assert seen == [(1, 2, "a"), (1, 2, "b"), (3, 4, "a"), (3, 4, "b")]


@each("name", ["tests", "service"])
def test_other_arguments_are_fixtures(name: str, pytestconfig: pytest.Config) -> None:
    assert (pytestconfig.rootpath / name).is_dir()


def test_a_check_keeps_its_name_and_its_marks() -> None:
    @each("name", ["a"])
    @pytest.mark.slow
    def test_it(name: str, other: str) -> None:
        """What it is."""

    assert (test_it.__name__, test_it.__doc__) == ("test_it", "What it is.")
    assert list(inspect.signature(test_it).parameters) == ["other"]
    assert [mark.name for mark in test_it.pytestmark] == ["slow"]  # type: ignore[attr-defined]


def test_a_check_of_nothing_is_refused() -> None:
    with pytest.raises(AssertionError, match="nothing"):
        each("thing", [])
