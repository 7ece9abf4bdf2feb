"""The threads in which an event loop has plain handlers run: so many at a time, in the order in which they came."""

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from threading import Lock, get_ident
from typing import Final, final

from typedrpc.common.workers import Workers

STALL_TIME: Final = 0.1
"""Seconds without a thread that became free, after which what must not wait for one of these is refused."""


@final
class Pool:
    """Runs functions in threads. Thread-safe; nobody waits in here."""

    def __init__(self, workers: Workers, limit: int) -> None:
        """
        Args:
            workers: Has the threads.
            limit: How many may be busy at a time; there is always one.
        """
        self._workers = workers
        self._free = max(1, limit)  # less than none where somebody who had stepped aside has come back
        self._idents: set[int] = set()
        self._lock = Lock()
        self._line: deque[Callable[[], None]] = deque()
        self._first: deque[Callable[[], None]] = deque()
        self._ended = 0  # functions that have

    @property
    def is_wanted(self) -> bool:
        """Whether somebody stands in line."""
        return bool(self._line or self._first)

    def run(self, job: Callable[[], None]) -> None:
        """Have a function run, now or when a thread is free.

        Args:
            job: Raises nothing.

        Raises:
            RuntimeError: The system has no more threads, and none of these is busy.
        """
        self._run(job, self._line)

    def run_first(self, job: Callable[[], None], refuse: Callable[[], None], loop: asyncio.AbstractEventLoop) -> None:
        """Have a function run before all that stands in line, or refuse it: all threads may be waiting for it.

        Args:
            job: Raises nothing.
            refuse: Called on the loop instead, when no thread has become free for a while.
            loop: The loop.

        Raises:
            RuntimeError: As above.
        """
        ended = self._ended
        if not self._run(job, self._first):
            loop.call_soon_threadsafe(self._look_later, job, refuse, loop, ended)

    def _run(self, job: Callable[[], None], line: deque[Callable[[], None]]) -> bool:
        """Run a function, or have it stand in a line. Returns whether it did not have to."""
        with self._lock:
            if self._free <= 0:
                line.append(job)
                return False
            self._free -= 1
        try:
            self._workers.start(partial(self._work, job))
        except RuntimeError:
            with self._lock:
                self._free += 1
            raise
        return True

    def _look_later(
        self, job: Callable[[], None], refuse: Callable[[], None], loop: asyncio.AbstractEventLoop, ended: int
    ) -> None:
        loop.call_later(STALL_TIME, self._look, job, refuse, loop, ended)

    def _look(
        self, job: Callable[[], None], refuse: Callable[[], None], loop: asyncio.AbstractEventLoop, ended: int
    ) -> None:
        """Refuse a function that still waits, if no other one has ended meanwhile."""
        with self._lock:
            if job not in self._first:
                return
            now = self._ended
            if now == ended:
                self._first.remove(job)
        if now == ended:
            refuse()
        else:
            self._look_later(job, refuse, loop, now)

    def step_aside(self) -> Callable[[], None]:
        """If this is one of the threads, let another one run in its place, until what is returned is called."""
        if get_ident() not in self._idents:
            return lambda: None
        self._give_back()

        def take_back() -> None:
            with self._lock:
                self._free -= 1

        return take_back

    def _work(self, job: Callable[[], None]) -> None:
        ident = get_ident()
        self._idents.add(ident)
        try:
            self._work_off(job)
        finally:
            self._idents.discard(ident)

    def _work_off(self, job: Callable[[], None]) -> None:
        while True:
            try:
                job()
            except BaseException:
                self._give_back()
                raise
            with self._lock:
                following = self._next()
                if following is None:
                    self._free += 1
                    return
                job = following

    def _next(self) -> Callable[[], None] | None:
        """What a thread is to run whose function has ended. The lock is held."""
        self._ended += 1
        line = self._first or self._line
        return line.popleft() if line and self._free >= 0 else None

    def _give_back(self) -> None:
        """Let another thread have the place of this one."""
        with self._lock:
            is_first = bool(self._first)
            job = self._next()
            if job is None:
                self._free += 1
                return
        try:
            self._workers.start(partial(self._work, job))  # which has the place
        except RuntimeError:  # no thread now: it goes on waiting, as the first
            with self._lock:
                (self._first if is_first else self._line).appendleft(job)
                self._free += 1
