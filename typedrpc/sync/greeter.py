"""Shaking hands with those who connect: one thread does it for all of them, so that who says nothing takes none."""

import logging
import selectors
import threading
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Final, final

from typedrpc import transport
from typedrpc.common.arrivals import Threshold
from typedrpc.common.stay import Stay
from typedrpc.errors import ConnectionLost
from typedrpc.sync.connection import Connection
from typedrpc.sync.watcher import Watcher

logger = logging.getLogger("typedrpc")

READS: Final = 16
"""Reads of one before it is the turn of others. A hello takes one or two."""

RETRY_TIME: Final = 0.1
"""Seconds after which it is tried again to start a thread where the system had none."""


@final
class Visitor:
    """A connection that shakes hands."""

    __slots__ = ("connection", "deadline", "sock", "stay", "timeout")

    def __init__(self, sock: transport.SocketLike, connection: Connection, stay: Stay, timeout: float) -> None:
        self.sock: Final = sock
        self.connection: Final = connection
        self.stay: Final = stay
        self.timeout: Final = timeout
        self.deadline: Final = monotonic() + timeout


def _greet(visitor: Visitor) -> bool:
    """Read what one has said, without waiting for more. Returns whether hands are shaken, or it has ended."""
    sock, connection = visitor.sock, visitor.connection
    core = connection.core
    reads = 0
    # Of TLS, more may have been read from the system than was asked for: nobody would say that it is there.
    while reads < READS or transport.has_more(sock):
        reads += 1
        try:
            count = sock.recv_into(core.reader.get_buffer(), 0, transport.DONT_WAIT)
        except BlockingIOError:
            return False
        except OSError as error:
            events = core.receive_error(error)
        else:
            events = core.receive(count) if count else core.receive_eof()
        if connection.greet(events):
            return True
    return False


@final
class Greeter:
    """Reads what connections say until hands are shaken, and then has each served by a thread of its own.

    All is done in one thread, which waits with :attr:`selector`.
    """

    def __init__(self, serve: Callable[[Connection, Stay, float], None]) -> None:
        """
        Args:
            serve: Starts a thread that goes on with one, until the deadline of its handshake where it is not known who
                it is. Must not block. Raises ``RuntimeError`` where there is none.
        """
        self.selector: Final = selectors.DefaultSelector()
        self._serve = serve
        self._visitors: Threshold[Visitor] = Threshold()  # in the order of their deadlines
        self._greeted: deque[Visitor] = deque()  # hands are shaken, and no thread was free
        self._short = False  # of threads, and the log says so
        self._retry_at = 0.0

    def welcome(self, sock: transport.SocketLike, connection: Connection, stay: Stay, timeout: float) -> None:
        """Shake hands with one that has just connected, within so many seconds: as many for each."""
        if not connection.role.try_take():
            return  # it has ended already
        visitor = Visitor(sock, connection, stay, timeout)
        try:
            self.selector.register(sock, selectors.EVENT_READ, visitor)
        except OSError as error:  # the system has a limit of what may be waited for
            logger.warning("%s was cut off: %s", stay.peer, error.strerror)
            connection.end(ConnectionLost(f"the server cannot wait for it: {error.strerror}"))
            connection.stop_leading()
            return
        oldest = self._visitors.enter(visitor)
        if oldest is not None:
            self._leave(oldest)
            oldest.connection.end(ConnectionLost("too many connections shake hands with the server at a time"))
            oldest.connection.stop_leading()

    def read(self, visitor: Visitor) -> None:
        """One has said something, or left."""
        if visitor not in self._visitors:
            return  # it had to make way just now
        connection = visitor.connection
        try:
            is_over = _greet(visitor)
        except Exception:
            self._leave(visitor)
            connection.fault()
            connection.stop_leading()
            return
        if not is_over:
            return
        self._leave(visitor)
        try:
            connection.stop_greeting()
        except ConnectionLost:
            return  # said where it ended
        except Exception:
            connection.fault()
            return
        if self._greeted:
            self._greeted.append(visitor)
        else:
            self._start(visitor)

    def look(self, now: float) -> float | None:
        """Do what is due. Returns seconds until there is more to do; None where only what comes counts."""
        while (first := self._visitors.first) is not None and first.deadline <= now:
            self._leave(first)
            logger.warning("%s was cut off: no handshake within %g s", first.stay.peer, first.timeout)
            first.connection.end(ConnectionLost(f"{first.stay.peer}: no handshake within {first.timeout:g} s"))
            first.connection.stop_leading()
        pause = None if first is None else max(0.0, first.deadline - now)
        if not self._greeted:
            return pause
        if now >= self._retry_at:
            for _ in range(len(self._greeted)):
                if not self._start(self._greeted.popleft()):
                    break
        return pause if not self._greeted else min(RETRY_TIME, RETRY_TIME if pause is None else pause)

    def close(self) -> None:
        """Shake hands with nobody any more: whoever ends the connections goes on with them."""
        while (visitor := self._visitors.first) is not None:
            self._leave(visitor)
            visitor.connection.stop_leading()
        self._greeted.clear()
        self.selector.close()

    def forsake(self) -> None:
        """See :mod:`typedrpc.common.fork`."""
        self.selector.close()

    def _leave(self, visitor: Visitor) -> None:
        self._visitors.leave(visitor)
        self.selector.unregister(visitor.sock)

    def _start(self, visitor: Visitor) -> bool:
        """Have a thread go on with one. Returns False where none is free: it waits, as long as a handshake may take."""
        if visitor.connection.ended:
            return True
        try:
            self._serve(visitor.connection, visitor.stay, visitor.deadline)
        except RuntimeError:
            now = monotonic()
            if now >= visitor.deadline:
                logger.warning("no thread could be started for %s: it was cut off", visitor.stay.peer)
                visitor.connection.end(ConnectionLost("no thread could be started"))
                return True
            if not self._short:
                self._short = True
                logger.warning("no thread could be started for %s, trying again and again", visitor.stay.peer)
            self._greeted.appendleft(visitor)
            self._retry_at = now + RETRY_TIME
            return False
        self._short = False
        return True


