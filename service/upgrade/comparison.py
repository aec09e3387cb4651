"""What two models answered to the same prompts, compared: is the new one the old one's equal, within bounds? Pure."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from statistics import fmean, median
from typing import Any

TTFT_NOISE, ITL_NOISE = 0.02, 0.005  # seconds by which medians may differ for other reasons than the model


@dataclass(frozen=True)
class Bounds:
    """By how much the new model may differ.

    `agreement` is the least part of golden prompts that both answer alike, `drift` the most by which log probabilities
    (in nats) may differ on average, `ttft` and `itl` the most that the medians may grow, as ratios.
    """

    agreement: float = 0.9
    drift: float = 0.1
    ttft: float = 1.25
    itl: float = 1.25


@dataclass(frozen=True)
class Answer:
    """What a model answered: `said` is all of it as text, `tokens` and `logprobs` as far as it told them.

    `error` says why there is none.
    """

    said: str = ""
    tokens: tuple[str, ...] = ()
    logprobs: tuple[float, ...] = ()
    calls: tuple[tuple[str, str], ...] = ()
    error: str = ""


@dataclass(frozen=True)
class Pair:
    """Both answers to one golden prompt, which stands at `place`; `tools` are what each of its tools requires."""

    place: str
    old: Answer
    new: Answer
    tools: Mapping[str, frozenset[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Timing:
    """Of one stream: seconds to its first output, and between outputs."""

    ttft: float
    gaps: tuple[float, ...] = ()


@dataclass(frozen=True)
class Finding:
    """One thing that was compared: what it is for each model, and whether that is within the bounds."""

    what: str
    old: str
    new: str
    passed: bool
    detail: str = ""


def templates(places: Sequence[str], rendered: Sequence[tuple[list[int], list[int]]], *, allowed: bool) -> Finding:
    """Whether both models read the same: the token ids of every prompt are equal, which stand at these places."""
    changed = [place for place, (old, new) in zip(places, rendered, strict=True) if old != new]
    detail = f"{changed[0]} is rendered otherwise" if changed else ""
    if changed and not allowed:
        detail += "; --allow-template lets it pass"
    equal = f"{len(places) - len(changed)} equal"
    return Finding("prompts as rendered", f"{len(places)}", equal, not changed or allowed, detail)


def answers(pairs: Sequence[Pair], bounds: Bounds) -> Iterator[Finding]:
    """Errors, greedy answers, log probabilities, and calls of tools."""
    failed = [pair for pair in pairs if pair.new.error]
    yield Finding(
        "errors", f"{sum(bool(pair.old.error) for pair in pairs)}", f"{len(failed)}",
        all(pair.old.error for pair in failed), f"{failed[0].place}: {failed[0].new.error}" if failed else "",
    )  # fmt: skip
    both = [pair for pair in pairs if not (pair.old.error or pair.new.error)]
    if not both:
        yield Finding("answers", "none", "none", passed=False, detail="there is nothing to compare")
        return
    other = [pair.place for pair in both if (pair.old.said, pair.old.calls) != (pair.new.said, pair.new.calls)]
    part = 1 - len(other) / len(both)
    detail = f"least {bounds.agreement:.0%}" + (f"; first other one: {other[0]}" if other else "")
    yield Finding("greedy answers alike", f"{len(both)}", f"{part:.0%}", part >= bounds.agreement, detail)
    if differences := [abs(one - two) for pair in both for one, two in _common(pair.old, pair.new)]:
        mean = fmean(differences)
        detail = f"at most {bounds.drift:g}; largest {max(differences):.3f} of {len(differences)} tokens"
        yield Finding("log probability drift", "0", f"{mean:.4f}", mean <= bounds.drift, detail)
    if with_tools := [pair for pair in both if pair.tools]:
        old, new = ([_valid(answer, pair.tools) for pair, answer in zip(with_tools, side, strict=True)]
                    for side in ([pair.old for pair in with_tools], [pair.new for pair in with_tools]))  # fmt: skip
        yield Finding("valid tool calls", f"{sum(old)}", f"{sum(new)}", sum(new) >= sum(old), f"of {len(with_tools)}")


def speed(old: Sequence[Timing], new: Sequence[Timing], bounds: Bounds) -> Iterator[Finding]:
    """The medians of time to first token and of inter-token latency."""
    if not old or not new:
        yield Finding("streams", f"{len(old)}", f"{len(new)}", passed=False, detail="nothing was streamed")
        return
    yield _slower("TTFT", median(one.ttft for one in old), median(one.ttft for one in new), bounds.ttft, TTFT_NOISE)
    gaps = [[gap for one in side for gap in one.gaps] for side in (old, new)]
    if all(gaps):
        yield _slower("ITL", median(gaps[0]), median(gaps[1]), bounds.itl, ITL_NOISE)


def _slower(what: str, old: float, new: float, most: float, noise: float) -> Finding:
    detail = f"at most {most:g} times the old one's"
    return Finding(f"median {what}", f"{old * 1e3:.1f} ms", f"{new * 1e3:.1f} ms", new <= old * most + noise, detail)


def _common(old: Answer, new: Answer) -> Iterator[tuple[float, float]]:
    """The log probabilities of the tokens that both answers begin with: of the same text in the same context."""
    count = sum(1 for _ in takewhile(lambda row: row[0] == row[1], zip(old.tokens, new.tokens, strict=False)))
    yield from zip(old.logprobs[:count], new.logprobs[:count], strict=False)


def _valid(answer: Answer, tools: Mapping[str, frozenset[str]]) -> bool:
    """Whether the answer calls tools, all of which exist, with objects that have what the tools require."""
    calls = answer.calls
    return bool(calls) and all(name in tools and tools[name] <= _keys(arguments) for name, arguments in calls)


def _keys(arguments: str) -> frozenset[str]:
    try:
        found = json.loads(arguments)
    except ValueError:
        return frozenset()
    return frozenset(found) | {""} if isinstance(found, dict) else frozenset()


def tools_of(tools: Iterable[Any] | None) -> dict[str, frozenset[str]]:
    """What each tool requires, by its name; the empty name stands for that there is an object at all."""
    found = {}
    for tool in tools or ():
        function = tool.get("function", tool) if isinstance(tool, dict) else {}
        required = function.get("parameters", {}).get("required", [])
        found[str(function.get("name"))] = frozenset({"", *required})
    return found
