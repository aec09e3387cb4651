"""Writes an entry into the catalogue's folder, after validating the catalogue with it."""

import tempfile
from pathlib import Path
from typing import Any

import yaml

from service.catalog import catalog
from service.config.strict_yaml import ConfigError
from service.onboarding.draft import EntryDraft
from service.onboarding.model_files import OnboardingError


def family_text(draft: EntryDraft, before: str | None) -> str:
    """The text of the family's file with the entry appended; `before` is its present text, None for a new family."""
    item = yaml.safe_dump([draft.fields], sort_keys=False, allow_unicode=True, default_flow_style=None, width=116)
    entry = "".join(f"  {line}\n" for line in item.splitlines())
    if before is None:
        head = {"family": draft.family, "title": draft.family, "licence": {}}
        schema = "# yaml-language-server: $schema=schema.json\n"
        before = schema + yaml.safe_dump(head, sort_keys=False) + "models:\n"
    return before.rstrip("\n") + "\n" + entry


def write(folder: Path, draft: EntryDraft) -> Path:
    """Adds the entry to its family's file in `folder`, atomically, and returns the file.

    Raises OnboardingError if the catalogue would be invalid; nothing is changed then.
    """
    file = folder / f"{draft.family}.yaml"
    before = file.read_text(encoding="utf-8") if file.exists() else None
    text = family_text(draft, before)
    validate(folder, file.name, text)
    new = file.with_suffix(".yaml.new")
    new.write_text(text, encoding="utf-8")
    new.replace(file)
    return file


def validate(folder: Path, name: str, text: str) -> catalog.Catalog:
    """The catalogue in `folder` with `text` as its file `name`; raises OnboardingError if that is invalid."""
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch)
        for entry in folder.iterdir():
            if entry.name != name:
                (copy / entry.name).symlink_to(entry.resolve())
        (copy / name).write_text(text, encoding="utf-8")
        try:
            return catalog.load(copy)
        except ConfigError as error:
            problems = "\n".join(problem.replace(str(copy), str(folder)) for problem in error.problems)
            raise OnboardingError(f"the entry would not be valid:\n{problems}") from None


def entry_text(fields: dict[str, Any]) -> str:
    """The YAML of the entry alone."""
    return yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, default_flow_style=None, width=116)
