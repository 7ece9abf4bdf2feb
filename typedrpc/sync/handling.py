"""The threads that handle what comes on a connection: the peer's calls, and outcomes that no thread waits for.

A served connection has one thread of its own, which reads, gives the read role up, and handles what it read. While
that takes long, the watcher lends the connection another thread (see :mod:`typedrpc.sync.workers`), which does the
same: whoever finishes and finds that another one reads, leaves. A client has such threads only while there are
outcomes for futures.

What is ready belongs to the connection, not to a thread. Who adds work does so first and looks for a thread then; a
thread that leaves counts itself out first and looks for work then.
"""

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any, Final, TypeAlias, final

from typedrpc.dispatch import Call, Dispatcher, enter_call, leave_call
from typedrpc.peer import Peer
from typedrpc.protocol import Outgoing, Protocol, Request
from typedrpc.sync.role import ReadRole, Waiter
from typedrpc.sync.workers import QUICK_TICK, QUICK_TICKS, TICK, Watched, Watcher, Workers
from typedrpc.sync.writer import BATCH_SIZE, Writer, copied
from typedrpc.wire import payload_size

logger = logging.getLogger("typedrpc")

Work: TypeAlias = Request | Callable[[], None]

HELD_BYTES: Final = 64 * 1024 * 1024
"""Bytes of requests, or four messages if that is more, that may come before those that came are handled."""

_OVERHEAD: Final = 512
"""Bytes that a request takes beside its payload, about."""


