"""The requests of an evaluation to a running service: several at a time, again where it says to wait."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import click
import httpx2

from service.evaluation.calls import Call, Reply, reply_of

RETRY_TIME = 900.0  # seconds that a request may be told to come back later, all in all
FAILURES = 5  # attempts that fail otherwise
LONGEST_WAIT = 120.0  # seconds, whatever Retry-After says
Refusals = dict[str, str]


@dataclass(frozen=True)
class Target:
    """A running service: its address without /v1, its key, how many requests at a time, seconds for one of them."""

    url: str
    key: str | None
    concurrency: int
    timeout: float


class Client:
    """Asks a service. A request that it refuses for good has a reason; what concerns all of them ends the command."""

    def __init__(self, target: Target, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._target, self._sleep = target, sleep
        headers = {"x-roundhouse-priority": "batch"}  # people come first
        if target.key:
            headers["authorization"] = f"Bearer {target.key}"
        secure = target.url.startswith("https:")  # reading the system's certificates takes half a second
        self._http = httpx2.AsyncClient(
            base_url=target.url, headers=headers, timeout=target.timeout, verify=secure,
            limits=httpx2.Limits(max_connections=target.concurrency),
        )  # fmt: skip

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def models(self) -> dict[str, dict[str, Any]]:
        """The models that the service lists, by id."""
        url = self._target.url
        try:
            answer = await self._http.get("/v1/models", timeout=30)
            self._refuse_key(answer)
            if answer.status_code != 200:
                raise click.ClickException(f"{url}/v1/models: {_message(answer)}")
            return {row["id"]: row for row in answer.json()["data"]}
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError, LookupError, TypeError, UnicodeError) as error:
            raise click.ClickException(f"no Roundhouse answers at {url}: {error or type(error).__name__}") from None

    async def ask_all(self, calls: Sequence[Call], keep: Callable[[Reply], None], done: Callable[[], None]) -> Refusals:
        """Asks all calls; gives each reply to `keep` as it comes, and returns why others have none, by key."""
        waiting, refusals = iter(calls), {}

        async def work() -> None:
            for call in waiting:
                reply = await self._ask(call)
                if isinstance(reply, Reply):
                    keep(reply)
                else:
                    refusals[call.key] = reply
                done()

        await asyncio.gather(*(work() for _ in range(min(self._target.concurrency, len(calls)))))
        return refusals

    async def _ask(self, call: Call) -> Reply | str:
        waited, failures = 0.0, 0
        while True:
            wait, reason = 2.0**failures, ""
            try:
                answer = await self._http.post(call.path, json=call.body)
            except httpx2.TimeoutException:
                reason = f"no answer within {self._target.timeout:g} s"
                failures += 1
            except httpx2.TransportError as error:
                reason = f"{self._target.url} does not answer any more: {error or type(error).__name__}"
                failures += 1
                if failures == FAILURES:
                    raise click.ClickException(f"{reason}. Run the same command again to go on.") from None
            else:
                if answer.status_code == 200:
                    try:
                        return reply_of(call, answer.content, answer.headers.get("x-request-id", ""))
                    except ValueError as error:
                        return str(error)
                self._refuse_key(answer)
                reason = _message(answer)
                if answer.status_code in (429, 503):
                    wait = _retry_after(answer) or wait
                    waited += wait
                elif answer.status_code < 500:
                    return reason
                else:
                    failures += 1
            if failures == FAILURES or waited > RETRY_TIME:
                return reason
            await self._sleep(wait)

    def _refuse_key(self, answer: httpx2.Response) -> None:
        """Ends the command where the key is missing or not accepted."""
        if answer.status_code == 401:
            said = "does not accept this key" if self._target.key else "needs a key: set OPENAI_API_KEY, or --key"
            raise click.ClickException(f"{self._target.url} {said}")
        if answer.status_code == 403:
            raise click.ClickException(f"{self._target.url}: {_message(answer)}")


def refuse_unknown(option: str, name: str, models: dict[str, dict[str, Any]], capability: str | None) -> None:
    """Ends the command where the service has no model of this name, or none that can do what it is asked for."""
    if name not in models:
        near = get_close_matches(name, models, n=3) or sorted(models)[:10]
        raise click.ClickException(f"{option}: the service has no model '{name}'. It has {', '.join(near)}.")
    abilities = models[name].get("capabilities")
    if capability and abilities is not None and capability not in abilities:
        able = [one for one, row in models.items() if capability in (row.get("capabilities") or ())]
        hint = f" These can: {', '.join(able[:10])}." if able else " No model of this service can."
        raise click.ClickException(f"{option}: {name} has no {NEEDS[capability]}.{hint}")


NEEDS = {
    "chat": "chat template, which cases with 'messages' need",
    "completion": "completions, which cases with 'prompt' need",
    "embedding": "embeddings",
}


def _retry_after(answer: httpx2.Response) -> float | None:
    try:
        return min(LONGEST_WAIT, max(1.0, float(answer.headers.get("retry-after", ""))))
    except ValueError:
        return None


def _message(answer: httpx2.Response) -> str:
    """What the service says of an error, on one line."""
    try:
        text = json.loads(answer.content)["error"]["message"]
    except (ValueError, LookupError, TypeError):
        text = answer.reason_phrase
    return f"{answer.status_code}: {' '.join(str(text).split())[:300]}"
