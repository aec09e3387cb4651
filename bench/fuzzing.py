"""Requests that nobody would write, made up from the description of the API, and what must hold of every response.

Each has the types that the description says, or others on purpose, or is JSON that is no request at all.
"""

import json
import time
from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, TypeVar

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import Case
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = [
    not_a_server_error, status_code_conformance, content_type_conformance, response_headers_conformance,
    response_schema_conformance,
]  # fmt: skip
T = TypeVar("T")
PATIENCE = 30.0  # seconds for one response, by default
KEYS = st.one_of(
    st.sampled_from(("model", "messages", "role", "content", "type", "text", "image_url", "url", "tools", "n")),
    st.text(max_size=8),
)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=40), st.sampled_from((2**63, -(2**63) - 1)),
    st.sampled_from(("\ud800", "\0", "\u2028", "data:image/png;base64,AAAA", "http://169.254.169.254/", "file:///etc/passwd")),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)


@dataclass
class Fuzz:
    """Requests to the service at `url`, with the headers `headers`, and what came of them.

    `failures` has a line for each response that must not be; `statuses` counts all of them. A response that does not
    come within `patience` seconds must not be; `slowest` are the seconds of the slowest one and its request.
    """

    url: str
    headers: dict[str, str] = field(default_factory=dict)
    statuses: Counter[int] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    patience: float = PATIENCE
    slowest: tuple[float, str] = (0.0, "")

    def run(self, count: int, number: int) -> None:
        """Sends about `count` requests, the same ones for the same `number`."""
        with requests.Session() as session:
            session.trust_env = False
            session.headers.update(self.headers)
            described = session.get(f"{self.url}/openapi.json", timeout=PATIENCE).json()
            models = [row["id"] for row in session.get(f"{self.url}/v1/models", timeout=PATIENCE).json()["data"]]
            description = realistic(described, models)
            schema = schemathesis.openapi.from_dict(description)
            schema.config.update(base_url=self.url)
            operations = [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]
            modes = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
            cases = st.one_of([one.as_strategy(mode) for one in operations for mode in modes])
            for case in made_up(cases, count * 2 // 3, number):
                self._send_case(session, case)
            bodies = raw_bodies(list(posts(description)), models)
            for path, body in made_up(bodies, count - count * 2 // 3, number):
                self._send_raw(session, path, body)

    def _send_case(self, session: requests.Session, case: "Case[Any]") -> None:
        began = time.monotonic()
        try:
            response = case.call(session=session, timeout=self.patience)
        except requests.RequestException as error:
            shown = f"{type(error).__name__}: {error} to {case.body!r}"
            self.failures.append(f"{case.method} {case.path}: {shown}"[:1500])
            return
        finally:
            self._note(began, f"{case.method} {case.path} {case.body!r}")
        self.statuses[response.status_code] += 1
        if case.method == "HEAD":
            return
        try:
            case.validate_response(response, checks=CHECKS)
        except AssertionError as error:
            self.failures.append(f"{case.method} {case.path} {response.status_code}: {error}"[:1500])
        except BaseExceptionGroup as group:
            self.failures += [f"{case.method} {case.path}: {error}"[:1500] for error in group.exceptions]

    def _send_raw(self, session: requests.Session, path: str, body: bytes) -> None:
        headers = {"content-type": "application/json"}
        began = time.monotonic()
        try:
            response = session.post(self.url + path, data=body, headers=headers, timeout=self.patience)
        except requests.RequestException as error:
            self.failures.append(f"POST {path}: {type(error).__name__}: {error} to {body[:800]!r}")
            return
        finally:
            self._note(began, f"POST {path} {body[:800]!r}")
        self.statuses[response.status_code] += 1
        kind = response.headers["content-type"].partition(";")[0]
        if response.status_code >= 500 or kind not in ("application/json", "text/event-stream"):
            self.failures.append(f"POST {path} {response.status_code}: {response.text[:300]} to {body[:800]!r}")
        elif response.status_code >= 400 and not response.json()["error"]["message"]:
            self.failures.append(f"POST {path}: no message: {response.text[:300]}")

    def _note(self, began: float, request: str) -> None:
        self.slowest = max(self.slowest, (time.monotonic() - began, request[:800]))


def made_up(strategy: "st.SearchStrategy[T]", count: int, number: int) -> list[T]:
    """About `count` things, the same ones for the same `number`. Made before they are used, for while it makes them
    Hypothesis gives every example the same random numbers, ids of requests included."""
    things: list[T] = []

    @seed(number)
    @settings(
        max_examples=count, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(strategy)
    def take(thing: T) -> None:
        things.append(thing)

    take()
    return things


def realistic(description: dict[str, Any], models: list[str]) -> dict[str, Any]:
    """The description, where a model is mostly one that is served, and no request asks to be timed out."""
    found = deepcopy(description)
    for schema in found["components"]["schemas"].values():
        if "model" in schema.get("required", ()) and "object" not in schema["properties"]:
            schema["properties"]["model"] = {"enum": [*models, "auto"]}
        for name in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
            if name in schema.get("properties", ()):
                schema["properties"][name]["maximum"] = 16
    parameters = found["components"]["parameters"]
    parameters["x-roundhouse-timeout"]["schema"] = {"type": "number", "minimum": 20}
    parameters["x-roundhouse-tenant"]["schema"] = {"enum": ["default"]}
    return found


def posts(description: dict[str, Any]) -> Iterator[str]:
    """The paths that take a body."""
    return (path for path, item in description["paths"].items() if "requestBody" in item.get("post", ()))


def raw_bodies(paths: list[str], models: list[str]) -> "st.SearchStrategy[tuple[str, bytes]]":
    """A path, and a body for it: JSON that has little to do with a request, or bytes that are no JSON."""
    base: dict[str, Any] = {
        "messages": [{"role": "user", "content": "one two"}], "input": "one", "prompt": "one", "max_tokens": 4,
        "query": "a", "documents": ["b"], "tokens": [1], "text_1": "a", "text_2": "b",
    }  # fmt: skip
    some = st.sets(st.sampled_from(sorted(base)), min_size=1)
    kept = some.map(lambda names: {name: base[name] for name in names})
    near = st.tuples(kept, st.sampled_from([*models, "auto"]), st.dictionaries(KEYS, VALUES, max_size=3)).map(
        lambda parts: {**parts[0], "model": parts[1], **parts[2]}
    )
    text = (near | VALUES).map(lambda value: json.dumps(value).encode())
    broken = st.tuples(text, st.integers(0, 200)).map(lambda parts: parts[0][: parts[1]])
    deep = st.integers(1, 3000).map(lambda depth: b'{"model":"auto","messages":' + b"[" * depth + b"]" * depth + b"}")
    return st.tuples(st.sampled_from(paths), st.one_of(text, text, text, broken, st.binary(max_size=60), deep))
