"""Secrets come from a variable or a private file, and gateways of one run folder share the one that is made."""

from pathlib import Path

import pytest

from service.config.secret import read_secret, shared_cache_secret
from service.config.settings import Settings
from service.config.strict_yaml import ConfigError

SECRET = "0123456789abcdef"


@pytest.mark.parametrize("name", ["api_key", "engine_key", "cache_secret"])
def test_a_secret_is_read_from_its_variable_or_file(name: str, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(f"{SECRET}\n")
    file.chmod(0o600)
    assert read_secret(Settings(), name) == ""
    for given in ({name: SECRET}, {f"{name}_file": file}):
        assert read_secret(Settings.model_validate(given), name) == SECRET
    assert SECRET not in repr(Settings.model_validate({name: SECRET}))
    file.chmod(0o644)
    with pytest.raises(ConfigError, match=f"ROUNDHOUSE_{name.upper()}_FILE: other users can read"):
        read_secret(Settings.model_validate({f"{name}_file": file}), name)


def test_processes_of_one_run_folder_share_a_secret(tmp_path: Path) -> None:
    secret = shared_cache_secret(tmp_path)
    assert shared_cache_secret(tmp_path) == secret
    (file,) = tmp_path.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    file.unlink()
    assert shared_cache_secret(tmp_path) != secret
    file.write_text("short")
    with pytest.raises(ConfigError, match=r"cache.secret cannot be used: a key has at least 16"):
        shared_cache_secret(tmp_path)
