"""The steps of a pull, in order: list, select, download, verify, write the manifest, publish."""

import json
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from service.weights import manifest, tensors
from service.weights.digests import ProgressBar, no_progress_bar, sha256
from service.weights.manifest import File, Manifest
from service.weights.selection import CODE, Selection, auto_map, select, without_auto_map
from service.weights.sources import COMMIT, Listing, RemoteFile, Source
from service.weights.store import Store, WeightsError, check_disk_space


@dataclass(frozen=True)
class PullRequest:
    """What to pull: a repository, its model's id, and a commit, branch or tag; None is the default branch.

    `trust_remote_code` also pulls the repository's Python files; `without_code` removes references to them instead.
    """

    repository: str
    model: str
    revision: str | None = None
    trust_remote_code: bool = False
    without_code: bool = False

    @property
    def commit(self) -> str | None:
        """The revision if it is a commit: only that can be compared with what is on disk."""
        return self.revision if self.revision and COMMIT.fullmatch(self.revision) else None


@dataclass(frozen=True)
class PullResult:
    """A complete pull: its directory and manifest, skipped files with reasons; `is_new` unless it was there already."""

    directory: Path
    manifest: Manifest
    skipped: dict[str, str]
    is_new: bool


def pull(request: PullRequest, source: Source, store: Store, progress_bar: ProgressBar = no_progress_bar) -> PullResult:
    """Brings a repository's weights into the store, whole and verified, or raises WeightsError.

    Files of an earlier attempt that match the source are kept.
    """
    directory = store.directory(request.repository)
    with store.locked(request.repository):
        if request.commit and (known := _existing(request, directory, request.commit, progress_bar)):
            return PullResult(directory, known, {}, is_new=False)
        listing = source.listing()
        if request.commit and listing.revision not in (None, request.commit):
            raise WeightsError(f"{source.name} has revision {listing.revision} and not {request.commit}")
        selection = select([file.name for file in listing.files], request.trust_remote_code)
        if reason := selection.why_unservable():
            raise WeightsError(f"{request.repository} cannot be served: {reason}")
        if listing.revision and (known := _existing(request, directory, listing.revision, progress_bar)):
            return PullResult(directory, known, selection.skipped, is_new=False)
        staging = store.staging(request.repository, listing.revision)
        try:
            _prepare(staging, directory, listing, selection)
            written = _download(request, source, listing, selection, staging, progress_bar)
            return PullResult(store.publish(staging, request.repository), written, selection.skipped, is_new=True)
        except OSError as error:
            raise WeightsError(f"{error.filename or store.folder}: {error.strerror}") from None


def _existing(request: PullRequest, directory: Path, commit: str, progress_bar: ProgressBar) -> Manifest | None:
    """The manifest of the directory, if it is what the request would pull at this commit, and verifies."""
    try:
        known = manifest.read(directory)
    except manifest.ManifestError:
        return None
    is_requested = known.revision == commit and known.repository == request.repository
    same_code = (known.trust_remote_code, known.without_code) == (request.trust_remote_code, request.without_code)
    if not is_requested or not same_code:
        return None
    with progress_bar(f"verifying {request.repository}", known.size) as advance:
        return None if manifest.verify(directory, advance=advance) else known


def _prepare(staging: Path, directory: Path, listing: Listing, selection: Selection) -> None:
    """Creates the staging directory, or removes from it what an earlier attempt left and this one will not use."""
    if listing.revision is None:
        shutil.rmtree(staging, ignore_errors=True)  # its files may be of another revision
    staging.mkdir(parents=True, exist_ok=True)
    for hidden in staging.glob(".*"):
        shutil.rmtree(hidden) if hidden.is_dir() else hidden.unlink()
    for name in list(manifest.files(staging)):
        if name not in selection.selected:
            (staging / name).unlink()
    for file in _selected(listing, selection):
        path = staging / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        if (file.sha256 or file.blob_id) and not path.exists():
            with suppress(OSError):  # files of an older pull that may not have changed
                path.hardlink_to(directory / file.name)


def _selected(listing: Listing, selection: Selection) -> list[RemoteFile]:
    return [file for file in listing.files if file.name in selection.selected]


