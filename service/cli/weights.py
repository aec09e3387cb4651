"""Commands about weights on disk: pull them, verify them."""

import difflib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Column, Table

from service.catalog.catalog import Catalog
from service.cli.configured import refused, settings_and_catalog
from service.fleet import entries, fleet
from service.weights import manifest, unbundle
from service.weights.digests import Advance
from service.weights.mirror import Mirror
from service.weights.pull import Pulled, Wish
from service.weights.pull import pull as pull_one
from service.weights.selection import CODE, FORMAT, PICKLE
from service.weights.sources import Source
from service.weights.store import REPOSITORY, Store, WeightsError


@dataclass(frozen=True)
class Asked:
    """One model to pull: what is wished, the revision as it was written, and whether anybody has pinned it."""

    wish: Wish
    revision: str | None


@click.command()
@click.argument("models", metavar="[MODEL]...", nargs=-1)
@click.option("--fleet", "fleet_file", type=click.Path(path_type=Path), help="Pull every hub model of this fleet file.")
@click.option("--revision", help="A commit, branch or tag instead of the catalogue's.")
@click.option("--from", "mirror", type=click.Path(exists=True, file_okay=False, path_type=Path),
              help="A local mirror, laid out as organisation/name, or the repository's own folder.")  # fmt: skip
@click.option("--trust-remote-code", is_flag=True, help="Take the repository's Python files, which the engine may run.")
@click.option("--without-code", is_flag=True, help="Leave code away, and its name out of the configuration.")
def pull(
    models: tuple[str, ...], fleet_file: Path | None, revision: str | None, mirror: Path | None,
    trust_remote_code: bool, without_code: bool,
) -> None:  # fmt: skip
    """Bring the weights of each MODEL into the store: safetensors only, verified, with a manifest.

    MODEL is an id of the catalogue, or organisation/name on the hub. HF_TOKEN opens gated models, HF_ENDPOINT names
    another hub. A pull that was interrupted goes on where it stopped.
    """
    if bool(models) == bool(fleet_file):
        raise click.UsageError("Name models, or a fleet file with --fleet.")
    if revision and len(models) != 1:
        raise click.UsageError("--revision goes with exactly one MODEL.")
    if trust_remote_code and (without_code or fleet_file):
        raise click.UsageError("--trust-remote-code goes with MODEL, not with --without-code; a fleet says its own.")
    settings, known = settings_and_catalog()
    if fleet_file:
        asked = _of_fleet(fleet_file, known, without_code)
    else:
        asked = [one for name in models if (one := _of_name(name, known, revision, trust_remote_code, without_code))]
    for one in asked:
        with told(), progressing() as progress:
            source = Mirror(mirror, one.wish.repository) if mirror else _hub(one)
            pulled = pull_one(one.wish, source, Store(settings.weights), progress)
        _report(pulled, is_pinned=one.revision is not None)


def _of_name(name: str, known: Catalog, revision: str | None, trusted: bool, without_code: bool) -> Asked | None:
    model = known.find(name)
    if model and model.path:
        click.echo(f"{model.id} is embedded: its weights are {known.folder / model.path}")
        return None
    if not model and not REPOSITORY.fullmatch(name):
        near = difflib.get_close_matches(name, known.models, n=3)
        hint = f" Did you mean {', '.join(near)}?" if near else ""
        raise click.BadParameter(f"'{name}' is no id of the catalogue and not organisation/name.{hint}")
    repository = str(model.hub) if model else name
    revision = revision or (model.revision if model else None)
    return Asked(Wish(repository, model.id if model else name, _commit(revision), trusted, without_code), revision)


def _of_fleet(file: Path, known: Catalog, without_code: bool) -> list[Asked]:
    with refused():
        served = fleet.load(file, known).served
    asked = {}
    for one in served:
        repository = one.model.hub
        if repository and one.weights == repository:
            trusted = one.engine.get("trust_remote_code") is True
            said = one.engine.get("revision", one.model.revision)
            revision = said if isinstance(said, str) else None
            found = known.find(repository)
            wish = Wish(
                repository, found.id if found else repository, _commit(revision), trusted, without_code and not trusted
            )
            asked[repository, revision] = Asked(wish, revision)
    if not asked:
        click.echo(f"{file}: every model has local weights; there is nothing to pull.")
    return list(asked.values())


