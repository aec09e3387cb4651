"""An evaluation's report: everything that the table, the JSON file and the page show. Pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from service.evaluation.cases import Case
from service.evaluation.results import MEANINGS, METRICS, Result, measured, pairs, worst_first
from service.evaluation.statistics import Comparison, Metric, Sampling, Verdict, compare, signed

ByWhat = Literal["split", "category"]


@dataclass(frozen=True)
class Run:
    """What was asked for. `date` is in UTC; `settings` are those of the answers."""

    new: str
    against: str
    cases_file: str
    url: str
    date: str
    settings: dict[str, Any]
    sampling: Sampling
    embedding_model: str | None = None
    judge: str | None = None


@dataclass(frozen=True)
class Spent:
    """What some of the requests cost: tokens, and GPU seconds and money where the gateway's log was read."""

    what: str
    requests: int
    prompt_tokens: int
    completion_tokens: int
    gpu_seconds: float | None = None
    cost: float | None = None


@dataclass(frozen=True)
class Group:
    """The cases of one split or category, compared."""

    by: ByWhat
    name: str
    comparisons: list[Comparison]


@dataclass(frozen=True)
class Report:
    """`results` has the worst first; `missing` are cases that were not compared, and why."""

    run: Run
    comparisons: list[Comparison]
    groups: list[Group]
    results: list[Result]
    missing: list[tuple[Case, str]]
    spent: list[Spent]
    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def metrics(self) -> list[Metric]:
        """Those that were measured."""
        return measured(self.results)

    def groups_that_are(self, verdict: Verdict) -> dict[str, list[Metric]]:
        """The groups in which the new model is that, such as `category echo`, and by which metrics."""
        found = {
            f"{group.by} {group.name}": [one.metric for one in group.comparisons if one.verdict == verdict]
            for group in self.groups
        }
        return {name: metrics for name, metrics in found.items() if metrics}


def report(
    run: Run, results: Sequence[Result], missing: Sequence[tuple[Case, str]], spent: Sequence[Spent],
    unmeasured: Mapping[Metric, str],
) -> Report:  # fmt: skip
    """The report of these results; `unmeasured` says of metrics why the first case that lacks one does."""
    groups = [
        Group(by, name, _compared(some, run.sampling))
        for by, value_of in GROUPINGS.items()
        for name, some in _grouped(results, value_of).items()
    ]
    return Report(
        run, _compared(results, run.sampling), groups, worst_first(results), list(missing), list(spent),
        _notes(run, results, unmeasured),
    )  # fmt: skip


def sentence(found: Comparison, run: Run) -> str:
    """A comparison in words."""
    said = {
        "better": f"{run.new} is better",
        "worse": f"{run.new} is worse",
        "equal": "no difference at all",
        "unclear": "no clear difference",
        "too few": "too few cases to tell",
    }[found.verdict]
    return f"{found.metric}: {said} ({signed(found.difference)}; {span_of(found)})"


def span_of(found: Comparison) -> str:
    """The interval of a comparison in words."""
    return f"{signed(found.interval[0])} to {signed(found.interval[1])}" if found.interval else "too few cases"


def record(full: Report) -> dict[str, Any]:
    """The report as JSON."""
    run = full.run
    return {
        **{name: value for name, value in vars(run).items() if name != "sampling"},
        "sampling": vars(run.sampling),
        "metrics": {one.metric: _figures(one) for one in full.comparisons},
        "groups": [
            {"by": one.by, "name": one.name, "metrics": {each.metric: _figures(each) for each in one.comparisons}}
            for one in full.groups
        ],
        "spent": [vars(one) for one in full.spent],
        "notes": full.notes,
        "failures": full.failures,
        "missing": [{"id": case.id, "line": case.line, "reason": reason} for case, reason in full.missing],
        "cases": [_case(one) for one in full.results],
    }


GROUPINGS: dict[ByWhat, Callable[[Case], str | None]] = {
    "split": lambda case: case.split,
    "category": lambda case: case.category,
}


def _grouped(results: Sequence[Result], value_of: Callable[[Case], str | None]) -> dict[str, list[Result]]:
    """The results by a value of their case; nothing where all have the same."""
    found: dict[str, list[Result]] = {}
    for one in results:
        found.setdefault(value_of(one.case) or "(none)", []).append(one)
    return found if len(found) > 1 else {}


def _compared(results: Sequence[Result], sampling: Sampling) -> list[Comparison]:
    return [compare(metric, pairs(results, metric), sampling) for metric in measured(results)]


def _notes(run: Run, results: Sequence[Result], unmeasured: Mapping[Metric, str]) -> list[str]:
    """What a reader of the figures should know of the answers."""
    notes = []
    for name, replies in ((run.new, [one.new for one in results]), (run.against, [one.against for one in results])):
        if cut := sum(reply.finish == "length" for reply in replies):
            notes.append(f"{cut} of {len(replies)} answers of {name} were cut off at the limit of tokens.")
        if empty := sum(not reply.text.strip() for reply in replies):
            notes.append(f"{empty} of {len(replies)} answers of {name} are empty.")
    if contradicted := sum(one.contradicted for one in results):
        notes.append(
            f"In {contradicted} of {len(results)} cases the judge chose the same place in both orders; these are ties."
        )
    asked = {*measured(results), *(["judge"] if run.judge else []), *(["similarity"] if run.embedding_model else [])}
    for metric in (metric for metric in METRICS if metric in asked):
        if lacking := sum(metric not in one.scores for one in results):
            why = f" (first: {unmeasured[metric]})" if metric in unmeasured else ""
            notes.append(f"{metric} is missing for {lacking} of {len(results)} cases{why}.")
    return notes


def _figures(one: Comparison) -> dict[str, Any]:
    figures = {name: value for name, value in vars(one).items() if name != "metric"}
    return {**figures, "verdict": one.verdict, "meaning": MEANINGS[one.metric]}


def _case(one: Result) -> dict[str, Any]:
    case = one.case
    return {
        "id": case.id, "line": case.line, "split": case.split, "category": case.category, **case.prompt,
        "references": list(case.references),
        "new": {"text": one.new.text, "finish": one.new.finish, "request_id": one.new.request_id},
        "against": {"text": one.against.text, "finish": one.against.finish, "request_id": one.against.request_id},
        "scores": {metric: {"new": new, "against": old} for metric, (new, old) in one.scores.items()},
    }  # fmt: skip
