"""Threads to lend, and the watcher that notices when a connection needs one.

The thread that reads a request runs its handler, which is the fastest there is as long as handlers are quick. When one
is not, nobody reads its connection meanwhile. The watcher looks at such connections every few milliseconds and lends
them a thread when there is something to do; it sleeps while no handler runs.
"""

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Final, NamedTuple, Protocol, final

from typedrpc.transport import LONGEST_WAIT

logger = logging.getLogger("typedrpc")

TICK: Final = 0.004
"""Seconds between two looks at a connection that nobody reads."""

QUICK_TICK: Final = 0.001
QUICK_TICKS: Final = 20
"""After a lend the watcher looks more often for a while: where one handler is slow, more are likely to come."""

MAX_WORKERS: Final = 64
"""Threads that one side may lend, unless it is told another number."""

LINGER: Final = 1.0
"""Seconds that a thread without work waits for more before it ends."""


def check_counts(*, max_depth: int, max_workers: int) -> None:
    """Check what a server and a client are given.

    Raises:
        ValueError: One is out of range.
    """
    if type(max_workers) is not int or max_workers < 0:
        raise ValueError(f"max_workers must be a number of threads from 0 up, not {max_workers!r}")
    if type(max_depth) is not int or max_depth < 1:
        raise ValueError(f"max_depth must be a number of calls from 1 up, not {max_depth!r}")


class _Job(NamedTuple):
    body: Callable[[], None]
    lent: bool


@final
class Workers:
    """Starts threads for connections, and lends some of them again.

    Threads are daemons, so that a handler that never ends does not keep the process alive.
    """

    def __init__(self, name: str, limit: int) -> None:
        """
        Args:
            name: Begins the names of the threads.
            limit: Threads that may be lent at a time, on top of the one that each connection has.
        """
        self._name = name
        self._limit = limit
        self._lock = threading.Lock()
        self._work_or_end = threading.Condition(self._lock)
        self._waiting: deque[_Job] = deque()
        self._idle = 0
        self._lent = 0
        self._number = 0
        self._closed = False
        self._exhausted = False  # and the log says so
        self._threads: set[threading.Thread] = set()
        self._tasks = 0
        self.loop_thread: int | None = None
        """The thread that runs tasks, by its ident."""

    def start(self, body: Callable[[], None]) -> None:
        """Run ``body`` in a thread of its own, beyond the limit.

        Raises:
            RuntimeError: The system has no more threads.
        """
        with self._lock:
            self._run(_Job(body, lent=False))

    def lend(self, body: Callable[[], None]) -> bool:
        """Run ``body`` in a lent thread. Returns whether there was one."""
        with self._lock:
            if self._closed:
                return False
            if self._lent >= self._limit:
                if not self._exhausted:
                    self._exhausted = True
                    logger.warning(
                        "all %d threads that may be lent are busy: calls wait until a handler ends. Handlers that call "
                        "this side again may wait for ever; raise max_workers or give those calls a time-out",
                        self._limit,
                    )
                return False
            self._exhausted = False
            self._lent += 1
            try:
                self._run(_Job(body, lent=True))
            except RuntimeError:  # as good as none to lend
                logger.warning("no thread could be started; calls wait until one is free")
                self._lent -= 1
                return False
            return True

    def _run(self, job: "_Job") -> None:
        """Have a thread that waits for work do it, or a new one. The lock is held."""
        if self._idle > len(self._waiting) and not self._closed:
            self._waiting.append(job)
            self._work_or_end.notify()
            return

        first = [job]

        def run() -> None:
            try:
                self._serve(first.pop())
            finally:
                with self._lock:
                    self._threads.discard(thread)

        self._number += 1
        thread = threading.Thread(target=run, name=f"{self._name}-{self._number}", daemon=True)
        try:
            self._threads.add(thread)
            thread.start()
        except BaseException:
            self._threads.discard(thread)
            raise

    def _serve(self, job: "_Job | None") -> None:
        while job is not None:
            lent = job.lent
            try:
                job.body()
            except BaseException:
                with self._lock:
                    self._lent -= lent
                raise
            job = None  # what it has done is not kept while it waits for more
            job = self._next(lent)

    def _next(self, lent: bool) -> "_Job | None":
        with self._lock:
            # Counted out and idle in one step: who lends in between would start a further thread.
            self._lent -= lent
            self._idle += 1
            try:
                if not self._waiting and not self._closed:
                    self._work_or_end.wait(LINGER)
                return self._waiting.popleft() if self._waiting else None
            finally:
                self._idle -= 1

    def task_began(self) -> None:
        """A task on an event loop works for a connection too."""
        with self._lock:
            self._tasks += 1

    def task_ended(self) -> None:
        """It has ended."""
        with self._lock:
            self._tasks -= 1
            if self._closed:
                self._work_or_end.notify_all()

    def close(self, timeout: float) -> int:
        """Wait until all threads have ended, except the calling one, and all tasks.

        Args:
            timeout: Seconds to wait at most.

        Returns:
            How many are still running.
        """
        with self._lock:
            self._closed = True
            self._work_or_end.notify_all()
            threads = self._threads - {threading.current_thread()}
        deadline = monotonic() + timeout
        for thread in threads:
            thread.join(max(0.0, deadline - monotonic()))
        with self._lock:
            if threading.get_ident() != self.loop_thread:  # otherwise one of them waits here
                self._work_or_end.wait_for(lambda: not self._tasks, max(0.0, deadline - monotonic()))
            return sum(thread.is_alive() for thread in threads) + self._tasks


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
            pause: float | None = None
            for connection in tuple(active):
                # Cleared first, looked at then: a thread that starts a handler does it the other way round, so that
                # one of the two sees the other.
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
