"""A hub as the source of weights. The only module that imports huggingface_hub."""

import errno
import logging
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import HfApi, get_hf_file_metadata, get_token, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from service.weights.sources import COMMIT, Listing, RemoteFile
from service.weights.store import WeightsError

TIMEOUT = 30.0  # seconds for an answer about a repository or file
SHA256 = re.compile(r"[0-9a-f]{64}")
CLIENT_FILES = ".cache"  # the client's locks and partial files, in the folder that it downloads to


class Hub:
    """A repository on a hub. `revision` is a commit, branch or tag; None is the default branch.

    Without `endpoint` or `token` the client's own configuration and login apply.
    """

    def __init__(self, repository: str, revision: str | None, endpoint: str | None, token: str | None) -> None:
        self._repository, self._revision = repository, revision
        self._token = (token or get_token() or "").strip()
        if not self._token.isprintable() or not self._token.isascii() or " " in self._token:
            raise WeightsError("HF_TOKEN is not a valid access token: it contains spaces, line breaks or other symbols")
        self._api = HfApi(endpoint=endpoint.rstrip("/") if endpoint else None, token=self._token or False)
        self.name = self._api.endpoint
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its warnings repeat what our errors say

    def listing(self) -> Listing:
        """The files of the revision, which the hub resolves to a commit."""
        with self._readable_errors():
            info = self._api.model_info(self._repository, revision=self._revision, files_metadata=True, timeout=TIMEOUT)
            commit = info.sha if COMMIT.fullmatch(info.sha or "") else None
            files = [self._remote_file(sibling, commit) for sibling in info.siblings or ()]
        return Listing(commit, tuple(files))

    def needs_disk_space(self, folder: Path) -> bool:
        """Always."""
        return True

    def fetch(self, file: RemoteFile, revision: str | None, folder: Path) -> None:
        """Downloads a file, over Xet where the hub offers it, or copies it from the client's cache.

        The client retries, resumes broken connections, and shows its own progress bar on a terminal.
        """
        try:
            with self._readable_errors():
                self._api.hf_hub_download(
                    self._repository, file.name, revision=revision or self._revision, local_dir=folder,
                    etag_timeout=TIMEOUT,
                )  # fmt: skip
        finally:
            shutil.rmtree(folder / CLIENT_FILES, ignore_errors=True)

    def _remote_file(self, sibling: Any, commit: str | None) -> RemoteFile:
        if sibling.lfs:
            return RemoteFile(sibling.rfilename, sibling.lfs.size, sha256=sibling.lfs.sha256)
        if sibling.size is not None:
            return RemoteFile(sibling.rfilename, sibling.size, blob_id=sibling.blob_id)
        # Some mirrors of the hub list names only; then each file's own headers give size and hash.
        url = hf_hub_url(self._repository, sibling.rfilename, revision=commit or self._revision, endpoint=self.name)
        head = get_hf_file_metadata(url, token=self._token or False, timeout=TIMEOUT, endpoint=self.name)
        if head.size is None:
            raise WeightsError(f"{self.name} does not announce the size of {sibling.rfilename}")
        etag = head.etag or ""
        sha256, blob_id = (etag if kind.fullmatch(etag) else None for kind in (SHA256, COMMIT))
        return RemoteFile(sibling.rfilename, head.size, sha256, blob_id)

    @contextmanager
    def _readable_errors(self) -> Iterator[None]:
        try:
            yield
        except (httpx2.HTTPError, OSError, ValueError, RuntimeError) as error:  # RuntimeError: from Xet
            raise WeightsError(self._explanation(error)) from None

    def _explanation(self, error: BaseException) -> str:
        """What an exception of the hub's client means, and what to do."""
        where = f"{self._repository} at {self.name}"
        match error:
            case LocalEntryNotFoundError(__cause__=BaseException() as cause):  # the hub could not be asked for a file
                return self._explanation(cause)
            case GatedRepoError():
                state = "The HF_TOKEN that was sent has no access" if self._token else "No HF_TOKEN is set"
                return (
                    f"{self._repository} is gated. {state}. Accept its licence on {self.name}/{self._repository}, then "
                    "set HF_TOKEN to an access token of the same account and pull again"
                )
            case RepositoryNotFoundError():
                hint = "the HF_TOKEN that was sent has no access" if self._token else "it needs an HF_TOKEN"
                return f"there is no {where}, or it is private and {hint}"
            case RevisionNotFoundError():
                return f"{where} has no revision '{self._revision}'"
            case RemoteEntryNotFoundError():
                return f"{where} lists a file that it does not have: {error.response.url.path}"
            case OfflineModeIsEnabled():
                return "HF_HUB_OFFLINE is set. Unset it, or pull from a local copy with --from DIRECTORY"
            case HfHubHTTPError():
                return f"{where} answers with status {error.response.status_code}; try again later"
            case httpx2.HTTPError():
                return (
                    f"{self.name} cannot be reached ({str(error) or type(error).__name__}). Run the same command again "
                    "to continue with the files that are missing. HF_ENDPOINT sets another hub, --from DIRECTORY a "
                    "local copy"
                )
            case OSError(errno=errno.ENOSPC):
                return "the disk is full. Free some space and pull again; complete files are kept"
            case RuntimeError():
                return f"{where}: {error}. Run the same command again; HF_HUB_DISABLE_XET=1 downloads without Xet"
        return f"{where}: {error}. Run the same command again to continue"
