"""Large messages that are on their way in pieces, and what must not pass them.

They take turns, a piece each, and smaller frames go in between. A frame must stay behind another one where the receiver
relies on their order: it **waits** for keys that earlier frames **hold**. Keys are numbers:

- the id of a call: everything that is sent about a call is in order, and with it what is called back of what came with
  the call, so that an answer never passes the callbacks that were called before it;
- minus the id of a call: held by calls that are nested in it, for which only what is said about that call waits;
- 0, for one-way calls, which are run in the order in which they were sent.

A goodbye passes nothing, as it ends what came before. Pings and pongs wait for nothing.

Headers are only looked at while a large message is on its way. Not thread-safe: it belongs to who has the pen.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, final

from typedrpc.messages import read_extension
from typedrpc.protocol import Outgoing
from typedrpc.wire import CHUNK_SIZE, HEADER_SIZE, MAY_BE_SPLIT, Buffer, Flag, Kind, Pieces, may_begin, unpack_header

_NOTIFY: Final = int(Kind.NOTIFY)
_GOODBYE: Final = int(Kind.GOODBYE)
_PINGS: Final = (int(Kind.PING), int(Kind.PONG))
_ONE_WAY: Final = 0


class _Place(NamedTuple):
    """A frame, what it waits for, and what it holds while it is not sent."""

    frame: Outgoing
    size: int
    """Of its payload."""
    may_be_split: bool
    waits: frozenset[int] | None
    """None: for everything."""
    holds: frozenset[int]


_NOTHING: Final = frozenset[int]()


def size_of(item: Outgoing) -> int:
    """Bytes of what waits to be written."""
    return sum(map(len, item)) if isinstance(item, tuple) else len(item)


def is_large(frame: Outgoing) -> bool:
    """Whether a frame is sent in pieces."""
    if size_of(frame) <= CHUNK_SIZE + HEADER_SIZE:
        return False
    return unpack_header(_head(frame))[1] in MAY_BE_SPLIT


@final
class Lanes:
    """The messages of a connection that are on their way in pieces, and the frames that wait for them.

    Attributes:
        free: Frames that waited, and may go now, before anything else.
        held: Bytes that wait for a message on its way.
        turns: The messages on their way, the next one first.
    """

    __slots__ = ("_announced", "_keys", "_waiting", "free", "held", "turns")

    def __init__(self) -> None:
        self.free: deque[Outgoing] = deque()
        self.held = 0
        self.turns: deque[tuple[Pieces, _Place]] = deque()
        self._waiting: deque[_Place] = deque()  # in the order in which they came
        self._keys: set[int] = set()  # that messages on their way and frames that wait hold
        self._announced = 0  # bytes of the messages on their way

    @property
    def busy(self) -> bool:
        """A message is on its way, or something is free to go."""
        return bool(self.turns or self.free)

    @property
    def frames(self) -> int:
        """Frames that wait for a message on its way, or may go now."""
        return len(self._waiting) + len(self.free)

    def admit(self, frame: Outgoing) -> bool:
        """Look at a frame, after all that came before it.

        Returns:
            Whether it may be written now. Otherwise it was taken: it is sent in pieces, or waits.
        """
        return self._admit(_place(frame))

    def take(self) -> list[Buffer]:
        """The next piece, of the message whose turn it is; there must be one, and nothing free."""
        pieces, place = self.turns.popleft()
        buffers = pieces.take()
        if pieces.left:
            self.turns.append((pieces, place))
        else:
            self._announced -= pieces.size
            self._look_again()
        return buffers

    def own(self, copied: Callable[[Sequence[Buffer]], tuple[Buffer, ...]]) -> None:
        """Let nothing wait that its owner may change.

        Args:
            copied: Gives buffers that nobody can change.
        """

        def owned(item: Outgoing) -> Outgoing:
            return copied(item) if isinstance(item, tuple) else item

        for pieces, _ in self.turns:
            pieces.own()
        self.free = deque(map(owned, self.free))
        self._waiting = deque(place._replace(frame=owned(place.frame)) for place in self._waiting)

    def clear(self) -> None:
        """Nothing is written any more."""
        self.free.clear()
        self.turns.clear()
        self._waiting.clear()
        self._keys.clear()
        self.held = self._announced = 0

    def _admit(self, place: _Place) -> bool:
        if self._is_blocked(place):
            pass
        elif not place.may_be_split:
            return True
        elif may_begin(place.size, len(self.turns), self._announced):
            self._announced += place.size
            self._keys |= place.holds
            frame = place.frame
            self.turns.append((Pieces(frame if isinstance(frame, tuple) else (frame,)), place._replace(frame=b"")))
            return False
        self._waiting.append(place)
        self._keys |= place.holds
        self.held += size_of(place.frame)
        return False

    def _is_blocked(self, place: _Place) -> bool:
        if place.waits is None:
            return bool(self.turns or self._waiting)
        return not self._keys.isdisjoint(place.waits)

    def _look_again(self) -> None:
        """A message is complete: some of what waits may go."""
        waiting, self._waiting = self._waiting, deque()
        self.held = 0
        self._keys = set().union(*(place.holds for _, place in self.turns))
        self.free.extend(place.frame for place in waiting if self._admit(place))


def _head(frame: Outgoing) -> Buffer:
    return frame[0] if isinstance(frame, tuple) else frame


def _place(frame: Outgoing) -> _Place:
    head = _head(frame)
    size, kind, flags, _, call = unpack_header(head)
    if kind in _PINGS:
        return _Place(frame, size, False, _NOTHING, _NOTHING)
    if kind == _GOODBYE:
        return _Place(frame, size, False, None, _NOTHING)
    waits, holds = ({call, -call}, {call}) if call else (set[int](), set[int]())
    if kind == _NOTIFY:
        waits.add(_ONE_WAY)
        holds.add(_ONE_WAY)
    if flags & Flag.EXTENSION:
        start = HEADER_SIZE + 2
        extras = read_extension(head[start : start + int.from_bytes(head[HEADER_SIZE:start])])
        if not isinstance(extras, str):
            if extras.target is not None:
                waits.add(extras.target[0])
                holds.add(extras.target[0])
            if extras.parent:
                holds.add(-extras.parent)
    split = size > CHUNK_SIZE and kind in MAY_BE_SPLIT
    return _Place(frame, size, split, frozenset(waits), frozenset(holds))
