"""The fake engine itself: its socket, its running requests, its end."""

import asyncio
import time
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

from tests.fake_engine import bodies, requests, turns
from tests.fake_engine.bodies import Cut, Json
from tests.fake_engine.scripts import Script
from tests.fake_engine.shapes import Chat, Completion, Message, Response, Shape, Turn
from tests.fake_engine.wire import Fault, Line, Seen, Wire, hang_up

CONTEXT = 1024  # tokens
BACKLOG = 2048  # connections, as uvicorn's, so that a burst of them is accepted
SHAPES: dict[str, Callable[[], Shape]] = {
    "/v1/chat/completions": Chat,
    "/v1/completions": Completion,
    "/v1/responses": Response,
    "/v1/messages": Message,
}
TOKENS = {"/tokenize", "/detokenize"}
COUNTING = {*TOKENS, "/v1/messages/count_tokens"}
EMBEDDINGS = "/v1/embeddings"
SCORING = {"/rerank", "/score"}
LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
WORKING = {*SHAPES, EMBEDDINGS, *SCORING}
LOOKS = {"/v1/models", "/metrics"}
SLEEPING = {"/sleep", "/wake_up"}

Death = Literal["drain", "core", "kill"]
"""How an engine ends: SIGTERM with a shutdown timeout; SIGTERM without one, or the core killed; the process killed."""


