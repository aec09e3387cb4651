"""Origins in the fleet file: what is one, and what is a mistake with its line."""

from pathlib import Path

import pytest

from service.config.strict_yaml import ConfigError
from tests.support.each import each
from tests.support.fleets import load

ONE = "models: [{model: pebble-chat}]\n"
MISTAKES = (
    ("cors: {origins: [https://a.example/]}", "2: cors.origins[0]: 'https://a.example/' is no origin"),
    ("cors: {origins: [a.example]}", "2: cors.origins[0]: 'a.example' is no origin"),
    ("cors: {origins: ['null']}", "2: cors.origins[0]: 'null' is no origin"),
    ("cors: {origins: ['https://*.example']}", "2: cors.origins[0]: 'https://*.example' is no origin"),
    ("cors: {origins: ['https://a b']}", "2: cors.origins[0]: 'https://a b' is no origin"),
    ("cors: {origins: [https://u@a.example]}", "2: cors.origins[0]: 'https://u@a.example' is no origin"),
    ("cors: {origins: [https://a:70000]}", "2: cors.origins[0]: 'https://a:70000' has no port between 1 and 65535"),
    ("cors: {origins: [https://a:443]}", "2: cors.origins[0]: browsers leave out the port 443 of https"),
    ("cors: {origins: ['https://[::g]']}", "2: cors.origins[0]: 'https://[::g]' is no origin"),
    ("cors: {origins: ['https://[1:2]']}", "2: cors.origins[0]: At least 3 parts expected"),
    ("cors: {origins: ['*', https://a]}", "2: cors.origins: '*' allows every page, so it stands alone"),
    ("cors: {origins: https://a}", "2: cors.origins: Input should be a valid tuple"),
    ("cors: {origins: [https://a], credentials: true}", "2: cors.credentials: unknown key"),
    ("cors:\n  origins:\n  - https://a\n  - https://a/b", "5: cors.origins[1]: 'https://a/b' is no origin"),
)


@each(("text", "problem"), MISTAKES)
def test_a_mistake_is_named_with_line_and_key(text: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, ONE + text)
    (found,) = caught.value.problems
    assert found.removeprefix(f"{tmp_path}/fleet.yaml:").startswith(problem), found


def test_origins_are_as_browsers_write_them(tmp_path: Path) -> None:
    written = "[https://Chat.Example:8443, 'http://[::1]:8080', app://local-host]"
    assert load(tmp_path, ONE + f"cors: {{origins: {written}}}").cors.origins == (
        "https://chat.example:8443", "http://[::1]:8080", "app://local-host",
    )  # fmt: skip
    assert load(tmp_path, ONE).cors.origins == ()
    assert load(tmp_path, ONE + "cors: {origins: ['*']}").cors.origins == ("*",)
