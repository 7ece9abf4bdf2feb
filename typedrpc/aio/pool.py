"""The threads in which an event loop has plain handlers run: so many at a time, in the order in which they came."""

from collections import deque
from collections.abc import Callable
from functools import partial
from threading import Lock
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
        self._free = max(1, limit)
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
            if not self._free:
                if may_wait:
                    self._line.append(job)
                return may_wait
            self._free -= 1
        try:
            self._workers.start(partial(self._work, job))
        except RuntimeError:
            with self._lock:
                self._free += 1
            raise
        return True

    def _work(self, job: Callable[[], None]) -> None:
        while True:
            try:
                job()
            except BaseException:
                self._give_back()
                raise
            with self._lock:
                if not self._line:
                    self._free += 1
                    return
                job = self._line.popleft()

    def _give_back(self) -> None:
        with self._lock:
            self._free += 1
            job = self._line.popleft() if self._line else None
        if job is not None:
            self.run(job, may_wait=True)
