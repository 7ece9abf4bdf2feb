"""The watcher, which notices when a connection needs a thread.

The thread that reads a request runs its handler, which is the fastest there is as long as handlers are quick. When one
is not, nobody reads its connection meanwhile. The watcher looks at such connections every few milliseconds and lends
them a thread when there is something to do; it sleeps while no handler runs.
"""

import contextlib
import logging
import threading
from collections import deque
from time import monotonic
from typing import Final, Protocol, final

from typedrpc.transport import LONGEST_WAIT

logger = logging.getLogger("typedrpc")

TICK: Final = 0.004
"""Seconds between two looks at a connection that nobody reads."""

QUICK_TICK: Final = 0.001
QUICK_TICKS: Final = 20
"""After a lend the watcher looks more often for a while: where one handler is slow, more are likely to come."""


class Watched(Protocol):
    """What the watcher looks at: a connection.

    Attributes:
        watched: The watcher looks within a tick, so that nobody has to call :meth:`Watcher.watch`.
    """

    watched: bool

    def look(self, now: float) -> float | None:
        """Lend a thread, or let calls expire, where it is time to.

        Returns:
            Seconds until the next look; None when there is nothing to look for until it is watched again.
        """


@final
class Watcher:
    """One thread that looks at connections; started when it is first needed."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        # A lock, as nothing else may be set within a finalizer. Whoever finds it free has work to look for.
        self._wake = threading.Lock()
        self._wake.acquire()
        self._arrived: deque[Watched] = deque()
        self._thread: threading.Thread | None = None
        self._closed = False

    def watch(self, connection: Watched) -> None:
        """Look at a connection from now on, until its ``look`` says that it is not needed."""
        try:
            with self._lock:
                if self._closed:
                    return
                self._start()
                connection.watched = True
                self._arrived.append(connection)
            self._rouse()
        except BaseException:  # of a signal handler, perhaps: nobody may rely on a look that does not come
            connection.watched = False
            raise

    def start(self) -> None:
        """Start the thread, if it does not run."""
        if self._thread is None:
            with self._lock:
                if not self._closed:
                    self._start()

    def _start(self) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            thread.start()
            self._thread = thread

    def poke(self, connection: Watched) -> None:
        """Look at a connection that was watched before. May be called anywhere, within a finalizer too."""
        connection.watched = True
        self._arrived.append(connection)
        self._rouse()

    def _rouse(self) -> None:
        with contextlib.suppress(RuntimeError):  # it is awake already
            self._wake.release()

    def _run(self) -> None:
        active: set[Watched] = set()
        while not self._closed:
            while self._arrived:
                active.add(self._arrived.popleft())
            # In a function of its own, as what it looked at last is not to be kept while this thread waits.
            pause = _look_at(active)
            if not self._arrived:
                self._wake.acquire(timeout=-1 if pause is None else max(0.0, min(pause, LONGEST_WAIT)))

    def close(self) -> None:
        """End the thread and wait for it."""
        with self._lock:
            self._closed = True
            thread = self._thread
        self._rouse()
        if thread is not None and thread is not threading.current_thread():
            thread.join()


def _look_at(active: set[Watched]) -> float | None:
    """Look at each connection, and drop those that need it no more: when to look again, None for never."""
    pause: float | None = None
    for connection in tuple(active):
        # Cleared first, looked at then: a thread that starts a handler does it the other way round, so that one of the
        # two sees the other.
        connection.watched = False
        try:
            again = connection.look(monotonic())
        except Exception:  # there are no threads, for one: others are to be looked at all the same
            logger.exception("a connection could not be looked at; trying again")
            again = TICK
        if again is None:
            active.discard(connection)
        else:
            # Who finds it set relies on a look within a tick, not on one when some deadline passes.
            if again <= TICK:
                connection.watched = True
            pause = again if pause is None else min(pause, again)
    return pause
