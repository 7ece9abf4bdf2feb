"""How often something may be done: token buckets. No thread, and the clock is given."""

from collections.abc import Callable, Hashable
from threading import Lock
from time import monotonic
from typing import Final, final

MAX_RATED: Final = 4096
"""Clients of which it is kept how many calls they have made of late."""


def check_rate(max_rate: float | None) -> None:
    """
    Raises:
        ValueError: It is neither None nor a number above 0.
    """
    if max_rate is not None and not 0 < max_rate < float("inf"):
        raise ValueError(f"max_rate must be None or a number of calls a second above 0, not {max_rate!r}")


@final
class Bucket:
    """So many a second on average, and so many at once. Thread-safe.

    Attributes:
        rate: How many a second.
        most: How many at once.
    """

    __slots__ = ("_clock", "_left", "_lock", "_seen", "most", "rate")

    def __init__(self, rate: float, most: float, clock: Callable[[], float] = monotonic) -> None:
        """
        Args:
            rate: How many a second are given on average.
            most: How many are given at once after a while without any: 1 at least.
            clock: Tells the time in seconds.
        """
        self.rate: Final = rate
        self.most: Final = max(1.0, most)
        self._clock = clock
        self._lock = Lock()
        self._left = self.most
        self._seen = clock()

    def take(self) -> bool:
        """Whether one more may be done now; then it is counted."""
        with self._lock:
            now = self._clock()
            self._left = min(self.most, self._left + (now - self._seen) * self.rate)
            self._seen = now
            if self._left < 1.0:
                return False
            self._left -= 1.0
            return True

    def charge(self, count: int) -> None:
        """So many more were done, whatever was left: no further one is given before they are made up for."""
        with self._lock:
            self._left -= count


@final
class Rates:
    """The buckets of the clients of a server, which they keep when they come again. Thread-safe."""

    def __init__(self, max_rate: float | None, clock: Callable[[], float] = monotonic) -> None:
        """
        Args:
            max_rate: Calls a second that each may make; None for any number.
            clock: Tells the time in seconds.
        """
        self._max_rate = max_rate
        self._clock = clock
        self._lock = Lock()
        self._buckets: dict[Hashable, Bucket] = {}  # who came last is last

    def find(self, who: Hashable) -> Bucket | None:
        """The bucket of a client; None where there is no limit. Of too many, who has not come for longest is forgotten.

        Args:
            who: What is the same whenever it comes.
        """
        if self._max_rate is None:
            return None
        with self._lock:
            bucket = self._buckets.pop(who, None)
            if bucket is None:
                bucket = Bucket(self._max_rate, self._max_rate, self._clock)
                while len(self._buckets) >= MAX_RATED:
                    del self._buckets[next(iter(self._buckets))]
            self._buckets[who] = bucket
        return bucket

    def forsake(self) -> None:
        """In a forked child: the lock may be held by a thread that is not here."""
        self._lock = Lock()


@final
class CallRate:
    """The calls that a peer may make, and what becomes of those beyond.

    Attributes:
        dropped: One-way calls beyond, which nobody is told of.
        on_first_drop: Called when the first of them is dropped.
    """

    __slots__ = ("_bucket", "dropped", "on_first_drop")

    def __init__(self, bucket: Bucket) -> None:
        """
        Args:
            bucket: How many there may be.
        """
        self._bucket = bucket
        self.on_first_drop: Callable[[], None] = lambda: None
        self.dropped = 0

    def share(self, bucket: Bucket) -> None:
        """From now on what this peer does counts together with what is done by others that have this bucket."""
        self._bucket = bucket

    def may_call(self) -> bool:
        """Whether a further call may be made now; then it is counted."""
        return self._bucket.take()

    def charge(self, count: int) -> None:
        """It was a batch, with so many calls more. As a whole it may go beyond, and the next ones wait for that."""
        self._bucket.charge(count)

    def may_notify(self) -> bool:
        """The same of a one-way call; one that may not is counted as dropped."""
        if self._bucket.take():
            return True
        self.dropped += 1
        if self.dropped == 1:
            self.on_first_drop()
        return False

    @classmethod
    def of(cls, max_rate: float | None) -> "CallRate | None":
        """So many a second on average, and as many more at once as there are in a second; None for any number."""
        return None if max_rate is None else cls(Bucket(max_rate, max_rate))

    def why(self) -> str:
        """Why a call is refused, in words."""
        return f"more than {self._bucket.rate:g} calls a second, which is the limit"
