"""Functions that went with a call as arguments: what one side has offered the other to call back.

A callback is known to both sides by the call that it went with and its index there. The side that has the function
keeps it until the other one drops it, or the connection ends.
"""

from collections.abc import Sequence
from threading import Lock
from typing import Any, Final, NamedTuple, TypeAlias, final

ALL_CALLBACKS: Final = 0xFFFF
"""Stands for the indices of all callbacks of a call."""

Offers: TypeAlias = Sequence[Any]
"""What goes with one call, in the order of the indices: what the dispatcher makes a row of."""


@final
class Group:
    """The callbacks that went with one call.

    Attributes:
        offers: Index to callback; those that were dropped are missing.
        waiter: The thread that waits for the call, while one does: it runs them.
        series: For the I/O layer, which runs them one after another where no thread waits.
    """

    __slots__ = ("offers", "series", "waiter")

    def __init__(self, offers: Offers, waiter: Any) -> None:
        self.offers: Final[dict[int, Any]] = {index: offer for index, offer in enumerate(offers) if offer is not None}
        self.waiter = waiter
        self.series: Any = None


class Found(NamedTuple):
    """A callback that the peer calls, and its group. It is run, whatever the peer drops meanwhile."""

    group: Group
    offer: Any


@final
class Callbacks:
    """What this side has offered on one connection. Thread-safe.

    Attributes:
        groups: The id of the call to what went with it.
    """

    __slots__ = ("_ended", "_lock", "groups")

    def __init__(self) -> None:
        self.groups: Final[dict[int, Group]] = {}
        self._lock = Lock()
        self._ended = False

    def offer(self, call: int, offers: Offers, waiter: Any = None) -> Group:
        """Callbacks are about to go with a call."""
        group = Group(offers, waiter)
        with self._lock:
            if not self._ended:
                self.groups[call] = group
        return group

    def withdraw(self, call: int) -> None:
        """The call was not sent."""
        self.groups.pop(call, None)

    def release(self, call: int, index: int) -> None:
        """The peer has dropped a callback, or all of a call; what it does not have is ignored."""
        with self._lock:
            group = self.groups.get(call)
            if group is not None:
                group.offers.pop(index, None)
                if index == ALL_CALLBACKS or not group.offers:
                    del self.groups[call]

    def find(self, call: int, index: int) -> Found | None:
        """A callback; None if it was dropped or never was."""
        group = self.groups.get(call)
        offer = None if group is None else group.offers.get(index)
        return None if group is None or offer is None else Found(group, offer)

    def forsake(self) -> None:
        """In a forked child: the lock may be held by a thread that is not here."""
        self._lock = Lock()
        self._ended = True
        self.groups.clear()

    def end(self) -> None:
        """The connection has ended: nobody calls back any more."""
        with self._lock:
            self._ended = True
            self.groups.clear()
