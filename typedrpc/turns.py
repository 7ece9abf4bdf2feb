"""So many handlers at a time, in order of arrival: for what may not be run by two threads at once."""

from collections import deque
from collections.abc import Callable
from threading import Lock
from typing import Final, final


@final
class Turns:
    """Hands out turns, one to each handler that runs. Nobody waits in here, and nobody overtakes. Thread-safe."""

    __slots__ = ("_free", "_line", "_lock")

    def __init__(self, limit: int) -> None:
        """
        Args:
            limit: Turns that there are.

        Raises:
            ValueError: It is no number from 1 up.
        """
        if type(limit) is not int or limit < 1:
            raise ValueError(f"max_concurrent must be None or a number of handlers from 1 up, not {limit!r}")
        self._lock = Lock()
        self._free = limit  # 0 while somebody stands in line
        self._line: Final[deque[Callable[[], bool]]] = deque()

    def take(self, go: Callable[[], bool]) -> bool:
        """Take a turn, or stand in line for one.

        Args:
            go: Called when it is this one's turn, in the thread of whoever gives his back; must not block. Returns
                whether the turn is still wanted.

        Returns:
            Whether it has a turn at once; then ``go`` is not called.
        """
        with self._lock:
            if self._free:
                self._free -= 1
                return True
            self._line.append(go)
            return False

    def give_back(self) -> None:
        """A handler has ended: it is the next one's turn."""
        while True:
            with self._lock:
                if not self._line:
                    self._free += 1
                    return
                go = self._line.popleft()
            if go():
                return
