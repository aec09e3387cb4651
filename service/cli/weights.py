"""`roundhouse pull` and `roundhouse verify`: weights on disk."""

import difflib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Column, Table

from service.catalog.catalog import Catalog
from service.cli.configured import refused, settings_and_catalog
from service.fleet import fleet
from service.weights import manifest
from service.weights.digests import ProgressCallback
from service.weights.mirror import Mirror
from service.weights.pull import PullRequest, PullResult
from service.weights.pull import pull as pull_one
from service.weights.selection import CODE, PICKLE, UNSUPPORTED
from service.weights.sources import Source
from service.weights.store import REPOSITORY, Store, WeightsError


@click.command()
@click.argument("models", metavar="[MODEL]...", nargs=-1)
@click.option("--fleet", "fleet_file", type=click.Path(path_type=Path), help="Pull every hub model of this fleet file.")
@click.option("--revision", help="A commit, branch or tag instead of the catalogue's.")
@click.option("--from", "mirror", type=click.Path(exists=True, file_okay=False, path_type=Path),
              help="A local mirror laid out as organisation/name, or the repository's own folder.")  # fmt: skip
@click.option("--trust-remote-code", is_flag=True, help="Pull the repository's Python files, which the engine may run.")
@click.option("--without-code", is_flag=True, help="Remove references to such files from the configuration.")
def pull(
    models: tuple[str, ...], fleet_file: Path | None, revision: str | None, mirror: Path | None,
    trust_remote_code: bool, without_code: bool,
) -> None:  # fmt: skip
    """Download the weights of each MODEL: safetensors only, verified, with a manifest.

    MODEL is an id of the catalogue, or organisation/name on the hub. HF_TOKEN gives access to gated models, HF_ENDPOINT
    sets another hub. Run an interrupted pull again to continue it.
    """
    if bool(models) == bool(fleet_file):
        raise click.UsageError("Name models, or a fleet file with --fleet.")
    if revision and len(models) != 1:
        raise click.UsageError("--revision needs exactly one MODEL.")
    if trust_remote_code and (without_code or fleet_file):
        raise click.UsageError(
            "--trust-remote-code cannot be combined with --without-code, nor with --fleet: set it in the fleet file."
        )
    settings, catalog = settings_and_catalog()
    if fleet_file:
        requests = _requests_of_fleet(fleet_file, catalog, without_code)
    else:
        found = (_request(name, catalog, revision, trust_remote_code, without_code) for name in models)
        requests = [request for request in found if request]
    for request in requests:
        with readable_errors():
            source = Mirror(mirror, request.repository, progress_bar) if mirror else _hub(request)
            result = pull_one(request, source, Store(settings.weights), progress_bar)
        _report(request, result)


def _request(
    name: str, catalog: Catalog, revision: str | None, trust_remote_code: bool, without_code: bool
) -> PullRequest | None:
    model = catalog.find(name)
    if model and model.path:
        click.echo(f"{model.id} is embedded: its weights are {catalog.folder / model.path}")
        return None
    if not model and not REPOSITORY.fullmatch(name):
        similar = difflib.get_close_matches(name, catalog.models, n=3)
        hint = f" Did you mean {', '.join(similar)}?" if similar else ""
        raise click.BadParameter(f"'{name}' is neither an id of the catalogue nor organisation/name.{hint}")
    return PullRequest(
        repository=str(model.hub) if model else name, model=model.id if model else name,
        revision=revision or (model.revision if model else None),
        trust_remote_code=trust_remote_code, without_code=without_code,
    )  # fmt: skip


def _requests_of_fleet(file: Path, catalog: Catalog, without_code: bool) -> list[PullRequest]:
    with refused():
        served = fleet.load(file, catalog).served
    requests = {}
    for one in served:
        repository = one.model.hub
        if repository and one.weights == repository:
            trusted = one.engine.get("trust_remote_code") is True
            revision = one.engine.get("revision", one.model.revision)
            revision = revision if isinstance(revision, str) else None
            model = catalog.find(repository)
            requests[repository, revision] = PullRequest(
                repository, model.id if model else repository, revision, trusted, without_code and not trusted
            )
    for adapter in (adapter for one in served for adapter in one.adapters if adapter.hub and not one.addresses):
        hub = str(adapter.hub)
        requests[hub, adapter.revision] = PullRequest(hub, adapter.id, adapter.revision, without_code=without_code)
    if not requests:
        click.echo(f"{file}: every model has local weights; there is nothing to pull.")
    return list(requests.values())


