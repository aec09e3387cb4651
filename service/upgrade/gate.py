"""The gate: both models are asked the same, and the new one passes if it answers as the old one does, as fast."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from service.config.strict_yaml import ConfigError
from service.upgrade.comparison import Bounds, Finding, Pair, Timing, answers, speed, templates, tools_of
from service.upgrade.golden import Golden
from service.upgrade.service import Service
from service.upgrade.shapes import LiveShape

ROUNDS = 3  # of streams; in each the models take turns
FILLER = "The quick engine pulls nine cars over the hill, and by noon it is back in the house for coal and water. "
Say = Callable[[str], None]


@dataclass(frozen=True)
class Questions:
    """What both models are asked: golden prompts, and requests with the shapes of live ones."""

    golden: Sequence[Golden]
    shapes: Sequence[LiveShape]
    allow_template: bool = False


def check_context(golden: Sequence[Golden], rendered: Sequence[list[int]], model: str, context: int | None) -> None:
    """Raises ConfigError, by file, line and key, for golden prompts that with their answers exceed the context."""
    problems = [
        f"{one.place}: {one.key}: its {len(tokens)} tokens and max_tokens {one.prompt.max_tokens} exceed the "
        f"context of {context} tokens of '{model}'"
        for one, tokens in zip(golden, rendered, strict=True)
        if context is not None and len(tokens) + one.prompt.max_tokens > context
    ]
    if problems:
        raise ConfigError(problems)


def compare(service: Service, old: str, new: str, questions: Questions, bounds: Bounds, say: Say) -> Iterator[Finding]:
    """What was found, one after the other; what follows a finding that did not pass need not be asked for.

    Raises ServiceError, and ConfigError for golden prompts that do not fit.
    """
    golden, shapes = questions.golden, questions.shapes
    say(f"{len(golden)} golden prompts: as they are rendered")
    rendered = [[service.tokenize(model, one.text) for one in golden] for model in (old, new)]
    contexts = [service.model(model)["context_length"] for model in (old, new)]
    for model, tokens, context in zip((old, new), rendered, contexts, strict=True):
        check_context(golden, tokens, model, context)
    places = [one.place for one in golden]
    yield templates(places, list(zip(*rendered, strict=True)), allowed=questions.allow_template)
    if shapes and contexts[1] is not None:
        longest = max(one.tokens for one in shapes)
        yield Finding("longest live request", f"{longest} tokens", f"{contexts[1]} fit", longest <= contexts[1])
    say(f"{len(golden)} golden prompts: as they are answered")
    pairs = []
    for one in golden:
        first, second = (service.answer(model, one.path, one.body) for model in (old, new))
        pairs.append(Pair(one.place, first, second, tools_of(one.prompt.tools)))
    yield from answers(pairs, bounds)
    requests = [(one.path, {**one.text, "max_tokens": one.prompt.max_tokens, "temperature": 0}) for one in golden]
    if shapes:
        text = service.tokenize(old, {"prompt": FILLER * (max(one.prompt_tokens for one in shapes) // 8 + 1)})
        requests = [one.request(service.detokenize(old, text[: max(1, one.prompt_tokens)])) for one in shapes]
    what = "requests with shapes of live ones" if shapes else "golden prompts"
    say(f"{len(requests)} {what}: how fast they are answered")
    streams = [(path, {**body, "stream": True}) for path, body in requests]
    timings = _timings(service, (old, new), streams)
    if shapes:
        failed = [sum(one is None for one in side) for side in timings]
        yield Finding("failed requests", f"{failed[0]}", f"{failed[1]}", failed[1] <= failed[0], "with live shapes")
    yield from speed([one for one in timings[0] if one], [one for one in timings[1] if one], bounds)


def _timings(
    service: Service, models: tuple[str, str], requests: Sequence[tuple[str, dict[str, Any]]]
) -> tuple[list[Timing | None], list[Timing | None]]:
    """The streams of each model; the first of each only warms up what starts lazily."""
    found: tuple[list[Timing | None], list[Timing | None]] = ([], [])
    for model in models:
        service.stream(model, *requests[0])
    for number in range(ROUNDS):
        for request in requests:
            for which in (0, 1) if number % 2 else (1, 0):
                found[which].append(service.stream(models[which], *request))
    return found
