"""`roundhouse add` for the folder of a LoRA adapter: writes it into the fleet file, under its base."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from service.catalog import names
from service.catalog.catalog import Catalog
from service.config.paths import BUNDLED
from service.config.settings import Settings
from service.config.strict_yaml import ConfigError
from service.fleet import fleet
from service.fleet.fleet import Fleet
from service.onboarding.fleet_text import with_adapter
from service.onboarding.model_files import OnboardingError
from service.weights import adapter
from service.weights.adapter import AdapterError

Load = Callable[[Path], Fleet]


def add_adapter(
    source: Path, file: Path, fields: dict[str, Any], settings: Settings, catalog: Catalog, *, dry_run: bool
) -> None:
    """Adds the adapter in the folder `source` to the fleet file; raises OnboardingError where it does not fit.

    `fields` are keys of its entry beside the path. A service that runs with the file has the adapter a moment later.
    """
    if file.resolve().is_relative_to(BUNDLED):
        raise OnboardingError(f"{file} is part of the installed package: give a fleet file of your own with --fleet")

    def load(path: Path) -> Fleet:
        return fleet.load(path, catalog, settings.weights)

    try:
        files = adapter.read(source)
        served, text = load(file), file.read_text(encoding="utf-8")
    except AdapterError as error:
        raise OnboardingError(str(error)) from None
    except ConfigError as error:
        raise OnboardingError("the fleet file has mistakes already:\n" + "\n".join(error.problems)) from None
    slug = names.parse(source.name).slug
    if not (fields.get("id") or slug):
        raise OnboardingError(f"no id can be made from the name '{source.name}': give one with --id")
    entry = {"id": slug, **fields, "path": _written(source, file.resolve().parent)}
    base, extended = _under_its_base(text, entry, file, served, load)
    click.echo(f"Adapter of rank {files.rank}, under '{base}' in {file}:\n\n  {_shown(entry)}\n")
    if dry_run:
        return
    _replace(file, extended)
    click.echo(
        f"Added. A service that runs with this file serves '{entry['id']}' in a few seconds, where the engines of "
        f"'{base}' have room for adapters; else after a restart."
    )


def _under_its_base(text: str, entry: dict[str, Any], file: Path, served: Fleet, load: Load) -> tuple[str, str]:
    """The id of the first model that the adapter fits, and the text of the file with the adapter under it."""
    problems = []
    for index, model in enumerate(served.served):
        try:
            extended = with_adapter(text, index, entry)
            _check(file, extended, load)
        except ValueError as error:
            problems.append(f"{model.id}: {error}: add the adapter by hand")
        except ConfigError as error:
            problems.append(f"{model.id}: {error.problems[0]}")
        else:
            return model.id, extended
    raise OnboardingError(f"it fits no model of {file}:\n  " + "\n  ".join(problems))


def _check(file: Path, text: str, load: Load) -> None:
    """Raises ConfigError for a text that would be no valid fleet file, with the mistakes as of `file`."""
    new = file.with_name(f".{file.name}.new")  # beside it: paths are relative to the folder
    try:
        new.write_text(text, encoding="utf-8")
        load(new)
    except OSError as error:
        raise OnboardingError(f"{new} cannot be written: {error.strerror}") from None
    except ConfigError as error:
        raise ConfigError([problem.replace(str(new), str(file)) for problem in error.problems]) from None
    finally:
        new.unlink(missing_ok=True)


def _replace(file: Path, text: str) -> None:
    target = file.resolve()
    new = target.with_name(f".{target.name}.new")
    try:
        new.write_text(text, encoding="utf-8")
        new.chmod(target.stat().st_mode)
        new.replace(target)
    except OSError as error:
        raise OnboardingError(f"{target} cannot be written: {error.strerror}") from None


def _written(source: Path, folder: Path) -> str:
    """The path as it stands in the file: relative where the adapter lies below the file's folder."""
    source = source.resolve()
    return f"./{source.relative_to(folder)}" if source.is_relative_to(folder) else str(source)


def _shown(entry: dict[str, Any]) -> str:
    return "{" + ", ".join(f"{key}: {value}" for key, value in entry.items()) + "}"
