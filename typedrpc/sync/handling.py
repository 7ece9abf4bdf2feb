"""The threads that handle what comes on a connection: the peer's calls, and outcomes that no thread waits for.

An attached thread reads, gives the read role up, and handles what it read. While that takes long, the watcher lends
the connection another thread (see :mod:`typedrpc.sync.workers`), which does the same: whoever finishes and finds that
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
from functools import partial
from threading import get_ident
from time import monotonic
from typing import Any, Final, TypeAlias, final

from typedrpc.batches import BatchRun, Result
from typedrpc.call import Call, enter_call, leave_call
from typedrpc.callbacks import Callbacks
from typedrpc.definition import FIRST_RESERVED_ID
from typedrpc.dispatch import Dispatcher
from typedrpc.errors import CallCancelled, ServerBusy
from typedrpc.failure import pack_protocol_failure
from typedrpc.peer import Peer
from typedrpc.protocol import BatchRequest, Outgoing, Protocol, Request
from typedrpc.common.role import ReadRole
from typedrpc.sync.workers import QUICK_TICK, QUICK_TICKS, TICK, Watched, Watcher, Workers
from typedrpc.sync.writer import BATCH_SIZE, Writer, copied
from typedrpc.turns import Turns
from typedrpc.wire import payload_size

logger = logging.getLogger("typedrpc")

Work: TypeAlias = Request | Callable[[], None]

RunApart: TypeAlias = Callable[[Request, Call, Callable[[], None], Callable[[Result], None] | None], None]

LATER: Final[tuple[bytes, ...]] = ()
"""In place of an answer: it will be sent by the handler's own thread or task."""

HELD_BYTES: Final = 64 * 1024 * 1024
"""Bytes of requests, or four messages if that is more, that may come before those that came are handled."""

MANY: Final = 4
"""Replies for callers in a row, after which an attached thread leaves reading to the callers."""

LOOK_TIME: Final = 0.05
"""Seconds between two looks whether everything is answered and written, while a server closes."""

_OVERHEAD: Final = 512
"""Bytes that a request takes beside its payload, about."""


def _weight(work: Work) -> int:
    return _OVERHEAD + (payload_size(work.payload) if isinstance(work, Request) else 0)


def _of_a_service(work: Work) -> bool:
    return isinstance(work, Request) and work.command < FIRST_RESERVED_ID


@final
class Series:
    """What is done one after another, in the order in which it came."""

    __slots__ = ("running", "waiting")

    def __init__(self) -> None:
        self.waiting: Final[deque[Work]] = deque()
        self.running = False


