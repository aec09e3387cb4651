"""`roundhouse upgrade`: another release of a model takes the traffic of the old one, if it answers as that does."""

import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from service.catalog.names import POOLING
from service.cli.configured import configured, fleet_option
from service.config.strict_yaml import ConfigError
from service.fleet import fleet
from service.upgrade import golden, progress, shapes
from service.upgrade.comparison import Bounds, Finding
from service.upgrade.gate import Questions, compare
from service.upgrade.rollout import Rollout, UpgradeError, Watch, check, problems_of
from service.upgrade.service import Service, ServiceError
from service.upgrade.weights_file import WeightsFile

REFUSED = 3  # the exit status of an upgrade that was refused, or taken back
LOOK = 1.0  # seconds between two looks whether the new model is ready


def _steps(_: click.Context, __: click.Parameter, text: str) -> tuple[int, ...]:
    try:
        steps = tuple(int(part) for part in text.split(","))
    except ValueError:
        steps = ()
    if not steps or list(steps) != sorted({*steps}) or steps[0] < 1 or steps[-1] != 100:
        raise click.BadParameter("must be rising numbers from 1 to 100, the last of which is 100")
    return steps


@click.command()
@click.argument("old", required=False)
@click.argument("new", required=False)
@fleet_option
@click.option("--url", default="http://127.0.0.1:3000", show_default=True, help="The service that runs the fleet.")
@click.option("--key", envvar="ROUNDHOUSE_API_KEY", default="", help="API key for inference, models and metrics.")
@click.option("--golden", "golden_file", type=click.Path(path_type=Path), help="Prompts, instead of the variant's own.")
@click.option("--log", "log_file", type=click.Path(path_type=Path), help="The service's log, for shapes of requests.")
@click.option("--sample", default=20, show_default=True, type=click.IntRange(1, 1000), help="So many shapes of it.")
@click.option("--steps", default="5,25,50,100", show_default=True, callback=_steps, help="Per cent of the traffic.")
@click.option("--watch", default=300.0, show_default=True, type=click.FloatRange(min=1), help="Seconds of each step.")
@click.option("--least", default=20, show_default=True, type=click.IntRange(0), help="Requests of each step, at least.")
@click.option("--agreement", default=0.9, show_default=True, type=click.FloatRange(0, 1), help="Answers alike, least.")
@click.option("--drift", default=0.1, show_default=True, type=click.FloatRange(0), help="Of log probabilities, most.")
@click.option("--slower", default=1.25, show_default=True, type=click.FloatRange(1), help="Times the old latency.")
@click.option("--errors", default=0.01, show_default=True, type=click.FloatRange(0, 1), help="More failures, most.")
@click.option("--allow-template", is_flag=True, help="Let prompts be rendered otherwise than before.")
@click.option("--gate-only", is_flag=True, help="Compare both models, and move nothing.")
@click.option("--start-timeout", default=900.0, show_default=True, help="Seconds for the new model to be ready.")
@click.option("--resume", is_flag=True, help="Go on with an upgrade that was interrupted.")
@click.option("--abort", is_flag=True, help="Take an upgrade back that was interrupted.")
def upgrade(
    old: str | None, new: str | None, fleet_file: Path | None, url: str, key: str, golden_file: Path | None,
    log_file: Path | None, sample: int, steps: tuple[int, ...], watch: float, least: int, agreement: float,
    drift: float, slower: float, errors: float, allow_template: bool, gate_only: bool, start_timeout: float,
    resume: bool, abort: bool,
) -> None:  # fmt: skip
    """Give the traffic of model OLD to model NEW, if it answers as OLD does.

    Both are models of the fleet file under one alias, OLD with 'weight: 100' and NEW with 'weight: 0'; docs/upgrades.md
    has the whole way. Ends with 3 where NEW is refused, or its traffic was taken back.
    """
    settings, catalog, served = configured(fleet_file)
    path = fleet_file or settings.fleet
    allowed = settings.prompt_log is not None
    file = WeightsFile(path, lambda one: fleet.load(one, catalog, settings.weights, may_log_prompts=allowed))
    service = Service(url, key)
    rollout = Rollout(service, file, Watch(watch, least, errors, max(slower, 1.5)), _say)
    try:
        with file.locked():
            begun = progress.read(path)
            if resume or abort:
                _go_on(rollout, path, begun, abort=abort)
                return
            if begun:
                raise UpgradeError(
                    f"an upgrade from '{begun.old}' to '{begun.new}' has begun: --resume goes on, --abort takes it back"
                )
            if not old or not new:
                raise click.UsageError("name both models: roundhouse upgrade OLD NEW")
            begins = check(served, old, new, steps)
            if {served.serving(old).variant, served.serving(new).variant} & {*POOLING}:
                raise UpgradeError("only models that generate text can be compared")
            default = settings.models / "golden" / f"{served.serving(old).variant}.jsonl"
            questions = Questions(
                golden.read(golden_file or default), shapes.read(log_file, old, sample) if log_file else (),
                allow_template,
            )  # fmt: skip
            _start(service, old, new, start_timeout)
            _pass(compare(service, old, new, questions, Bounds(agreement, drift, slower, slower), _say))
            if gate_only:
                return
            _end(rollout.run(begins), begins)
    except (ConfigError, UpgradeError, ServiceError) as error:
        raise click.ClickException(problems_of(error)) from None


