"""Generates docs/gpu.md and plots from the results: `bench/gpu/report`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.gpu import results, tables
from bench.gpu.results import Result
from service.config.paths import ROOT

RESULTS, PAGE = ROOT / "bench/results", ROOT / "docs/gpu.md"
PREFACE = Path(__file__).with_name("preface.md")
PLOTS = "plots"
NOTHING = "Nothing was measured on a GPU yet: there are no results under `bench/results/`, and so no figures here.\n"


def folders(place: Path) -> list[Path]:
    """The folders that hold results, one for each card."""
    return sorted(path for path in place.iterdir() if path.is_dir() and any(path.rglob("*.json")))


def page(place: Path, link: str = "../bench/results") -> str:
    """The whole of docs/gpu.md; `link` is where a reader of it finds `place`."""
    parts = [PREFACE.read_text(encoding="utf-8"), "## Results\n"]
    found = {path: results.read_results(path) for path in folders(place)}
    if not any(one.where["card"] for rows in found.values() for one in rows):
        parts.append(NOTHING)
    for path, rows in found.items():
        parts += _card(rows, f"{link}/{path.name}")
    return "\n".join(parts)


def _card(rows: Sequence[Result], link: str) -> list[str]:
    measured = [one for one in rows if one.outcome == "measured"]
    failed = [one for one in rows if one.outcome == "failed"]
    where = rows[0].where
    title = where["card"] or f"No card: a rehearsal on {where['cpu']}"
    parts = [
        f"### {title}\n",
        f"Measured: {len(measured)}, failed: {len(failed)}; the files are in [{link}]({link}).\n",
    ]
    if where["card"]:
        parts += ["The targets, which were set for an H200:\n", tables.targets(measured)]
    else:
        parts.append("A rehearsal tests the kit. Its figures say nothing about any GPU.\n")
    for table in tables.TABLES:
        of_it = [one for one in measured if one.measure in table.measures]
        if of_it:
            body = [row for one in of_it for row in table.rows(one)]
            parts += [f"#### {table.title}\n", tables.markdown(table.head, body), _provenance(of_it)]
    if failed:
        body = [(one.experiment, one.reason, one.date) for one in failed]
        parts += ["#### What failed\n", tables.markdown(("experiment", "reason", "date"), body), _provenance(failed)]
    drawn = tables.plots(measured)
    if drawn:
        parts += ["#### Plots\n", *(f"![{name}]({link}/{PLOTS}/{name}.svg)\n" for name in drawn)]
    return parts


def _provenance(rows: Sequence[Result]) -> str:
    """On what, when and by which commands the figures of a table came about."""
    lines: dict[str, None] = {}  # in order, each once
    for one in rows:
        card = f"{one.where['card'] or 'no card'}, driver {one.where['driver'] or 'none'}"
        of = f"{card}, vLLM {one.where['vllm']}, Python {one.where['python']}, {one.where['cpu']}, {one.date[:10]}"
        tools = one.figures.get("tool")
        lines[f"{of}: `{one.command}`{f', tool {tools}' if tools else ''}."] = None
    return "  \n".join(lines) + "\n"


def draw(place: Path) -> list[Path]:
    """Draws every plot of every card, as PNG and SVG; returns the files."""
    written = []
    for path in folders(place):
        measured = [one for one in results.read_results(path) if one.outcome == "measured"]
        for name, picture in tables.plots(measured).items():
            home = path / PLOTS
            home.mkdir(exist_ok=True)
            (home / f"{name}.svg").write_text(picture.svg(), encoding="utf-8")
            picture.png(home / f"{name}.png")
            written += [home / f"{name}.svg", home / f"{name}.png"]
    return written


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="bench/gpu/report", description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder with a folder for each card")
    parser.add_argument("--page", type=Path, default=PAGE, help="the file to write, if not docs/gpu.md")
    asked = parser.parse_args(arguments)
    if not asked.results.is_dir():
        parser.error(f"{asked.results} is no folder")
    try:
        text = page(asked.results, "../bench/results" if asked.results == RESULTS else str(asked.results.resolve()))
        files = draw(asked.results)
    except ValueError as error:
        sys.exit(str(error))
    asked.page.write_text(text, encoding="utf-8")
    print(f"{asked.page} and {len(files)} files of plots")


if __name__ == "__main__":
    main()