@final
class HandlerThreads:
    """The threads attached to one connection, and what is ready for them."""

    def __init__(
        self,
        core: Protocol[Any],
        role: ReadRole,
        writer: Writer,
        *,
        read: Callable[[], None],
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
        self.ready: Final[deque[Work]] = deque()
        self.ended = False
        self.busy: Final[list[None]] = []  # one for each thread that works; appending and popping need no lock
        self._core = core
        self._role = role
        self._writer = writer
        self._read = read
        self._readable = readable
        self._stop_leading = stop_leading
        self._fault = fault
        self._runtime = runtime
        self._watched = watched
        self._dispatcher = dispatcher
        self._turns = dispatcher.turns
        self._peer = peer
        self.attended = attended
        self._callbacks = callbacks
        self.unattended = False
        """Nobody is attached although somebody has to read: whoever gives the role up tells the watcher."""
        self.served_callers = 0
        """Replies for callers that were read since a request came; a hint."""
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._attached = 0  # threads that run, or are on their way
        self._aside: set[int] = set()  # of these, the ones that wait for a nested call of theirs, by their idents
        self._on_way = 0  # of these, the lent ones that have not begun yet
        self._idents: set[int] = set()  # of the attached threads
        self._pending = 0  # outcomes that are to be delivered
        self._draining = False
        self._on_over: Callable[[], None] | None = None
        self._over = False
        self._one_way = Series()
        self._in_series = 0  # requests that wait in a series, or for one thread
        self._in_series_bytes = 0
        self._run_apart = run_apart
        self._running_apart = 0  # handlers with a thread or a task of their own
        self._standing_by = 0  # for threads that come back for outcomes, and may be long in coming
        self._batches: Final[dict[BatchRun, bool]] = {}  # that are begun, and of which not all outcomes are sent
        self._in_line = 0  # requests that wait for their turn; their bytes count with those in a series
        # What the watcher saw last; counters of which only whether they move counts.
        self._handled = 0
        self._seen_handled = -1
        self._seen_progress = -1
        self._quick_ticks = 0

    def forsake(self) -> None:
        """See :mod:`typedrpc.common.fork`: the locks may be held by threads that are not here."""
        self.ended = True
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)

    # Adding work

    def accept(self, request: Request, series: Series | None = None) -> None:
        """A request came.

        Args:
            request: What came.
            series: Those that it must wait for. One-way calls are a series of their own.
        """
        self.served_callers = 0
        turns = self._turns
        if turns is not None and self._takes_turn(request):
            self._stand_in_line(turns, request)
            return
        if series is None:
            if request.call:
                self.ready.append(request)
                return
            series = self._one_way
        self._add_to(series, request)

    def _add_to(self, series: Series, request: Request) -> None:
        with self._lock:
            self._enter(series, request)

    def _enter(self, series: "Series", work: Work) -> None:
        series.waiting.append(work)
        self._in_series += 1
        self._in_series_bytes += _weight(work)
        if not series.running:
            series.running = True
            self.ready.append(partial(self._run_series, series))

    # Handlers that wait for their turn

    def _takes_turn(self, request: Request) -> bool:
        """Whether a request takes a turn; not where a handler that has one may wait for it, by a call of this side."""
        if request.command >= FIRST_RESERVED_ID:
            return False
        parent = request.extras.parent
        return not (request.call and parent and self._core.calls.get(parent) is not None)

    def _stand_in_line(self, turns: Turns, request: Request) -> None:
        if type(request) is BatchRequest:
            self._stand_in_line_with_batch(turns, request)
            return
        with self._lock:
            self._in_line += 1
            self._in_series_bytes += _weight(request)
        go = partial(self._go, turns, request, monotonic())
        if turns.take(go):
            go()

    def _stand_in_line_with_batch(self, turns: Turns, batch: BatchRequest) -> None:
        """One call of a batch stands in line at a time: who came after it comes before the next one."""
        while True:
            with self._lock:
                self._in_line += 1
                self._in_series_bytes += _weight(batch)
            if not turns.take(partial(self._go_from_line, turns, batch)):
                return
            if not self._go_with_batch(turns, batch) or batch.progress.is_taken:
                return

    def _go_from_line(self, turns: Turns, batch: BatchRequest) -> bool:
        wanted = self._go_with_batch(turns, batch)
        if wanted and not batch.progress.is_taken:
            self._stand_in_line_with_batch(turns, batch)
        return wanted

    def _go_with_batch(self, turns: Turns, batch: BatchRequest) -> bool:
        """It is the turn of the next call of a batch. Returns whether it is still to be run."""
        wanted = not self.ended
        if wanted:
            self.ready.append(partial(self._run_part_in_turn, turns, batch, batch.progress.take()))
        with self._lock:  # after it was added, as in `_go`
            self._in_line -= 1
            self._in_series_bytes -= _weight(batch)
        if not wanted:
            self._look_whether_over()
        elif get_ident() not in self._idents:
            self._attach_further()
        return wanted

    def _run_part_in_turn(self, turns: Turns, batch: BatchRequest, index: int) -> None:
        is_apart = False
        try:
            is_apart = self._run_part(batch, index, done=turns.give_back) is LATER
        finally:
            if not is_apart:
                turns.give_back()

    def _go(self, turns: Turns, request: Request, since: float) -> bool:
        """It is the turn of a request. Returns whether it is still to be run."""
        extras = request.extras
        if extras.time_left is not None:
            request.extras = extras._replace(time_left=max(0.0, extras.time_left - (monotonic() - since)))
        wanted = not (self.ended and request.call)
        if wanted and request.call:
            self.ready.append(partial(self._run_in_turn, turns, request))
        elif wanted:
            self._add_to(self._one_way, request)
        with self._lock:  # after it was added: what is neither in line nor ready nor run is over
            self._in_line -= 1
            self._in_series_bytes -= _weight(request)
        if not wanted:
            self._look_whether_over()
        elif get_ident() not in self._idents:
            self._attach_further()
        return wanted

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

    def _run_in_turn(self, turns: Turns, request: Request) -> None:
        answer: Outgoing | None = None
        try:
            answer, _ = self._handle(request, done=turns.give_back)
        finally:
            if answer is not LATER:
                turns.give_back()
        if answer is not None and answer is not LATER and (self.ready or not self._writer.write_whole(answer)):
            self._writer.queue.append(answer if isinstance(answer, bytes) else copied(answer))

    # Batches

    def _run_next(
        self, batch: BatchRequest, *, nested: bool = False, done: Callable[[], None] | None = None
    ) -> BaseException | tuple[bytes, ...] | None:
        """Run the next call of a batch, which this thread has to itself meanwhile; see `_run_part`."""
        return None if self.ended else self._run_part(batch, batch.progress.take(), nested=nested, done=done)

    def _run_batch(self, batch: BatchRequest) -> None:
        """Run calls of a batch that was ready, as long as nothing else is.

        While one runs the batch is ready again, so that others take its further calls.
        """
        ready, run = self.ready, batch.progress
        while not self.ended:
            self._handled += 1
            index = run.take()
            if index + 1 < run.count:
                ready.append(batch)
            self._run_part(batch, index)
            try:
                if ready[0] is not batch:
                    return
                work = ready.popleft()
            except IndexError:  # it is done, or another thread has it
                return
            if work is not batch:
                ready.appendleft(work)
                return

    def _run_part(
        self, batch: BatchRequest, index: int, *, nested: bool = False, done: Callable[[], None] | None = None
    ) -> BaseException | tuple[bytes, ...] | None:
        """Run one call of a batch.

        Args:
            batch: The batch.
            index: Which of its calls.
            nested: Within a call of this thread's.
            done: Called when the handler has ended, if it takes a thread or a task of its own.

        Returns:
            ``LATER`` if it does; otherwise what the handler raised, if that is no :class:`Exception`.
        """
        if self.ended:
            return None  # nobody waits for it any more
        run: BatchRun = batch.progress
        if run.opened is None:
            self._batches[run] = True
            run.opened = self._dispatcher.open_batch(self._core, batch, self._peer, run.since)
            if not self._core.begin(batch.call, run):
                run.cancel("its caller has given it up")
        interrupt: BaseException | None = None
        if run.why_cancelled:
            call: Call | bytes = pack_protocol_failure(CallCancelled(f"the caller gave it up: {run.why_cancelled}"))
        else:
            call = self._dispatcher.begin_part(run.opened, run.parts[index])
        if isinstance(call, Call):
            run.begun(call)
            if call.row.apart:
                with self._lock:
                    self._running_apart += 1
                self._run_apart(batch, call, partial(self._ended_apart, done), partial(self._settle, run, index, call))
                return LATER
            result, interrupt = self._result_of(call, nested=nested)
            run.ended(call)
        else:
            result = (True, call)
        if run.settle(index, result):
            self._reply(run)
            self._writer.make_room()
        return interrupt

    def _settle(self, run: BatchRun, index: int, call: Call, result: Result) -> None:
        """A handler of a batch's call that took a thread or a task of its own has ended; must not wait."""
        run.ended(call)
        if run.settle(index, result):
            self._reply(run)
            self._writer.flush(monotonic())
        elif not self._watched.watched:
            self._runtime()[1].watch(self._watched)  # which sends it, if no other ends soon

    def _result_of(self, call: Call, *, nested: bool) -> tuple[Result, BaseException | None]:
        dispatcher, core = self._dispatcher, self._core
        token = enter_call(call)
        try:
            value = call.function(*call.args, **call.kwargs)
        except BaseException as error:
            interrupt = None if isinstance(error, Exception) else error
            raised_here = nested and interrupt is not None
            return dispatcher.fail_part(core, call, error, raised_here=raised_here), interrupt
        finally:
            leave_call(token)
        try:
            return dispatcher.finish_part(core, call, value), None
        except BaseException as error:  # its generator ends a program, or a signal does
            return dispatcher.fail_part(core, call, error, raised_here=nested), error

    def _reply_to_all(self) -> None:
        """Queue what is known of all batches: whoever would have done so next may be long in coming."""
        for run in tuple(self._batches):
            self._reply(run)

    def _reply(self, run: BatchRun) -> None:
        """Queue what is known of a batch's outcomes, in order."""
        if run.reply(self._queue_reply):
            self._batches.pop(run, None)

    def _queue_reply(self, data: Outgoing) -> None:
        self._writer.queue.append(data if isinstance(data, bytes) else copied(data))

    def hold(self, request: Request) -> None:
        """A one-way call came that waits for one thread: it counts as one that waits in a series."""
        with self._lock:
            self._in_series += 1
            self._in_series_bytes += _weight(request)

    def let_go(self, request: Request) -> None:
        """A call that was held is not held any more."""
        with self._lock:
            self._in_series -= 1
            self._in_series_bytes -= _weight(request)

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

    def settle(self, finish: Callable[[], None], series: Series | None = None) -> None:
        """An expected outcome came: have ``finish`` run, which may run code of the user's and take its time.

        Args:
            finish: What to run.
            series: What it must wait for: the callbacks of the call, of which some may have come before.
        """

        def run() -> None:
            try:
                finish()
            except BaseException:  # of a callback that the user gave a future; it ends nothing here
                logger.exception("a callback failed")
            finally:
                self.forget()

        if series is None:
            self.ready.append(run)
            return
        with self._lock:
            self._enter(series, run)

    def has_room(self) -> bool:
        """Whether more may be read although what came is not handled yet."""
        held = self._in_series_bytes + sum(_weight(work) for work in self.ready.copy() if isinstance(work, Request))
        return held < max(HELD_BYTES, 4 * self._core.limits.max_message_size)

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

    def when_over(self, function: Callable[[], None]) -> None:
        """Have a function called, once, when the connection has ended and nothing runs for it any more."""
        self._on_over = function
        self._look_whether_over()

    def _look_whether_over(self) -> None:
        if not self.ended or self._on_over is None:
            return
        with self._lock:
            # In this order: who takes what is ready counts itself busy first.
            if self._in_line or self.ready or self.busy or self._running_apart:
                return
            self._over = True
            function, self._on_over = self._on_over, None
        if function is not None:
            function()

    def _is_over(self) -> bool:
        """Whether it was said that nothing runs any more; this thread counts itself busy."""
        with self._lock:
            return self._over

    def wait_until_idle(self, timeout: float) -> bool:
        """Wait until every accepted call is answered and the answers are written. Returns whether that is so."""
        self._draining = True
        deadline = monotonic() + timeout
        with self._lock:
            # Whoever writes the last bytes may be none of these threads: so it is looked at now and then too.
            while not self._is_idle() and (left := deadline - monotonic()) > 0:
                self._idle.wait(min(left, LOOK_TIME))
            return self._is_idle()

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
            if not role.try_take():
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
                if isinstance(work, BatchRequest):
                    self._run_batch(work)
                    continue
                self._handled += 1
                if isinstance(work, Request):
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
                    work()
            if self._batches:
                self._reply_to_all()
            if writer.queue:
                writer.flush()
        finally:
            self.busy.pop()
            if self.ended or self._draining:
                self._say_done()

    def _handle(
        self, request: Request, *, nested: bool = False, done: Callable[[], None] | None = None
    ) -> tuple[Outgoing | None, BaseException | None]:
        """Run a request: the answer, and what a handler raised that is no :class:`Exception`.

        Args:
            request: What to run.
            nested: Within a call of this thread's.
            done: Called when the handler has ended, if the answer is ``LATER``.
        """
        dispatcher, core = self._dispatcher, self._core
        if self.ended and (request.call or self._is_over()):
            return None, None  # nobody waits for it any more; one-way calls that came in time are run
        call = dispatcher.begin(core, request, self._peer)
        if not isinstance(call, Call):
            return call, None
        if call.row.apart:
            with self._lock:
                self._running_apart += 1
            self._run_apart(request, call, partial(self._ended_apart, done), None)
            return LATER, None
        token = enter_call(call)
        try:
            result = call.function(*call.args, **call.kwargs)
        except BaseException as error:
            interrupt = None if isinstance(error, Exception) else error
            raised_here = nested and interrupt is not None
            return dispatcher.fail(core, request, call, error, raised_here=raised_here), interrupt
        finally:
            leave_call(token)
        try:
            return dispatcher.finish(core, request, call, result), None
        except BaseException as error:  # its generator ends a program, or a signal does
            return dispatcher.fail(core, request, call, error, raised_here=nested), error

    def _ended_apart(self, done: Callable[[], None] | None) -> None:
        """A handler that ran apart has ended, and its answer is on its way."""
        try:
            if done is not None:
                done()
        finally:
            with self._lock:
                self._running_apart -= 1
            if self.ended or self._draining:
                self._say_done()

    def _run_series(self, series: Series) -> None:
        """Do the first of what waits in a series, and come back for the next."""
        work = series.waiting.popleft()
        answer: Outgoing | None = None
        try:
            if not isinstance(work, Request):
                work()
                return
            if type(work) is BatchRequest:
                go_on = partial(self._go_on, series, work, elsewhere=True)
                answer = LATER if self._run_next(work, done=go_on) is LATER else None
                return
            answer, _ = self._handle(work, done=partial(self._go_on, series, work, elsewhere=True))
            if answer is not None and answer is not LATER:
                self._writer.queue.append(answer if isinstance(answer, bytes) else copied(answer))
        finally:
            if answer is not LATER:
                self._go_on(series, work)

    def _go_on(self, series: Series, work: Work, *, elsewhere: bool = False) -> None:
        """What was first in a series is done: it is the turn of the next.

        Args:
            series: The series.
            work: What was first.
            elsewhere: Not in an attached thread.
        """
        turns = self._turns
        if turns is not None and series is self._one_way and _of_a_service(work):
            turns.give_back()
        again = isinstance(work, BatchRequest) and not (work.progress.is_taken or self.ended)
        with self._lock:
            if again:
                series.waiting.appendleft(work)
            else:
                self._in_series -= 1
                self._in_series_bytes -= _weight(work)
            if series.waiting:
                self.ready.append(partial(self._run_series, series))
            else:
                series.running = False
        if elsewhere and self.ready:
            with contextlib.suppress(RuntimeError):  # there are no threads now; the watcher tries again
                self.call_for_help()

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
                    self._read()
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
