"""Credit: how much of a stream may be on its way, so that who produces waits for who consumes.

A stream of one call goes one way. At one end its :class:`Inflow` keeps what came and was not taken yet, at the other
its :class:`Outflow` knows how much more the peer takes. Each counter has one writer: the thread that reads the
connection, or the one that consumes or produces; so none needs a lock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final, final

from typedrpc.codec import Payload, Segmented
from typedrpc.parts import PART_OVERHEAD, pack_parts, split_parts
from typedrpc.wire import Buffer, payload_size

FIRST_CREDIT: Final = 64 * 1024
"""Bytes of items that may be sent before the consumer has taken any. One frame may overdraw what is left."""

MAX_WINDOW: Final = 1024 * 1024
"""Bytes that may be on their way to a consumer that keeps pace: the window doubles up to this each time it is used."""


MAX_GROWING: Final = 64
"""Calls with streams up to which windows grow: so those of many streams do not add up to more than may be held."""


def _nobody() -> None:
    """Nobody is to be told."""


@final
class Inflow:
    """A stream that the peer sends.

    Attributes:
        ended: Nothing will come after what is here.
        closed: Nobody wants more of it: what comes is dropped.
        failure: Where the producer failed, the payload that says how.
        lost: The stream has not come to its end, but the call or the connection has.
        notify: Called by who reads, when something came or the stream has ended. It must not block.
    """

    __slots__ = (
        "_frames",
        "_granted",
        "_received",
        "_taken",
        "_window",
        "closed",
        "ended",
        "failure",
        "lost",
        "notify",
    )

    def __init__(self) -> None:
        self._frames: Final[deque[Payload]] = deque()
        self._received = 0  # written by who reads the connection
        self._granted = FIRST_CREDIT  # this and the next two by who consumes
        self._taken = 0
        self._window = FIRST_CREDIT
        self.ended = False
        self.closed = False
        self.failure: Payload | None = None
        self.lost = False
        self.notify: Callable[[], None] = _nobody

    @property
    def held(self) -> int:
        """Bytes that came and were not taken yet; of a stream that nobody wants, none is kept."""
        return 0 if self.closed else self._received - self._taken

    def receive(self, payload: Payload) -> bool:
        """Items came. Returns False where they must not have: the credit was used up."""
        if self._received >= self._granted:
            return False
        size = payload_size(payload)
        self._received += size
        if self.closed:
            self._taken += size
        else:
            self._frames.append(payload)
        self.notify()
        return True

    def end(self, failure: Payload | None = None, *, lost: bool = False) -> None:
        """The last item has come, or no more can come.

        Args:
            failure: Where the producer failed, the payload that says how.
            lost: The connection or the call has ended, and not the stream.
        """
        self.failure = failure
        self.lost = lost
        self.ended = True
        self.notify()

    def take(self) -> tuple[Payload | None, bool]:
        """The next payload of items, None while there is none; and whether nothing comes after it."""
        # In this order: who ends the stream has added the last items before.
        ended = self.ended
        try:
            payload = self._frames.popleft()
        except IndexError:
            return None, ended
        self._taken += payload_size(payload)
        return payload, False

    def grant(self, *, grows: bool = True) -> int:
        """How many bytes more the producer is to be told that it may send; 0 while that is not worth a message.

        Args:
            grows: Whether more may be on its way than before.
        """
        if self.ended or self.closed or self._granted - self._taken > self._window // 2:
            return 0
        if grows:
            self._window = min(2 * self._window, MAX_WINDOW)
        more = self._taken + self._window - self._granted
        self._granted += more
        return more

    def close(self) -> None:
        """Nobody wants more of it."""
        self.closed = True
        self._frames.clear()


@final
class Outflow:
    """A stream that this side sends.

    Attributes:
        stopped: The peer wants no more of it, or the call is over.
        notify: Called by who reads, when the peer takes more or wants no more. It must not block.
    """

    __slots__ = ("_granted", "_sent", "notify", "stopped")

    def __init__(self) -> None:
        self._granted = FIRST_CREDIT  # written by who reads the connection
        self._sent = 0  # written by who produces
        self.stopped = False
        self.notify: Callable[[], None] = _nobody

    @property
    def may_send(self) -> bool:
        """Whether another frame may be sent."""
        return self._sent < self._granted

    def sent(self, payload: Payload) -> None:
        """A frame of items was sent."""
        self._sent += payload_size(payload)

    def grant(self, more: int) -> None:
        """The peer takes so many bytes more."""
        self._granted += more
        self.notify()

    def stop(self) -> None:
        """The peer wants no more, or the call is over."""
        self.stopped = True
        self.notify()


BATCH_SIZE: Final = 16 * 1024
"""Bytes of items that leave together at most, unless one is larger."""

MAX_ITEMS: Final = 1024
"""Items that leave together at most."""


@final
class ItemBatch:
    """Items of a stream that are packed and not sent yet. Not thread-safe by itself.

    Attributes:
        size: Bytes of their payload.
    """

    __slots__ = ("_bodies", "_limit", "size")

    def __init__(self, limit: int) -> None:
        """
        Args:
            limit: The largest payload that the peer accepts.
        """
        self._bodies: list[Buffer] = []
        self._limit = min(limit, BATCH_SIZE)
        self.size = PART_OVERHEAD

    def __bool__(self) -> bool:
        return bool(self._bodies)

    def has_room(self, body: Payload) -> bool:
        """Whether this item may leave with those that are here; large ones with segments leave alone."""
        if isinstance(body, Segmented):
            return False
        return self.size + len(body) + PART_OVERHEAD <= self._limit and len(self._bodies) < MAX_ITEMS

    def add(self, body: Payload) -> None:
        """Add an item that has room; without others here, any."""
        assert not isinstance(body, Segmented), "it leaves alone"
        self._bodies.append(body)
        self.size += len(body) + PART_OVERHEAD

    def take(self) -> bytes:
        """The payload of all that are here, which are not here any more."""
        payload = pack_parts(self._bodies)
        self._bodies = []
        self.size = PART_OVERHEAD
        return payload


def alone(body: Payload) -> Payload:
    """The payload of one item."""
    if isinstance(body, Segmented):
        return Segmented(pack_parts([body.body]), body.segments)
    return pack_parts([body])


def items_of(payload: Payload) -> list[Any] | str:
    """The packed items in a payload; a sentence where it is malformed."""
    if not isinstance(payload, Segmented):
        return split_parts(payload)
    parts = split_parts(payload.body)
    if isinstance(parts, str):
        return parts
    return [Segmented(parts[0], payload.segments)] if len(parts) == 1 else f"{len(parts)} items with segments"
