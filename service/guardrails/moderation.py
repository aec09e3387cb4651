"""`POST /v1/moderations`: which guard answers it, and the answer in OpenAI's shape. Pure."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from service.errors import ApiError, ErrorCode
from service.fleet.fleet import Fleet
from service.fleet.guardrail import Format, Guardrail
from service.fleet.guardrails import CATEGORIES, format_of
from service.guardrails.verdicts import Verdict
from service.protocol.moderations import ModerationPart, ModerationRequest

NO_GUARD = "No guard is served here: name a 'model' of variant guard or a 'url' under 'guardrails' in the fleet file."
OPENAI_CATEGORIES = (
    "harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent", "self-harm",
    "self-harm/instructions", "self-harm/intent", "sexual", "sexual/minors", "violence", "violence/graphic",
)  # fmt: skip
# Those of OpenAI's categories that a guard's own ones mean; of the others there is no counterpart.
COUNTERPARTS: Mapping[str, str] = MappingProxyType(
    {
        "S1": "violence", "S2": "illicit", "S3": "sexual", "S4": "sexual/minors", "S9": "illicit/violent",
        "S10": "hate", "S11": "self-harm", "S12": "sexual",
        "Violent": "violence", "Non-violent Illegal Acts": "illicit", "Sexual Content or Sexual Acts": "sexual",
        "Suicide & Self-Harm": "self-harm",
    }
)  # fmt: skip


def guard_for(requested: str | None, fleet: Fleet, models: frozenset[str] | None) -> Guardrail:
    """The step that answers a request for `requested`, or for any; `models` are those that the caller may use.

    Raises ApiError 404 if there is none.
    """
    guards = [*fleet.guardrails.values()]
    for served in fleet.served:
        if (answers := format_of(served)) is not None:
            guards.append(Guardrail(served.id, served.id, answers))
    if models is not None:
        ids = fleet.ids_of(models)
        guards = [guard for guard in guards if {guard.name, guard.model} & ids]
    wanted = None if requested is None else fleet.aliases.get(requested, requested)
    found = next((guard for guard in guards if wanted in (None, guard.name)), None)
    if found:
        return found
    known = ", ".join(dict.fromkeys(guard.name for guard in guards))
    text = f"'{requested}' is no guard here; these are: {known}." if known else NO_GUARD
    raise ApiError(ErrorCode.MODEL_NOT_FOUND, text, "model")


def inputs_of(request: ModerationRequest) -> list[str]:
    """The texts of a request, each of which gets a result of its own. Raises the 400 for a part that is no text."""
    given = request.input
    if isinstance(given, str):
        return [given]
    parts = [one for one in given if isinstance(one, ModerationPart)]
    for index, one in enumerate(given):
        if isinstance(one, ModerationPart) and (one.type != "text" or one.text is None):
            text = f"'input[{index}]' is invalid: only text is judged here, so it should be a part of type 'text'."
            raise ApiError(ErrorCode.INVALID_VALUE, text, f"input[{index}]")
    if parts and len(parts) < len(given):
        raise ApiError(ErrorCode.INVALID_VALUE, "'input' should be all strings, or all parts.", "input")
    return ["\n".join(part.text or "" for part in parts)] if parts else [one for one in given if isinstance(one, str)]


def merged(verdicts: Iterable[Verdict]) -> Verdict:
    """The verdict on a text that was judged in pieces."""
    all_of_them = list(verdicts)
    categories = dict.fromkeys(name for one in all_of_them for name in one.categories)
    scores: dict[str, float] = {}
    for one in all_of_them:
        scores |= {name: max(score, scores.get(name, 0.0)) for name, score in one.scores.items()}
    return Verdict(any(one.flagged for one in all_of_them), tuple(categories), scores)


def result(verdict: Verdict, answers: Format | None) -> dict[str, Any]:
    """One of the `results`: OpenAI's categories, and those of the judge under its own names.

    A guard model says yes or no, which is a score of 1 or 0.
    """
    own = CATEGORIES[answers] if answers else {**dict.fromkeys(verdict.scores), **dict.fromkeys(verdict.categories)}
    found = {*verdict.categories, *(COUNTERPARTS[name] for name in verdict.categories if name in COUNTERPARTS)}
    names = dict.fromkeys((*OPENAI_CATEGORIES, *own))
    return {
        "flagged": verdict.flagged,
        "categories": {name: name in found for name in names},
        "category_scores": {name: verdict.scores.get(name, float(name in found)) for name in names},
        "category_applied_input_types": {name: ["text"] for name in names},
    }
