"""The life of one pull, told in order: list, choose, fetch, check, describe, put in place."""

import json
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from service.weights import manifest, tensors
from service.weights.digests import Advance, quietly, sha256
from service.weights.manifest import File, Manifest
from service.weights.selection import CODE, Selection, auto_map, wanted, without_auto_map
from service.weights.sources import Listing, Remote, Source
from service.weights.store import Store, WeightsError

RESERVE = 2**26  # bytes that a pull leaves free
Progress = Callable[[str, int], Advance]  # a file's name and size → who is told of its bytes


@dataclass(frozen=True)
class Wish:
    """What to pull: a repository, the model's id, the commit if one is asked for, and what to do with its code."""

    repository: str
    model: str
    revision: str | None = None
    trust_remote_code: bool = False
    without_code: bool = False


@dataclass(frozen=True)
class Pulled:
    """A finished pull: where it lies, its manifest, the files that were left with the reasons; `fresh` if it is new."""

    place: Path
    manifest: Manifest
    left: dict[str, str]
    fresh: bool


def pull(wish: Wish, source: Source, store: Store, progress: Progress = lambda name, size: quietly) -> Pulled:
    """Brings a repository's weights into the store; raises WeightsError, and then nothing counts as finished."""
    place = store.place(wish.repository)
    with store.locked(wish.repository):
        if wish.revision and (known := _already(wish, place, wish.revision, progress)):
            return Pulled(place, known, {}, fresh=False)
        listing = source.listing()
        if wish.revision and listing.revision not in (None, wish.revision):
            raise WeightsError(f"{source.name} has revision {listing.revision} and not {wish.revision}")
        selection = wanted([file.name for file in listing.files], wish.trust_remote_code)
        if objection := selection.objection():
            raise WeightsError(f"{wish.repository} cannot be served: {objection}")
        if listing.revision and (known := _already(wish, place, listing.revision, progress)):
            return Pulled(place, known, selection.left, fresh=False)
        scratch = store.scratch(wish.repository, listing.revision)
        try:
            written = _collect(wish, source, listing, selection, scratch, place, progress)
            return Pulled(store.finish(scratch, wish.repository), written, selection.left, fresh=True)
        except OSError as error:
            raise WeightsError(f"{error.filename or store.folder}: {error.strerror}") from None


def _already(wish: Wish, place: Path, revision: str, progress: Progress) -> Manifest | None:
    """The manifest of what lies in its place, if that is this revision, pulled as is wished, and unharmed."""
    try:
        known = manifest.read(place)
    except manifest.ManifestError:
        return None
    is_wished = known.revision == revision and known.repository == wish.repository
    is_alike = (known.trust_remote_code, known.without_code) == (wish.trust_remote_code, wish.without_code)
    if not is_wished or not is_alike or manifest.verify(place, advance=progress("verifying", known.size)):
        return None
    return known


def _collect(
    wish: Wish, source: Source, listing: Listing, selection: Selection, scratch: Path, place: Path, progress: Progress
) -> Manifest:
    """Fills the scratch folder with what is to be taken, and checks it."""
    taken = {file.name: file for file in listing.files if file.name in selection.taken}
    _prepare(scratch, place, taken, listing.revision)
    if source.takes_room(scratch):
        _room(scratch, taken.values())

    def fetched(files: Iterable[Remote]) -> dict[str, str]:
        return {one.name: _fetched(source, listing, one, scratch / one.name, progress) for one in files}

    # The small files first: what they say may end the pull before its long part.
    hashes = fetched(file for name, file in taken.items() if not name.endswith(".safetensors"))
    _refuse_code(wish, scratch, selection)
    hashes |= fetched(file for name, file in taken.items() if name.endswith(".safetensors"))
    if wish.without_code:
        hashes |= _strip_code(scratch, selection.taken)
    _check_tensors(scratch, selection.taken)
    files = {name: File(size=(scratch / name).stat().st_size, sha256=hashes[name]) for name in sorted(hashes)}
    written = Manifest(
        model=wish.model, repository=wish.repository, revision=listing.revision, source=source.name,
        made_by=f"roundhouse {metadata.version('roundhouse')}", trust_remote_code=wish.trust_remote_code,
        without_code=wish.without_code, files=files,
    )  # fmt: skip
    manifest.write(scratch, written)
    return written


