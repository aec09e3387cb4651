"""The prompts of one request: a text, several, the token ids of one, or several such."""

from typing import Any

from service.protocol import validation_errors


def count_prompts(prompts: str | list[Any]) -> int:
    """The prompts in a field that is one text, a list of texts, the token ids of one, or a list of such."""
    return 1 if isinstance(prompts, str) or isinstance(prompts[0], int) else len(prompts)


def require_one_kind(name: str, value: str | list[Any], max_items: int) -> None:
    """Raises the 400 for a list that is not of texts only, of prompts of token ids only, or the token ids of one."""
    if isinstance(value, str):
        return
    kinds = set(map(type, value))
    if len(kinds) > 1:
        raise validation_errors.invalid_value(name, "it should be texts only, or token ids only")
    if int not in kinds and len(value) > max_items:
        raise validation_errors.invalid_value(name, f"it should be a list of at most {max_items} items")
