"""How much of a JSON schema an engine may be asked to compile. Pure, and part of the program `worker`."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

# Keywords whose subschemas describe the same value; a reference that comes back through these alone never ends.
IN_PLACE = ("allOf", "anyOf", "oneOf")
REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")


class Most(NamedTuple):
    """The bounds: nested containers, properties and values of `enum` of the whole schema, characters of a pattern."""

    depth: int
    properties: int
    enum: int
    pattern: int


class RefusedError(ValueError):
    """The schema is not compiled; the message says why, beginning with "it"."""


def check(schema: Any, most: Most) -> None:
    """Raises RefusedError for a schema beyond the bounds, or with a reference that leads elsewhere or nowhere."""
    properties = values = 0
    for node in _containers(schema, most.depth):
        if not isinstance(node, dict):
            continue
        for name in ("properties", "patternProperties"):
            if isinstance(node.get(name), dict):
                properties += len(node[name])
        if isinstance(node.get("enum"), list):
            values += len(node["enum"])
        for pattern in _patterns(node):
            if len(pattern) > most.pattern:
                raise RefusedError(f"it has a pattern of {len(pattern)} characters, and {most.pattern} are allowed")
        for name in REFERENCES:
            if isinstance(target := node.get(name), str) and not target.startswith("#"):
                raise RefusedError(f"it has a {name} to somewhere else, and only those within it are followed")
    if properties > most.properties:
        raise RefusedError(f"it has {properties} properties in all, and {most.properties} are allowed")
    if values > most.enum:
        raise RefusedError(f"it has {values} values of enum in all, and {most.enum} are allowed")
    if isinstance(schema, dict) and _is_endless(schema):
        raise RefusedError("it has a $ref that leads back to itself without describing anything")


def _containers(schema: Any, deepest: int) -> Iterator[Any]:
    """All objects and lists of a schema, without recursion."""
    waiting = [(schema, 1)]
    while waiting:
        node, depth = waiting.pop()
        if not isinstance(node, dict | list):
            continue
        if depth > deepest:
            raise RefusedError(f"it is nested more than {deepest} levels deep")
        yield node
        waiting += [(child, depth + 1) for child in (node.values() if isinstance(node, dict) else node)]


def _patterns(node: Mapping[str, Any]) -> Iterator[str]:
    if isinstance(pattern := node.get("pattern"), str):
        yield pattern
    if isinstance(named := node.get("patternProperties"), dict):
        yield from named


def _is_endless(root: Mapping[str, Any]) -> bool:
    """Whether following references alone comes back to where it was: `{"$ref": "#"}`, not a tree of objects."""
    done: set[int] = set()
    starts = [node for node in _containers(root, 2**31) if isinstance(node, dict) and "$ref" in node]
    for start in starts:
        waiting: list[tuple[Any, frozenset[int]]] = [(start, frozenset())]
        while waiting:
            node, above = waiting.pop()
            if not isinstance(node, dict):
                continue
            if id(node) in above:
                return True
            if id(node) in done:
                continue
            done.add(id(node))
            within = above | {id(node)}
            followed = [_target(root, node.get("$ref"))]
            for name in IN_PLACE:
                if isinstance(branches := node.get(name), list):
                    followed += branches
            waiting += [(next_node, within) for next_node in followed]
    return False


def _target(root: Mapping[str, Any], reference: Any) -> Any:
    """What a reference within the schema points to; None if nothing that can be found by its path."""
    if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
        return None
    node: Any = root
    for step in reference[2:].split("/") if len(reference) > 1 else ():
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(node, dict):
            node = node.get(name)
        elif isinstance(node, list) and name.isdecimal() and int(name) < len(node):
            node = node[int(name)]
        else:
            return None
    return node
