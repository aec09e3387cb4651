"""Keeps the LoRA adapters of one running engine as the gateways want them, through the engine's private socket.

An engine loads its adapters after it is up, never by its command line: vLLM would not start if one of them failed.
"""

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from service.engine import adapter_lists
from service.engine.adapter_lists import Folders
from service.engine.listening import ListenOn
from service.engine.probe import fetch
from service.engine.verification import differences
from service.fleet.served_model import ServedModel
from service.observability.background import keep_running
from service.transport import pool
from service.transport.pool import ConnectionPool, Deadlines, TransportError

LOAD = Deadlines(connect=1.0, first_byte=120.0, idle=120.0, total=120.0)
POLL_INTERVAL = 1.0  # seconds between two looks at what gateways want
RETRY_INTERVAL = 30.0  # seconds after which an adapter that failed to load is tried again
SETTLE = 0.5  # seconds after which every gateway knows that an adapter is about to be replaced
# The reason why each adapter could not be loaded, by its id; None where it is loaded.
Loaded = dict[str, str | None]


@dataclass(frozen=True)
class Steps:
    """What to do about an engine's adapters, by their ids."""

    unload: list[str]
    load: list[str]

    def __bool__(self) -> bool:
        return bool(self.unload or self.load)


def steps(wanted: Mapping[str, str], folders: Mapping[str, str], reasons: Loaded, due: bool) -> Steps:
    """The steps from what the engine was told to load from these `folders` to what is `wanted`. Pure.

    Those with a reason in `reasons` failed, and are tried again if that is `due`.
    """
    unload = [id for id, path in folders.items() if reasons.get(id) is None and wanted.get(id) != path]
    load = [
        id for id, path in wanted.items() if folders.get(id) != path or (due and reasons.get(id) is not None)
    ]  # fmt: skip
    return Steps(unload, load)


class EngineAdapters:
    """The adapters of one engine at `address`. `publish` is told which are loaded, and why others are not."""

    def __init__(
        self, served: ServedModel, run_dir: Path, address: str, transport: ConnectionPool,
        publish: Callable[[Loaded], None], is_stopping: Callable[[], bool],
    ) -> None:  # fmt: skip
        self._served, self._run_dir, self._address, self._transport = served, run_dir, address, transport
        self._publish, self._is_stopping = publish, is_stopping
        self._last_wanted: Folders = {one.id: one.path for one in served.adapters}
        self._folders: Folders = {}
        self._reasons: Loaded = {}
        self._failed_at = 0.0
        self._most_loads = served.adapter_room.most_loads if served.adapter_room else None
        self._loads = 0
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Loads all adapters into an engine that has just started."""
        self._folders, self._reasons, self._loads = {}, {}, 0
        await self._change(self._steps())

    def follow(self) -> None:
        """Loads and unloads from now on what changes, until `close`."""
        self._task = asyncio.create_task(keep_running("adapters", self._watch, self._failed, self._served.id))

    async def close(self) -> None:
        """Ends what is under way, since the engine ends."""
        if self._task:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _watch(self) -> None:
        while True:
            if found := self._steps():
                await self._change(found)
            await asyncio.sleep(POLL_INTERVAL)

    def _failed(self, task: str, error: BaseException) -> None:
        """The log has it already, and the engine goes on with the adapters that it has."""

    def _wanted(self) -> Folders:
        """What gateways want; while none is there, what they wanted last, and at first those of the fleet file."""
        found = adapter_lists.wanted(self._run_dir, self._served.id)
        if found is not None:
            self._last_wanted = found
        return self._last_wanted

    def _steps(self) -> Steps:
        due = time.monotonic() - self._failed_at > RETRY_INTERVAL
        wanted = self._wanted()
        for id in [id for id in self._folders if id not in wanted and self._reasons.get(id) is not None]:
            del self._folders[id], self._reasons[id]
        return steps(wanted, self._folders, self._reasons, due)

    async def _change(self, found: Steps) -> None:
        wanted = self._wanted()
        for id in found.unload:
            self._reasons.pop(id, None)
        if found.unload:
            self._publish(dict(self._reasons))
            await asyncio.sleep(SETTLE)  # requests on their way still find it
        for id in found.unload:
            self._folders.pop(id, None)
            await self._unload(id)
        for id in found.load:
            if id in wanted:
                if self._reasons.get(id) is not None:
                    await self._unload(id)  # the engine may have loaded it after all, when nobody waited any more
                reason = await self._load(id, wanted[id])
                self._folders[id], self._reasons[id] = wanted[id], reason
                self._failed_at = self._failed_at if reason is None else time.monotonic()
                self._publish(dict(self._reasons))

    async def _load(self, id: str, path: str) -> str | None:
        """Loads an adapter; returns why it could not be, if it was not."""
        if problem := await differences(Path(path), self._is_stopping):
            return f"it is not what was pulled: {problem}"
        if self._most_loads is not None and self._loads >= self._most_loads:
            return (
                f"its engine has loaded {self._loads} adapters since it started, which is all that its 'max_loras' "
                "allows on the CPU: restart the service, or raise that"
            )
        self._loads += 1  # also one that fails may have taken a slot
        return await self._ask("/v1/load_lora_adapter", {"lora_name": id, "lora_path": path})

    async def _unload(self, id: str) -> None:
        await self._ask("/v1/unload_lora_adapter", {"lora_name": id})

    async def _ask(self, path: str, fields: dict[str, str]) -> str | None:
        request = pool.post_request(path, json.dumps(fields).encode())
        try:
            status, body = await fetch(self._transport, self._address, request, LOAD)
        except TransportError as error:
            return f"the engine did not answer: {error}"
        return None if status == 200 else f"the engine refused it: {_message(body) or f'status {status}'}"


def adapters_of(
    served: ServedModel, run_dir: Path, listen_on: ListenOn, transport: ConnectionPool,
    publish: Callable[[Loaded], None], is_stopping: Callable[[], bool],
) -> EngineAdapters | None:  # fmt: skip
    """The adapters of an engine; None where it has no room for any, or listens on TCP, where it takes none later."""
    if served.adapter_room is None or not isinstance(listen_on, Path):
        return None
    return EngineAdapters(served, run_dir, str(listen_on), transport, publish, is_stopping)


def _message(body: bytes) -> str:
    """What an engine's error says, in one line."""
    try:
        return " ".join(str(json.loads(body)["error"]["message"]).split())[:500]
    except (ValueError, TypeError, KeyError, RecursionError):
        return ""
