"""Secrets of the settings: a variable has the secret itself, or one with `_FILE` at its end the file that holds it."""

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from service.config.setting_types import check_key
from service.config.settings import Settings, variable
from service.config.strict_yaml import ConfigError

BY_OTHERS = stat.S_IROTH | stat.S_IWOTH | stat.S_IWGRP
CACHE_SECRET = "cache.secret"


def read_secret(settings: Settings, name: str) -> str:
    """The secret of the setting `name`, or of the file that `<name>_file` names; empty if there is none.

    Raises ConfigError where both are given, or where the file cannot be read, is open to others, or holds none.
    """
    path, found = getattr(settings, f"{name}_file"), getattr(settings, name).get_secret_value()
    if path is None:
        return str(found)
    file = variable(f"{name}_file")
    if found:
        raise _problem(file, f"{variable(name)} is set as well: leave one of them out")
    try:
        found = path.read_text(encoding="utf-8").rstrip("\r\n")
        if path.stat().st_mode & BY_OTHERS:
            raise _problem(file, f"other users can read or change {path}: chmod 600 {path}")
        check_key(found)
    except OSError as error:
        raise _problem(file, f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise _problem(file, f"{path} is not text") from None
    except ValueError as error:
        raise _problem(file, f"{path}: {error}") from None
    return str(found)


def shared_cache_secret(run_dir: Path) -> str:
    """A random secret that all gateway processes of this run folder have: the first of them makes it.

    Raises ConfigError where the file of it cannot be written or read.
    """
    path, mine = run_dir / CACHE_SECRET, run_dir / f".{CACHE_SECRET}.{os.getpid()}"
    try:
        if not path.exists():
            mine.unlink(missing_ok=True)
            with os.fdopen(os.open(mine, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(secrets.token_urlsafe(32))
            with suppress(FileExistsError):  # another process was faster
                path.hardlink_to(mine)
            mine.unlink()
        found = path.read_text(encoding="utf-8")
        check_key(found)
    except (OSError, ValueError) as error:
        raise _problem(variable("run_dir"), f"{path} cannot be used: {error}") from None
    return found


def _problem(name: str, message: str) -> ConfigError:
    return ConfigError([f"environment: {name}: {message}"])
