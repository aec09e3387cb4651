"""Commands for a site without a network: pack what it needs here, unpack it there."""

import re
import tempfile
from pathlib import Path
from typing import Any

import click

from service.cli.configured import settings_and_catalog
from service.cli.weights import place_of, progressing, readable, told
from service.config.paths import ROOT
from service.weights import bundle as bundles
from service.weights import unbundle
from service.weights.bundle import Item
from service.weights.digests import sha256
from service.weights.store import Store, WeightsError

UNITS = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
SMALLEST = 1000  # bytes of a part


class Size(click.ParamType[int]):
    """A number of bytes as people write it: 60M and 60MB are 60,000,000, 60MiB is more."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?", str(value).strip().lower())
        if not found or found[2] not in UNITS:
            self.fail(f"'{value}' is no size; write it as 60M, 500MB or 2G", param, ctx)
        size = int(float(found[1]) * UNITS[found[2]])
        if size < SMALLEST:
            self.fail(f"a part must have at least {SMALLEST} bytes", param, ctx)
        return size


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--model", "models", multiple=True, help="A pulled model, by its id in the catalogue or on the hub.")
@click.option("--wheels", "lock", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="The packages of this lock file, fetched by pip.")  # fmt: skip
@click.option("--wheel-dir", type=click.Path(exists=True, file_okay=False, path_type=Path),
              help="The packages of this folder instead.")  # fmt: skip
@click.option("--project", is_flag=True, help="What the images are built from: the project's own source.")
@click.option(
    "--include", multiple=True, type=click.Path(exists=True, path_type=Path), help="Any other file or folder."
)
@click.option("--part-size", type=Size(), default="2G", show_default=True, help="Largest size of a part: 60M, 2G …")
def bundle(
    out: Path, models: tuple[str, ...], lock: Path | None, wheel_dir: Path | None, project: bool,
    include: tuple[Path, ...], part_size: int,
) -> None:  # fmt: skip
    """Pack models, wheels and files into OUT.000, OUT.001 … with OUT.json, for a site without a network.

    unbundle.py beside them unpacks there with nothing but Python.
    """
    settings, known = settings_and_catalog()
    store = Store(settings.weights)
    with told(), tempfile.TemporaryDirectory(prefix="roundhouse-wheels-") as scratch:
        items: list[Item] = []
        repositories = []
        for name in models:
            if (model := known.find(name)) and model.path:
                raise WeightsError(f"{model.id} is embedded: it comes along with --project")
            repository, files = bundles.of_weights(place_of(name, known, store))
            repositories.append(repository)
            items += files
        if lock and not wheel_dir:
            wheel_dir = Path(scratch)
            bundles.download(lock, wheel_dir)
        if wheel_dir:
            items += bundles.of_wheels(wheel_dir, lock)
        if project:
            items += bundles.of_project(ROOT)
        items += [item for path in include for item in bundles.of_path(path)]
        if not items:
            raise click.UsageError("Nothing to pack: give --model, --wheels, --wheel-dir, --project or --include.")
        size = sum(item.path.stat().st_size for item in items)
        requirements = f"{unbundle.WHEELS}/{lock.name}" if lock else None
        with progressing() as progress:
            index = bundles.pack(out, items, repositories, requirements, part_size, progress("packing", size))
    parts = unbundle.read_index(index)["parts"]
    click.echo(f"{len(items)} files, {readable(size)}, in {len(parts)} parts of at most {readable(part_size)}: {index}")
    click.echo(f"  SHA-256 of {index.name}: {sha256(index)}")
    click.echo(
        f"Carry {index.name}, its parts and unbundle.py, and there: python3 unbundle.py {index.name} DESTINATION"
    )


@click.command("unbundle")
@click.argument("index", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("destination", type=click.Path(file_okay=False, path_type=Path))
def unbundle_(index: Path, destination: Path) -> None:
    """Check and unpack the bundle of INDEX, a NAME.json: models into the store, the rest into DESTINATION."""
    settings, _ = settings_and_catalog()
    with told():
        unpacked = unbundle.unpack(index, destination.absolute(), settings.weights)
    click.echo("\n".join(unbundle.what_next(unpacked, destination.absolute(), settings.weights)))


COMMANDS = (bundle, unbundle_)
