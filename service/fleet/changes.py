"""What differs between two fleets, in words for the audit log. Pure."""

from dataclasses import fields

from service.fleet.fleet import Fleet
from service.fleet.served_model import ServedModel


def changes(old: Fleet, new: Fleet) -> list[str]:
    """The names of what was added, removed or changed; never a value, for it may be secret."""
    before, after = ({one.id: one for one in fleet.served} for fleet in (old, new))
    found = [f"model {id} added" for id in after if id not in before]
    found += [f"model {id} removed" for id in before if id not in after]
    for id in after.keys() & before.keys():
        names = [one.name for one in fields(ServedModel) if one.init]
        names = [name for name in names if getattr(before[id], name) != getattr(after[id], name)]
        found += [f"model {id}: {', '.join(names)}"] if names else []
    for name in (one.name for one in fields(Fleet) if one.name != "served"):
        ours, theirs = getattr(old, name), getattr(new, name)
        if ours != theirs and isinstance(ours, dict):
            differing = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
            found.append(f"{name}: {', '.join(differing)}")
        elif ours != theirs:
            found.append(name)
    return sorted(found)
