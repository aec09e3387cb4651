"""`roundhouse add`: a model of the user's own becomes an entry of the catalogue."""

import asyncio
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

import click

from service.catalog.catalog import Catalog
from service.catalog.model import Model
from service.catalog.names import Specialty, Variant
from service.cli.configured import settings_and_catalog
from service.cli.proving import ENVIRONMENT
from service.config.paths import BUNDLED
from service.config.settings import Settings
from service.conformance import run
from service.conformance.cases import cases
from service.conformance.run import ProofError, Verdict
from service.gateway.prerequisites import wrong_platform
from service.onboarding import writing
from service.onboarding.description import DESCRIBING, Description, IntakeError, describe
from service.onboarding.draft import EntryDraft, Overrides, draft
from service.weights.store import REPOSITORY, WeightsError

LARGEST = 2 * 2**30  # bytes of weights that are proven as they are; of larger ones only the structure is, in small


@click.command()
@click.argument("source", metavar="PATH_OR_REPO")
@click.option("--id", "identifier", help="Its id, if not what the name gives.")
@click.option("--family", help="Its family, if not what the name gives.")
@click.option("--variant", type=click.Choice(get_args(Variant)), help="Its variant, if the name does not tell.")
@click.option("--specialty", type=click.Choice(get_args(Specialty)), help="A code model's specialty.")
@click.option("--template", help="The file under models/templates/ that is its chat template.")
@click.option("--dry-run", is_flag=True, help="Show the entry; write and prove nothing.")
@click.option("--no-proof", is_flag=True, help="Do not try it on the engine.")
def add(
    source: str, identifier: str | None, family: str | None, variant: Variant | None, specialty: Specialty | None,
    template: str | None, dry_run: bool, no_proof: bool,
) -> None:  # fmt: skip
    """Add the model in the folder PATH, or in the hub's repository REPO, to the catalogue.

    Reads config.json and the tokenizer's files, says what they do not tell, tries the model on the engine (small
    weights as they are, else its structure in small) and writes its entry into models/<family>.yaml.
    """
    settings, known = settings_and_catalog()
    is_path = Path(source).expanduser().is_dir()
    if is_path:
        source = str(Path(source).expanduser().resolve())
    said = Overrides(source, is_path, identifier, family, variant, specialty, template)
    with _told():
        description = describe(Path(source)) if is_path else _fetched(source)
        drafted = draft(said, description)
        place = known.folder / f"{drafted.family}.yaml"
        would_be = writing.check(known.folder, place.name, writing.text_of(drafted, _text(place)))
        _show(place, drafted)
        if dry_run:
            return
        _check_catalogue(known.folder)
        if no_proof:
            click.echo("Not tried on the engine: --no-proof.")
        else:
            _prove(would_be, drafted.fields["id"], description, Path(source) if is_path else None, settings)
        writing.write(known.folder, drafted)
    click.echo(f"Added to {place}. Serve it with '- model: {drafted.fields['id']}' in a fleet file.")


def _check_catalogue(folder: Path) -> None:
    """Raises IntakeError where the catalogue belongs to an installed package."""
    if folder.resolve() == BUNDLED / "models":
        raise IntakeError(
            f"the next release would replace what is added to {folder}, which is part of the installed package. Copy "
            f"the catalogue: cp -r {folder} ~/models && export ROUNDHOUSE_MODELS=~/models"
        )


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except (IntakeError, WeightsError, ProofError) as error:
        raise click.ClickException(str(error)) from None


def _text(place: Path) -> str | None:
    return place.read_text(encoding="utf-8") if place.exists() else None


def _fetched(repository: str) -> Description:
    """What a repository's describing files say; its weights stay where they are."""
    if not REPOSITORY.fullmatch(repository):
        raise IntakeError(f"'{repository}' is neither a folder nor organisation/name on the hub")
    from service.weights.hub import Hub  # slow to import, and only needed here

    hub = Hub(repository, None, os.environ.get("HF_ENDPOINT"), os.environ.get("HF_TOKEN"))
    listing = hub.listing()
    with tempfile.TemporaryDirectory() as scratch:
        for file in listing.files:
            if file.name in DESCRIBING:
                hub.fetch(file, listing.revision, Path(scratch))
        return describe(Path(scratch))


def _show(place: Path, drafted: EntryDraft) -> None:
    click.echo(f"The entry for {place}:\n\n{writing.yaml_of(drafted.fields)}")
    if drafted.unknown:
        click.echo("What is missing:")
        for one in drafted.unknown:
            click.echo(f"  - {one}")
        click.echo()


def _prove(
    would_be: Catalog, identifier: str, description: Description, weights: Path | None, settings: Settings
) -> None:
    """Tries the model on the engine; raises ProofError where it does not do what transformers does."""
    if wrong := wrong_platform(sys.platform, "Proving"):
        raise ProofError(f"the model was not added. {wrong} --no-proof adds it without")
    model = would_be.models[identifier]
    with tempfile.TemporaryDirectory(prefix="roundhouse-add-") as scratch:
        folder = Path(scratch)
        if weights and description.weights and description.weights.size <= LARGEST and model.shape.vocab_size:
            click.echo("Trying its weights on the engine against transformers …")
            verdict = asyncio.run(_as_it_is(model, weights, folder, settings))
        else:
            found, unproven = cases(would_be, [identifier])
            if unproven:
                click.echo(f"Not tried on the engine: {unproven[0].why}.")
                return
            click.echo("Trying its structure in small on the engine against transformers …")
            asyncio.run(run.build({found[0].name: run.scaled_down(found[0])}, folder, lambda _: None))
            verdict = asyncio.run(run.run(found[0], folder, ENVIRONMENT, settings))
    if verdict.outcome != "equal":
        what = "The engine does not run it" if verdict.outcome == "refused" else "The engine answers otherwise"
        raise ProofError(f"the model was not added. {what}: {verdict.detail}. --no-proof adds it all the same")
    click.echo("The engine gives what transformers gives.")


async def _as_it_is(model: Model, weights: Path, folder: Path, settings: Settings) -> Verdict:
    request = run.as_it_is(model, weights)
    await run.build({model.id: request}, folder, lambda _: None)
    one = run.served(model, weights, ENVIRONMENT)
    return await run.examine(one, request["prompts"], folder / model.id, settings)


COMMANDS = (add,)
