"""The folders that a service writes to: made, or refused, before anything is started that needs them."""

import os
import stat
from pathlib import Path

from service.config.settings import variable
from service.config.strict_yaml import ConfigError

# A Unix socket's path has at most 107 bytes, and the longest name of one in the folder is `/e9999.sock`.
MAX_BYTES = 107 - len("/e9999.sock")

WRITE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def prepare(run_dir: Path) -> Path:
    """The absolute path of the run folder, which exists from now on, made for its owner alone if it did not.

    Raises ConfigError where it cannot be used.
    """
    path = private_folder(run_dir, "run_dir")
    if path.stat().st_mode & WRITE_BY_OTHERS:
        message = (
            f"other users can write to {path}, and so take an engine's place: chmod 700 {path}, or name a new folder"
        )
        raise _problem("run_dir", message)
    if len(os.fsencode(path)) > MAX_BYTES:
        message = f"{path} is too long for the sockets in it: choose a path of at most {MAX_BYTES} bytes"
        raise _problem("run_dir", message)
    return path


def private_folder(folder: Path, setting: str) -> Path:
    """The absolute path of a folder, made for its owner alone if it did not exist; `setting` is what names it.

    Raises ConfigError where it cannot be used.
    """
    path = folder.absolute()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise _problem(setting, f"the folder {path} cannot be made: {error.strerror}") from None
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise _problem(setting, f"the folder {path} cannot be written by this user")
    return path


def _problem(setting: str, message: str) -> ConfigError:
    return ConfigError([f"environment: {variable(setting)}: {message}"])