def _download(
    request: PullRequest, source: Source, listing: Listing, selection: Selection, staging: Path,
    progress_bar: ProgressBar,
) -> Manifest:  # fmt: skip
    """Completes the staging directory, verifies it and writes its manifest."""
    files = _selected(listing, selection)
    if source.needs_disk_space(staging):
        _check_disk_space(staging, files)

    def fetched(files: Iterable[RemoteFile]) -> dict[str, str]:
        return {file.name: _fetched(source, listing, file, staging, progress_bar) for file in files}

    # Small files first: the configuration may refuse the pull before its long part begins.
    hashes = fetched(file for file in files if not file.name.endswith(".safetensors"))
    _refuse_code(request, staging, selection)
    hashes |= fetched(file for file in files if file.name.endswith(".safetensors"))
    if request.without_code:
        hashes |= _strip_code(staging, selection)
    _check_tensors(staging, selection)
    written = Manifest(
        model=request.model, repository=request.repository, revision=listing.revision, source=source.name,
        made_by=f"roundhouse {metadata.version('roundhouse')}", trust_remote_code=request.trust_remote_code,
        without_code=request.without_code,
        files={name: File(size=(staging / name).stat().st_size, sha256=hashes[name]) for name in sorted(hashes)},
    )  # fmt: skip
    manifest.write(staging, written)
    return written


def _check_disk_space(staging: Path, files: list[RemoteFile]) -> None:
    present = sum((staging / name).stat().st_size for name in manifest.files(staging))
    check_disk_space(staging, sum(file.size for file in files) - present)


def _fetched(source: Source, listing: Listing, file: RemoteFile, staging: Path, progress_bar: ProgressBar) -> str:
    """The SHA-256 of a file that is as the source announced it, fetched now or by an earlier attempt."""
    path = staging / file.name

    def hashed() -> str:
        with progress_bar(f"verifying {file.name}", file.size) as advance:
            return sha256(path, advance)

    if path.exists():
        found = hashed()
        if file.mismatch(path, found) is None:
            return found
        path.unlink()
    source.fetch(file, listing.revision, staging)
    found = hashed()
    if mismatch := file.mismatch(path, found):
        path.unlink()
        raise WeightsError(f"{file.name} {mismatch}. It was deleted; pull again to download it again")
    return found


def _configurations(staging: Path, selection: Selection) -> dict[str, Any]:
    """The parsed JSON files that can refer to code, by name."""
    found = {}
    for name in selection.selected:
        if name.endswith("config.json"):
            try:
                found[name] = json.loads((staging / name).read_bytes())
            except (ValueError, RecursionError):
                raise WeightsError(f"{name} is not valid JSON") from None
    return found


def _refuse_code(request: PullRequest, staging: Path, selection: Selection) -> None:
    if request.trust_remote_code or request.without_code:
        return
    for name, config in _configurations(staging, selection).items():
        if classes := sorted(set(auto_map(config))):
            files = ", ".join(selection.skipped_for(CODE)) or "code of another repository"
            raise WeightsError(
                f"{request.repository} needs code of its own: the 'auto_map' of {name} names {', '.join(classes)} "
                f"({files}). If the engine supports the architecture itself, as it does for most models, pull with "
                "--without-code, which removes these references. If you have read the code and trust it, pull with "
                "--trust-remote-code, or set 'engine: {trust_remote_code: true}' in a fleet file and pull --fleet"
            )


def _strip_code(staging: Path, selection: Selection) -> dict[str, str]:
    """Removes `auto_map` entries from the configuration; returns the changed files' new SHA-256 by name."""
    changed = {}
    for name, config in _configurations(staging, selection).items():
        if any(auto_map(config)):
            path = staging / name
            path.unlink()  # it may be a hard link to a mirror's file, which must not change
            path.write_text(json.dumps(without_auto_map(config), indent=2) + "\n", encoding="utf-8")
            changed[name] = sha256(path)
    return changed


def _check_tensors(staging: Path, selection: Selection) -> None:
    for name in selection.selected:
        if name.endswith(".safetensors") and (problem := tensors.problem(staging / name)):
            raise WeightsError(f"{name} {problem}: the source's file is corrupt")
        if name.endswith(".safetensors.index.json"):
            try:
                missing = tensors.missing(staging / name)
            except ValueError as error:
                raise WeightsError(f"{name} is not a valid index of weights: {error}") from None
            if missing:
                raise WeightsError(f"{name} lists weights that the repository does not have: {', '.join(missing[:3])}")
