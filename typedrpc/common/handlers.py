"""What handles the peer's calls on one connection, in either colour: what is ready, its order, and how it ends.

What is ready belongs to the connection, not to a thread. Who adds work does so first and looks for somebody to do it
then. Some of it is done one after another, as a series; some waits for its turn; the calls of a batch are begun one by
one, and their outcomes collected. How it is run differs: see :mod:`typedrpc.sync.handling` and
:mod:`typedrpc.aio.handling`.
"""

import logging
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Any, Final, TypeAlias, final

from typedrpc.batches import BatchRun, Result, Taken
from typedrpc.call import Call, Opened, enter_call, leave_call
from typedrpc.callbacks import Callbacks
from typedrpc.definition import FIRST_RESERVED_ID
from typedrpc.dispatch import Dispatcher
from typedrpc.errors import CallCancelled
from typedrpc.failure import pack_protocol_failure
from typedrpc.peer import Peer
from typedrpc.protocol import BatchRequest, Outgoing, Protocol, Request
from typedrpc.turns import Turns
from typedrpc.wire import payload_size

logger = logging.getLogger("typedrpc")

Work: TypeAlias = Request | Callable[[], None]

RunApart: TypeAlias = Callable[[Request, Call, Callable[[], None], Callable[[Result], None] | None], None]

LATER: Final[tuple[bytes, ...]] = ()
"""In place of an answer: it will be sent by the handler's own thread or task."""

HELD_BYTES: Final = 64 * 1024 * 1024
"""Bytes of requests, or four messages if that is more, that may come before those that came are handled."""

_OVERHEAD: Final = 512
"""Bytes that a request takes beside its payload, about."""


def weight(work: Work) -> int:
    """Bytes that it takes while it waits."""
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


class Attendance:
    """Who reads what is waited for: nothing is to be done about it where somebody always does."""

    def expect(self) -> None:
        """An outcome will come that no thread waits for: from now on somebody reads. Does all or nothing."""

    def forget(self) -> None:
        """An expected outcome will not come after all, or has been dealt with."""

    def stand_by(self) -> None:
        """Outcomes will come for a thread that may be elsewhere then: from now on somebody reads while it does not."""

    def stand_down(self) -> None:
        """The opposite of :meth:`stand_by`."""

    def look_again(self) -> None:
        """Whether anybody has to read may have changed."""

    def step_aside(self) -> bool:
        """This thread begins to wait for a nested call of its own. Returns whether it has to :meth:`step_back`."""
        return False

    def step_back(self) -> None:
        """The nested call is over."""

    def hand_over(self) -> Callable[[], None]:
        """This thread begins to wait for what others read and handle: it is as good as gone meanwhile.

        Returns:
            What is to be called when it goes on.
        """
        return lambda: None


