"""One check of many things of a kind is one test, whose failure names every thing that fails.

`pytest.mark.parametrize` makes a test of each, for scenarios that somebody runs and reads one at a time. Where a check
takes microseconds, pytest's own work would be a hundred times as much.
"""

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import pytest

Check = Callable[..., None]


def each(
    arguments: str | tuple[str, ...], things: Iterable[Any], ids: Callable[[Any], object] = repr
) -> Callable[[Check], Check]:
    """Makes a test of all `things` from a check of one, which gets them as `arguments`, beside its fixtures.

    The arguments are those of `parametrize`, and several `each` make a test of all combinations. The test fails with a
    line for each thing that fails: its parts, as `ids` writes them, the line of the check, and the error.
    """
    names, known = (arguments,) if isinstance(arguments, str) else arguments, list(things)
    assert known, "a check of nothing holds nothing"
    rows = [(thing,) if isinstance(arguments, str) else tuple(thing) for thing in known]

    def test_of_all(check: Check) -> Check:
        signature = inspect.signature(check)

        def test(**fixtures: Any) -> None:
            reasons = (why_it_fails(check, dict(zip(names, row, strict=True)), fixtures) for row in rows)
            failures = [
                f"{', '.join(str(ids(part))[:80] for part in row)}: {reason}"
                for row, reason in zip(rows, reasons, strict=True)
                if reason
            ]
            if failures:
                pytest.fail(f"{len(failures)} of {len(rows)} fail:\n" + "\n".join(failures), pytrace=False)

        test.__name__, test.__qualname__ = check.__name__, check.__qualname__
        test.__module__, test.__doc__ = check.__module__, check.__doc__
        others = [one for name, one in signature.parameters.items() if name not in names]
        vars(test).update(vars(check), __signature__=signature.replace(parameters=others))
        return test

    return test_of_all


def why_it_fails(check: Check, thing: dict[str, Any], fixtures: dict[str, Any]) -> str | None:
    """The line of the check that fails and its error, or None."""
    try:
        check(**thing, **fixtures)
    except (Exception, pytest.fail.Exception) as error:  # noqa: BLE001 - the others are checked too
        frame, line = error.__traceback__, None
        while frame:
            line = frame.tb_lineno if frame.tb_frame.f_code is check.__code__ else line
            frame = frame.tb_next
        return f"line {line}: {type(error).__name__}: {error}"
    return None


def by_id(model: Any) -> str:
    """What a model of the catalogue is called."""
    return str(model.id)
