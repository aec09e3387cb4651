"""A hub on this machine that answers what huggingface_hub asks, from memory, and can be told to misbehave."""

import hashlib
import json
import re
import time
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
XET_TOKEN = re.compile(r"/api/models/[^/]+/[^/]+/xet-read-token/[^/]+")
XET_FILE = re.compile(r"/v2/reconstructions/(\w+)")
XET_BLOCK = re.compile(r"/xet-blocks/(\w+)")


@dataclass(frozen=True)
class Seen:
    """One request."""

    method: str
    path: str
    headers: dict[str, str]


@dataclass
class Hub:
    """What the hub has, and how it misbehaves.

    By file name: `wrong` contents, `cuts` after so many bytes and error `statuses`, used up one by one. With `has_xet`
    it offers LFS files over Xet too.
    """

    url: str = ""
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    revisions: dict[str, dict[str, str]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    token: str = "hf_secret"
    names_only: bool = False
    names_commit: bool = True
    has_xet: bool = False
    xet_is_broken: bool = False
    wrong: dict[str, bytes] = field(default_factory=dict)
    cuts: dict[str, list[int | None]] = field(default_factory=dict)
    statuses: dict[str, list[int]] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)

    def add(self, repository: str, files: dict[str, bytes], commit: str = COMMIT) -> None:
        """Adds a repository, whose main branch is at this commit."""
        self.files[repository] = files
        self.revisions[repository] = {"main": commit, commit: commit}

    def fetched(self) -> list[str]:
        """The names of the files that were requested over HTTP, in order."""
        found = (RESOLVE.fullmatch(urlsplit(one.path).path) for one in self.seen if one.method == "GET")
        return [unquote(match[3]) for match in found if match]

    def ranges(self, name: str) -> list[str | None]:
        """The range header of each request for a file."""
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
        if self.hub.has_xet and self.xet(path):
            return
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
        headers = {"etag": f'"{etag}"', "accept-ranges": "bytes"}
        if self.hub.names_commit:
            headers["x-repo-commit"] = commit
        if name.endswith(LFS):
            headers |= {"x-linked-etag": f'"{etag}"', "x-linked-size": str(len(data))}
        if self.hub.has_xet and name.endswith(LFS):
            token = f"{self.hub.url}/api/models/{repository}/xet-read-token/{commit}"
            headers |= {"x-xet-hash": etag, "link": f'<{token}>; rel="xet-auth"'}
        data = self.hub.wrong.get(name, data)
        begin = re.fullmatch(r"bytes=(\d+)-", self.headers.get("range", ""))
        if begin:
            headers["content-range"] = f"bytes {begin[1]}-{len(data) - 1}/{len(data)}"
        cuts = self.hub.cuts.get(name, []) if self.command == "GET" else []
        cut = cuts.pop(0) if cuts else None
        self.answer(206 if begin else 200, headers, data[int(begin[1]) if begin else 0 :], cut)

    def xet(self, path: str) -> bool:
        """Answers a request of the Xet protocol: every file is one block of one chunk, named by its SHA-256."""
        if XET_TOKEN.fullmatch(path):
            expiration = str(int(time.time()) + 3600)
            token = {
                "x-xet-cas-url": self.hub.url, "x-xet-access-token": "xet", "x-xet-token-expiration": expiration
            }  # fmt: skip
            self.answer(200, token, b"{}")
        elif (match := XET_FILE.fullmatch(path)) and not self.hub.xet_is_broken:
            size, chunks = len(self.block(match[1])), {"start": 0, "end": 1}
            ranges = [{"chunks": chunks, "bytes": {"start": 0, "end": size - 1}}]
            plan = {
                "offset_into_first_range": 0,
                "terms": [{"hash": match[1], "unpacked_length": size - 8, "range": chunks}],
                "xorbs": {match[1]: [{"url": f"{self.hub.url}/xet-blocks/{match[1]}", "ranges": ranges}]},
            }
            self.answer(200, {"content-type": "application/json"}, json.dumps(plan).encode())
        elif match := XET_BLOCK.fullmatch(path):
            block = self.block(match[1])
            self.answer(206, {"content-range": f"bytes 0-{len(block) - 1}/{len(block)}"}, block)
        else:
            return False
        return True

    def block(self, sha256: str) -> bytes:
        """An uncompressed chunk with its header: version, size in the block, compression, size."""
        files = [item for files in self.hub.files.values() for item in files.items()]
        name, data = next(item for item in files if hashlib.sha256(item[1]).hexdigest() == sha256)
        data = self.hub.wrong.get(name, data)
        size = len(data).to_bytes(3, "little")
        return b"\0" + size + b"\0" + size + data

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
    """A running hub without repositories."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield hub
        server.shutdown()
        thread.join()
