"""What handles the peer's calls on one connection of an event loop: all is begun in its thread, one after another."""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from threading import get_ident
from typing import Any, Final, final

from typedrpc.aio.outlet import Outlet
from typedrpc.aio.pool import Pool
from typedrpc.batches import REPLY_TIME, BatchRun
from typedrpc.call import Call
from typedrpc.callbacks import Callbacks
from typedrpc.common.handlers import LATER, Handlers, RunApart
from typedrpc.dispatch import Dispatcher, Opened
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
        outlet: Outlet,
        pool: Callable[[], Pool],
        dispatcher: Dispatcher,
        peer: Peer,
        attended: bool,
        callbacks: Callbacks,
        run_apart: RunApart,
    ) -> None:
        """As for the base class; and:

        Args:
            core: The protocol's state.
            loop: The loop, in whose thread this is made.
            outlet: Writes.
            pool: Has threads for batches.
            dispatcher: Leads requests to handlers.
            peer: The other end, for handlers.
            attended: Whether the peer may call.
            callbacks: What this side has offered the peer to call back.
            run_apart: Runs a handler.
        """
        super().__init__(
            core, dispatcher=dispatcher, peer=peer, attended=attended, callbacks=callbacks, run_apart=run_apart
        )
        self._loop = loop
        self._thread = get_ident()
        self._outlet = outlet
        self._pool = pool
        self._due = False
        self._working = False
        self._replying = False
        self._idle = asyncio.Event()

    def is_full(self) -> bool:
        """Whether too much of what came waits to be handled."""
        return bool(self.ready or self._in_series) and not self.has_room()

    # On the loop

    def work(self) -> None:
        """Begin what is ready, as long as the peer reads what it is answered."""
        self._due = False
        if self._working:  # which goes on with it
            return
        self._working = True
        ready, outlet = self.ready, self._outlet
        try:
            while ready and not (outlet.paused and not self.ended):
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

    def _run_batch(self, batch: BatchRequest) -> None:
        """Begin all calls of a batch."""
        run: BatchRun = batch.progress
        self._open_batch(batch)
        opened: Opened | bytes = run.opened
        if isinstance(opened, Opened) and opened.row.plain and opened.row.apart:
            self._hand_out(batch)
            return
        while not (run.is_taken or self.ended):
            self._run_part(batch, run.take())

    def _hand_out(self, batch: BatchRequest) -> None:
        """Have a thread run what is left of a batch, and another one if that does not come further."""
        run: BatchRun = batch.progress
        if run.is_taken or self.ended:
            return
        with self._lock:
            self._running_apart += 1
        try:
            self._pool().run(partial(self._work_off, batch), may_wait=True)
        except RuntimeError:  # no thread now: it is tried again below
            self._ended_apart(None)
        self._loop.call_later(TICK, self._look_at, batch, run.next)

    def _look_at(self, batch: BatchRequest, seen: int) -> None:
        run: BatchRun = batch.progress
        if run.is_taken or self.ended:
            return
        if run.next == seen:
            self._hand_out(batch)
        else:
            self._loop.call_later(TICK, self._look_at, batch, run.next)

    def _work_off(self, batch: BatchRequest) -> None:
        """Run calls of a batch, in a thread, until none is left."""
        run: BatchRun = batch.progress
        try:
            while not self.ended:
                with self._lock:
                    if run.is_taken:
                        return
                    index = run.take()
                self._run_part(batch, index)
        finally:
            self._ended_apart(None)

    # From any thread

    def hand_over(self) -> Callable[[], None]:
        return self._pool().step_aside()

    def call_for_help(self) -> None:
        if self.ready or self.ended:
            self._stir()

    def _stir(self) -> None:
        if self._due:
            return
        self._due = True
        with suppress(RuntimeError):  # the loop is closed
            if get_ident() == self._thread:
                self._loop.call_soon(self.work)
            else:
                self._loop.call_soon_threadsafe(self.work)

    def _roused(self) -> None:
        if not self._working or get_ident() != self._thread:
            self._stir()

    def _runs_here(self, call: Call) -> bool:
        return call.row.plain and get_ident() != self._thread

    def _is_at_work(self) -> bool:
        return self._working

    def _queue(self, answer: Outgoing) -> None:
        self._outlet.add(answer)

    def _answer(self, answer: Outgoing) -> None:
        self._outlet.add(answer)

    def _flush(self) -> None:
        """Whatever was queued leaves when the loop turns."""

    def _make_room(self) -> None:
        if get_ident() != self._thread:
            self._outlet.await_room(None)

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

    async def wait_until_idle(self, timeout: float) -> None:
        """Wait until every accepted call is answered and the answers are written, so many seconds at most."""
        self._draining = True
        end = self._loop.time() + timeout
        while not self._is_idle() and (left := end - self._loop.time()) > 0:
            self._idle.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left, LOOK_TIME)):
                    await self._idle.wait()

    def _is_idle(self) -> bool:
        at_work = self.ready or self._running_apart or self._core.running
        return self.ended or not (at_work or not self._outlet.idle)
