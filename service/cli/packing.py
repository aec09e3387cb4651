"""`roundhouse bundle` and `roundhouse unbundle`: carry models to a site without a network."""

import re
import tempfile
from pathlib import Path
from typing import Any

import click

from service.cli.configured import settings_and_catalog
from service.cli.weights import format_size, progress_bar, readable_errors, weights_directory
from service.config.paths import ROOT
from service.weights import bundle as bundles
from service.weights.bundle import SUMS, Item
from service.weights.digests import sha256
from service.weights.store import Store, WeightsError
from service.weights.unbundle import unpack

UNITS = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
MIN_PART_SIZE = 1000  # bytes


class Size(click.ParamType[int]):
    """A number of bytes with an optional unit: 60M and 60MB are 60,000,000; 60MiB is 60 * 2**20."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?", str(value).strip().lower())
        if not found or found[2] not in UNITS:
            self.fail(f"'{value}' is not a size; write it as 60M, 500MB or 2G", param, ctx)
        size = int(float(found[1]) * UNITS[found[2]])
        if size < MIN_PART_SIZE:
            self.fail(f"a part must have at least {MIN_PART_SIZE} bytes", param, ctx)
        return size


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--model", "models", multiple=True, help="A pulled model, by its id in the catalogue or on the hub.")
@click.option("--wheels", "lock", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="The packages of this lock file, downloaded by pip.")  # fmt: skip
@click.option("--wheel-dir", type=click.Path(exists=True, file_okay=False, path_type=Path),
              help="The packages in this folder instead.")  # fmt: skip
@click.option("--project", is_flag=True, help="The project's source, from which images are built.")
@click.option(
    "--include", multiple=True, type=click.Path(exists=True, path_type=Path), help="Any other file or folder."
)
@click.option("--part-size", type=Size(), default="2G", show_default=True, help="Maximum size of a part: 60M, 2G …")
def bundle(
    out: Path, models: tuple[str, ...], lock: Path | None, wheel_dir: Path | None, project: bool,
    include: tuple[Path, ...], part_size: int,
) -> None:  # fmt: skip
    """Pack models, wheels and files into OUT.tar.part-0000, OUT.tar.part-0001 … with SHA256SUMS.

    Unpack with 'sha256sum -c SHA256SUMS && cat OUT.tar.part-* | tar x', or with 'roundhouse unbundle'.
    """
    settings, catalog = settings_and_catalog()
    store = Store(settings.weights)
    with readable_errors(), tempfile.TemporaryDirectory(prefix="roundhouse-wheels-") as downloads:
        items: list[Item] = []
        for name in models:
            if (model := catalog.find(name)) and model.path:
                raise WeightsError(f"{model.id} is embedded: --project includes it")
            items += bundles.of_weights(weights_directory(name, catalog, store), progress_bar)
        if lock and not wheel_dir:
            wheel_dir = Path(downloads)
            bundles.download_wheels(lock, wheel_dir)
        if wheel_dir:
            items += bundles.of_wheels(wheel_dir, lock)
        if project:
            items += bundles.of_project(ROOT)
        items += [item for path in include for item in bundles.of_path(path)]
        if not items:
            raise click.UsageError("Nothing to pack: give --model, --wheels, --wheel-dir, --project or --include.")
        size = sum(item.path.stat().st_size for item in items)
        with progress_bar("packing", size) as advance:
            parts = bundles.pack(out, items, part_size, advance)
    sums = out.with_name(SUMS)
    click.echo(f"{len(items)} files, {format_size(size)}, in {len(parts)} parts of at most {format_size(part_size)}")
    click.echo(f"  SHA-256 of {sums}: {sha256(sums)}")
    click.echo(f"To unpack: sha256sum -c {SUMS} && cat {out.name}{bundles.PART}* | tar x -C DESTINATION")


@click.command()
@click.argument("folder", metavar="BUNDLE", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("destination", type=click.Path(file_okay=False, path_type=Path))
def unbundle(folder: Path, destination: Path) -> None:
    """Check and unpack the bundle in the folder BUNDLE: models into the store, the rest into DESTINATION."""
    settings, _ = settings_and_catalog()
    with readable_errors():
        models, count = unpack(folder, destination, Store(settings.weights), progress_bar)
    click.echo(f"{count} files unpacked.")
    if models:
        click.echo(f"Weights of {', '.join(models)} are in {settings.weights}.")
    wheels = destination / bundles.WHEELS
    for lock in sorted(wheels.glob("*.lock")):
        click.echo(f"To install the wheels: pip install --no-index --no-deps --find-links {wheels} -r {lock}")


COMMANDS = (bundle, unbundle)
