"""Which engines of a share can be there together, and what would help where they cannot. Pure."""

from collections.abc import Iterable, Iterator, Mapping

from service.sharing.parts import Part, Share, at_most, gib


def misfits(share: Share, parts: Mapping[str, Part]) -> Iterator[tuple[str, str]]:
    """Each engine of `share` that can never be there, and the arithmetic; `parts` are those of all its engines by name.

    Beside it are those that always are, and what the others take while they sleep.
    """
    always = {name: part for name, part in parts.items() if part.keep == "always"}
    if sum(part.memory for part in always.values()) > share.memory:
        last = list(always)[-1]
        sizes = " + ".join(f"{name} {gib(part.memory)}" for name, part in always.items())
        total = sum(part.memory for part in always.values())
        than = f"the {gib(share.memory)} of share '{share.name}'"
        help_ = f"'keep: cold' for one of them, or less 'memory' for {_names(always)}"
        yield last, f"{sizes} = {gib(total)} are more than {than}. What helps: {help_}"
        return
    for name, part in parts.items():
        beside = {other: one.memory if one.keep == "always" else one.asleep
                  for other, one in parts.items() if other != name}  # fmt: skip
        left = share.memory - sum(beside.values())
        if part.memory <= left or part.keep == "always":
            continue
        terms = "".join(f" - {other} {gib(size)}" for other, size in beside.items() if size)
        room = f"{gib(share.memory)}{terms}" + (f" = {gib(left)}" if terms else "")
        why = f"it takes {gib(part.memory)} and can never be there: share '{share.name}' has {room}"
        yield name, why + _help(name, part, left, parts)


def table(share: Share, parts: Mapping[str, Part]) -> list[str]:
    """One line for each engine: what it takes, and for what. The last says whether all fit at once."""
    where = f"on GPU {', '.join(map(str, share.gpus))}" if share.gpus else "of this machine's memory"
    width = max(map(len, parts), default=0)
    rows = [
        f"  {name:<{width}}  {gib(part.memory):>9} = weights {gib(part.weights)} + processes {gib(part.overhead)}"
        f" + KV cache {gib(part.cache)}{_requests(part)}, keep: {part.keep}"
        + (f" ({gib(part.asleep)} asleep)" if part.asleep else "")
        for name, part in parts.items()
    ]
    total = sum(part.memory for part in parts.values())
    together = f"  together {gib(total)}, which {'fit' if total <= share.memory else 'do not fit'} at once"
    head = f"share {share.name}: {gib(share.memory)} {where}, turns of {share.turn:g} s while others wait"
    return [head, *rows, together]


def _requests(part: Part) -> str:
    return f" for {part.requests:,.0f} whole requests" if part.requests else ""


def _help(name: str, part: Part, left: int, parts: Mapping[str, Part]) -> str:
    """What would let the engine in, where there are `left` bytes for it."""
    cache, alone = left - part.weights - part.overhead, part.weights + part.overhead
    request = part.cache / part.requests if part.requests else 0.0
    if cache <= 0:
        options = [f"a quantised copy of {name}, whose weights and processes take {gib(alone)}"]
    elif cache < request:
        have = f"{gib(cache)} are left for its KV cache, of which one request takes {gib(int(request))}"
        options = [f"a smaller 'max_model_len' of {name}: {have}"]
    else:
        held = f", with a KV cache for {cache / request:,.1f} whole requests" if request else ""
        options = [
            f"'memory: {at_most(left)}' for {name}{held}",
            f"without a 'memory', a smaller 'max_in_flight' or 'max_model_len' (its KV cache is {gib(part.cache)})",
        ]
    for kept in ("always", "warm"):
        names = _names(other for other, one in parts.items() if other != name and one.keep == kept and _kept(one))
        options += [f"'keep: cold' instead of '{kept}' for {names}"] if names else []
    return ". What helps: " + "; ".join([*options, "a larger share, if there is more"])


def _kept(part: Part) -> bool:
    """Whether it takes room from the others also while it is not wanted."""
    return part.keep == "always" or part.asleep > 0


def _names(names: Iterable[str]) -> str:
    return " and ".join(names)
