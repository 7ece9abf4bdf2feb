"""The threads that handle what comes on a connection: the peer's calls, and outcomes that no thread waits for.

An attached thread reads, gives the read role up, and handles what it read. While that takes long, the watcher lends
the connection another thread (see :mod:`typedrpc.sync.watcher`), which does the same: whoever finishes and finds that
another one reads, leaves. So does a thread that only reads the replies for callers, who do that faster for themselves.
The watcher sees to it that a connection on which something may come does not stay without anybody who reads.

What is ready belongs to the connection, not to a thread. Who adds work does so first and looks for a thread then; a
thread that leaves counts itself out first and looks for work then. A call that is nested in a call which a thread of
this side waits for is no such work: that thread alone runs it, so that locks stay their owner's.
"""

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable
from threading import get_ident
from time import monotonic
from typing import Any, Final, final

from typedrpc.call import CallOfBatch, Opened, enter_call, leave_call, new_call
from typedrpc.callbacks import Callbacks
from typedrpc.common.handlers import LATER, Handlers, RunApart
from typedrpc.common.outbox import BATCH_SIZE
from typedrpc.common.role import ReadRole
from typedrpc.common.workers import Workers
from typedrpc.dispatch import Dispatcher
from typedrpc.errors import ServerBusy
from typedrpc.failure import pack_protocol_failure
from typedrpc.peer import Peer
from typedrpc.protocol import BatchRequest, Outgoing, Protocol, Request
from typedrpc.sync.watcher import QUICK_TICK, QUICK_TICKS, TICK, Watched, Watcher
from typedrpc.sync.writer import Writer
from typedrpc.wire import copied

logger = logging.getLogger("typedrpc")

MANY: Final = 4
"""Replies for callers in a row, after which an attached thread leaves reading to the callers."""

TURN_TIME: Final = 0.002
"""Seconds that a batch may take while another one waits for its turn, if that is more than one call takes."""

LOOK_TIME: Final = 0.05
"""Seconds between two looks whether everything is answered and written, while a server closes."""