class FakeEngine:
    """One engine with one model. The variant `base` has no chat template; `embedding` can do nothing but embed, and
    `reranker` nothing but score.

    `gap` is the seconds before each token, `slots` how many requests run at once, `queue` how many sequences may run or
    wait, as `--max-num-queued-reqs` bounds them. `prefill` is the seconds for each token of a prompt; prompts are read
    one after the other, and until its turn comes a request waits. `always` befalls every request that is work and for
    which nothing was scripted. `cached` is the part of each prompt that its prefix cache had. It echoes, or says what
    the script of an `agent` has next. `context` is in tokens.
    After `hold` answers stop behind their first words, until `go_on`.
    With `sleeps` it has vLLM's routes for that, and while it is `asleep` it does no work.
    With `lora` it loads and unloads adapters on request, which `adapters` holds by their names; a folder without an
    adapter's configuration is refused.
    `requests` holds what the engine was asked, and `looks` how often somebody looked at what it serves and does.
    """

    def __init__(
        self,
        model: str,
        variant: str = "chat",
        *,
        gap: float = 0.0,
        prefill: float = 0.0,
        slots: int = 256,
        queue: int | None = None,
        key: str | None = None,
        lora: bool = False,
    ) -> None:
        self.key = key
        self.adapters: dict[str, str] = {}
        self.model, self.variant, self.gap, self.prefill, self.queue = model, variant, gap, prefill, queue
        pooling = {"embedding": {EMBEDDINGS}, "reranker": SCORING}
        posts = {*pooling[variant], *TOKENS} if variant in pooling else {*SHAPES, *COUNTING}
        posts |= {LOAD, UNLOAD} if lora else set()
        self._paths = {"GET": {"/health", "/v1/models", "/metrics", "/version"}, "POST": posts}
        self.context = CONTEXT
        self.version = "0.32.0"
        self.agent: Script | None = None
        self.always = Fault()
        self.sleeps = self.asleep = False
        self.cached = 0.0
        self.requests: list[Seen] = []
        self.looks: list[Seen] = []
        self.running = self.waiting = self.sequences = 0
        self.totals: Counter[str] = Counter()
        self.fate: Death | None = None
        self._slots = asyncio.Semaphore(slots)
        self._read_until = 0.0
        self._going = asyncio.Event()
        self._going.set()
        self._held_after = 0
        self._scripts: defaultdict[str, deque[Fault]] = defaultdict(deque)
        self._lines: dict[Line, asyncio.StreamWriter] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    def script(self, *faults: Fault, path: str = "") -> None:
        """Queues faults for the next requests to `path`, one each; without a path, for the next that are work."""
        self._scripts[path].extend(faults)

    def forgive(self) -> None:
        """Forgets the faults that have not befallen a request yet."""
        self._scripts.clear()

    def hold(self, after: int = 1) -> None:
        """Answers stop after so many words: what happens then is not a matter of how fast anything is."""
        self._held_after = after
        self._going.clear()

    def go_on(self) -> None:
        """Ends `hold`, also for answers that have stopped."""
        self._going.set()

    @asynccontextmanager
    async def listen(self, at: Path | int, host: str = "127.0.0.1") -> AsyncIterator["FakeEngine"]:
        """Serves on a Unix socket, or on a TCP port of `host` (0 takes a free one: see `port`)."""
        loop = asyncio.get_running_loop()

        def connect() -> asyncio.StreamReaderProtocol:
            return asyncio.StreamReaderProtocol(Line(), self._serve)

        if isinstance(at, int):
            self._server = await loop.create_server(connect, host, at, backlog=BACKLOG)
        else:
            self._server = await loop.create_unix_server(connect, at, backlog=BACKLOG)
        try:
            yield self
        finally:
            self.die("kill")
            await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def connections(self) -> int:
        """How many there are to it now."""
        return len(self._lines)

    @property
    def port(self) -> int:
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def die(self, how: Death) -> None:
        """Ends as the real engine does. A drain ends by itself when the last running request has been answered."""
        self.fate = how
        if how == "drain":
            return
        if self._server is not None:
            self._server.close()
        for line, writer in self._lines.items():
            line.stir.set()
            if how == "kill" or not line.busy:
                writer.transport.abort()

    def drop_idle(self) -> None:
        """Closes the connections that carry no request, as an engine does after its keep-alive time."""
        for line, writer in self._lines.items():
            if not line.busy:
                writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert isinstance(reader, Line)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._lines[reader] = writer
        try:
            await self._converse(reader, writer)
        except Cut as cut:
            await hang_up(cut.end, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            del self._lines[reader]
            self._tasks.discard(task)
            writer.close()

    async def _converse(self, line: Line, writer: asyncio.StreamWriter) -> None:
        fresh = True
        while seen := await line.receive():
            if seen.method == "GET" and seen.path in LOOKS:
                self.looks.append(seen)
            else:
                if fresh and (queue := self._scripts[""]) and queue[0].accept:
                    raise Cut(queue.popleft().end)
                fresh = False
                self.requests.append(seen)
            line.busy = True
            close = seen.headers.get("connection") == "close"
            await self._answer(seen, line, Wire(line, writer, self._fault(seen), close))
            seen.sent, line.busy = True, False
            if self.fate == "drain" and not self.running + self.waiting:
                self.die("kill")
            if close or self.fate not in (None, "drain"):
                return

    def _fault(self, seen: Seen) -> Fault:
        works = seen.path in WORKING
        queue = self._scripts[seen.path] or (self._scripts[""] if works else deque())
        return queue.popleft() if queue else self.always if works else Fault()

    async def _answer(self, seen: Seen, line: Line, wire: Wire) -> None:
        fault = wire.fault
        if fault.delay:
            await line.pause(fault.delay)
        if fault.raw is not None:
            await wire.raw(fault.raw)
        elif fault.status:
            await wire.answer(fault.status, fault.body)
        elif self.key and seen.path.startswith("/v1/") and seen.headers.get("authorization") != f"Bearer {self.key}":
            await wire.answer(401, bodies.dumps({"error": "Unauthorized"}))
        elif self.sleeps and (target := seen.path.partition("?")[0]) in SLEEPING:
            self.asleep = target == "/sleep"
            await wire.answer(200)
        elif seen.path not in self._paths.get(seen.method, ()):
            others = [method for method, paths in self._paths.items() if seen.path in paths]
            detail, allow = ("Method Not Allowed", {"allow": others[0]}) if others else ("Not Found", {})
            await wire.answer(405 if others else 404, bodies.dumps({"detail": detail}), **allow)
        elif seen.method == "GET":
            await self._state(seen.path, wire)
        elif seen.path in (LOAD, UNLOAD):
            await self._adapt(seen, wire)
        else:
            await self._reply(seen, line, wire)

    async def _state(self, path: str, wire: Wire) -> None:
        if path == "/health":
            await wire.answer(200)
        elif path == "/metrics":
            series = bodies.metrics(self.model, self.running, self.waiting, self.totals)
            await wire.answer(200, series, "text/plain; version=1.0.0; charset=utf-8")
        elif path == "/version":
            await wire.answer(200, bodies.dumps({"version": self.version}))
        else:
            listed = bodies.models(self.model, self.context, int(time.time()), self.adapters)
            await wire.answer(200, bodies.dumps(listed))

    async def _adapt(self, seen: Seen, wire: Wire) -> None:
        """Loads or unloads an adapter."""
        name, folder = seen.json["lora_name"], seen.json.get("lora_path", "")
        problem = None
        if seen.path == UNLOAD and self.adapters.pop(name, None) is None:
            problem = 404, f"The lora adapter '{name}' cannot be found."
        elif seen.path == LOAD and name in self.adapters:
            problem = 400, f"The lora adapter '{name}' has already been loaded."
        elif seen.path == LOAD and not (Path(folder) / "adapter_config.json").is_file():
            problem = 404, f"No adapter found for {folder}"
        elif seen.path == LOAD:
            self.adapters[name] = folder
        if problem:
            await wire.answer(problem[0], bodies.dumps(bodies.error(problem[1], "NotFoundError", None, problem[0])))
        else:
            await wire.answer(200, b"Success: LoRA adapter.")

    async def _reply(self, seen: Seen, line: Line, wire: Wire) -> None:
        """Refuses a request, counts its tokens, or lets it run."""
        path = seen.path
        refusal = requests.malformed(path, seen.headers.get("content-type", ""), seen.body)
        early = refusal is not None
        request: Json = {} if early else seen.json
        refusal = refusal or requests.unfit(path, request, self._served(request), self.variant, self.context)
        if refusal is None and path in WORKING:
            refusal = self._refusal(requests.sequences(request))
        if refusal is not None:
            status, body = refusal
            await wire.answer(status, bodies.dumps(body if early or status == 500 else bodies.dialect(path, body)))
        elif path in COUNTING:
            await wire.answer(200, bodies.dumps(bodies.counted(path, request, requests.count(request), self.context)))
        elif path == EMBEDDINGS or path in SCORING:
            async with self._slot(line, request):
                await self._pool(path, request, line, wire)
        else:
            async with self._slot(line, request):
                await self._run(path, request, line, wire)

    def _served(self, request: Json) -> str:
        """The adapter that a request names, else the model."""
        named = request.get("model")
        return named if isinstance(named, str) and named in self.adapters else self.model

    def _refusal(self, sequences: int) -> requests.Refusal | None:
        """Why a request of so many sequences may not run now."""
        if self.fate == "drain" or self.asleep:
            return 500, bodies.error(bodies.DRAINING, "InternalServerError", None, 500)
        if self.queue is not None and self.sequences + sequences > self.queue:
            self.totals["max_num_queued_reqs"] += 1
            return 503, bodies.error(bodies.BUSY, "Service Unavailable", None, 503)
        return None

    @asynccontextmanager
    async def _slot(self, line: Line, request: Json) -> AsyncIterator[None]:
        """Counts the sequences of a request while it waits and runs."""
        self.sequences += requests.sequences(request)
        try:
            async with self._running_slot(line, requests.count(request)):
                yield
        finally:
            self.sequences -= requests.sequences(request)

    @asynccontextmanager
    async def _running_slot(self, line: Line, prompt: int) -> AsyncIterator[None]:
        """Waits for room to run, and reads a prompt of so many tokens; gives up when the peer does."""
        self.waiting += 1
        taken = asyncio.create_task(self._slots.acquire())
        stirred = asyncio.create_task(line.stir.wait())
        await asyncio.wait((taken, stirred), return_when=asyncio.FIRST_COMPLETED)
        stirred.cancel()
        if not taken.done():
            self.waiting -= 1
            taken.cancel()
            raise ConnectionResetError
        try:
            read_from = max(time.monotonic(), self._read_until)
            self._read_until = read_from + self.prefill * prompt
            try:
                await self._pause_until(read_from, line)
            finally:
                self.waiting -= 1
            self.running += 1
            try:
                await self._pause_until(read_from + self.prefill * prompt, line)
                yield
            finally:
                self.running -= 1
        finally:
            self._slots.release()

    async def _pause_until(self, moment: float, line: Line) -> None:
        seconds = moment - time.monotonic()
        if self.prefill and seconds > 0:
            await line.pause(seconds)

    async def _run(self, path: str, request: Json, line: Line, wire: Wire) -> None:
        shape = SHAPES[path]()
        turn = turns.begin(request, self._served(request), self.context, wire.fault.finish, self.agent)
        gap = self.gap if wire.fault.gap is None else wire.fault.gap
        turn.cached = int(turn.prompt * self.cached)
        self.totals["prompt"] += turn.prompt
        self.totals["cached"] += turn.cached
        refusal = requests.late(path, request)
        if request.get("stream"):
            events = self._events(shape, turn, line, gap)
            await wire.stream(bodies.late_events(path, refusal, shape.opening(turn)) if refusal else events)
            return
        if refusal:
            await wire.answer(400, bodies.refused(path, refusal))
            return
        async for _ in self._tokens(turn, line, gap):
            pass
        if wire.fault.dead or self.fate == "core":
            dead = bodies.error(bodies.DEATH, "InternalServerError", None, 500)
            await wire.answer(500, bodies.dumps(dead), vary="Origin")
        else:
            await wire.answer(200, bodies.dumps(shape.whole(turn)))

    async def _pool(self, path: str, request: Json, line: Line, wire: Wire) -> None:
        """Answers with vectors or scores; it takes as long as one token would."""
        gap = self.gap if wire.fault.gap is None else wire.fault.gap
        if gap:
            await line.pause(gap)
        self.totals["stop"] += 1
        now = int(time.time())
        if path == EMBEDDINGS:
            answer = bodies.embedded(self.model, requests.texts(request), now)
        elif path == "/rerank":
            answer = bodies.reranked(self.model, requests.pairs(request), request.get("top_n") or 0)
        else:
            answer = bodies.scored(self.model, requests.pairs(request), now)
        await wire.answer(200, bodies.dumps(answer))

    async def _tokens(self, turn: Turn, line: Line, gap: float) -> AsyncIterator[str]:
        """Says the turn word by word; leaves off when the engine dies."""
        for word in turn.words:
            if gap:
                await line.pause(gap)
            if turn.said >= self._held_after and not self._going.is_set():
                await line.until(self._going)
            if line.gone:
                raise ConnectionResetError
            if self.fate == "core":
                return
            turn.said += 1
            self.totals["said"] += 1
            self.totals["begun"] += turn.said == 1
            yield word
        self.totals[turn.finish] += 1

    async def _events(self, shape: Shape, turn: Turn, line: Line, gap: float) -> AsyncIterator[bytes]:
        for event in () if turn.words else shape.opening(turn):
            yield event
        async for word in self._tokens(turn, line, gap):
            for event in shape.opening(turn) if turn.said == 1 else ():
                yield event
            yield shape.token(turn, word, last=turn.said == len(turn.words))
        if self.fate == "core":
            yield bodies.death_event()
            yield bodies.DONE
            return
        for event in shape.closing(turn):
            yield event
