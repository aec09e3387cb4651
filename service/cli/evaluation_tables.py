"""An evaluation as a person reads it in a terminal."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from service.cli.plan_tables import console
from service.evaluation.report import Report, sentence, span_of
from service.evaluation.statistics import Comparison, Verdict, signed

WORST = 10  # cases
SHOWN = 60  # characters of a text
STYLES: dict[Verdict, str] = {"better": "green", "worse": "red"}


def print_report(full: Report) -> None:
    """The comparison by metric, by split and category, the worst cases, and what it cost."""
    out, run = console(), full.run
    out.print(Text(f"{run.new} against {run.against}: {len(full.results)} cases of {run.cases_file}"))
    out.print()
    _print_metrics(out, full)
    _print_groups(out, full)
    _print_worst(out, full)
    _print_spent(out, full)
    for note in full.notes:
        out.print(Text(note), style="dim")
    if full.missing:
        out.print(Text(f"{len(full.missing)} cases could not be compared:"), style="red")
        for case, reason in full.missing[:WORST]:
            out.print(Text(f"  {printable(case.id)}: {printable(reason)}"))
    for one in full.comparisons:
        out.print(Text(sentence(one, run)), style=STYLES.get(one.verdict, ""))
    for verdict in STYLES:
        for name, metrics in full.groups_that_are(verdict).items():
            out.print(Text(f"{run.new} is {verdict} in {printable(name)}: {', '.join(metrics)}"), style=STYLES[verdict])
    for reason in full.failures:
        out.print(Text(f"Not passed: {reason}."), style="bold red")


def _print_metrics(out: Console, full: Report) -> None:
    table = _table("metric", full.run.new, full.run.against, *_differences(full))
    for one in full.comparisons:
        table.add_row(one.metric, *_figures(one))
    out.print(table)
    out.print()


def _print_groups(out: Console, full: Report) -> None:
    if not full.groups:
        return
    table = _table("cases", "metric", full.run.new, full.run.against, *_differences(full))
    table.columns[1].justify = "left"
    for group in full.groups:
        for number, one in enumerate(group.comparisons):
            table.add_row(
                Text("" if number else f"{group.by} {printable(group.name)} ({one.cases})"), one.metric, *_figures(one)
            )
    out.print(table)
    out.print()


def _print_worst(out: Console, full: Report) -> None:
    lost = [one for one in full.results if any(one.difference(metric) < 0 for metric in full.metrics)][:WORST]
    if not lost:
        out.print(Text(f"{full.run.new} lost no case.\n"))
        return
    table = _table("lost most", *full.metrics, "reference", full.run.new, full.run.against)
    for column in table.columns[-3:]:
        column.justify, column.overflow = "left", "fold"
    for one in lost:
        differences = (signed(one.difference(metric)) for metric in full.metrics)
        texts = (one.case.references[0], one.new.text, one.against.text)
        table.add_row(Text(printable(one.case.id)), *differences, *(Text(_short(text)) for text in texts))
    out.print(table)
    out.print()


def _print_spent(out: Console, full: Report) -> None:
    priced = any(one.gpu_seconds is not None for one in full.spent)
    table = _table("requests", "number", "prompt tokens", "completion tokens", *(("GPU s", "cost") if priced else ()))
    for one in full.spent:
        row = [one.what, f"{one.requests:,}", f"{one.prompt_tokens:,}", f"{one.completion_tokens:,}"]
        if priced:
            row += [f"{one.gpu_seconds or 0:,.1f}", f"{one.cost or 0:,.4f}"]
        table.add_row(*row)
    out.print(table)
    out.print()


def _differences(full: Report) -> tuple[str, ...]:
    return "difference", f"{full.run.sampling.confidence:.0%} interval", "wins", "ties", "losses"


def _figures(one: Comparison) -> list[Text | str]:
    counts = one.wins, one.ties, one.losses
    difference = Text(signed(one.difference), style=STYLES.get(one.verdict, ""))
    return [f"{one.new:.3f}", f"{one.against:.3f}", difference, span_of(one), *map(str, counts)]


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column(Text(first))
    for name in others:
        table.add_column(Text(name), justify="right")
    return table


def printable(text: str) -> str:
    """The text without what a terminal would obey: a model's answer can have escape sequences in it."""
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)


def _short(text: str) -> str:
    line = printable(" ".join(text.split()))
    return line if len(line) <= SHOWN else line[: SHOWN - 1] + "…"
