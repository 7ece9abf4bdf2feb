"""Threads to lend, a bounded number of them, and others beyond that."""

import logging
import threading
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Final, NamedTuple, final

logger = logging.getLogger("typedrpc")

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
