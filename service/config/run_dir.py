"""The run folder: made, or refused, before anything is started that needs it."""

import os
from pathlib import Path

from service.config.settings import variable
from service.config.strict_yaml import ConfigError

# A Unix socket's path has at most 107 bytes, and the longest name of one in the folder is `/e9999.sock`.
MAX_BYTES = 107 - len("/e9999.sock")


def prepare(run_dir: Path) -> Path:
    """The absolute path of the run folder, which exists from now on, made for its owner alone if it did not.

    Raises ConfigError where it cannot be used.
    """
    path = run_dir.absolute()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise _problem(f"the folder {path} cannot be made: {error.strerror}") from None
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise _problem(f"the folder {path} cannot be written by this user")
    if len(os.fsencode(path)) > MAX_BYTES:
        raise _problem(f"{path} is too long for the sockets in it: choose a path of at most {MAX_BYTES} bytes")
    return path


def _problem(message: str) -> ConfigError:
    return ConfigError([f"environment: {variable('run_dir')}: {message}"])