def _hub(request: PullRequest) -> Source:
    try:
        from service.weights.hub import Hub  # importing the client takes 0.3 s, which only this command should spend
    except ImportError as error:
        raise WeightsError(f"huggingface-hub is not installed ({error}); pull with --from DIRECTORY") from None
    return Hub(request.repository, request.revision, os.environ.get("HF_ENDPOINT"), os.environ.get("HF_TOKEN"))


def _report(request: PullRequest, result: PullResult) -> None:
    pulled = result.manifest
    state = "" if result.is_new else " (was there already, verified)"
    click.echo(f"{pulled.model}: {len(pulled.files)} files, {format_size(pulled.size)} in {result.directory}{state}")
    click.echo(f"  revision {pulled.revision or 'unknown: the source has no commit'}")
    if pulled.revision and not request.revision:
        click.echo(f"  The revision is not pinned. Pin it in the fleet file: engine: {{revision: {pulled.revision}}}")
    for reason in (PICKLE, CODE, UNSUPPORTED):
        if names := [name for name, why in result.skipped.items() if why == reason]:
            click.echo(f"  skipped: {', '.join(names[:4])}{' …' if len(names) > 4 else ''}: each {reason}")
    if pulled.without_code:
        click.echo("  without code: the configuration no longer refers to any")


@click.command()
@click.argument("which", metavar="[MODEL|DIRECTORY]...", nargs=-1)
@click.option("--full", is_flag=True, help="Hash every file, even if it has not changed since it was last hashed.")
def verify(which: tuple[str, ...], full: bool) -> None:
    """Compare pulled weights with their manifests; without arguments, all that were pulled."""
    settings, catalog = settings_and_catalog()
    store = Store(settings.weights)
    with readable_errors():
        directories = [weights_directory(name, catalog, store) for name in which] or list(store.all_pulled())
    if not directories:
        click.echo(f"Nothing has been pulled into {store.folder}.")
        return
    table = Table("weights", "revision", "files", "size", Column("result", overflow="fold"))
    is_valid = [_verify(directory, full, store, table) for directory in directories]
    Console().print(table)
    if not all(is_valid):
        raise SystemExit(1)


def _verify(directory: Path, full: bool, store: Store, table: Table) -> bool:
    """Adds the directory's row to the table; returns whether it is valid."""
    try:
        found = manifest.read(directory)
    except manifest.ManifestError:
        found = None
    with progress_bar(directory.name, found.size if found else 0) as advance:
        problems = manifest.verify(directory, full, advance)
    result = "[green]valid[/]" if not problems else "\n".join(f"[red]{problem}[/]" for problem in problems[:5])
    more = f"\n… and {len(problems) - 5} more" if len(problems) > 5 else ""
    cells = (found.revision or "unknown", str(len(found.files)), format_size(found.size)) if found else ("-",) * 3
    is_inside = directory.is_relative_to(store.folder)
    table.add_row(str(directory.relative_to(store.folder) if is_inside else directory), *cells, result + more)
    return not problems


def weights_directory(name: str, catalog: Catalog, store: Store) -> Path:
    """The directory of the weights that `name` stands for: a catalogue id, organisation/name, or a path."""
    model = catalog.find(name)
    if model and model.path:
        return catalog.folder / model.path
    if directory := store.pulled(str(model.hub) if model else name):
        return directory
    if Path(name).is_dir() and not model:
        return Path(name).resolve()
    raise WeightsError(f"{name} has not been pulled into {store.folder}, and is not a directory")


@contextmanager
def readable_errors() -> Iterator[None]:
    """Turns a WeightsError into a message and exit status 1."""
    try:
        yield
    except WeightsError as error:
        raise click.ClickException(str(error)) from None


@contextmanager
def progress_bar(description: str, size: int) -> Iterator[ProgressCallback]:
    """A progress bar on stderr for one task of `size` bytes; nothing where stderr is not a terminal."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(description, total=size)
        yield lambda count: progress.advance(task, count)


def format_size(size: float) -> str:
    """A number of bytes with a decimal unit, such as `8.35 kB`."""
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


COMMANDS = (pull, verify)
