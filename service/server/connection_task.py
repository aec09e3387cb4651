"""The task that runs the requests of a connection, one after another: to make one for each costs more."""

import asyncio
from collections.abc import Callable, Generator
from contextvars import Context

from service.server.asgi import App, Scope
from service.server.request import RequestCycle


class ConnectionTask:
    """Runs requests in a task, which is in `tasks` while it does.

    Between two requests the task awaits this object, which does what asyncio asks of a future. A request that raises,
    or whose cancellation was not taken back, is the last one of its task, so that no other is cancelled with it.
    """

    _asyncio_future_blocking = False  # asyncio's mark of what a task can await

    def __init__(self, app: App, loop: asyncio.AbstractEventLoop, tasks: "set[asyncio.Task[None]]") -> None:
        self._app, self._loop, self._tasks = app, loop, tasks
        self._task: asyncio.Task[None] | None = None
        self._next: tuple[RequestCycle, Scope] | None = None
        self._resume: Callable[[ConnectionTask], object] | None = None  # set while the task waits for a request

    def run(self, cycle: RequestCycle, scope: Scope) -> None:
        """Runs a request: up to where it first waits in this call, unless another one runs. No task may call it."""
        resume = self._resume
        if resume is None:
            self.start(cycle, scope)
            return
        assert self._task
        self._resume, self._next = None, (cycle, scope)
        self._tasks.add(self._task)
        self._context.run(resume, self)

    def start(self, cycle: RequestCycle, scope: Scope) -> None:
        """Runs a request in a new task, in which those after it are run."""
        self.end()
        self._task = self._loop.create_task(self._serve(cycle, scope))
        self._tasks.add(self._task)

    def end(self) -> None:
        """Ends the task, once no request runs."""
        self._task = None
        self.cancel()

    async def _serve(self, cycle: RequestCycle, scope: Scope) -> None:
        while True:
            try:
                await self._app(scope, cycle.receive, cycle.send)
            finally:
                may_go_on = self._end_request(cycle)
            del cycle, scope  # an idle connection keeps nothing of its last request
            if not may_go_on:
                return
            await self
            if self._next is None:
                return
            (cycle, scope), self._next = self._next, None

    def _end_request(self, cycle: RequestCycle) -> bool:
        """Returns whether the present task may run another one.

        That task is no local variable of `_serve`: an exception that ends it would refer to it by way of the frame.
        """
        task = asyncio.current_task()
        assert task
        self._tasks.discard(task)
        cycle.end()
        return task is self._task and not task.cancelling()

    # What asyncio asks of a future.

    def __await__(self) -> "Generator[ConnectionTask, None, None]":
        self._asyncio_future_blocking = True
        yield self

    def add_done_callback(self, callback: "Callable[[ConnectionTask], object]", *, context: Context) -> None:
        """The task waits; `callback` resumes it."""
        self._resume, self._context = callback, context

    def result(self) -> None:
        """Nothing: the task has been resumed."""

    def cancel(self, msg: object = None) -> bool:
        """Has the task end in the loop's next turn, if it waits."""
        if self._resume:
            self._loop.call_soon(self._resume, self, context=self._context)
            self._resume = None
        return True
