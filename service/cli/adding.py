"""`roundhouse add`: adds a user's own model to the catalogue, or an adapter to the fleet file."""

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
from service.cli.adding_adapters import add_adapter
from service.cli.configured import settings_and_catalog
from service.cli.proving import ENVIRONMENT
from service.config.paths import BUNDLED
from service.config.settings import Settings
from service.conformance import run
from service.conformance.cases import cases
from service.conformance.run import ConformanceError, Verdict
from service.gateway.prerequisites import wrong_platform
from service.onboarding import writing
from service.onboarding.draft import EntryDraft, Overrides, draft
from service.onboarding.model_files import METADATA_FILES, ModelFiles, OnboardingError, read_model_files
from service.weights.adapter import is_adapter
from service.weights.store import REPOSITORY, WeightsError

# Bytes. Larger weights are not loaded; a scaled-down network of the same structure is compared instead.
MAX_WEIGHTS = 2 * 2**30


@click.command()
@click.argument("source", metavar="PATH_OR_REPO")
@click.option("--id", "identifier", help="Id of the model; derived from its name if left out.")
@click.option("--family", help="Family of the model; derived from its name if left out.")
@click.option("--variant", type=click.Choice(get_args(Variant)), help="Variant; derived from the name if left out.")
@click.option("--specialty", type=click.Choice(get_args(Specialty)), help="Specialty of a code model.")
@click.option("--template", help="Chat template: a file under models/templates/.")
@click.option(
    "--fleet",
    "fleet_file",
    type=click.Path(path_type=Path),
    help="For an adapter, if not ROUNDHOUSE_FLEET.",
)
@click.option("--dry-run", is_flag=True, help="Show the entry, but run and write nothing.")
@click.option("--no-proof", is_flag=True, help="Do not compare the engine's output with transformers.")
def add(
    source: str, identifier: str | None, family: str | None, variant: Variant | None, specialty: Specialty | None,
    template: str | None, fleet_file: Path | None, dry_run: bool, no_proof: bool,
) -> None:  # fmt: skip
    """Add the model in the folder PATH, or in the hub repository REPO, to the catalogue.

    Where PATH is a LoRA adapter, as peft saves it, it is checked and written into the fleet file instead, under the
    model that it was trained on.

    Reads config.json and the tokenizer's files, lists what they do not say, compares the engine's output with that of
    transformers and writes the entry into models/<family>.yaml. The comparison uses the weights if they are in a folder
    and not larger than 2 GiB, else a scaled-down network with random weights.
    """
    settings, catalog = settings_and_catalog()
    is_path = Path(source).expanduser().is_dir()
    if is_path:
        source = str(Path(source).expanduser().resolve())
    overrides = Overrides(source, is_path, identifier, family, variant, specialty, template)
    if is_path and is_adapter(Path(source)):
        if specialty or template:
            raise click.UsageError("an adapter has the specialty and the template of its base: leave the option out")
        own = {"id": identifier, "variant": variant, "family": family}
        fields = {key: value for key, value in own.items() if value}
        with _errors_reported():
            add_adapter(Path(source), fleet_file or settings.fleet, fields, settings, catalog, dry_run=dry_run)
        return
    if fleet_file:
        raise click.UsageError("--fleet is for the folder of an adapter, and this is none")
    with _errors_reported():
        files = read_model_files(Path(source)) if is_path else _downloaded(source)
        drafted = draft(overrides, files)
        file = catalog.folder / f"{drafted.family}.yaml"
        extended = writing.validate(catalog.folder, file.name, writing.family_text(drafted, _text(file)))
        _show(file, drafted)
        if dry_run:
            return
        _check_catalogue(catalog.folder)
        if no_proof:
            click.echo("Engine output not compared: --no-proof.")
        else:
            _prove(extended, drafted.fields["id"], files, Path(source) if is_path else None, settings)
        writing.write(catalog.folder, drafted)
    click.echo(f"Added to {file}. To serve it, add '- model: {drafted.fields['id']}' to a fleet file.")


def _check_catalogue(folder: Path) -> None:
    """Raises OnboardingError where the catalogue belongs to an installed package."""
    if folder.resolve() == BUNDLED / "models":
        raise OnboardingError(
            f"the next release would replace what is added to {folder}, which is part of the installed package. Copy "
            f"the catalogue: cp -r {folder} ~/models && export ROUNDHOUSE_MODELS=~/models"
        )


@contextmanager
def _errors_reported() -> Iterator[None]:
    try:
        yield
    except (OnboardingError, WeightsError, ConformanceError) as error:
        raise click.ClickException(str(error)) from None


def _text(file: Path) -> str | None:
    return file.read_text(encoding="utf-8") if file.exists() else None


def _downloaded(repository: str) -> ModelFiles:
    """The metadata files of a hub repository; its weights are not downloaded."""
    if not REPOSITORY.fullmatch(repository):
        raise OnboardingError(f"'{repository}' is neither a folder nor a hub repository (organisation/name)")
    from service.weights.hub import Hub  # slow to import, and only needed here

    hub = Hub(repository, None, os.environ.get("HF_ENDPOINT"), os.environ.get("HF_TOKEN"))
    listing = hub.listing()
    with tempfile.TemporaryDirectory() as scratch:
        for file in listing.files:
            if file.name in METADATA_FILES:
                hub.fetch(file, listing.revision, Path(scratch))
        return read_model_files(Path(scratch))


def _show(file: Path, drafted: EntryDraft) -> None:
    click.echo(f"Entry for {file}:\n\n{writing.entry_text(drafted.fields)}")
    if drafted.missing:
        click.echo("Missing:")
        for item in drafted.missing:
            click.echo(f"  - {item}")
        click.echo()


def _prove(catalog: Catalog, identifier: str, files: ModelFiles, weights: Path | None, settings: Settings) -> None:
    """Compares the engine's output for the model with transformers'; raises ConformanceError unless they match."""
    if wrong := wrong_platform(sys.platform, "Proving"):
        raise ConformanceError(f"the model was not added. {wrong} --no-proof adds it without")
    model = catalog.models[identifier]
    with tempfile.TemporaryDirectory(prefix="roundhouse-add-") as scratch:
        folder = Path(scratch)
        if weights and files.tensors and files.tensors.size <= MAX_WEIGHTS and model.shape.vocab_size:
            click.echo("Comparing the engine's output with transformers on these weights …")
            verdict = asyncio.run(_compare_weights(model, weights, folder, settings))
        else:
            found, skipped = cases(catalog, [identifier])
            if skipped:
                click.echo(f"Engine output not compared: {skipped[0].why}.")
                return
            click.echo("Comparing the engine's output with transformers on a scaled-down network …")
            request = {found[0].name: run.scaled_down_request(found[0])}
            asyncio.run(run.build_references(request, folder, lambda _: None))
            verdict = asyncio.run(run.run(found[0], folder, ENVIRONMENT, settings))
    if verdict.outcome != "equal":
        problem = "the engine cannot run it" if verdict.outcome == "refused" else "the engine's output differs"
        raise ConformanceError(
            f"the model was not added, because {problem}: {verdict.detail}. --no-proof adds it anyway"
        )
    click.echo("The engine's output matches transformers.")


async def _compare_weights(model: Model, weights: Path, folder: Path, settings: Settings) -> Verdict:
    request = run.weights_request(model, weights)
    await run.build_references({model.id: request}, folder, lambda _: None)
    served = run.served_model(model, weights, ENVIRONMENT)
    return await run.compare(served, request["prompts"], folder / model.id, settings)


COMMANDS = (add,)