@final
class HandlerThreads(Handlers):
    """The threads attached to one connection, and what is ready for them."""

    def __init__(
        self,
        core: Protocol[Any],
        role: ReadRole,
        writer: Writer,
        *,
        read: Callable[[], None],
        read_now: Callable[[], None],
        readable: Callable[[], bool],
        stop_leading: Callable[[], None],
        fault: Callable[[], None],
        runtime: Callable[[], tuple[Workers, Watcher]],
        watched: Watched,
        dispatcher: Dispatcher,
        peer: Peer,
        attended: bool,
        callbacks: Callbacks,
        run_apart: RunApart,
    ) -> None:
        """
        Args:
            core: The protocol's state.
            role: The connection's read role.
            writer: Where answers go.
            read: Reads once and delivers what came; the role is held.
            read_now: The same, without waiting where nothing is there.
            readable: Whether there is something to read.
            stop_leading: Gives the role up.
            fault: Ends the connection because of an exception that should not be; called in its handler.
            runtime: Gives the threads to lend and their watcher; asked when first needed.
            watched: What the watcher is to look at.
            dispatcher: Leads requests to handlers.
            peer: The other end, for handlers.
            attended: Whether somebody has to read all the time; may be set later.
            callbacks: While this side has offered some, somebody has to read too.
            run_apart: Runs a handler that takes a thread or a task of its own, see :mod:`typedrpc.common.apart`.
        """
        super().__init__(
            core, dispatcher=dispatcher, peer=peer, attended=attended, callbacks=callbacks, run_apart=run_apart
        )
        self.busy: Final[list[None]] = []  # one for each thread that works; appending and popping need no lock
        self._role = role
        self._writer = writer
        self._read = read
        self._read_now = read_now
        self._readable = readable
        self._stop_leading = stop_leading
        self._fault = fault
        self._runtime = runtime
        self._watched = watched
        self.unattended = False
        """Nobody is attached although somebody has to read: whoever gives the role up tells the watcher."""
        self._idle = threading.Condition(self._lock)
        self._attached = 0  # threads that run, or are on their way
        self._aside: set[int] = set()  # of these, the ones that wait for a nested call of theirs, by their idents
        self._on_way = 0  # of these, the lent ones that have not begun yet
        self._idents: set[int] = set()  # of the attached threads
        self._pending = 0  # outcomes that are to be delivered
        self._standing_by = 0  # for threads that come back for outcomes, and may be long in coming
        # What the watcher saw last; counters of which only whether they move counts.
        self._seen_handled = -1
        self._seen_progress = -1
        self._quick_ticks = 0

    def forsake(self) -> None:
        super().forsake()
        self._idle = threading.Condition(self._lock)

    # What handling needs of threads

    def _is_at_work(self) -> bool:
        return bool(self.busy)

    def _roused(self) -> None:
        if get_ident() not in self._idents:
            self._attach_further()

    def _flush(self) -> None:
        self._writer.flush(monotonic())

    def _make_room(self) -> None:
        self._writer.make_room()

    def _look_soon(self) -> None:
        if not self._watched.watched:
            self._runtime()[1].watch(self._watched)

    def _answer(self, answer: Outgoing) -> None:
        if self.ready or not self._writer.write_whole(answer):
            self._queue(answer)

    def _queue(self, answer: Outgoing) -> None:
        self._writer.queue.append(answer if isinstance(answer, bytes) else copied(answer))

    def _attach_further(self) -> None:
        """Something is ready whose turn it is, and all who are attached may read or wait."""
        with self._lock:
            self._attached += 1
            self.unattended = False
        try:
            # Not a lent one: there are never more of these than turns.
            self._runtime()[0].start(self._run)
        except RuntimeError:
            with self._lock:
                self._attached -= 1
                self._recount()
            if not self._watched.watched:
                self._runtime()[1].watch(self._watched)  # which tries again

    def _run_batch(self, batch: BatchRequest) -> None:
        """Run calls of a batch that was ready, as long as nothing else is.

        While they run the batch is ready again, so that others take its further calls.
        """
        ready, run = self.ready, batch.progress
        is_over = self.ended or run.is_taken
        if is_over:
            return
        opened = self._open_batch(batch) if run.opened is None else run.opened
        ready.append(batch)
        if isinstance(opened, Opened) and opened.row.plain and opened.deadline is None:
            self._run_plain(batch, opened)
            return
        until = monotonic() + TURN_TIME
        while not self.ended and (item := run.take()) is not None:
            self._handled += 1
            if run.is_taken:
                self._unready(batch)
            self._run_part(batch, *item)
            if len(ready) > 1 and self._is_for_others(batch, until):
                break

    def _run_plain(self, batch: BatchRequest, opened: Opened) -> None:
        """As :meth:`_run_batch`, where the handler is plain and there is no deadline.

        What a call has that nobody looks at is not made, and it is all in one loop: what is around a handler takes half
        the time so. Whatever is not as usual is left to those who do it for every call.
        """
        run = batch.progress
        ready, ahead, running, outcomes, unsettled = self.ready, run.ahead, run.running, run.outcomes, run.unsettled
        dispatcher, core, function, pack = self._dispatcher, self._core, opened.function, opened.row.pack
        kept = run.kept
        place = object()  # where it is noted what this thread runs
        count, until = run.count, monotonic() + TURN_TIME
        try:
            while not self.ended:
                try:
                    index, args = ahead.popleft()
                except IndexError:
                    if (item := run.take()) is None:
                        return
                    index, args = item
                self._handled += 1
                if not ahead and run.next == count:
                    self._unready(batch)
                if args is None or run.why_cancelled or dispatcher.observer is not None:
                    self._run_part(batch, index, args)
                else:
                    running[place] = call = new_call(CallOfBatch)
                    call.opened, call.given = opened, args
                    if run.why_cancelled and not call.why_cancelled:  # just now
                        call.cancel(run.why_cancelled)
                    token = enter_call(call)
                    try:
                        value = function(*args)
                    except BaseException as error:
                        outcomes[index] = dispatcher.fail_part(core, call, error)
                        leave_call(token)
                    else:
                        leave_call(token)
                        try:
                            if type(value) is kept and not run.why_cancelled:
                                outcomes[index] = value
                            elif run.why_cancelled:
                                outcomes[index] = dispatcher.finish_part(core, call, value)
                            else:
                                outcomes[index] = False, pack(value)
                        except BaseException as error:  # it does not fit, or its generator has failed
                            outcomes[index] = dispatcher.unfit_part(core, call, error)
                    unsettled.pop()
                    if not unsettled or monotonic() >= run.reply_at:
                        self._reply(run)
                        self._make_room()
                if len(ready) > 1 and self._is_for_others(batch, until):
                    return
        finally:
            running.pop(place, None)

    def _unready(self, batch: BatchRequest) -> None:
        """The last call of a batch is taken."""
        with contextlib.suppress(ValueError):  # another thread has just taken it, and will see
            self.ready.remove(batch)

    def _is_for_others(self, batch: BatchRequest, until: float) -> bool:
        """Whether something else is to be done first. Another batch waits a little for one that was begun."""
        try:
            first = self.ready[0]
        except IndexError:  # another thread has taken it
            return False
        return first is not batch and (type(first) is not BatchRequest or monotonic() >= until)

    def expect(self) -> None:
        """An outcome will come that no thread waits for: from now on somebody reads. Does all or nothing."""
        counted = False
        try:
            with self._lock:
                self._pending += 1
                counted = True
            self.attach()
        except BaseException:
            if counted:
                self.forget()
            raise

    def forget(self) -> None:
        """An expected outcome will not come after all, or has been dealt with."""
        with self._lock:
            self._pending -= 1
            self._recount()

    def stand_by(self) -> None:
        """Outcomes will come for a thread that may be elsewhere then: from now on somebody reads while it does not.

        It reads faster for itself: so nobody is attached before it has been away for a tick or two.
        """
        with self._lock:
            self._standing_by += 1
            self._recount()
        if not (self._watched.watched or self.ended):
            self._runtime()[1].watch(self._watched)

    def stand_down(self) -> None:
        """The opposite of :meth:`stand_by`."""
        with self._lock:
            self._standing_by -= 1
            self._recount()

    def look_again(self) -> None:
        """Whether anybody has to read may have changed."""
        with self._lock:
            self._recount()
        self._see_to_it()

    def _recount(self) -> None:
        self.unattended = not self._attached and self._needs_reader() and not self.ended
        if self.unattended and self._in_line and not self.has_room():
            self.unattended = False  # the thread that is attached when the next turn comes reads on

    def _see_to_it(self) -> None:
        """See to it that somebody reads, if nobody does after this."""
        if self.unattended and not self._watched.watched:
            self._runtime()[1].watch(self._watched)

    def call_for_help(self) -> None:
        """Something may be ready, or the connection has ended, and this thread is not one to do what is to be done."""
        if self.ready:
            if self._attached <= len(self._aside):
                self.attach()
            if not self._watched.watched:
                self._runtime()[1].watch(self._watched)

    def end(self) -> None:
        """The connection has ended: nobody reads any more, what came is dealt with."""
        with self._lock:
            self.ended = True
            self.unattended = False
            self._idle.notify_all()
        self.call_for_help()
        self._look_whether_over()

    def wait_until_idle(self, timeout: float) -> bool:
        """Wait until every accepted call is answered and the answers are written. Returns whether that is so."""
        self._draining = True
        deadline = monotonic() + timeout
        with self._lock:
            # Whoever writes the last bytes may be none of these threads: so it is looked at now and then too.
            while not self._is_idle() and (left := deadline - monotonic()) > 0:
                self._idle.wait(min(left, LOOK_TIME))
            return self._is_idle()

    def wait_until_ended(self, timeout: float) -> None:
        """Wait until the connection has ended, so many seconds at most."""
        with self._lock:
            self._idle.wait_for(lambda: self.ended, timeout)

    def _is_idle(self) -> bool:
        at_work = self.busy or self.ready or self._running_apart or self._core.running
        return self.ended or not (at_work or not self._writer.idle)

    def attach(self) -> None:
        """Attach a thread, unless there is one that does not wait for a nested call."""
        # Whoever takes the one element has the thread's place in the count: the thread when it begins, or who was
        # interrupted while it was started.
        place: list[None] = []
        try:
            with self._lock:
                if self._attached > len(self._aside):
                    return
                further = self._attached > 0
                self._attached += 1
                self.unattended = False
                place.append(None)
            if not further:
                self._runtime()[0].start(lambda: self._run_in(place))
            elif not self._runtime()[0].lend(lambda: self._run_in(place)):
                self._count_out(place)
        except BaseException:
            self._count_out(place)
            raise

    def _count_out(self, place: list[None]) -> None:
        with contextlib.suppress(IndexError):
            place.pop()
            with self._lock:
                self._attached -= 1
                self._recount()

    def _run_in(self, place: list[None]) -> None:
        try:
            place.pop()
        except IndexError:
            return
        self._run()

    # In attached threads

    def serve(self) -> None:
        """Read and handle until the connection ends or other threads do, in this thread."""
        with self._lock:
            self._attached += 1
            self.unattended = False
        self._run()

    def _run(self) -> None:
        ident = get_ident()
        self._idents.add(ident)
        try:
            while True:
                try:
                    self._run_attached()
                except BaseException:  # also what a handler's generator or a hook ends a program with
                    self._fault()
                with self._lock:
                    self._attached -= 1
                    if self._attached > len(self._aside) or not self.ready:
                        self._recount()
                        break
                    self._attached += 1
        finally:
            self._idents.discard(ident)
        self._see_to_it()
        if self.ended:
            self._look_whether_over()

    def _run_attached(self) -> None:
        """Work and read until this thread is not needed."""
        self.served_callers = 0
        role, ready, queue = self._role, self.ready, self._writer.queue
        while True:
            if ready or queue:
                self._work()
            if self.ended or not (self.attended or self._needs_reader()):
                return
            if queue and self._writer.full:
                self._writer.make_room()  # a peer that does not read what it is answered is not read either
            try:
                role.token.pop()  # as `ReadRole.try_take` does
            except IndexError:
                return  # who reads hands on what comes, and sees to it that somebody reads after him
            try:
                if not ready and (self.attended or self._needs_reader()):
                    if (self._in_series or self._in_line) and not self.has_room():
                        return  # the thread that runs them, or the next turn, comes back to reading
                    self._read()
            finally:
                self._stop_leading()
            if self.served_callers >= MANY and not self._pending and not ready:
                self.served_callers = 0
                return

    def _needs_reader(self) -> bool:
        """Whether somebody has to read although no thread waits for a reply."""
        return self.attended or self._pending > 0 or self._standing_by > 0 or bool(self._callbacks.groups)

    def step_aside(self) -> bool:
        """This thread begins to wait for a nested call of its own: what is ready is for others.

        Returns:
            Whether it has to :meth:`step_back`: it is an attached one, and does not stand aside already, as it does
            where it runs what is nested in such a call.
        """
        ident = get_ident()
        if ident not in self._idents or ident in self._aside:
            return False
        with self._lock:
            self._aside.add(ident)
        if self.ready:
            with contextlib.suppress(RuntimeError):  # there are no threads now; the watcher tries again
                self.call_for_help()
        return True

    def hand_over(self) -> Callable[[], None]:
        """This thread begins to wait for what others read and handle: it is as good as gone meanwhile.

        Unlike one that waits for a nested call it does not read. So that another may take its place although all that
        may be lent are with handlers that wait so, perhaps for each other, it counts as not attached.

        Returns:
            What is to be called when it goes on.
        """
        ident = get_ident()
        if ident not in self._idents:
            return lambda: None
        with self._lock:
            aside = ident in self._aside
            self._aside.discard(ident)
            self._attached -= 1
            self._recount()
        self._try_to_attach()

        def take_back() -> None:
            with self._lock:
                self._attached += 1
                self.unattended = False
                if aside:
                    self._aside.add(ident)

        return take_back

    def step_back(self) -> None:
        """The nested call is over."""
        with self._lock:
            self._aside.discard(get_ident())

    def run_nested(self, work: deque[Any]) -> BaseException | None:
        """Run requests that are nested in a call which this thread waits for. The role must not be held.

        Returns:
            An exception of a handler that is none of an :class:`Exception`: it is the waiting call's too.
        """
        writer = self._writer
        self.busy.append(None)
        if not self._watched.watched:
            self._runtime()[1].watch(self._watched)
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
                if answer is not None and answer is not LATER and not writer.write_whole(answer):
                    if isinstance(answer, bytes):
                        writer.queue.append(answer)
                        writer.flush()
                    else:
                        writer.write_parts(answer)
                if interrupt is not None:
                    return interrupt
            return None
        finally:
            if self._batches:
                self._reply_to_all()
                writer.flush()
            self.busy.pop()
            if self.ended or self._draining:
                self._say_done()

    def _say_done(self) -> None:
        """A thread is not busy any more, and somebody may wait for that."""
        with self._lock:
            self._idle.notify_all()
        self._look_whether_over()

    def _work(self) -> None:
        """Do what is ready. Answers that are ready together leave in one write."""
        ready, writer = self.ready, self._writer
        if writer.queue:
            writer.flush()
        # In this order: who gives the role up looks at `busy`, and the watcher, asked too early, may not stay.
        self.busy.append(None)
        if not self._watched.watched:
            self._runtime()[1].watch(self._watched)
        queued = 0
        try:
            while ready:
                try:
                    work = ready.popleft()
                except IndexError:  # another thread was quicker
                    break
                if isinstance(work, Request):
                    if type(work) is BatchRequest:
                        self._run_batch(work)
                        continue
                    self._handled += 1
                    answer, _ = self._handle(work)
                    if answer is LATER:
                        continue
                    # What is ready together leaves together: only the last answer is written at once.
                    if answer is not None and (ready or not writer.write_whole(answer)):
                        if isinstance(answer, bytes):
                            queued += len(answer)
                        else:
                            # The buffers of a result are its handler's, which may run again while they are written.
                            answer = copied(answer)
                            queued += BATCH_SIZE
                        writer.queue.append(answer)
                        if queued >= BATCH_SIZE:
                            writer.make_room()
                            queued = 0
                else:
                    self._handled += 1
                    work()
            if self._batches:
                self._reply_to_all()
            if writer.queue:
                writer.flush()
        finally:
            self.busy.pop()
            if self.ended or self._draining:
                self._say_done()

    # In the watcher's thread

    def look_for_stall(self) -> float | None:
        """Lend a thread if nobody reads or handles although there is something to read or to handle.

        Returns:
            Seconds until the next look; None when there is nothing to look for until something is handled again.
        """
        if not (self._attached or self.busy or self.unattended):
            return None
        progress, handled = self._role.progress, self._handled
        moved, handling = progress != self._seen_progress, handled != self._seen_handled
        self._seen_progress, self._seen_handled = progress, handled
        if not handling and (self._batches or self._writer.queue):
            # Answers that were to leave together with that of a handler which takes its time.
            self._reply_to_all()
            self._writer.flush(monotonic())
        if not self._role.free and not self.ready:
            return TICK if moved or self._writer.queue or (handling and self._batches) else None
        if self.unattended and self._role.free and (self.ready or not moved):
            if self.has_room():
                self._try_to_attach()
            return TICK
        stalled = (self.ready and not handling) or (not moved and self._role.free and self._readable())
        # A thread is of no use where all that it does waits for the peer to read, or for one-way calls to finish.
        if stalled and not self._on_way and self.has_room() and not self._writer.full and self._lend():
            self._quick_ticks = QUICK_TICKS
            self._seen_progress = self._seen_handled = -1
        if self._quick_ticks:
            self._quick_ticks -= 1
            return QUICK_TICK
        return TICK

    def _try_to_attach(self) -> None:
        try:
            self.attach()
        except RuntimeError:
            logger.warning("no thread could be started; a connection is not read until one is free")

    def _lend(self) -> bool:
        with self._lock:
            self._attached += 1
            self._on_way += 1
            self.unattended = False
        if self._runtime()[0].lend(self._run_lent):
            return True
        with self._lock:
            self._attached -= 1
            self._on_way -= 1
            self._recount()
        self._refuse_nested()
        return False

    def _refuse_nested(self) -> None:
        """All threads are busy, perhaps waiting for each other: what is nested must not wait for one of them."""
        # It may not even be read yet. Top-level calls that come with it wait on.
        if self._role.try_take():
            try:
                if self._readable():
                    self._read_now()
            except Exception:
                self._fault()
            finally:
                self._stop_leading()
            # This was none of the connection's threads: should they all have left meanwhile, one has to be started.
            self._seen_progress = self._role.progress
        for work in self.ready.copy():
            if isinstance(work, Request) and work.call and work.extras.depth:
                with contextlib.suppress(ValueError):  # just taken by a thread
                    self.ready.remove(work)
                    error = ServerBusy("no thread is left for a call that is nested in another one; raise max_workers")
                    if type(work) is BatchRequest:
                        work.progress.settle_rest((True, pack_protocol_failure(error)))
                        self._reply(work.progress)
                    else:
                        self._writer.queue.append(self._core.failure(work, pack_protocol_failure(error)))
        self._writer.flush(monotonic())

    def _run_lent(self) -> None:
        with self._lock:
            self._on_way -= 1
        self._run()