def _prepare(scratch: Path, place: Path, taken: dict[str, Remote], revision: str | None) -> None:
    """A scratch folder without leftovers, and with the files of an earlier pull that may still be right."""
    if revision is None:
        shutil.rmtree(scratch, ignore_errors=True)  # nothing tells whether it is from the same revision
    scratch.mkdir(parents=True, exist_ok=True)
    for name in list(manifest.files(scratch)):
        if name.removesuffix(".incomplete") not in taken:
            (scratch / name).unlink()
    for name, file in taken.items():
        (scratch / name).parent.mkdir(parents=True, exist_ok=True)
        if (file.sha256 or file.blob) and not (scratch / name).exists():
            with suppress(OSError):
                (scratch / name).hardlink_to(place / name)


def _room(scratch: Path, taken: Iterable[Remote]) -> None:
    """Raises where the disk has too little room for what is still to come."""
    there = sum((scratch / name).stat().st_size for name in manifest.files(scratch))
    coming = sum(file.size for file in taken) - there
    free = shutil.disk_usage(scratch).free
    if coming > 0 and coming + RESERVE > free:
        raise WeightsError(
            f"{coming / 1e9:.1f} GB are to come and {scratch.parent.parent} has {free / 1e9:.1f} GB free. Make room, "
            "or name another folder in ROUNDHOUSE_WEIGHTS"
        )


def _fetched(source: Source, listing: Listing, file: Remote, to: Path, progress: Progress) -> str:
    """The SHA-256 of a file that has come as the source described it, now or at an earlier attempt."""
    if to.exists():
        found = sha256(to, progress(file.name, file.size))
        if file.difference(to, found) is None:
            return found
        to.unlink()
    source.fetch(file, listing.revision, to, progress(file.name, file.size))
    found = sha256(to)
    if difference := file.difference(to, found):
        to.unlink()
        raise WeightsError(f"{file.name} {difference}. It was thrown away; pull again to fetch it anew")
    return found


def _configurations(scratch: Path, taken: tuple[str, ...]) -> dict[str, Any]:
    """Every JSON file among the taken ones in which code could be named, parsed."""
    found = {}
    for name in taken:
        if name.endswith("config.json"):
            try:
                found[name] = json.loads((scratch / name).read_bytes())
            except (ValueError, RecursionError):
                raise WeightsError(f"{name} is not JSON") from None
    return found


def _refuse_code(wish: Wish, scratch: Path, selection: Selection) -> None:
    if wish.trust_remote_code or wish.without_code:
        return
    for name, config in _configurations(scratch, selection.taken).items():
        if code := sorted(set(auto_map(config))):
            files = ", ".join(selection.because(CODE)) or "code of another repository"
            raise WeightsError(
                f"{wish.repository} brings code of its own: {name} names {', '.join(code)} in its 'auto_map' "
                f"({files}). If the engine knows the architecture itself, as it does most, pull with --without-code: "
                "the weights come without the code and without its name. If you have read the code and trust it, pull "
                "with --trust-remote-code, or set 'engine: {trust_remote_code: true}' in a fleet file and pull --fleet"
            )


def _strip_code(scratch: Path, taken: tuple[str, ...]) -> dict[str, str]:
    """Takes the names of code out of the configuration; returns the new hashes of what has changed."""
    changed = {}
    for name, config in _configurations(scratch, taken).items():
        if any(auto_map(config)):
            # A new file: the old one may be a mirror's under a second name.
            fresh = scratch / f"{name}.incomplete"
            fresh.write_text(json.dumps(without_auto_map(config), indent=2) + "\n", encoding="utf-8")
            fresh.replace(scratch / name)
            changed[name] = sha256(scratch / name)
    return changed


def _check_tensors(scratch: Path, taken: tuple[str, ...]) -> None:
    for name in taken:
        if name.endswith(".safetensors") and (problem := tensors.problem(scratch / name)):
            raise WeightsError(f"{name} {problem}: what the source has is broken")
        if name.endswith(".safetensors.index.json"):
            try:
                missing = tensors.missing(scratch / name)
            except ValueError as error:
                raise WeightsError(f"{name} is no index of weights: {error}") from None
            if missing:
                raise WeightsError(f"{name} names weights that the repository does not have: {', '.join(missing[:3])}")
