"""A running service as the upgrade sees it, from outside: its models, its metrics, its answers."""

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from service.upgrade.comparison import Answer, Timing

Json = dict[str, Any]
TIMEOUT = 60.0  # seconds for the lists of the service
ANSWER_TIMEOUT = 600.0  # seconds for an answer


class ServiceError(Exception):
    """The service cannot be asked, or has refused; the message says what and by whom."""


class Service:
    """The service at `url`, asked with an API key. Models are asked for by their ids, and no other may answer."""

    def __init__(self, url: str, key: str = "") -> None:
        self._url = url.rstrip("/")
        self._headers = {"content-type": "application/json", "x-roundhouse-fallback": "deny"}
        if key:
            self._headers["authorization"] = f"Bearer {key}"

    def model(self, id: str) -> Json:
        """The row of a model; raises ServiceError where the service does not have it."""
        found: Json = json.loads(self._read("GET", f"/v1/models/{id}", None, TIMEOUT))
        return found

    def metrics(self) -> list[Metric]:
        """What the service has counted."""
        return list(text_string_to_metric_families(self._read("GET", "/metrics", None, TIMEOUT).decode()))

    def tokenize(self, model: str, text: Json) -> list[int]:
        """The token ids of a prompt, or of a conversation as the model's template renders it."""
        found = json.loads(self._read("POST", "/tokenize", {"model": model, **text}, TIMEOUT))
        return [int(one) for one in found["tokens"]]

    def detokenize(self, model: str, tokens: Sequence[int]) -> str:
        """The text of token ids."""
        found = json.loads(self._read("POST", "/detokenize", {"model": model, "tokens": list(tokens)}, TIMEOUT))
        return str(found["prompt"])

    def answer(self, model: str, path: str, body: Json) -> Answer:
        """The whole answer of a model, with the log probabilities that were asked for, or the error in its place."""
        try:
            found = json.loads(self._read("POST", path, {"model": model, **body}, ANSWER_TIMEOUT))
            return answer_of(found["choices"][0])
        except ServiceError as error:
            return Answer(error=str(error))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            return Answer(error=f"what it answers cannot be read: {error!r}")

    def stream(self, model: str, path: str, body: Json) -> Timing | None:
        """When a streamed answer came; None where it failed."""
        began, times = time.monotonic(), []
        try:
            with self._open("POST", path, {"model": model, **body}, ANSWER_TIMEOUT) as response:
                for line in response:
                    if line.startswith(b"data: {"):
                        if b'"error"' in line and "error" in json.loads(line[6:]):
                            return None
                        times.append(time.monotonic())
        except (ServiceError, OSError, http.client.HTTPException, ValueError):
            return None
        gaps = tuple(after - before for before, after in pairwise(times))
        return Timing(times[0] - began, gaps) if times else None

    def _read(self, method: str, path: str, body: Json | None, timeout: float) -> bytes:
        try:
            with self._open(method, path, body, timeout) as response:
                content: bytes = response.read()
                return content
        except (OSError, http.client.HTTPException) as error:
            raise ServiceError(f"{self._url}{path} broke off: {error}") from None

    def _open(self, method: str, path: str, body: Json | None, timeout: float) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, self._headers, method=method)
        try:
            return urllib.request.urlopen(request, timeout=timeout)
        except urllib.error.HTTPError as error:
            with error:
                raise ServiceError(f"{path}: {error.code} {_message(error.read())}") from None
        except (urllib.error.URLError, OSError, ValueError, http.client.HTTPException) as error:
            why = getattr(error, "reason", error)
            raise ServiceError(f"no Roundhouse answers at {self._url}: {why}") from None


def answer_of(choice: Json) -> Answer:
    """What one choice of a chat completion or of a completion says."""
    message, probabilities = choice.get("message"), choice.get("logprobs") or {}
    if message is None:
        tokens, values = probabilities.get("tokens") or (), probabilities.get("token_logprobs") or ()
        said = str(choice.get("text") or "")
    else:
        content = probabilities.get("content") or ()
        tokens, values = [one["token"] for one in content], [one["logprob"] for one in content]
        said = f"{message.get('reasoning_content') or message.get('reasoning') or ''}{message.get('content') or ''}"
    calls = [one["function"] for one in (message or {}).get("tool_calls") or ()]
    return Answer(
        said, tuple(tokens), tuple(float(one) for one in values if one is not None),
        tuple((str(one["name"]), str(one["arguments"])) for one in calls),
    )  # fmt: skip


def _message(body: bytes) -> str:
    try:
        error = json.loads(body)["error"]
        return str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, LookupError, TypeError):
        return body[:200].decode(errors="replace")
