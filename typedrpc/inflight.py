"""Calls that wait for their outcome: call id to an opaque token of the I/O layer, with deadlines as data.

Not thread-safe by itself: the owner guards :meth:`InFlight.insert`. What gives an id and what removes a call is one
operation of a counter and of a dict, so that no two threads get the same.
"""

from collections.abc import Container
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Final, Generic, TypeVar

TokenT = TypeVar("TokenT")

MAX_CALL: Final = 0xFFFF_FFFF


class InFlight(Generic[TokenT]):
    """The in-flight table of one side of a connection."""

    __slots__ = ("_deadlines", "_first", "calls", "kept", "next_number")

    def __init__(self, first: int) -> None:
        """
        Args:
            first: The first id: 1 for the client, whose ids are odd, 2 for the server, whose ids are even.
        """
        self.calls: dict[int, TokenT] = {}
        self.kept: Container[int] = ()
        """Further ids that are still in use."""
        self._first = first
        self.next_number = count(first, 2).__next__
        """Gives the next id, or what :meth:`reuse` makes one of."""
        # May name calls that are done: an entry counts only while the table holds its call.
        self._deadlines: list[tuple[float, int]] = []

    def __len__(self) -> int:
        return len(self.calls)

    def new_id(self) -> int:
        """An id that no call in the table has, and that is not kept."""
        number = self.next_number()
        return number if number <= MAX_CALL else self.reuse(number)

    def reuse(self, number: int) -> int:
        """The same for a number above ``MAX_CALL``: the ids have begun anew, and some may be in use."""
        ids = (MAX_CALL - self._first) // 2 + 1
        while True:
            call = self._first + (number - self._first) % (2 * ids)
            if call not in self.calls and call not in self.kept:
                return call
            number = self.next_number()

    def insert(self, call: int, token: TokenT, deadline: float | None = None) -> None:
        """Register a call under an id from :meth:`new_id`.

        Args:
            call: The id.
            token: What :meth:`pop` gives back.
            deadline: When :meth:`expire` gives it back, on the owner's clock.
        """
        self.calls[call] = token
        if deadline is not None:
            heappush(self._deadlines, (deadline, call))
            if len(self._deadlines) > 2 * len(self.calls) + 64:
                self._deadlines = [entry for entry in self._deadlines if entry[1] in self.calls]
                heapify(self._deadlines)

    def get(self, call: int) -> TokenT | None:
        """What :meth:`pop` would give."""
        return self.calls.get(call)

    def pop(self, call: int) -> TokenT | None:
        """Remove a call; None when it is not (or no longer) there. The caller completes what it gets."""
        return self.calls.pop(call, None)

    def pop_all(self) -> list[tuple[int, TokenT]]:
        """Remove every call, and give each with its token: the connection ended, each must learn it."""
        calls = []
        while self.calls:
            try:
                calls.append(self.calls.popitem())
            except KeyError:  # somebody else took the last one
                break
        self._deadlines.clear()
        return calls

    def next_deadline(self) -> float | None:
        """When :meth:`expire` has something to do next."""
        while self._deadlines and self._deadlines[0][1] not in self.calls:
            heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def expire(self, now: float) -> list[tuple[int, TokenT]]:
        """Remove the calls whose deadline has passed; each with its token."""
        expired = []
        while self._deadlines and self._deadlines[0][0] <= now:
            call = heappop(self._deadlines)[1]
            token = self.pop(call)
            if token is not None:
                expired.append((call, token))
        return expired
