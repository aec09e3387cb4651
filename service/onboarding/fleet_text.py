"""Adds an adapter to the text of a fleet file, and leaves every other character of it as it is. Pure."""

from typing import Any

import yaml


def with_adapter(text: str, index: int, adapter: dict[str, Any]) -> str:
    """The text with `adapter` at the end of the adapters of `models[index]`.

    `text` is a fleet file that can be read. Raises ValueError where an anchor or a merged key stands in the way.
    """
    entry = _value(_value(yaml.compose(text), "models"), index)
    item = yaml.safe_dump(adapter, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**6).strip()
    found = _value(entry, "adapters")
    if found is None:
        if not isinstance(entry, yaml.MappingNode) or not entry.value:
            raise ValueError("the entry is no mapping")
        line = f"adapters: [{item}]"
        return _into_flow(text, entry, line) if entry.flow_style else _below(text, entry, _column(entry), line)
    if not isinstance(found, yaml.SequenceNode):
        raise ValueError("'adapters' is no list")
    if found.flow_style:
        return _into_flow(text, found, item)
    return _below(text, found, found.start_mark.column, f"- {item}")


def _value(node: yaml.Node | None, key: str | int) -> yaml.Node | None:
    if isinstance(node, yaml.MappingNode):
        return next((value for name, value in node.value if name.value == key), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
        found: yaml.Node = node.value[key]
        return found
    return None


def _column(entry: yaml.MappingNode) -> int:
    column: int = entry.value[0][0].start_mark.column
    return column


def _into_flow(text: str, node: yaml.Node, added: str) -> str:
    """Puts something at the end of `[…]` or `{…}`."""
    end = node.end_mark.index - 1
    before = text[:end].rstrip()
    comma = "" if before.endswith((",", "[", "{")) else ","
    space = "" if before.endswith(("[", "{")) else " "
    return f"{before}{comma}{space}{added}{text[end:]}"


def _below(text: str, node: yaml.Node, column: int, added: str) -> str:
    """Puts a line below the last one of a block."""
    end = text.find("\n", _last(node))
    end = len(text) if end < 0 else end
    return f"{text[:end]}\n{' ' * column}{added}{text[end:] or chr(10)}"


def _last(node: yaml.Node) -> int:
    """Where the last scalar or bracket of a node ends; a block's own end is where the next thing begins."""
    if isinstance(node, yaml.MappingNode) and node.value and not node.flow_style:
        return _last(node.value[-1][1])
    if isinstance(node, yaml.SequenceNode) and node.value and not node.flow_style:
        return _last(node.value[-1])
    end: int = node.end_mark.index
    return end - 1 if isinstance(node, yaml.ScalarNode) and node.style in ("|", ">") else end