def _commit(revision: str | None) -> str | None:
    return revision if revision and entries.COMMIT.fullmatch(revision) else None


def _hub(asked: Asked) -> Source:
    try:
        from service.weights.hub import Hub  # takes a third of a second, and only this command needs it
    except ImportError as error:
        raise WeightsError(f"the hub's client is not installed ({error}); pull with --from DIRECTORY") from None
    return Hub(asked.wish.repository, asked.revision, os.environ.get("HF_ENDPOINT"), os.environ.get("HF_TOKEN"))


def _report(pulled: Pulled, is_pinned: bool) -> None:
    known = pulled.manifest
    state = "" if pulled.fresh else " (was there already, verified)"
    click.echo(f"{known.model}: {len(known.files)} files, {readable(known.size)} in {pulled.place}{state}")
    click.echo(f"  revision {known.revision or 'unknown: the source does not tell'}")
    if known.revision and not is_pinned:
        click.echo(f"  Nothing pins it. In the fleet file: engine: {{revision: {known.revision}}}")
    for reason in (PICKLE, CODE, FORMAT):
        if names := [name for name, why in pulled.left.items() if why == reason]:
            click.echo(f"  left there: {', '.join(names[:4])}{' …' if len(names) > 4 else ''}: each {reason}")
    if known.without_code:
        click.echo("  without code: the configuration names none any more")


@click.command()
@click.argument("which", metavar="[MODEL|DIRECTORY]...", nargs=-1)
@click.option("--full", is_flag=True, help="Hash every file, also those that have not changed since the last time.")
def verify(which: tuple[str, ...], full: bool) -> None:
    """Compare pulled weights with their manifests; all that were pulled, if none is named."""
    settings, known = settings_and_catalog()
    store = Store(settings.weights)
    with told():
        places = [place_of(name, known, store) for name in which] if which else list(store.finished())
    if not places:
        click.echo(f"Nothing has been pulled into {store.folder}.")
        return
    table = Table("weights", "revision", "files", "size", Column("result", overflow="fold"))
    are_good = True
    for place in places:
        try:
            found = manifest.read(place)
        except manifest.ManifestError:
            found = None
        with progressing() as progress:
            problems = manifest.verify(place, full, progress(place.name, found.size if found else 0))
        are_good = are_good and not problems
        result = "[green]as pulled[/]" if not problems else "\n".join(f"[red]{problem}[/]" for problem in problems[:5])
        more = f"\n… and {len(problems) - 5} more" if len(problems) > 5 else ""
        cells = (found.revision or "unknown", str(len(found.files)), readable(found.size)) if found else ("-",) * 3
        is_inside = place.is_relative_to(store.folder)
        table.add_row(str(place.relative_to(store.folder) if is_inside else place), *cells, result + more)
    Console().print(table)
    if not are_good:
        raise SystemExit(1)


def place_of(name: str, known: Catalog, store: Store) -> Path:
    """Where the weights that somebody names lie."""
    model = known.find(name)
    if model and model.path:
        return known.folder / model.path
    repository = str(model.hub) if model else name
    if place := store.pulled(repository):
        return place
    if Path(name).is_dir() and not model:
        return Path(name).resolve()
    raise WeightsError(f"{name} has not been pulled into {store.folder}, and is no directory")


@contextmanager
def told() -> Iterator[None]:
    """Ends the command with 1 and what went wrong."""
    try:
        yield
    except (WeightsError, unbundle.BundleError) as error:
        raise click.ClickException(str(error)) from None


@contextmanager
def progressing() -> Iterator[Callable[[str, int], Advance]]:
    """One bar on the terminal for whatever is under way; nothing where there is no terminal."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("")

        def begin(name: str, size: int) -> Advance:
            progress.reset(task, description=name, total=size)
            return lambda count: progress.advance(task, count)

        yield begin


def readable(size: float) -> str:
    """A number of bytes for people."""
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


COMMANDS = (pull, verify)
