"""Loads what every process of the service needs to know, and tells the other processes through the environment."""

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

from pydantic import SecretStr

from service.auth import keys_file
from service.auth.keys import Keys
from service.catalog import catalog as catalogs
from service.config import run_dir
from service.config.secret import read_secret, shared_cache_secret
from service.config.settings import Settings, variable
from service.config.strict_yaml import ConfigError
from service.fleet import fleet as fleets
from service.gateway.listening import check_access
from service.observability import trace_settings
from service.observability.rotating_file import check_private

RUN_DIR = "ROUNDHOUSE_RUN_DIR"


def load_fleet(settings: Settings, catalog: catalogs.Catalog) -> fleets.Fleet:
    """The fleet that the settings name; raises ConfigError with every mistake in its file."""
    may_log_prompts = settings.prompt_log is not None
    return fleets.load(settings.fleet, catalog, settings.weights, may_log_prompts=may_log_prompts)


def load_configuration(host: str | None = None) -> tuple[Settings, catalogs.Catalog, fleets.Fleet, Keys | None]:
    """Settings, catalogue, fleet and keys; exits the process with a list of all mistakes if there are any.

    `host` is the address to listen on, where it is told by something else than the settings.
    """
    try:
        if host:
            os.environ[variable("host")] = host  # the workers are not told the command's options
        settings = Settings.from_environ(os.environ)
        catalog = catalogs.load(settings.models)
        fleet = load_fleet(settings, catalog)
        keys = keys_file.load(settings, fleet.sign_on is not None)
        check_access(settings.host, fleet.auth, keys)
        trace_settings.read(os.environ)
        given = {name: SecretStr(read_secret(settings, name)) for name in ("cache_secret", "engine_key")}
        path = run_dir.prepare(settings.run_dir) if settings.run_dir else None
        folders = {name: getattr(settings, name) for name in ("responses_dir", "usage_dir", "evidence_dir")}
        for name, folder in folders.items():
            if folder:
                folders[name] = run_dir.private_folder(folder, name)
                os.environ[variable(name)] = str(folders[name])  # the workers run in another folder
        for name in ("audit_log", "prompt_log"):
            if file := getattr(settings, name):
                check_private(file, variable(name))
        for name in ("api_key_file", "keys", "audit_log", "prompt_log", "cache_secret_file", "engine_key_file"):
            if file := getattr(settings, name):
                os.environ[variable(name)] = str(file.absolute())
    except ConfigError as error:
        sys.exit(f"Roundhouse cannot start:\n{error}")
    if path is None:
        # `bentoml serve` creates it for all its workers, which inherit the variable, and removes it at exit.
        path = Path(tempfile.mkdtemp(prefix="roundhouse-"))
        atexit.register(shutil.rmtree, path, ignore_errors=True)
    os.environ[RUN_DIR] = str(path)
    try:
        given["cache_secret"] = given["cache_secret"] or SecretStr(shared_cache_secret(path))
    except ConfigError as error:
        sys.exit(f"Roundhouse cannot start:\n{error}")
    found = given | {"run_dir": path, **folders}
    return settings.model_copy(update=found), catalog, fleet, keys
