"""`roundhouse evaluate`: two served models compared by their answers to prompts with references."""

import asyncio
import json
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from service.cli.configured import refused
from service.cli.evaluation_files import Replies, costs_of, write
from service.cli.evaluation_tables import print_report
from service.cli.simulation_inputs import parsed
from service.evaluation import cases as case_files
from service.evaluation import page
from service.evaluation.calls import Reply, Settings
from service.evaluation.gate import Gate, failure, gate_of
from service.evaluation.report import Report, Run, Spent, record, report
from service.evaluation.results import usage
from service.evaluation.statistics import RESAMPLES, Sampling

EXAMPLE = "roundhouse evaluate cases.jsonl --model mine --against base --html report.html"
WORSE = 3  # exit status: the models were compared, and a gate does not hold
FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
OUTPUT = click.Path(path_type=Path, dir_okay=False)


@click.command(epilog=f"Example:\n\n\b\n  {EXAMPLE}\n\ndocs/evaluation.md explains it.")
@click.argument("file", metavar="CASES", type=FILE)
@click.option("--model", "new", required=True, metavar="ID", help="The model in question, such as a fine-tune.")
@click.option("--against", required=True, metavar="ID", help="What it is compared with: its base, or the old one.")
@click.option("--url", default="http://127.0.0.1:3000", show_default=True, help="Address of the service.")
@click.option("--key", envvar="OPENAI_API_KEY", show_envvar=True, help="API key, if the service asks for one.")
@click.option(
    "--embedding-model", metavar="ID|FOLDER", help="Score by similarity, too: a served model, or a folder of one."
)
@click.option("--judge", metavar="ID", help="Have this served model say which answer is nearer to the reference.")
@click.option("--split", "splits", multiple=True, metavar="NAME", help="Only the cases of this split, or of several.")
@click.option(
    "--run", "folder", metavar="FOLDER", type=click.Path(path_type=Path, file_okay=False),
    help="Where replies are kept, so that a second run asks only for what is missing; if not CASES' name with .run.",
)  # fmt: skip
@click.option(
    "--max-tokens", type=click.IntRange(1), default=Settings.max_tokens, show_default=True, help="Of an answer."
)
@click.option("--temperature", type=click.FloatRange(0, 2), default=0.0, show_default=True, help="Of answers.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of answers and of resampling.")
@click.option(
    "--concurrency", type=click.IntRange(1, 1000), default=8, show_default=True, help="Requests at the same time."
)
@click.option("--timeout", type=click.FloatRange(1), default=600.0, show_default=True, help="Seconds for one request.")
@click.option(
    "--confidence", type=click.FloatRange(0.5, 0.999), default=0.95, show_default=True, help="Of the intervals."
)
@click.option("--log", "logs", multiple=True, type=FILE, help="A gateway's log of the run: adds GPU time and cost.")
@click.option("--json", "json_file", type=OUTPUT, help="Write the report there, as JSON.")
@click.option("--html", "html_file", type=OUTPUT, help="Write the report there, as a web page.")
@click.option(
    "--fail-if-worse", "gates", multiple=True, metavar="METRIC[:MARGIN]", type=parsed(gate_of),
    help=f"End with status {WORSE} where the metric is worse, or may be worse by more than the margin.",
)  # fmt: skip
def evaluate(
    file: Path, new: str, against: str, url: str, key: str | None, embedding_model: str | None, judge: str | None,
    splits: tuple[str, ...], folder: Path | None, max_tokens: int, temperature: float, seed: int, concurrency: int,
    timeout: float, confidence: float, gates: tuple[Gate, ...], **files: Any,
) -> None:  # fmt: skip
    """Compare two models of a running service by their answers to CASES, prompts with reference answers.

    CASES has a JSON object a line: "messages" or "prompt", and "reference". Scores are ROUGE-L and exact match, with
    --embedding-model also similarity, with --judge also a model's judgement; each with a bootstrap interval.
    """
    from service.cli.evaluation_requests import Target  # its HTTP client takes 0.2 s, which only this command spends
    from service.cli.evaluation_run import Plan, run

    if new == against:
        raise click.UsageError("--model and --against are the same model")
    _refuse_gates(gates, embedding_model, judge)
    with refused():
        found = case_files.load(file)
    try:
        chosen = case_files.of_splits(found, splits)
    except ValueError as error:
        raise click.UsageError(f"--split: {error}") from None
    plan = Plan(
        chosen, new, against, Settings(max_tokens, temperature, seed), embedding_model, judge,
        local=_local(embedding_model),
    )  # fmt: skip
    target = Target(url.rstrip("/").removesuffix("/v1"), key, concurrency, timeout)
    described = Run(
        new, against, file.name, target.url, f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", vars(plan.settings),
        Sampling(confidence, RESAMPLES, seed), embedding_model, judge,
    )  # fmt: skip
    with Replies(folder or Path(f"{file.stem}.run")) as replies:
        outcome = asyncio.run(run(plan, target, replies))
    spent = _spent(outcome.used, files["logs"])
    full = report(described, outcome.results, outcome.missing, spent, outcome.unmeasured)
    full.failures.extend(filter(None, (failure(gate, full.comparisons, len(chosen)) for gate in gates)))
    _give(full, files["json_file"], files["html_file"])


def _refuse_gates(gates: tuple[Gate, ...], embedding_model: str | None, judge: str | None) -> None:
    """Ends the command where a gate's metric would not be measured."""
    needed = {"similarity": (embedding_model, "--embedding-model"), "judge": (judge, "--judge")}
    for gate in gates:
        given, option = needed.get(gate.metric, ("always", ""))
        if not given:
            raise click.UsageError(f"--fail-if-worse {gate} needs {option}")


def _local(embedding_model: str | None) -> Path | None:
    """The folder of the embedding model, if it is one."""
    folder = Path(embedding_model or "")
    if not embedding_model or not folder.is_dir():
        return None
    if not (folder / "config.json").is_file():
        raise click.UsageError(f"--embedding-model {folder}: the folder has no config.json, so it is no model")
    if not find_spec("transformers") or not find_spec("torch"):
        raise click.UsageError(
            "--embedding-model with a folder needs transformers and torch: pip install 'roundhouse[evaluate]'"
        )
    return folder


def _spent(used: dict[str, Reply], logs: tuple[Path, ...]) -> list[Spent]:
    """What the replies of this report cost, whenever they were asked for."""
    names = {reply.request_id: f"{reply.purpose} of {reply.model}" for reply in used.values() if reply.request_id}
    costs = costs_of(logs, names)
    return [Spent(what, *counts, *costs.get(what, (None, None))) for what, counts in usage(used).items()]


def _give(full: Report, json_file: Path | None, html_file: Path | None) -> None:
    """Prints and writes the report, and ends the command as the gates say."""
    if full.results:
        print_report(full)
    if json_file:
        write(json_file, json.dumps(record(full), indent=2, ensure_ascii=False) + "\n", "--json")
    if html_file:
        write(html_file, page.html(full), "--html")
    if not full.results:
        case, reason = full.missing[0]
        raise click.ClickException(f"no case could be compared; the first of them, {case.id}: {reason}")
    if full.failures:
        raise SystemExit(WORSE)


COMMANDS = (evaluate,)
