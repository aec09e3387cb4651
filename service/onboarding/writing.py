"""Puts an entry into the catalogue's folder, once the catalogue with it is known to be right."""

import tempfile
from pathlib import Path
from typing import Any

import yaml

from service.catalog import catalog
from service.config.strict_yaml import ConfigError
from service.onboarding.description import IntakeError
from service.onboarding.draft import EntryDraft


def text_of(draft: EntryDraft, before: str | None) -> str:
    """The family's file with the entry at its end; `before` is its text so far, None where there is none."""
    item = yaml.safe_dump([draft.fields], sort_keys=False, allow_unicode=True, default_flow_style=None, width=116)
    entry = "".join(f"  {line}\n" for line in item.splitlines())
    if before is None:
        head = {"family": draft.family, "title": draft.family, "licence": {}}
        schema = "# yaml-language-server: $schema=schema.json\n"
        before = schema + yaml.safe_dump(head, sort_keys=False) + "models:\n"
    return before.rstrip("\n") + "\n" + entry


def write(folder: Path, draft: EntryDraft) -> Path:
    """Adds the entry to `folder`; returns the file. Raises IntakeError, and then nothing has changed."""
    place = folder / f"{draft.family}.yaml"
    before = place.read_text(encoding="utf-8") if place.exists() else None
    text = text_of(draft, before)
    check(folder, place.name, text)
    scratch = place.with_suffix(".yaml.new")
    scratch.write_text(text, encoding="utf-8")
    scratch.replace(place)
    return place


def check(folder: Path, name: str, text: str) -> catalog.Catalog:
    """The catalogue of `folder` as it would be with that file; raises IntakeError where it would be wrong."""
    with tempfile.TemporaryDirectory() as scratch:
        trial = Path(scratch)
        for one in folder.iterdir():
            if one.name != name:
                (trial / one.name).symlink_to(one.resolve())
        (trial / name).write_text(text, encoding="utf-8")
        try:
            return catalog.load(trial)
        except ConfigError as error:
            problems = "\n".join(problem.replace(str(trial), str(folder)) for problem in error.problems)
            raise IntakeError(f"the entry would not be valid:\n{problems}") from None


def yaml_of(fields: dict[str, Any]) -> str:
    """The entry alone, for a person to read."""
    return yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, default_flow_style=None, width=116)
