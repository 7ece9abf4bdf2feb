"""What waits to be written on a connection, and the pen: the right to write, held by one thread at a time.

Append first, then try the pen; whoever lays it down looks at the queue once more. So no byte waits for a thread that
does not know of it, and no thread waits for another's write. Whoever finds the pipe full while nobody reads, reads
meanwhile: two ends that send to each other always make way.

Large messages leave in pieces, which take turns with what is queued meanwhile: see :mod:`typedrpc.lanes`.
"""

import logging
import threading
from collections.abc import Callable
from time import monotonic
from typing import Final, final

from typedrpc import transport
from typedrpc.common.outbox import CUT_FROM, STALL_TIME, Outbox, Rest
from typedrpc.common.role import ReadRole
from typedrpc.errors import ConnectionLost
from typedrpc.protocol import Outgoing
from typedrpc.wire import Buffer, copied

logger = logging.getLogger("typedrpc")

MIN_LOOK: Final = 0.02
MAX_LOOK: Final = 1.0
"""Seconds after which who waits for room looks whether another thread still reads."""


@final
class Writer:
    """The writing half of a connection.

    Attributes:
        queue: What waits, whole frames in order, after the rest of a write that was cut; appending is a single
            operation on a deque. Where the pen is free and the queue is empty, nothing waits in the lanes either.
        pen: A try-lock, as the read role's token is. Its holder alone sends.
    """

    __slots__ = (
        "_broke",
        "_crowd",
        "_end",
        "_helper",
        "_laid_down",
        "_lanes",
        "_leave",
        "_may_read_ahead",
        "_nothing_came",
        "_outbox",
        "_read_ahead",
        "_role",
        "_sock",
        "_stop_leading",
        "ended",
        "pen",
        "queue",
    )

    def __init__(
        self,
        sock: transport.SocketLike,
        role: ReadRole,
        *,
        may_read_ahead: Callable[[], bool],
        read_ahead: Callable[[], None],
        nothing_came: Callable[[], None],
        end: Callable[[ConnectionLost], None],
        stop_leading: Callable[[], None],
        leave: Callable[[], None],
        helper: Callable[[Callable[[], None]], None],
        broke: Callable[[ConnectionLost, bool], None] | None = None,
    ) -> None:
        """
        Args:
            sock: Where to write.
            role: The connection's read role.
            may_read_ahead: Whether there is room for more that cannot be handled yet.
            read_ahead: Reads once, when the role is held and there is something to read.
            nothing_came: Called where there is nothing to read, when the role is held.
            end: Ends the connection.
            stop_leading: Gives the role up.
            leave: Called by who lays the pen down when the connection has ended.
            helper: Runs a function in a thread of its own.
            broke: Ends the connection, told why and whether this thread holds the role, where nothing can be written
                any more: what the peer has said before may still be read. Without it, ``end`` is called.
        """
        self._outbox = Outbox()  # but for its queue, it belongs to who has the pen
        self.queue: Final = self._outbox.queue
        self.pen: Final = [True]
        self.ended = False
        self._sock = sock
        self._role = role
        self._may_read_ahead = may_read_ahead
        self._read_ahead = read_ahead
        self._nothing_came = nothing_came
        self._end = end
        self._broke = broke or (lambda error, leading: end(error))
        self._stop_leading = stop_leading
        self._leave = leave
        self._laid_down = threading.Condition()
        self._crowd = 0  # threads that wait for the pen to be laid down
        self._helper = helper
        self._lanes = self._outbox.lanes

    @property
    def idle(self) -> bool:
        """Everything has been handed to the system."""
        return not self.queue and bool(self.pen)

    def try_take_pen(self) -> bool:
        """Take the pen if it is free."""
        try:
            return self.pen.pop()
        except IndexError:
            return False

    def write_whole(self, data: Outgoing, deadline: float | None = None, *, leading: bool = False) -> bool:
        """Write a frame in one buffer at once, if nothing is in the way.

        Returns:
            False when nothing of it was written, and it is still to be queued.
        """
        if type(data) is not bytes or len(data) > CUT_FROM:
            return False
        try:
            self.pen.pop()
        except IndexError:
            return False
        # Looked at with the pen in hand: who had it may just have left the rest of a frame.
        if self.queue:
            self.pen.append(True)
            if self._crowd or self.ended:
                self._lay_down()
            return False
        count = 0
        try:
            count = self._sock.send(data)
        except BaseException as error:
            if not transport.is_of_socket(error):
                self._interrupted(error)
                raise
            # A full pipe, or a broken one: dealt with by who writes what is queued.
        if 0 < count < len(data):
            self.queue.appendleft(Rest((memoryview(data)[count:],)))
        self.pen.append(True)
        if self.queue:
            self.flush(deadline, leading=leading, patient=False)
        elif self._crowd or self.ended:
            self._lay_down()
        return count > 0

    def write_parts(self, data: tuple[Buffer, ...], deadline: float | None = None, *, leading: bool = False) -> None:
        """Write a frame in several buffers, after what waits already; what is left of it then waits as a copy.

        So the buffers, which may be those of a bytearray or an array, may be changed once this returns. As long as
        this thread writes, nothing is copied.

        Args:
            deadline: When to stop waiting for room in the pipe.
            leading: Whether this thread holds the read role.
        """
        if self.try_take_pen():
            self.queue.append(data)
            self.flush(deadline, leading=leading, held=True)
        else:
            self.queue.append(copied(data))
            self.flush(deadline, leading=leading)

    def flush(
        self,
        deadline: float | None = None,
        *,
        leading: bool = False,
        last: bool = False,
        held: bool = False,
        patient: bool = True,
    ) -> None:
        """Write what waits, unless another thread is at it. Past the deadline the rest is left to a thread of its own.

        Args:
            deadline: When to stop waiting for room in the pipe.
            leading: Whether this thread holds the read role. Then it is not patient either.
            last: Whether the connection ends next, and the rest with it.
            held: Whether this thread has the pen already.
            patient: Whether this thread has time for large messages. One that has not leaves them to a thread of their
                own too: they are not its own, and may take longer than what it waits for. Nor has one whose deadline
                has passed, such as an event loop's.
        """
        patient = patient and not leading and (deadline is None or monotonic() < deadline)
        while held or (self.queue and self.try_take_pen()):
            held = False
            rest: list[Buffer] = []
            cut = False
            try:
                while not cut and not self.ended and (buffers := self._outbox.take()):
                    rest = self._write(buffers, deadline, leading)
                    cut = bool(rest) or (self._lanes.busy and not patient)
                if cut:
                    rest = [*copied(rest)]
                    self._outbox.own()
            except BaseException as error:
                self._interrupted(error)
                raise
            if self.ended:
                self._let_go()
                cut = False
            if cut:
                self.queue.appendleft(Rest(rest))
            self.pen.append(True)
            if self._crowd or self.ended:
                self._lay_down()
            if cut:
                # Others may wait for answers to what stands behind the rest.
                if last or self._leave_to_helper(must=bool(rest)):
                    return
                patient = True

    def _leave_to_helper(self, *, must: bool) -> bool:
        """Have a thread of its own write the rest. Returns False where there is none, and this one may as well."""
        try:
            self._helper(self.flush)
        except RuntimeError:  # nobody else may come by and write it
            if not must:
                return False
            logger.warning("no thread could be started to write to a peer: it was cut off")
            self._end(ConnectionLost("no thread could be started"))
        return True

    @property
    def full(self) -> bool:
        """More than a fair amount waits to be written."""
        return self._outbox.full

    @property
    def frames(self) -> int:
        """Frames that wait, without those that are on their way."""
        return self._outbox.frames

    def size(self) -> int:
        """Bytes that wait, without messages that are on their way; an estimate while others append."""
        return self._outbox.size()

    def discard(self) -> None:
        """The connection has ended, and the pen is held for good: let go of everything."""
        self._let_go()

    def _let_go(self) -> None:
        self._outbox.clear()

    def forsake(self) -> None:
        """See :mod:`typedrpc.common.fork`: the lock may be held by a thread that is not here."""
        self.ended = True
        self._laid_down = threading.Condition()
        self.pen.clear()
        self._let_go()

    def make_room(self, deadline: float | None = None) -> None:
        """Write, and return when no more than a fair amount waits: for what the peer does not hold back by waiting.

        Past the deadline it returns all the same.
        """
        self.flush(deadline)
        while self.full and not self.ended and not (deadline is not None and monotonic() >= deadline):
            left = None if deadline is None else max(0.0, min(deadline - monotonic(), transport.LONGEST_WAIT))
            # Whoever has the pen writes everything that waits before it lays it down.
            with self._laid_down:
                self._crowd += 1
                try:
                    self._laid_down.wait_for(lambda: self.pen or self.ended, left)
                finally:
                    self._crowd -= 1
            self.flush(deadline)

    def wait_until_idle(self, timeout: float) -> None:
        """Return when everything has been written, at the latest after so many seconds."""
        with self._laid_down:
            self._crowd += 1
            try:
                self._laid_down.wait_for(lambda: self.idle or self.ended, timeout)
            finally:
                self._crowd -= 1

    def wind_up(self) -> None:
        """The connection has ended: nothing is written any more, and nobody waits for it."""
        self.queue.clear()  # who has the pen, or takes it for good, lets go of the lanes
        with self._laid_down:
            self._laid_down.notify_all()

    def _lay_down(self) -> None:
        """The pen was laid down, and somebody is to know."""
        with self._laid_down:
            self._laid_down.notify_all()
        if self.ended:
            self._leave()

    def _interrupted(self, error: BaseException) -> None:
        """An exception of a signal handler while the pen was held: nobody knows how much was sent."""
        lost = ConnectionLost("a write was interrupted")
        lost.__cause__ = error
        self.pen.append(True)
        self._end(lost)
        with self._laid_down:
            self._laid_down.notify_all()
        self._leave()

    def _write(self, buffers: list[Buffer], deadline: float | None, leading: bool) -> list[Buffer]:
        """Write buffers; the pen is held. Returns what is left when the deadline passed."""
        stalled_since = 0.0
        # A send waits for a moment where the pipe is full: not for who must not wait at all.
        flags = transport.DONT_WAIT if deadline is not None and monotonic() >= deadline else 0
        while buffers and not self.ended:
            try:
                count = transport.send(self._sock, buffers, flags)
            except BlockingIOError:
                count = 0
            except OSError as error:
                if not transport.is_of_socket(error):
                    raise
                lost = ConnectionLost(f"the connection broke: {error.strerror or error}")
                lost.__cause__ = error.with_traceback(None)  # which would keep the buffers
                self._broke(lost, leading)
                return []
            if count or not len(buffers[0]):
                buffers = _after(buffers, count)
                stalled_since = 0.0
                continue
            now = monotonic()
            if deadline is not None and now >= deadline:
                return buffers
            stalled_since = stalled_since or now
            if now - stalled_since > STALL_TIME:
                logger.warning("a peer that read nothing for %g s was cut off", STALL_TIME)
                self._end(ConnectionLost(f"the peer read nothing for {STALL_TIME:g} s"))
                return []
            self._await_room(leading, deadline, now - stalled_since)
        return []

    def _await_room(self, leading: bool, deadline: float | None, stalled: float) -> None:
        """Wait a while for room in the pipe; read meanwhile if nobody else does: the peer may be as stuck as we are."""
        timeout = 1.0 if deadline is None else min(1.0, deadline - monotonic())
        if not leading and not self._role.try_take():
            # Who reads may stop. To look for that takes longer the longer it has taken: many peers that do not read
            # for a minute must not cost anything, and what is a tenth longer harms nobody.
            look = min(MAX_LOOK, MIN_LOOK + stalled / 10)
            transport.wait(self._sock, write=True, timeout=min(look, timeout))
            return
        try:
            # Never stop reading for what waits here to be written: the peer may do the same.
            reads = self._may_read_ahead()
            if transport.wait(self._sock, read=reads, write=True, timeout=timeout):
                self._read_ahead()
            elif reads:
                self._nothing_came()
        finally:
            if not leading:
                self._stop_leading()


def _after(buffers: list[Buffer], count: int) -> list[Buffer]:
    """What is left of buffers when so many bytes have been written."""
    for index, buffer in enumerate(buffers):
        if count < len(buffer):
            return [memoryview(buffer)[count:], *buffers[index + 1 :]]
        count -= len(buffer)
    return []
