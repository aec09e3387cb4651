"""Resolves the guardrails of a fleet file: which guard answers in which format, and what stands around each model."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import get_args

from service.catalog.names import POOLING
from service.config.strict_yaml import Document, Location
from service.fleet.guardrail import Format, Guardrail, GuardrailEntry, GuardrailNames, Guardrails
from service.fleet.schema import FleetFile
from service.fleet.served_model import ServedModel

# What the guards of each family call the kinds of text that they find, and what that stands for.
CATEGORIES: Mapping[Format, Mapping[str, str]] = MappingProxyType(
    {
        "llama-guard": {
            "S1": "violent crimes", "S2": "non-violent crimes", "S3": "sex-related crimes",
            "S4": "child sexual exploitation", "S5": "defamation", "S6": "specialised advice", "S7": "privacy",
            "S8": "intellectual property", "S9": "indiscriminate weapons", "S10": "hate",
            "S11": "suicide and self-harm", "S12": "sexual content", "S13": "elections",
            "S14": "code interpreter abuse",
        },
        "qwen3guard": {
            "Violent": "", "Non-violent Illegal Acts": "", "Sexual Content or Sexual Acts": "", "PII": "",
            "Suicide & Self-Harm": "", "Unethical Acts": "", "Politically Sensitive Topics": "",
            "Copyright Violation": "", "Jailbreak": "",
        },
    }
)  # fmt: skip


def format_of(served: ServedModel) -> Format | None:
    """How a guard answers, by its family; None for what is no guard, or has no answer of a fixed form."""
    if served.variant != "guard":
        return None
    return next((name for name in get_args(Format) if name == served.family), None)


def read_guardrails(
    document: Document, file: FleetFile, served: Mapping[int, ServedModel], problems: list[str]
) -> tuple[dict[str, Guardrail], dict[int, ServedModel]]:
    """The steps by name, and the `served` models with theirs around them. Appends every mistake to `problems`."""
    by_id = {model.id: model for model in served.values()}
    steps = {}
    for name, entry in file.guardrails.items():
        at: Location = ("guardrails", name)
        problem = _mistake(entry, by_id)
        if problem:
            problems.append(document.problem((*at, problem[0]), problem[1]))
        answers = format_of(by_id[entry.model]) if entry.model in by_id else None
        chosen = None if entry.categories is None else frozenset(entry.categories)
        steps[name] = Guardrail(name, format=answers, **{**entry.model_dump(), "categories": chosen})

    def around(names: GuardrailNames, at: Location) -> Guardrails:
        for stage in ("input", "output"):
            listed = getattr(names, stage)
            for index, name in enumerate(listed):
                if name not in steps or name in listed[:index]:
                    why = "is listed twice" if name in steps else "is not one of the 'guardrails' of this file"
                    problems.append(document.problem((*at, stage, index), f"'{name}' {why}"))
        known = [tuple(steps[name] for name in each if name in steps) for each in (names.input, names.output)]
        return Guardrails(*known)

    default = around(file.default_guardrails, ("default_guardrails",))
    guarded = {}
    for index, model in served.items():
        names, judged = file.models[index].guardrails, model.variant not in (*POOLING, "guard")
        own = default if judged else Guardrails()
        if names is not None:
            own = around(names, ("models", index, "guardrails"))
            if not judged and own != Guardrails():
                text = f"a model of variant '{model.variant}' answers no requests that guardrails judge"
                problems.append(document.problem(("models", index, "guardrails"), text))
        guarded[index] = replace(model, guardrails=own)
    return steps, guarded


def _mistake(entry: GuardrailEntry, by_id: Mapping[str, ServedModel]) -> tuple[str, str] | None:
    """What is wrong with a step beyond its own form: the key, and why."""
    if entry.model is None:
        return None
    if entry.model not in by_id:
        return "model", f"'{entry.model}' is not the id of a served model"
    answers = format_of(by_id[entry.model])
    if answers is None:
        known = ", ".join(CATEGORIES)
        return "model", f"'{entry.model}' is no guard whose verdicts are understood: those of the families {known} are"
    unknown = next((name for name in entry.categories or () if name not in CATEGORIES[answers]), None)
    if unknown is not None:
        return "categories", f"'{unknown}' is none of this guard's: {', '.join(CATEGORIES[answers])}"
    return None
