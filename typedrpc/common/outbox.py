"""What waits to be written on a connection, and what of it is written next."""

import contextlib
from collections import deque
from typing import Final, final

from typedrpc.lanes import Lanes, is_large, size_of
from typedrpc.protocol import Outgoing
from typedrpc.wire import CHUNK_SIZE, Buffer, copied

BATCH_SIZE: Final = 128 * 1024
"""Small buffers are joined up to about so many bytes before they are written."""

CUT_FROM: Final = CHUNK_SIZE
"""Bytes from which on a frame in one buffer is looked at, whether it is to leave in pieces."""

QUEUED_BYTES: Final = 64 * 1024 * 1024
"""Bytes that may wait to be written before one-way calls and answers wait too."""

QUEUED_FRAMES: Final = 4096
"""Frames that may, whatever their size."""

STALL_TIME: Final = 60.0
"""Seconds without a byte going out after which a peer that does not read is cut off."""


class Rest(tuple[Buffer, ...]):
    """What is left of a write that was cut, which is no whole frame. Only ever the first in the queue.

    It may be empty: then it stands for the messages that are on their way in pieces, where the pen is free although
    they are not complete.
    """

    __slots__ = ()


@final
class Outbox:
    """The frames that wait, whole and in order; large messages are taken in pieces, see :mod:`typedrpc.lanes`.

    Appending to the queue may be done by anybody; the rest belongs to who writes.

    Attributes:
        queue: What waits, after the rest of a write that was cut.
        lanes: The messages that are on their way in pieces.
    """

    __slots__ = ("lanes", "queue")

    def __init__(self) -> None:
        self.queue: Final[deque[Outgoing]] = deque()
        self.lanes: Final = Lanes()

    def take(self) -> list[Buffer]:
        """What to write next, in order, with small buffers joined; empty when there is nothing."""
        if self.lanes.busy:
            return self._take_turn()
        small: list[Buffer] = []
        size = 0
        while self.queue and size < BATCH_SIZE:
            try:
                item = self.queue.popleft()
            except IndexError:  # emptied meanwhile, as the connection has ended
                break
            if type(item) is Rest:
                return [*item]
            if (isinstance(item, tuple) or len(item) > CUT_FROM) and is_large(item):
                self.lanes.admit(item)
                return [*_joined(small), *self.lanes.take()]
            if isinstance(item, tuple):
                return _joined(small, item)
            small.append(item)
            size += len(item)
        return _joined(small)

    def _take_turn(self) -> list[Buffer]:
        """The same while large messages are on their way: what may pass them, and a piece of one."""
        lanes = self.lanes
        small: list[Buffer] = []
        size = 0
        with contextlib.suppress(IndexError):  # emptied meanwhile, as the connection has ended
            while self.queue and isinstance(rest := self.queue[0], Rest):
                self.queue.popleft()
                if rest:
                    return [*rest]
            while size < BATCH_SIZE and (lanes.free or self.queue):
                if lanes.free:
                    item = lanes.free.popleft()
                else:
                    item = self.queue.popleft()
                    if not lanes.admit(item):
                        continue
                if isinstance(item, tuple):
                    return _joined(small, item)
                small.append(item)
                size += len(item)
        buffers = _joined(small)
        # What is free goes before any piece, which may have waited for it.
        if lanes.busy and not lanes.free:
            buffers += lanes.take()
        return buffers

    def own(self) -> None:
        """Let nothing wait that may be changed. The pen is held: nobody else takes anything out.

        Others only add, and what they add without the pen is a copy already.
        """
        self.lanes.own(copied)
        with contextlib.suppress(IndexError):  # emptied meanwhile, as the connection has ended
            for index in range(len(self.queue)):
                item = self.queue[index]
                if isinstance(item, tuple):
                    self.queue[index] = copied(item)

    @property
    def frames(self) -> int:
        """Frames that wait, without those that are on their way."""
        return len(self.queue) + self.lanes.frames

    def size(self) -> int:
        """Bytes that wait, without messages that are on their way; an estimate while others append."""
        return self.lanes.held + sum(map(size_of, self.queue.copy()))

    @property
    def full(self) -> bool:
        """More than a fair amount waits to be written."""
        if not self.queue and not self.lanes.held:
            return False
        return self.frames > QUEUED_FRAMES or self.size() > QUEUED_BYTES

    def clear(self) -> None:
        """Nothing is written any more."""
        self.queue.clear()
        self.lanes.clear()


def _joined(small: list[Buffer], frame: tuple[Buffer, ...] = ()) -> list[Buffer]:
    """Small buffers in one, with the first of a frame in several: it is its head, the rest are not worth a copy."""
    if frame:
        return [b"".join([*small, frame[0]]) if small else frame[0], *frame[1:]]
    return [b"".join(small)] if len(small) > 1 else small