@final
class Check:
    """A connection whose token is to be checked."""

    __slots__ = ("connection", "deadline", "stay")

    def __init__(self, connection: Connection, stay: Stay, deadline: float) -> None:
        self.connection: Final = connection
        self.stay: Final = stay
        self.deadline: Final = deadline


@final
class Checks:
    """Those whose tokens are checked, which may take its time: so many threads do it, the others wait. Thread-safe."""

    def __init__(
        self,
        watcher: Watcher,
        limit: int,
        start: Callable[[Callable[[], None]], None],
        overdue: Callable[[Check], None],
    ) -> None:
        """
        Args:
            watcher: Ends those whose time is over, those too that are being checked.
            limit: How many are checked at a time.
            start: Runs a function in a thread of its own. Raises ``RuntimeError`` where there is none.
            overdue: Ends one whose time is over; must not block.
        """
        self.watched = False
        self._watcher = watcher
        self._limit = limit
        self._start = start
        self._overdue = overdue
        self._lock = threading.Lock()
        self._running = 0
        self._all: Threshold[Check] = Threshold()
        self._waiting: deque[tuple[Check, Callable[[], None]]] = deque()

    def add(self, check: Check, body: Callable[[], None]) -> None:
        """Have one checked, now or as soon as a thread is done.

        Args:
            check: The one.
            body: Checks it, and calls :meth:`done` when it has.

        Raises:
            RuntimeError: There is no thread.
        """
        with self._lock:
            at_once = self._running < self._limit
            self._running += at_once
            oldest = self._all.enter(check)
            if not at_once:
                self._waiting.append((check, body))
        if oldest is not None:
            oldest.connection.end(ConnectionLost("too many connections shake hands with the server at a time"))
        if at_once:
            try:
                self._start(body)
            except RuntimeError:
                self.done(check)
                raise
        self._watcher.watch(self)

    def done(self, check: Check) -> None:
        """It is known who one is, or that he is nobody: it is the turn of the next one."""
        with self._lock:
            self._all.leave(check)
            self._running -= 1
        while True:
            with self._lock:
                if not self._waiting or self._running >= self._limit:
                    return
                following, body = self._waiting.popleft()
                if following not in self._all or following.connection.ended:
                    self._all.leave(following)
                    continue
                self._running += 1
            try:
                self._start(body)
            except RuntimeError:
                logger.warning("no thread could be started for %s: it was cut off", following.stay.peer)
                following.connection.end(ConnectionLost("no thread could be started"))
                with self._lock:
                    self._all.leave(following)
                    self._running -= 1

    def look(self, now: float) -> float | None:
        """See :class:`typedrpc.sync.watcher.Watched`."""
        while True:
            with self._lock:
                first = self._all.first
                if first is None or (first.deadline > now and not first.connection.ended):
                    return None if first is None else first.deadline - now
                self._all.leave(first)
                self._waiting = deque(waiting for waiting in self._waiting if waiting[0] is not first)
            if not first.connection.ended:
                self._overdue(first)
