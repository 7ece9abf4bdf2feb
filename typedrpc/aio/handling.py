"""What handles the peer's calls on one connection of an event loop: all is begun in its thread, one after another."""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from functools import partial
from threading import get_ident
from typing import Any, Final, final

from typedrpc.aio.apart import LoopApart, no_thread
from typedrpc.aio.outlet import Outlet
from typedrpc.aio.pool import Pool
from typedrpc.batches import REPLY_TIME, BatchRun
from typedrpc.call import Call, Opened
from typedrpc.callbacks import Callbacks
from typedrpc.common.handlers import LATER, Handlers
from typedrpc.dispatch import Dispatcher
from typedrpc.failure import pack_protocol_failure
from typedrpc.peer import Peer
from typedrpc.protocol import BatchRequest, Outgoing, Protocol, Request

TICK: Final = 0.004
"""Seconds after which a further thread helps with a batch, if the first has not come further in it."""

LOOK_TIME: Final = 0.05
"""Seconds between two looks whether everything is answered and written, while a server closes."""


@final
class LoopHandlers(Handlers):
    """Begins what is ready, in the thread of the loop; see :class:`typedrpc.common.handlers.Handlers`."""

    def __init__(
        self,
        core: Protocol[Any],
        *,
        loop: asyncio.AbstractEventLoop,
        context: Context,
        outlet: Outlet,
        pool: Callable[[], Pool],
        dispatcher: Dispatcher,
        peer: Peer,
        attended: bool,
        callbacks: Callbacks,
        apart: LoopApart,
    ) -> None:
        """As for the base class; and:

        Args:
            core: The protocol's state.
            loop: The loop, in whose thread this is made.
            context: Handlers run in copies of it, whoever was the cause that they are begun.
            outlet: Writes.
            pool: Has threads for batches.
            dispatcher: Leads requests to handlers.
            peer: The other end, for handlers.
            attended: Whether the peer may call.
            callbacks: What this side has offered the peer to call back.
            apart: Runs handlers.
        """
        super().__init__(
            core, dispatcher=dispatcher, peer=peer, attended=attended, callbacks=callbacks, run_apart=apart.run
        )
        self._loop = loop
        self._context = context
        self._thread = get_ident()
        self._outlet = outlet
        self._pool = pool
        self._apart = apart
        self._called_for: dict[BatchRun, None] = {}  # batches for which no thread was free yet
        self._due = False
        self._working = False
        self._replying = False
        self._idle = asyncio.Event()

    # On the loop

    def work(self) -> None:
        """Begin what is ready, as long as the peer reads what it is answered."""
        self._due = False
        if self._working:  # which goes on with it
            return
        self._working = True
        ready, outlet = self.ready, self._outlet
        try:
            while ready and not (outlet.stuck and not self.ended):
                work = ready.popleft()
                if isinstance(work, BatchRequest):
                    self._run_batch(work)
                elif isinstance(work, Request):
                    self._handled += 1
                    answer, _ = self._handle(work)
                    if answer is not None and answer is not LATER:
                        self._queue(answer)
                else:
                    work()
            if self._batches and not self._replying:
                self._reply_to_all()
        finally:
            self._working = False
        if self.ended or self._draining:
            self._say_done()

    def _start_apart(self, request: Request, call: Call, done: Callable[[], None] | None) -> Outgoing | None:
        if not call.row.is_async or call.row.stream is not None or get_ident() != self._thread:
            return super()._start_apart(request, call, done)
        started = self._apart.start(request, call)
        if not isinstance(started, asyncio.Future):
            return started
        with self._lock:
            self._running_apart += 1
        started.add_done_callback(partial(self._answer_late, done))
        return LATER

    def _answer_late(self, done: Callable[[], None] | None, task: asyncio.Task[Outgoing | None]) -> None:
        answer = None if task.cancelled() else task.result()
        if answer is not None:
            self._outlet.add(answer)
        self._ended_apart(done)

    def _run_batch(self, batch: BatchRequest) -> None:
        """Begin all calls of a batch."""
        run: BatchRun = batch.progress
        opened = self._open_batch(batch)
        if isinstance(opened, Opened) and opened.row.plain and opened.row.apart:
            self._hand_out(batch)
            return
        while not self.ended and (item := run.take()) is not None:
            self._run_part(batch, *item)

    def _hand_out(self, batch: BatchRequest) -> None:
        """Have a thread run what is left of a batch, and another one if that does not come further."""
        run: BatchRun = batch.progress
        with self._lock:
            self._running_apart += 1
        self._called_for[run] = None
        try:
            self._run_in_pool(batch)
        except RuntimeError:  # no thread now: it is tried again below
            self._called_for.pop(run, None)
            self._ended_apart(None)
        self._loop.call_later(TICK, self._look_at, batch, run.taken)

    def _run_in_pool(self, batch: BatchRequest) -> None:
        """Have a thread of the pool work off a batch. Raises ``RuntimeError`` where there is none."""
        pool, work = self._pool(), partial(self._work_off, batch)
        if batch.extras.depth:
            pool.run_first(work, partial(self._refuse_batch, batch, batch.progress.taken), self._loop)
        else:
            pool.run(work)

    def _refuse_batch(self, batch: BatchRequest, seen: int) -> None:
        """No thread became free for a nested batch; if it did not come further meanwhile, it does not."""
        run: BatchRun = batch.progress
        self._called_for.pop(run, None)
        if run.taken == seen:
            run.settle_rest((True, pack_protocol_failure(no_thread())))
        self._reply(run)
        self._ended_apart(None)

    def _look_at(self, batch: BatchRequest, seen: int) -> None:
        run: BatchRun = batch.progress
        if self.ended:
            return
        self._reply(run)  # what is done, as long as what comes next takes
        if run.is_taken:
            return
        if run.taken == seen and run not in self._called_for:
            self._hand_out(batch)
        else:
            self._loop.call_later(TICK, self._look_at, batch, run.taken)

    def _work_off(self, batch: BatchRequest) -> None:
        """Run calls of a batch, in a thread, until none is left."""
        run: BatchRun = batch.progress
        pool = self._pool()
        self._called_for.pop(run, None)
        if not batch.extras.depth and self._outlet.puts_off(partial(self._work_on, batch)):
            self._called_for[run] = None
            return
        try:
            while not self.ended and (item := run.take()) is not None:
                self._context.copy().run(self._run_part, batch, *item)
                # Other calls take their turn between two of a batch, and when the peer does not read.
                if (pool.is_wanted or self._outlet.outbox.full) and not run.is_taken:
                    with self._lock:
                        self._running_apart += 1
                    self._called_for[run] = None
                    self._run_in_pool(batch)
                    return
            if run in self._batches:  # others still run, and nobody looks at it any more
                self._look_soon()
        finally:
            self._ended_apart(None)

    def _work_on(self, batch: BatchRequest) -> None:
        """There is room again for what the calls of a batch come to."""
        try:
            self._run_in_pool(batch)
        except RuntimeError:  # no thread now
            if self.ended:
                self._ended_apart(None)
            else:
                self._loop.call_later(TICK, self._work_on, batch)

    # From any thread

    def hand_over(self) -> Callable[[], None]:
        return self._pool().step_aside()

    def _held(self) -> int:
        return super()._held() + self._apart.waiting_bytes

    @property
    def is_full(self) -> bool:
        """So much waits to be handled that no more is to be read."""
        return bool(self.ready or self._in_series_bytes or self._apart.waiting_bytes) and not self.has_room()

    def call_for_help(self) -> None:
        if self.ready or self.ended:
            self._stir()

    def _stir(self) -> None:
        if self._due:
            return
        self._due = True
        with suppress(RuntimeError):  # the loop is closed
            if get_ident() == self._thread:
                self._loop.call_soon(self.work, context=self._context.copy())
            else:
                self._loop.call_soon_threadsafe(self.work, context=self._context.copy())

    def _roused(self) -> None:
        if not self._working or get_ident() != self._thread:
            self._stir()

    def _runs_here(self, call: Call) -> bool:
        return get_ident() != self._thread

    def _is_at_work(self) -> bool:
        return self._working

    def _queue(self, answer: Outgoing) -> None:
        self._outlet.add(answer)

    def _answer(self, answer: Outgoing) -> None:
        self._outlet.add(answer)

    def _flush(self) -> None:
        """Whatever was queued leaves when the loop turns."""

    def _make_room(self) -> None:
        """Whoever runs calls of a batch in a thread looks for himself."""

    def _look_soon(self) -> None:
        if not self._replying:
            self._replying = True
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._loop.call_later, REPLY_TIME, self._reply_late)

    def _reply_late(self) -> None:
        self._replying = False
        self._reply_to_all()

    def settle(self, finish: Callable[[], None], series: Any = None) -> None:
        super().settle(finish, series)
        if self.ready:
            self._roused()

    def run_nested(self, work: deque[Any]) -> BaseException | None:
        try:
            while work:
                try:
                    request = work.popleft()
                except IndexError:  # handed to others, as the connection has ended
                    break
                self._handled += 1
                if type(request) is BatchRequest:
                    raised = self._run_next(request, nested=True)
                    if not request.progress.is_taken:
                        work.appendleft(request)
                    if request.progress in self._batches:  # the next call may take its time
                        self._look_soon()
                    if isinstance(raised, BaseException):
                        return raised
                    continue
                answer, interrupt = self._handle(request, nested=True)
                if not request.call:
                    self.let_go(request)
                if answer is not None and answer is not LATER:
                    self._outlet.add(answer)
                if interrupt is not None:
                    return interrupt
            return None
        finally:
            if self._batches:
                self._reply_to_all()
            if self.ended or self._draining:
                self._say_done()

    # The end

    def end(self) -> None:
        self.ended = True
        self._stir()

    def _say_done(self) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._idle.set)
        self._look_whether_over()

    async def wait_until_idle(self, timeout: float) -> bool:
        """Wait until every accepted call is answered and the answers are written. Returns whether that is so."""
        self._draining = True
        end = self._loop.time() + timeout
        while not self._is_idle() and (left := end - self._loop.time()) > 0:
            self._idle.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left, LOOK_TIME)):
                    await self._idle.wait()
        return self._is_idle()

    def _is_idle(self) -> bool:
        at_work = self.ready or self._running_apart or self._core.running
        return self.ended or not (at_work or not self._outlet.idle)
