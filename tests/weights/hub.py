"""A hub on this machine: what huggingface_hub asks of one, answered from memory, and how it can go wrong."""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote, urlsplit

from tests.weights.tiny import COMMIT

LFS = (".safetensors", ".bin")
API = re.compile(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?")
RESOLVE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


@dataclass(frozen=True)
class Seen:
    """One request."""

    method: str
    path: str
    headers: dict[str, str]


@dataclass
class Hub:
    """What the hub has, and what it does wrong. `cuts` and `statuses` are used up one by one, by file name."""

    url: str = ""
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    revisions: dict[str, dict[str, str]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    token: str = "hf_secret"
    names_only: bool = False
    wrong: dict[str, bytes] = field(default_factory=dict)
    cuts: dict[str, list[int | None]] = field(default_factory=dict)
    statuses: dict[str, list[int]] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)

    def add(self, repository: str, files: dict[str, bytes], commit: str = COMMIT) -> None:
        """Gives the hub a repository, whose main branch is at this commit."""
        self.files[repository] = files
        self.revisions[repository] = {"main": commit, commit: commit}

    def fetched(self) -> list[str]:
        """The names of the files that were asked for, in order."""
        found = (RESOLVE.fullmatch(urlsplit(one.path).path) for one in self.seen if one.method == "GET")
        return [unquote(match[3]) for match in found if match]

    def ranges(self, name: str) -> list[str | None]:
        """What each request for a file asked of it."""
        return [one.headers.get("range") for one in self.seen if one.method == "GET" and one.path.endswith(f"/{name}")]


def oid(data: bytes) -> str:
    """git's id of a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.hub.seen.append(Seen(self.command, self.path, headers))
        path = urlsplit(self.path).path
        match = API.fullmatch(path) or RESOLVE.fullmatch(path)
        if match is None:  # the client asks for more than files
            self.refuse(404, "")
            return
        repository, revision = match[1], unquote(match[2] or "main")
        if repository not in self.hub.files:
            self.refuse(401, "RepoNotFound")
        elif revision not in self.hub.revisions[repository]:
            self.refuse(404, "RevisionNotFound")
        elif match.re is API:
            self.list(repository, self.hub.revisions[repository][revision])
        elif repository in self.hub.gated and headers.get("authorization") != f"Bearer {self.hub.token}":
            self.refuse(403 if "authorization" in headers else 401, "GatedRepo")
        else:
            self.file(repository, unquote(match[3]), self.hub.revisions[repository][revision])

    def list(self, repository: str, commit: str) -> None:
        def entry(name: str, data: bytes) -> dict[str, object]:
            if self.hub.names_only:
                return {"rfilename": name}
            found: dict[str, object] = {"rfilename": name, "size": len(data), "blobId": oid(data)}
            if name.endswith(LFS):
                found["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
            return found

        siblings = [entry(name, data) for name, data in self.hub.files[repository].items()]
        body = json.dumps({"id": repository, "modelId": repository, "sha": commit, "siblings": siblings}).encode()
        self.answer(200, {"content-type": "application/json"}, body)

    def file(self, repository: str, name: str, commit: str) -> None:
        if name not in self.hub.files[repository]:
            self.refuse(404, "EntryNotFound")
            return
        if self.command == "GET" and (statuses := self.hub.statuses.get(name)) and (status := statuses.pop(0)):
            self.refuse(status, "")
            return
        data = self.hub.files[repository][name]
        etag = hashlib.sha256(data).hexdigest() if name.endswith(LFS) else oid(data)
        headers = {"etag": f'"{etag}"', "x-repo-commit": commit, "accept-ranges": "bytes"}
        if name.endswith(LFS):
            headers |= {"x-linked-etag": f'"{etag}"', "x-linked-size": str(len(data))}
        data = self.hub.wrong.get(name, data)
        begin = re.fullmatch(r"bytes=(\d+)-", self.headers.get("range", ""))
        if begin:
            headers["content-range"] = f"bytes {begin[1]}-{len(data) - 1}/{len(data)}"
        cuts = self.hub.cuts.get(name, []) if self.command == "GET" else []
        cut = cuts.pop(0) if cuts else None
        self.answer(206 if begin else 200, headers, data[int(begin[1]) if begin else 0 :], cut)

    def refuse(self, status: int, code: str) -> None:
        self.answer(status, {"x-error-code": code, "x-error-message": code} if code else {}, b"")

    def answer(self, status: int, headers: dict[str, str], body: bytes, cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in {**headers, "content-length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:cut])


@contextmanager
def running() -> Iterator[Hub]:
    """A hub without any repository, until the end of the block."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield hub
        server.shutdown()
        thread.join()