def _go_on(rollout: Rollout, path: Path, begun: progress.Progress | None, *, abort: bool) -> None:
    if begun is None:
        raise UpgradeError("no upgrade has begun in this fleet file")
    if abort:
        rollout.give(begun, 0)
        progress.end(path)
        _say(f"aborted: '{begun.old}' has all of its traffic again")
    else:
        _end(rollout.run(begun), begun)


def _end(alarm: str, begun: progress.Progress) -> None:
    if alarm:
        _say(f"rolled back: '{begun.old}' has all of its traffic again, for of '{begun.new}' {alarm}")
        raise SystemExit(REFUSED)
    _say(f"done: '{begun.new}' has the traffic of '{begun.old}', which can leave the fleet file at the next restart")


def _start(service: Service, old: str, new: str, timeout: float) -> None:
    """Waits until both models are ready; a request starts one that is scaled to zero."""
    until = time.monotonic() + timeout
    for model in (old, new):
        state = ""
        while (row := service.model(model))["state"] != "ready":
            if row["state"] != state:
                state = row["state"]
                _say(f"{model} is {state}{': ' + row['reason'] if row['reason'] else ''}")
            if time.monotonic() > until:
                raise UpgradeError(f"'{model}' was not ready within {timeout:g} s: {row['state']}, {row['reason']}")
            if state == "scaled_to_zero":
                service.answer(model, "/v1/completions", {"prompt": "a", "max_tokens": 1})
            time.sleep(LOOK)


def _pass(findings: Iterable[Finding]) -> None:
    """Shows what the gate finds; ends with 3 at the first thing that does not pass, after which nothing is asked."""
    table = Table("compared", "old", "new", "", "")
    table.columns[4].overflow = "fold"
    refused = False
    try:
        for one in findings:
            table.add_row(one.what, one.old, one.new, "passed" if one.passed else "REFUSED", one.detail)
            refused = not one.passed
            if refused:
                break
    finally:
        Console().print(table)
    if refused:
        _say(f"refused: {one.what}: {one.new} ({one.detail or 'of the old one ' + one.old}). No traffic was moved")
        raise SystemExit(REFUSED)
    _say("passed the gate")


def _say(text: str) -> None:
    """A line of the upgrade's own log, on standard error: for people on a terminal, otherwise JSON."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    line = json.dumps({"time": now, "event": "upgrade", "message": text})
    click.echo(f"{now[11:19]} {text}" if sys.stderr.isatty() else line, err=True)


COMMANDS = (upgrade,)
