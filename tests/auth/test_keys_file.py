"""The keys file and the first key: read strictly, written whole, and read again when they change."""

from pathlib import Path

import pytest

from service.auth.keys import FIRST, Key, Keys, digest
from service.auth.keys_file import HEADER, KeyEntry, edited, first_key, load, read
from service.config.file_watch import FileWatch
from service.config.settings import Settings
from service.config.strict_yaml import ConfigError

SECRET = "rh_0123456789abcdef"
OTHER = "rh_fedcba9876543210"


def row(secret: str = SECRET, **members: object) -> str:
    """An entry of the file as a line of YAML."""
    given = {"id": "acme-1", "tenant": "acme", "sha256": digest(secret.encode()).hex(), "created": "2026-11-28"}
    return "- {" + ", ".join(f"{name}: {value}" for name, value in {**given, **members}.items()) + "}\n"


def written(folder: Path, *rows: str, mode: int = 0o600) -> Path:
    path = folder / "keys.yaml"
    path.write_text("keys:\n" + "".join(rows) if rows else "keys: []\n")
    path.chmod(mode)
    return path


def problems(path: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(path)
    return caught.value.problems


def test_a_file_becomes_keys_by_digest(tmp_path: Path) -> None:
    limited = row(OTHER, id="x", expires="2026-11-29T12:00:00Z", models="[a, b]", endpoints="[metrics]", proxy="true")
    path = written(tmp_path, row(), limited)
    assert load(Settings(keys=path)) == {
        digest(SECRET.encode()): Key("acme-1", "acme"),
        digest(OTHER.encode()): Key(
            "x", "acme", 1795953600.0, frozenset({"a", "b"}), frozenset({"metrics"}), proxy=True
        ),
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"expires": "soon"}, "keys[0].expires: "),
        ({"sha256": "abc"}, "keys[0].sha256: "),
        ({"sha256": "A" * 64}, "keys[0].sha256: "),
        ({"models": "[]"}, "keys[0].models: "),
        ({"models": "small"}, "keys[0].models: "),
        ({"endpoints": "[everything]"}, "keys[0].endpoints"),
        ({"tenant": "'A B'"}, "keys[0].tenant: "),
        ({"proxy": "perhaps"}, "keys[0].proxy: "),
        ({"key": "x"}, "keys[0].key: unknown key"),
    ],
)
def test_a_mistake_is_named_with_file_line_and_key(tmp_path: Path, change: dict[str, str], message: str) -> None:
    path = written(tmp_path, row(**change))
    (problem,) = problems(path)
    assert problem.startswith(f"{path}:2: {message}")


def test_ids_and_digests_are_unique(tmp_path: Path) -> None:
    path = written(tmp_path, row(), row())
    assert problems(path) == [f"{path}:3: keys[1].{name}: another key has the same" for name in ("id", "sha256")]


def test_a_file_that_others_can_change_is_refused(tmp_path: Path) -> None:
    for mode in (0o620, 0o602):
        path = written(tmp_path, row(), mode=mode)
        assert problems(path) == [f"{path}: other users can change it: chmod 600 {path}"]
    assert read(written(tmp_path, row(), mode=0o644))  # as Kubernetes mounts one


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    assert problems(tmp_path / "none") == [f"{tmp_path}/none: cannot be read: No such file or directory"]


def test_the_first_key_comes_from_the_environment_or_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(f"{SECRET}\n")
    path.chmod(0o640)
    by_environment = Settings.from_environ({"ROUNDHOUSE_API_KEY": SECRET})
    by_file = Settings.from_environ({"ROUNDHOUSE_API_KEY_FILE": str(path)})
    for settings in (by_environment, by_file):
        assert load(settings) == {digest(SECRET.encode()): FIRST}
        assert SECRET not in f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"
    assert load(Settings()) is None
    assert load(Settings(keys=written(tmp_path))) == {}  # a key is asked for all the same


@pytest.mark.parametrize(
    ("text", "mode", "message"),
    [
        (SECRET, 0o644, "other users can read or change "),
        (SECRET, 0o620, "other users can read or change "),
        ("short\n", 0o600, "a key has at least 16 characters. A good one: python3 -c"),
        ("", 0o600, "a key has at least 16 characters"),
        (f"{SECRET} {SECRET}", 0o600, "no spaces. A good one: python3 -c"),
        (f"{SECRET}\n{SECRET}", 0o600, "no spaces"),
        (f"{SECRET}é", 0o600, "printable ASCII"),
    ],
)
def test_a_file_with_the_first_key_that_is_no_good(tmp_path: Path, text: str, mode: int, message: str) -> None:
    path = tmp_path / "key"
    path.write_text(text)
    path.chmod(mode)
    with pytest.raises(ConfigError) as caught:
        first_key(Settings(api_key_file=path))
    (problem,) = caught.value.problems
    assert problem.startswith("environment: ROUNDHOUSE_API_KEY_FILE: ") and message in problem
    assert SECRET not in problem


def test_there_is_one_first_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ROUNDHOUSE_API_KEY is set as well"):
        first_key(Settings.from_environ({"ROUNDHOUSE_API_KEY": SECRET, "ROUNDHOUSE_API_KEY_FILE": str(tmp_path)}))
    with pytest.raises(ConfigError, match=r"ROUNDHOUSE_API_KEY_FILE: .*/none cannot be read"):
        first_key(Settings(api_key_file=tmp_path / "none"))


@pytest.mark.parametrize("key", ["x" * 15, "two words of a key", "schlüssel-0123456789", "x" * 257])
def test_a_first_key_that_can_be_guessed_or_sent_wrong_is_refused_and_not_repeated(key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.from_environ({"ROUNDHOUSE_API_KEY": key})
    (problem,) = caught.value.problems
    assert problem.startswith("environment: ROUNDHOUSE_API_KEY: a key has at ")
    assert "python3 -c 'import secrets; " in problem and key not in problem


def entry(id: str, secret: str) -> KeyEntry:
    return KeyEntry.model_validate(
        {"id": id, "tenant": "acme", "sha256": digest(secret.encode()).hex(), "created": "2026-11-28T00:00:00Z"}
    )


def test_a_file_is_written_whole_and_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    with edited(path) as entries:
        entries.append(entry("one", SECRET))
    with edited(path) as entries:
        entries.append(entry("two", OTHER))
    assert [found.id for found in read(path)] == ["one", "two"]
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_text().startswith(HEADER)
    assert [file.name for file in tmp_path.iterdir()] == ["keys.yaml"]


def test_a_change_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = written(tmp_path, row())
    before = path.read_bytes()
    with pytest.raises(KeyError), edited(path) as entries:
        entries.clear()
        raise KeyError
    assert path.read_bytes() == before


async def test_a_changed_file_is_read_whole_or_refused_whole(tmp_path: Path) -> None:
    path = written(tmp_path, row())
    applied: list[Keys | None] = []
    reports: list[list[str]] = []
    reload = FileWatch(path, lambda: load(Settings(keys=path)), applied.append, reports.append)
    written(tmp_path, row(), row(OTHER, id="Not A Name"))
    for _ in range(3):
        await reload.poll()
    assert not applied and len(reports) == 1 and "keys[1].id" in reports[0][0]
    written(tmp_path)
    await reload.poll()
    await reload.poll()
    assert applied == [{}] and reports[1:] == [[]]