class Handlers(Attendance, ABC):
    """What is ready on one connection, and those who do it. Thread-safe, but for what says otherwise.

    Attributes:
        ready: What can be done now.
        ended: The connection has.
        attended: Whether the peer may call, or somebody wants to know at once when it leaves.
        served_callers: Replies for callers that somebody else has read since a request came; a hint.
    """

    def __init__(
        self,
        core: Protocol[Any],
        *,
        dispatcher: Dispatcher,
        peer: Peer,
        attended: bool,
        callbacks: Callbacks,
        run_apart: RunApart,
    ) -> None:
        """
        Args:
            core: The protocol's state.
            dispatcher: Leads requests to handlers.
            peer: The other end, for handlers.
            attended: Whether the peer may call; may be set later.
            callbacks: What this side has offered the peer to call back.
            run_apart: Runs a handler that takes a thread or a task of its own, see :mod:`typedrpc.common.apart`.
        """
        self.ready: Final[deque[Work]] = deque()
        self.ended = False
        self.attended = attended
        self.served_callers = 0
        self._core = core
        self._dispatcher = dispatcher
        self._turns = dispatcher.turns
        self.begins_at_once: Final = dispatcher.turns is None
        """A call that nothing is said with is ready when it comes: :meth:`accept` would do no more than add it."""
        self.peer = peer
        self._callbacks = callbacks
        self._run_apart = run_apart
        self._lock = threading.Lock()
        self._on_over: Callable[[], None] | None = None
        self._over = False
        self._draining = False
        self._one_way = Series()
        self._in_series = 0  # requests that wait in a series, or for one thread
        self._in_series_bytes = 0
        self._in_line = 0  # requests that wait for their turn; their bytes count with those in a series
        self._running_apart = 0  # handlers with a thread or a task of their own
        self._handled = 0
        self._batches: Final[dict[BatchRun, bool]] = {}  # that are begun, and of which not all outcomes are sent

    # What differs

    @abstractmethod
    def call_for_help(self) -> None:
        """Something may be ready, or the connection has ended, and who says so is not one to do what is to be done."""

    @abstractmethod
    def end(self) -> None:
        """The connection has ended: what came is dealt with, and nothing comes any more."""

    @abstractmethod
    def run_nested(self, work: deque[Any]) -> BaseException | None:
        """Run requests that are nested in a call which this thread waits for.

        Returns:
            An exception of a handler that is none of an :class:`Exception`: it is the waiting call's too.
        """

    @abstractmethod
    def _is_at_work(self) -> bool:
        """Something of what was ready is being done. The lock is held."""

    @abstractmethod
    def _roused(self) -> None:
        """Something became ready, perhaps by who is not one to do it, and who has other things to do."""

    @abstractmethod
    def _queue(self, answer: Outgoing) -> None:
        """Have a frame sent as soon as somebody sends the next one, or sees that it waits. Its buffers may change."""

    @abstractmethod
    def _answer(self, answer: Outgoing) -> None:
        """Send an answer, at once unless there is more to do."""

    @abstractmethod
    def _flush(self) -> None:
        """Send what is queued, without waiting."""

    @abstractmethod
    def _make_room(self) -> None:
        """Send what is queued; where this thread may wait, until no more than a fair amount waits."""

    @abstractmethod
    def _look_soon(self) -> None:
        """Have somebody look in a few milliseconds whether outcomes wait to be sent."""

    def _runs_here(self, call: Call) -> bool:
        """Whether a plain handler that takes a thread of its own is in one that it can have."""
        return False

    def _say_done(self) -> None:
        """Something is done while the connection ends, and somebody may wait for that."""
        self._look_whether_over()

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

    def _enter(self, series: Series, work: Work) -> None:
        series.waiting.append(work)
        self._in_series += 1
        self._in_series_bytes += weight(work)
        if not series.running:
            series.running = True
            self.ready.append(partial(self._run_series, series))

    def hold(self, request: Request) -> None:
        """A one-way call came that waits for one thread: it counts as one that waits in a series."""
        with self._lock:
            self._in_series += 1
            self._in_series_bytes += weight(request)

    def let_go(self, request: Request) -> None:
        """A call that was held is not held any more."""
        with self._lock:
            self._in_series -= 1
            self._in_series_bytes -= weight(request)

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

    def _held(self) -> int:
        """Bytes of requests that are not begun."""
        return self._in_series_bytes + sum(weight(work) for work in self.ready.copy() if isinstance(work, Request))

    def has_room(self) -> bool:
        """Whether more may be read although what came is not handled yet."""
        return self._held() < max(HELD_BYTES, 4 * self._core.limits.max_message_size)

    # The end

    def forsake(self) -> None:
        """See :mod:`typedrpc.common.fork`: the lock may be held by a thread that is not here."""
        self.ended = True
        self._lock = threading.Lock()

    def when_over(self, function: Callable[[], None]) -> None:
        """Have a function called, once, when the connection has ended and nothing runs for it any more."""
        self._on_over = function
        self._look_whether_over()

    def _look_whether_over(self) -> None:
        if not self.ended or self._on_over is None:
            return
        with self._lock:
            # In this order: who takes what is ready counts itself busy first.
            if self._in_line or self.ready or self._running_apart or self._is_at_work():
                return
            self._over = True
            function, self._on_over = self._on_over, None
        if function is not None:
            function()

    def _is_over(self) -> bool:
        """Whether it was said that nothing runs any more; this thread counts itself busy."""
        with self._lock:
            return self._over

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
            self._in_series_bytes += weight(request)
        go = partial(self._go, turns, request, monotonic())
        if turns.take(go):
            go()

    def _stand_in_line_with_batch(self, turns: Turns, batch: BatchRequest) -> None:
        """One call of a batch stands in line at a time: who came after it comes before the next one."""
        while True:
            with self._lock:
                self._in_line += 1
                self._in_series_bytes += weight(batch)
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
            # Taken here: who stands in line again for the rest looks at what is left at once.
            self.ready.append(partial(self._run_part_in_turn, turns, batch, batch.progress.take()))
        with self._lock:  # after it was added, as in `_go`
            self._in_line -= 1
            self._in_series_bytes -= weight(batch)
        if wanted:
            self._roused()
        else:
            self._look_whether_over()
        return wanted

    def _run_part_in_turn(self, turns: Turns, batch: BatchRequest, item: Taken) -> None:
        is_apart = False
        try:
            if batch.progress.opened is None:
                self._open_batch(batch)
            is_apart = self._run_part(batch, *item, done=turns.give_back) is LATER
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
            self._in_series_bytes -= weight(request)
        if wanted:
            self._roused()
        else:
            self._look_whether_over()
        return wanted

    def _run_in_turn(self, turns: Turns, request: Request) -> None:
        answer: Outgoing | None = None
        try:
            answer, _ = self._handle(request, done=turns.give_back)
        finally:
            if answer is not LATER:
                turns.give_back()
        if answer is not None and answer is not LATER:
            self._answer(answer)

    # Batches

    def _run_next(
        self, batch: BatchRequest, *, nested: bool = False, done: Callable[[], None] | None = None
    ) -> BaseException | tuple[bytes, ...] | None:
        """Run the next call of a batch, if there is one; see `_run_part`."""
        run: BatchRun = batch.progress
        if self.ended:
            return None
        if run.opened is None:
            self._open_batch(batch)
        item = run.take()
        return None if item is None else self._run_part(batch, *item, nested=nested, done=done)

    def _run_part(
        self,
        batch: BatchRequest,
        index: int,
        args: Sequence[Any] | None,
        *,
        nested: bool = False,
        done: Callable[[], None] | None = None,
    ) -> BaseException | tuple[bytes, ...] | None:
        """Run one call of a batch, which is open.

        Args:
            batch: The batch.
            index: Which of its calls.
            args: Its arguments, if they are unpacked already.
            nested: Within a call of this thread's.
            done: Called when the handler has ended, if it takes a thread or a task of its own.

        Returns:
            ``LATER`` if it does; otherwise what the handler raised, if that is no :class:`Exception`.
        """
        if self.ended:
            return None  # nobody waits for it any more
        run: BatchRun = batch.progress
        interrupt: BaseException | None = None
        if run.why_cancelled:
            call: Call | bytes = pack_protocol_failure(CallCancelled(f"the caller gave it up: {run.why_cancelled}"))
        else:
            call = self._dispatcher.begin_part(run.opened, run.parts, index, args)
        if isinstance(call, Call):
            run.begun(call)
            if call.row.apart and not (call.row.plain and self._runs_here(call)):
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
            self._make_room()
        return interrupt

    def _open_batch(self, batch: BatchRequest) -> Opened | bytes:
        """The first call of a batch is about to be run. Returns what all have in common, or why none is run."""
        run: BatchRun = batch.progress
        self._batches[run] = True
        opened = self._dispatcher.open_batch(self._core, batch, self.peer, run.since)
        if isinstance(opened, Opened):
            codec = opened.row.codec
            if codec is not None and run.count > 1:
                run.unpack = codec.unpack_many
                if codec.pack_results is not None:
                    run.kept, run.pack_kept = codec.kept_type, codec.pack_results
                    run.finish = partial(self._dispatcher.finish_kept, self._core, opened)
        run.opened = opened
        if not self._core.begin(batch.call, run):
            run.cancel("its caller has given it up")
        return opened

    def _settle(self, run: BatchRun, index: int, call: Call, result: Result) -> None:
        """A handler of a batch's call that took a thread or a task of its own has ended; must not wait."""
        run.ended(call)
        if run.settle(index, result):
            self._reply(run)
            self._flush()
        else:
            self._look_soon()  # to send it, if no other ends soon

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
        if run.reply(self._queue):
            self._batches.pop(run, None)

    # One by one

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
        call = dispatcher.begin(core, request, self.peer)
        if not isinstance(call, Call):
            return call, None
        if call.row.apart and not (call.row.plain and self._runs_here(call)):
            return self._start_apart(request, call, done), None
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

    def _start_apart(self, request: Request, call: Call, done: Callable[[], None] | None) -> Outgoing | None:
        """Run a handler in a thread or a task of its own: ``LATER``, or the answer if it has ended already."""
        with self._lock:
            self._running_apart += 1
        self._run_apart(request, call, partial(self._ended_apart, done), None)
        return LATER

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
                self._queue(answer)
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
                self._in_series_bytes -= weight(work)
            if series.waiting:
                self.ready.append(partial(self._run_series, series))
            else:
                series.running = False
        if elsewhere and self.ready:
            with suppress(RuntimeError):  # there are no threads now; somebody looks again
                self.call_for_help()