def _weight(request: Request) -> int:
    return payload_size(request.payload) + _OVERHEAD


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
        dispatcher: Dispatcher | None,
        peer: Peer | None,
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
            dispatcher: Leads requests to handlers, if this side serves anything.
            peer: The other end, for handlers.
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
        self._peer = peer
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._attached = 0  # threads that run, or are on their way
        self._on_way = 0  # of these, the lent ones that have not begun yet
        self._standby: Waiter | None = None  # the last attached thread, while another one reads
        self._pending = 0  # outcomes that are to be delivered
        self._draining = False
        self._one_way: deque[Request] = deque()
        self._one_way_bytes = 0
        self._one_way_running = False
        # What the watcher saw last; counters of which only whether they move counts.
        self._handled = 0
        self._seen_handled = -1
        self._seen_progress = -1
        self._quick_ticks = 0

    # Adding work

    def accept(self, request: Request) -> None:
        """A request came; there is a dispatcher for it."""
        if request.call:
            self.ready.append(request)
            return
        # One-way calls run one after another, in the order in which they were sent.
        with self._lock:
            self._one_way.append(request)
            self._one_way_bytes += _weight(request)
            if not self._one_way_running:
                self._one_way_running = True
                self.ready.append(self._run_one_way)

    def expect(self) -> None:
        """An outcome will come that no thread waits for: from now on somebody reads. Does all or nothing."""
        counted = False
        try:
            with self._lock:
                self._pending += 1
                counted = True
            self._attach()
        except BaseException:
            if counted:
                self.forget()
            raise

    def forget(self) -> None:
        """An expected outcome will not come after all, or has been dealt with."""
        with self._lock:
            self._pending -= 1

    def settle(self, finish: Callable[[], None]) -> None:
        """An expected outcome came: have ``finish`` run, which may run code of the user's and take its time."""

        def run() -> None:
            try:
                finish()
            except BaseException:  # of a callback that the user gave a future; it ends nothing here
                logger.exception("a callback failed")
            finally:
                self.forget()

        self.ready.append(run)

    def has_room(self) -> bool:
        """Whether more may be read although what came is not handled yet."""
        held = self._one_way_bytes + sum(_weight(work) for work in self.ready.copy() if isinstance(work, Request))
        return held < max(HELD_BYTES, 4 * self._core.limits.max_message_size)

    def call_for_help(self) -> None:
        """Something may be ready, or the connection has ended, and this thread is not one to do what is to be done."""
        standby = self._standby
        if standby is not None:
            standby.done = True
            self._role.rouse(standby)
        if self.ready:
            self._attach()
            if not self._watched.watched:
                self._runtime()[1].watch(self._watched)

    def end(self) -> None:
        """The connection has ended: nobody reads any more, what came is dealt with."""
        with self._lock:
            self.ended = True
            self._idle.notify_all()
        standby = self._standby
        if standby is not None:
            standby.done = True
            self._role.rouse_for_good(standby)
        self.call_for_help()

    def wait_until_idle(self, timeout: float) -> bool:
        """Wait until every accepted call is answered and the answers are written. Returns whether that is so."""
        self._draining = True
        with self._lock:
            return self._idle.wait_for(self._is_idle, timeout)

    def _is_idle(self) -> bool:
        return self.ended or not (self.busy or self.ready or self._core.running or not self._writer.idle)

    def _attach(self) -> None:
        # Whoever takes the one element has the thread's place in the count: the thread when it begins, or who was
        # interrupted while it was started.
        place: list[None] = []
        try:
            with self._lock:
                if self._attached:
                    return
                self._attached = 1
                place.append(None)
            self._runtime()[0].start(lambda: self._run_in(place))
        except BaseException:
            with contextlib.suppress(IndexError):
                place.pop()
                with self._lock:
                    self._attached -= 1
            raise

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
        self._run()

    def _run(self) -> None:
        while True:
            try:
                self._run_attached()
            except Exception:
                self._fault()
            with self._lock:
                self._attached -= 1
                if self._attached or not (self.ready or (self._needs_reader() and not self.ended)):
                    return
                self._attached = 1

    def _run_attached(self) -> None:
        """Work and read until this thread is not needed."""
        role, ready, queue = self._role, self.ready, self._writer.queue
        while True:
            if ready or queue:
                self._work()
            if self.ended or not (self._dispatcher is not None or self._pending):
                return
            if not role.try_take():
                waiter = self._stand_by()
                if waiter is None:
                    return
                if not waiter.leads:
                    continue
            try:
                if not ready and (self._dispatcher is not None or self._pending):
                    if self._one_way and not self.has_room():
                        return  # the thread that runs one-way calls comes back to reading
                    self._read()
            finally:
                self._stop_leading()

    def _needs_reader(self) -> bool:
        """Whether somebody has to read although no thread waits for a reply."""
        return self._dispatcher is not None or self._pending > 0

    def _stand_by(self) -> Waiter | None:
        """Wait until there is work or the role is handed over, which another thread holds.

        Only the last attached thread does so; others are not needed, and get None.
        """
        with self._lock:
            if self._attached > 1 or self.ended:
                return None
            waiter = self._standby = Waiter()
        if not self.ready and self._needs_reader():
            self._role.park(waiter, None)
        with self._lock:
            self._standby = None
        return waiter

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
                self._handled += 1
                if isinstance(work, Request):
                    answer = self._handle(work)
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
            if writer.queue:
                writer.flush()
        finally:
            self.busy.pop()
            if self._draining:
                with self._lock:
                    self._idle.notify_all()

    def _handle(self, request: Request) -> Outgoing | None:
        dispatcher, peer, core = self._dispatcher, self._peer, self._core
        assert dispatcher is not None, "requests without a dispatcher are refused at once"
        assert peer is not None, "a connection with a dispatcher has a peer"
        if self.ended and request.call:
            return None  # nobody waits for it any more; one-way calls that came are run
        call = dispatcher.begin(core, request, peer)
        if not isinstance(call, Call):
            return call
        token = enter_call(call)
        try:
            result = call.function(*call.args, **call.kwargs)
        except BaseException as error:
            return dispatcher.fail(core, request, call, error)
        finally:
            leave_call(token)
        return dispatcher.finish(core, request, call, result)

    def _run_one_way(self) -> None:
        """Run the first of the one-way calls that wait, and come back for the next."""
        request = self._one_way.popleft()
        self._handle(request)
        with self._lock:
            self._one_way_bytes -= _weight(request)
            if self._one_way:
                self.ready.append(self._run_one_way)
            else:
                self._one_way_running = False

    # In the watcher's thread

    def look_for_stall(self) -> float | None:
        """Lend a thread if nobody reads or handles although there is something to read or to handle.

        Returns:
            Seconds until the next look; None when there is nothing to look for until something is handled again.
        """
        if not self._attached:
            return None
        progress, handled = self._role.progress, self._handled
        moved, handling = progress != self._seen_progress, handled != self._seen_handled
        self._seen_progress, self._seen_handled = progress, handled
        if not handling and self._writer.queue:
            # Answers that were to leave together with that of a handler which takes its time.
            self._writer.flush(monotonic())
        if not self._role.free and not self.ready:
            return TICK if moved or self._writer.queue else None
        stalled = (self.ready and not handling) or (not moved and self._role.free and self._readable())
        # A thread is of no use where all that it does waits for the peer to read, or for one-way calls to finish.
        if stalled and not self._on_way and self.has_room() and not self._writer.full and self._lend():
            self._quick_ticks = QUICK_TICKS
            self._seen_progress = self._seen_handled = -1
        if self._quick_ticks:
            self._quick_ticks -= 1
            return QUICK_TICK
        return TICK

    def _lend(self) -> bool:
        with self._lock:
            self._attached += 1
            self._on_way += 1
        if self._runtime()[0].lend(self._run_lent):
            return True
        with self._lock:
            self._attached -= 1
            self._on_way -= 1
        return False

    def _run_lent(self) -> None:
        with self._lock:
            self._on_way -= 1
        self._run()
