"""Who may connect: how many connections one address may have, and how many may shake hands at a time."""

import logging
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any, Final, Generic, TypeVar, final

logger = logging.getLogger("typedrpc")

WhoT = TypeVar("WhoT")

MAX_GREETING: Final = 1024
"""Connections that may shake hands with a server at a time."""

TELL_TIME: Final = 60.0
"""Seconds between two lines of the log about the same address, or the same lack."""

MAX_TOLD: Final = 1024
"""Addresses of which it is kept when the log had a line about them."""


def check_max_per_address(max_per_address: int | None) -> None:
    """
    Raises:
        ValueError: It is neither None nor a number from 1 up.
    """
    if max_per_address is not None and (type(max_per_address) is not int or max_per_address < 1):
        raise ValueError(f"max_per_address must be None or a number from 1 up, not {max_per_address!r}")


@final
class Place:
    """One connection among those of its address.

    Attributes:
        since: When it came, on the monotonic clock.
        cut: Cuts it off, for who finds it among those who shake hands.
    """

    __slots__ = ("_arrivals", "_host", "cut", "since")

    def __init__(self, arrivals: "Arrivals", host: str) -> None:
        self._arrivals = arrivals
        self._host = host
        self.cut: Callable[[], object] = lambda: None
        self.since: Final = monotonic()

    def leave(self) -> None:
        """The connection is over. May be called again."""
        host, self._host = self._host, ""
        if host:
            self._arrivals.leave(host)


@final
class Arrivals:
    """Counts the connections of each address. Thread-safe."""

    def __init__(self, limit: int | None) -> None:
        """
        Args:
            limit: Connections that one address may have at a time; None for any number.
        """
        self._limit = limit
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {}
        self._told: dict[str, float] = {}

    def admit(self, where: Any) -> Place | None:
        """A connection came; None where its address has so many already. Then the log has a line, once a minute.

        Args:
            where: Its address, as ``accept`` of a socket tells it. A unix socket has none, and no limit.
        """
        host = where[0] if isinstance(where, tuple) else ""
        if not host or self._limit is None:
            return Place(self, "")
        with self._lock:
            count = self._counts.get(host, 0)
            if count < self._limit:
                self._counts[host] = count + 1
                return Place(self, host)
            is_news = self._is_news(host)
        if is_news:
            logger.warning("%s has %d connections, which is the limit: further ones are closed", host, count)
        return None

    def leave(self, host: str) -> None:
        """A connection of an address is over."""
        with self._lock:
            left = self._counts[host] - 1
            if left:
                self._counts[host] = left
            else:
                del self._counts[host]

    def forsake(self) -> None:
        """In a forked child: the lock may be held by a thread that is not here."""
        self._lock = threading.Lock()

    def _is_news(self, host: str) -> bool:
        now = monotonic()
        if now - self._told.get(host, -TELL_TIME) < TELL_TIME:
            return False
        self._told.pop(host, None)
        if len(self._told) >= MAX_TOLD:
            del self._told[next(iter(self._told))]
        self._told[host] = now
        return True


@final
class Threshold(Generic[WhoT]):
    """Those who shake hands now, in the order in which they came. Not thread-safe."""

    def __init__(self, limit: int = MAX_GREETING) -> None:
        """
        Args:
            limit: How many there may be.
        """
        self._limit = limit
        self._who: dict[WhoT, None] = {}
        self._told = -TELL_TIME

    def __len__(self) -> int:
        return len(self._who)

    def __contains__(self, who: WhoT) -> bool:
        return who in self._who

    @property
    def first(self) -> WhoT | None:
        """Who came first of those who are here."""
        return next(iter(self._who), None)

    def enter(self, who: WhoT) -> WhoT | None:
        """Somebody comes.

        Returns:
            Who has to make way: who has been here longest, where there are too many. Those who mean well are here for a
            moment only; so many who do not cannot keep them out. The log has a line, once a minute.
        """
        self._who[who] = None
        if len(self._who) <= self._limit:
            return None
        first = next(iter(self._who))
        del self._who[first]
        if (now := monotonic()) - self._told >= TELL_TIME:
            self._told = now
            logger.warning("more than %d connections shake hands at a time: the oldest are cut off", self._limit)
        return first

    def leave(self, who: WhoT) -> None:
        """Somebody is in, or gone."""
        self._who.pop(who, None)
