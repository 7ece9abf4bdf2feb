"""What a server with threads does when some time has passed, without a thread that waits for it."""

import heapq
import itertools
import logging
import threading
from collections.abc import Callable
from time import monotonic
from typing import final

from typedrpc.sync.watcher import Watcher

logger = logging.getLogger("typedrpc")


@final
class Later:
    """Functions that the watcher calls when their time has come. Thread-safe."""

    def __init__(self, watcher: Watcher, limit: int) -> None:
        """
        Args:
            watcher: Calls them, so they must not block. One that is closed calls nothing any more.
            limit: How many may wait; further ones are called at once.
        """
        self.watched = False
        self._watcher = watcher
        self._limit = limit
        self._lock = threading.Lock()
        self._number = itertools.count()  # who comes first, of two whose time is the same
        self._waiting: list[tuple[float, int, Callable[[], None]]] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, seconds: float, action: Callable[[], None]) -> None:
        """Have something done after so many seconds."""
        with self._lock:
            has_room = len(self._waiting) < self._limit
            if has_room:
                heapq.heappush(self._waiting, (monotonic() + seconds, next(self._number), action))
        if has_room:
            self._watcher.watch(self)
        else:
            action()

    def look(self, now: float) -> float | None:
        """See :class:`typedrpc.sync.watcher.Watched`."""
        while True:
            with self._lock:
                if not self._waiting or self._waiting[0][0] > now:
                    return self._waiting[0][0] - now if self._waiting else None
                _, _, action = heapq.heappop(self._waiting)
            try:
                action()
            except Exception:
                logger.exception("what was to be done later failed")
