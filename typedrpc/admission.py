"""Who may be in at a server that takes so many clients at a time, and who waits in line for a place.

No threads, no sockets: whoever serves the clients asks here and does what follows.
"""

from enum import Enum, auto
from typing import Final, Generic, Literal, TypeAlias, TypeVar, final

WhenFull: TypeAlias = Literal["refuse", "wait"]
"""What becomes of a client that finds all places taken."""

WhoT = TypeVar("WhoT")

MAX_WAITING: Final = 1024
"""Clients that may wait in line at a time."""


class Answer(Enum):
    """What a client is told that asks for a place."""

    IN = auto()
    """It has one."""
    WAIT = auto()
    """It stands in line."""
    FULL = auto()
    """There is none for it."""


@final
class Admission(Generic[WhoT]):
    """The places of a server, and the line before them.

    Not thread-safe: its owner has a lock.
    """

    def __init__(self, limit: int | None, when_full: WhenFull) -> None:
        """
        Args:
            limit: Places that there are; None for as many as there are clients.
            when_full: Whether a client that finds none stands in line.

        Raises:
            ValueError: One is neither.
        """
        if limit is not None and (type(limit) is not int or limit < 1):
            raise ValueError(f"max_clients must be None or a number of clients from 1 up, not {limit!r}")
        if when_full not in ("refuse", "wait"):
            raise ValueError(f'when_full must be "refuse" or "wait", not {when_full!r}')
        self.limit: Final = limit
        self._waits: Final = when_full == "wait"
        self._inside: dict[WhoT, None] = {}
        self._line: dict[WhoT, None] = {}  # in order of arrival

    @property
    def inside(self) -> int:
        """How many have a place."""
        return len(self._inside)

    @property
    def waiting(self) -> int:
        """How many stand in line."""
        return len(self._line)

    def ask(self, who: WhoT) -> Answer:
        """Somebody asks for a place. Whoever has one, or stands in line, leaves by :meth:`leave`."""
        # Nobody overtakes the line: while there is one, all places are taken.
        if self.limit is None or len(self._inside) < self.limit:
            self._inside[who] = None
            return Answer.IN
        if not self._waits or len(self._line) >= MAX_WAITING:
            return Answer.FULL
        self._line[who] = None
        return Answer.WAIT

    def step_out(self, who: WhoT) -> None:
        """Somebody waits no more. It keeps its place if it has one."""
        self._line.pop(who, None)

    def leave(self, who: WhoT) -> WhoT | None:
        """Somebody gives its place up, or its wait.

        Returns:
            Who has the place instead: the first in line.
        """
        self._line.pop(who, None)
        if who not in self._inside:
            return None
        del self._inside[who]
        if not self._line:
            return None
        first = next(iter(self._line))
        del self._line[first]
        self._inside[first] = None
        return first

    def why_full(self) -> str:
        """Why there is no place, in words: ``"1 of 1 clients are in"``."""
        line = f", and {self.waiting} wait" if self._line else ""
        return f"{self.inside} of {self.limit} clients are in{line}"
