"""From replies to scores: each case's two answers, and what every metric says of them. Pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from service.evaluation.calls import Reply
from service.evaluation.cases import Case
from service.evaluation.judging import Word, contradicts, preference
from service.evaluation.scoring import Vector, cosine, exact_match, rouge_l
from service.evaluation.statistics import Metric

# The first that was measured is what cases are sorted by.
METRICS: tuple[Metric, ...] = ("judge", "similarity", "rouge-l", "exact-match")
RATES: dict[Metric, Callable[[str, str], float]] = {"rouge-l": rouge_l, "exact-match": exact_match}
MEANINGS: dict[Metric, str] = {
    "judge": "how often the judge preferred its answer, a tie being half",
    "similarity": "cosine similarity of the embeddings of answer and reference",
    "rouge-l": "F1 of the longest common subsequence of words",
    "exact-match": "share of answers that are the reference, but for case and blanks",
}


@dataclass(frozen=True)
class Result:
    """One case: both replies, and by metric both scores, the new model's first.

    `contradicted` says that the judge chose the same place in both orders.
    """

    case: Case
    new: Reply
    against: Reply
    scores: dict[Metric, tuple[float, float]] = field(default_factory=dict)
    contradicted: bool = False

    def difference(self, metric: Metric) -> float:
        """The new model's score less the other's; 0 where the metric was not measured for this case."""
        new, against = self.scores.get(metric, (0.0, 0.0))
        return new - against


def texts(case: Case, replies: Sequence[Reply]) -> set[str]:
    """What of a case needs an embedding: its references and answers, of which empty ones have none."""
    return {text for text in (*case.references, *(reply.text for reply in replies)) if text.strip()}


def score(
    case: Case, new: Reply, against: Reply, vector_of: Callable[[str], Vector | None] | None, verdicts: Sequence[Word]
) -> Result:
    """The result of a case.

    `vector_of` gives a text's vector, None where it could not be had; it is None itself without an embedding model.
    `verdicts` are the judge's two, or none.
    """
    scores: dict[Metric, tuple[float, float]] = {}
    if len(verdicts) == 2:
        value = preference(verdicts)
        scores["judge"] = (1 + value) / 2, (1 - value) / 2
    if vector_of is not None:
        similarities = [_similarity(reply.text, case.references, vector_of) for reply in (new, against)]
        if None not in similarities:
            scores["similarity"] = similarities[0] or 0.0, similarities[1] or 0.0
    for name, rate in RATES.items():
        best = [max(rate(reply.text, reference) for reference in case.references) for reply in (new, against)]
        scores[name] = best[0], best[1]
    return Result(case, new, against, scores, len(verdicts) == 2 and contradicts(verdicts))


def _similarity(answer: str, references: Sequence[str], vector_of: Callable[[str], Vector | None]) -> float | None:
    """The best cosine of an answer and a reference: 0 for an empty answer, None where a vector is missing."""
    if not answer.strip():
        return 0.0
    said, wanted = vector_of(answer), [vector_of(reference) for reference in references]
    found = [cosine(said, vector) for vector in wanted if said and vector]
    return max(found) if len(found) == len(wanted) else None


def worst_first(results: Sequence[Result]) -> list[Result]:
    """The results in the order of their difference, by the first metric that was measured, then the others."""
    return sorted(results, key=lambda one: ([one.difference(metric) for metric in METRICS], one.case.line))


def measured(results: Sequence[Result]) -> list[Metric]:
    """The metrics that some case has."""
    return [metric for metric in METRICS if any(metric in one.scores for one in results)]


def pairs(results: Sequence[Result], metric: Metric) -> list[tuple[float, float]]:
    """Both scores of each case that has the metric."""
    return [one.scores[metric] for one in results if metric in one.scores]


def usage(replies: Mapping[str, Reply]) -> dict[str, tuple[int, int, int]]:
    """Requests, and tokens of prompts and of completions, by what for and which model, as `answer of pebble-chat`."""
    found: dict[str, tuple[int, int, int]] = {}
    for reply in replies.values():
        name = f"{reply.purpose} of {reply.model}"
        requests, prompt, completion = found.get(name, (0, 0, 0))
        found[name] = requests + 1, prompt + reply.prompt_tokens, completion + reply.completion_tokens
    return found
