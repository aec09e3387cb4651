"""`roundhouse evidence`: lists and shows what was kept of engines that hung, crashed or failed to start."""

import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from service.cli.configured import refused
from service.config.settings import Settings, variable
from service.engine import bundles
from service.engine.bundles import Bundle

CAUSES = {"hang": "it hung", "crash": "it crashed", "failed_start": "it failed to start"}
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2028\u2029\u2066-\u2069]")  # what terminals act upon
LOG_LINES, REQUESTS, FIGURES = 20, 10, 5  # that `show` prints; --json has all

folder_option = click.option(
    "--dir", "folder", type=click.Path(path_type=Path), help=f"The folder, if not {variable('evidence_dir')}'s."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def evidence() -> None:
    """List and show what was kept of hung and crashed engines.

    It is kept in the folder that ROUNDHOUSE_EVIDENCE_DIR names, and otherwise in the run folder of the service.
    """


@evidence.command(name="list")
@folder_option
@json_option
def list_evidence(folder: Path | None, as_json: bool) -> None:
    """Show all bundles, the newest first."""
    found = known(folder)
    if as_json:
        click.echo(
            json.dumps([{"path": str(one.path), "bytes": one.bytes, **identified(one)} for one in found], indent=1)
        )
        return
    table = Table("id", "cause", "when", "main thread", "kB", box=SIMPLE, padding=(0, 1, 0, 0))
    table.columns[0].no_wrap = True
    for one in found:
        stood = frames_of(one.summary)[:1] or ["unknown"]
        row = (one.id, one.summary.get("cause"), one.summary.get("time"), *stood, f"{one.bytes / 1000:.0f}")
        table.add_row(*(plain(text or "unknown") for text in row))
    Console(markup=False, highlight=False).print(table)


@evidence.command()
@click.argument("id")
@folder_option
@json_option
def show(id: str, folder: Path | None, as_json: bool) -> None:
    """Show one bundle: a summary, then the stacks, the requests, the last figures and the end of the log."""
    bundle = next((one for one in known(folder) if one.id == id), None)
    if bundle is None:
        raise click.ClickException(f"there is no evidence '{id}'; `roundhouse evidence list` shows what there is")
    parts = {name: json_of(bundle, name) for name in ("requests", "figures")}
    texts = {name: text_of(bundle, f"{name}.txt") for name in ("stacks", "log", "card")}
    if as_json:
        click.echo(json.dumps({"summary": identified(bundle), **parts, **texts}, indent=1))
        return
    for line in (*summary_lines(bundle), *part_lines(parts, texts)):
        click.echo(plain(line))


def identified(bundle: Bundle) -> dict[str, Any]:
    """The summary, which has the id at least."""
    return {"id": bundle.id, **bundle.summary}


def summary_lines(bundle: Bundle) -> Iterator[str]:
    """Cause, time, and where the engine core's main thread stood."""
    about = bundle.summary
    cause = CAUSES.get(about.get("cause", ""), "unknown")
    yield f"{bundle.id}\n"
    yield f"engine       {about.get('replica', 'unknown')}"
    yield f"cause        {cause}: {about.get('reason', 'unknown')}"
    yield f"when         {about.get('time', 'unknown')}, {about.get('age_s', '?')} s after its start began"
    stood = frames_of(about)
    yield f"main thread  {stood[0] if stood else 'unknown'}"
    yield from (f"             {frame}" for frame in stood[1:])
    for one in about.get("processes", ()):
        yield f"process      {one['pid']} {one['state']}, {one['cpu']:.0%} of a core: {one['command'][:80]}"
    versions = about.get("versions", {})
    yield f"versions     {', '.join(f'{name} {release}' for name, release in versions.items())}"
    if not about.get("complete"):
        yield "note         it is not complete: there was not enough time"
    yield from (f"note         {note}" for note in about.get("notes", ()))
    yield f"files        {bundle.path}"


def part_lines(parts: dict[str, Any], texts: dict[str, str]) -> Iterator[str]:
    """The rest of a bundle, as far as people read it."""
    requests = parts["requests"] or []
    yield f"\nRequests at the engine: {len(requests)}"
    for one in requests[:REQUESTS]:
        yield "  " + ", ".join(f"{name} {value}" for name, value in one.items())
    yield "\nLast figures:"
    for one in (parts["figures"] or [])[-FIGURES:]:
        yield "  " + ", ".join(f"{name} {value:g}" for name, value in one.items())
    yield f"\nStacks:\n{texts['stacks']}"
    yield "End of the log:"
    yield from (f"  {line}" for line in texts["log"].splitlines()[-LOG_LINES:])


def frames_of(summary: dict[str, Any]) -> list[str]:
    """The innermost frames of the main thread that says most; none where no stack could be had."""
    return list((summary.get("main_thread") or {}).get("frames", ()))


def plain(text: str) -> str:
    """Text without what a terminal would act upon."""
    return CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def text_of(bundle: Bundle, name: str) -> str:
    """A file of the bundle; empty where it is missing."""
    try:
        return (bundle.path / name).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def json_of(bundle: Bundle, name: str) -> Any:
    """What a JSON file of the bundle says; None where it is missing or cut off."""
    try:
        return json.loads(text_of(bundle, f"{name}.json"))
    except ValueError:
        return None


def known(given: Path | None) -> list[Bundle]:
    """All bundles, the newest first; exits where nothing says where they are."""
    found = [bundle for folder in folders(given) for bundle in bundles.read(folder)]
    return sorted(found, key=lambda bundle: bundle.id, reverse=True)


def folders(given: Path | None) -> list[Path]:
    """Where bundles are: in the one folder that is named, or else in the run folders of the services that run here."""
    with refused():
        settings = Settings.from_environ(os.environ)
    if named := given or settings.evidence_dir or (settings.run_dir and settings.run_dir / bundles.FOLDER):
        return [named]
    temporary = Path(tempfile.gettempdir()).glob(f"roundhouse-*/{bundles.FOLDER}")
    return [folder for folder in temporary if folder.stat().st_uid == os.getuid()]


COMMANDS = (evidence,)
