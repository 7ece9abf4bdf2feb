"""The threads in which an event loop has plain handlers run: so many at a time, in the order in which they came."""

from collections import deque
from collections.abc import Callable
from functools import partial
from threading import Lock, get_ident
from typing import final

from typedrpc.common.workers import Workers


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

    def run(self, job: Callable[[], None], *, may_wait: bool) -> bool:
        """Have a function run, now or when a thread is free.

        Args:
            job: Raises nothing.
            may_wait: Whether it may stand in line.

        Returns:
            False if it would have had to, and may not.

        Raises:
            RuntimeError: The system has no more threads, and none of these is busy.
        """
        with self._lock:
            if self._free <= 0:
                if may_wait:
                    self._line.append(job)
                return may_wait
            self._free -= 1
        try:
            self._workers.start(partial(self._work, job))
        except RuntimeError:
            with self._lock:
                self._free += 1
                if not self._line:
                    raise
            raise
        return True

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
                if not self._line or self._free < 0:
                    self._free += 1
                    return
                job = self._line.popleft()

    def _give_back(self) -> None:
        with self._lock:
            self._free += 1
            job = self._line.popleft() if self._line and self._free > 0 else None
        if job is not None:
            self.run(job, may_wait=True)
