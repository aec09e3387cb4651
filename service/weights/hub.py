"""A hub as the source of weights, through huggingface_hub, which nothing else in the house imports."""

import errno
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import HfApi, get_hf_file_metadata, get_token, hf_hub_url
from huggingface_hub.constants import HUGGINGFACE_CO_URL_HOME
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get

from service.weights.digests import Advance
from service.weights.sources import Listing, Remote
from service.weights.store import WeightsError

PATIENCE = 30.0  # seconds for an answer about a repository
SHA256 = re.compile(r"[0-9a-f]{64}")
BLOB = re.compile(r"[0-9a-f]{40}")


class Hub:
    """A repository on a hub. `revision` is a commit, branch or tag; the hub's default branch if None.

    `endpoint` and `token` are those of the environment; without a token the one of the client's own login is sent.
    """

    def __init__(self, repository: str, revision: str | None, endpoint: str | None, token: str | None) -> None:
        self._repository, self._revision = repository, revision
        self.name = (endpoint or HUGGINGFACE_CO_URL_HOME).rstrip("/")
        self._token = (token or get_token() or "").strip()
        if not self._token.isprintable() or not self._token.isascii() or " " in self._token:
            raise WeightsError("HF_TOKEN is no access token: it holds spaces, line breaks or other strange characters")
        self._api = HfApi(endpoint=self.name, token=self._token or False)
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its warnings repeat what our errors say

    def listing(self) -> Listing:
        """The files of the revision, which the hub resolves to a commit."""
        with self._told():
            info = self._api.model_info(
                self._repository, revision=self._revision, files_metadata=True, timeout=PATIENCE
            )
            commit = info.sha if BLOB.fullmatch(info.sha or "") else None
            files = [self._remote(sibling, commit) for sibling in info.siblings or ()]
        return Listing(commit, tuple(files))

    def takes_room(self, folder: Path) -> bool:
        """Always."""
        return True

    def fetch(self, file: Remote, revision: str | None, to: Path, advance: Advance) -> None:
        """Downloads a file, from where an earlier attempt stopped."""
        incomplete = to.with_name(f"{to.name}.incomplete")
        if incomplete.exists() and incomplete.stat().st_size > file.size:
            incomplete.unlink()
        with self._told(), incomplete.open("ab") as out:
            http_get(
                self._url(file.name, revision),
                out,
                resume_size=out.tell(),
                headers={"authorization": f"Bearer {self._token}"} if self._token else {},
                expected_size=file.size,
                tqdm_class=_bar(advance),
            )
        incomplete.replace(to)

    def _remote(self, sibling: Any, revision: str | None) -> Remote:
        if sibling.lfs:
            return Remote(sibling.rfilename, sibling.lfs.size, sha256=sibling.lfs.sha256)
        if sibling.size is not None:
            return Remote(sibling.rfilename, sibling.size, blob=sibling.blob_id)
        # A mirror of the hub that lists names only: each file's own headers tell the rest.
        url = self._url(sibling.rfilename, revision)
        head = get_hf_file_metadata(url, token=self._token or False, timeout=PATIENCE, endpoint=self.name)
        if head.size is None:
            raise WeightsError(f"{self.name} does not tell the size of {sibling.rfilename}")
        etag = head.etag or ""
        sha256, blob = (etag if kind.fullmatch(etag) else None for kind in (SHA256, BLOB))
        return Remote(sibling.rfilename, head.size, sha256, blob)

    def _url(self, name: str, revision: str | None) -> str:
        return hf_hub_url(self._repository, name, revision=revision or self._revision, endpoint=self.name)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What the hub's client raises, in words that say what to do."""
        where = f"{self._repository} at {self.name}"
        try:
            yield
        except GatedRepoError:
            state = "The token that was sent does not open it" if self._token else "No HF_TOKEN is set"
            raise WeightsError(
                f"{self._repository} is gated. {state}. Accept its licence on {self.name}/{self._repository}, then set "
                "HF_TOKEN to an access token of the same account and pull again"
            ) from None
        except RepositoryNotFoundError:
            hint = "the HF_TOKEN that is set does not open it" if self._token else "it needs an HF_TOKEN"
            raise WeightsError(f"there is no {where}, or it is private and {hint}") from None
        except RevisionNotFoundError:
            raise WeightsError(f"{where} has no revision '{self._revision}'") from None
        except RemoteEntryNotFoundError as error:
            raise WeightsError(f"{where} lists a file that it does not have: {error.response.url.path}") from None
        except HFValidationError as error:
            raise WeightsError(str(error)) from None
        except OfflineModeIsEnabled:
            raise WeightsError(
                "HF_HUB_OFFLINE is set. Unset it, or pull from a local copy with --from DIRECTORY"
            ) from None
        except HfHubHTTPError as error:
            raise WeightsError(f"{where} answers with status {error.response.status_code}; try again later") from None
        except httpx2.HTTPError as error:
            raise WeightsError(
                f"{self.name} cannot be reached ({str(error) or type(error).__name__}). What has arrived is kept: run "
                "the same command again to go on. HF_ENDPOINT names another hub, --from DIRECTORY a local copy"
            ) from None
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise WeightsError("the disk is full. What has arrived is kept: make room and pull again") from None
            raise WeightsError(f"{where}: {error.strerror or error}. Run the same command again to go on") from None
        except ValueError as error:
            raise WeightsError(f"{where}: {error}") from None


def _bar(advance: Advance) -> Any:
    """What the client takes for a class of progress bars: it makes one for each file and updates it."""

    class Bar:
        def __init__(self, *_: Any, initial: int = 0, **__: Any) -> None:
            advance(initial)

        def update(self, count: int) -> None:
            advance(count)

        def __enter__(self) -> "Bar":
            return self

        def __exit__(self, *_: object) -> None:
            pass

    return Bar
