"""Frames on the wire: header, kinds, flags, limits and the reader that cuts a byte stream into frames.

Each side first sends the preamble, 8 bytes::

    +------+-----+-----+-----+-----+----+----+---------+
    | 0xD4 | 't' | 'R' | 'P' | 'C' | CR | LF | version |
    +------+-----+-----+-----+-----+----+----+---------+

The first byte is no ASCII and no UTF-8 start, so that no text protocol is mistaken for this one; CR LF shows a
transfer that rewrites line ends. Then come frames, each a header of 12 bytes, big-endian, and a payload::

     0         4      5       6         8         12
    +---------+------+-------+---------+---------+-----------------+
    | length  | kind | flags | command | call    | payload         |
    | u32     | u8   | u8    | u16     | u32     | `length` bytes  |
    +---------+------+-------+---------+---------+-----------------+

The payload, with what its flags announce, in this order::

    EXTENSION   u16 size | msgpack map of that size: what goes with the call beside its arguments
    SEGMENTS    u16 count | count x u32 size     | body | segment 1 | segment 2 ...

Without SEGMENTS the rest of the payload is the body. The size of the body is what the segments leave.

A message may travel in pieces, frames of the same kind, command and call, between which others may stand. All but the
last have the flag MORE; the first one's payload begins with the size of the whole, before everything else, and has the
message's other flags::

    MORE                    u32 size of the whole | EXTENSION | SEGMENTS | as much of the rest as there is room for
    MORE, or without it     what comes next

The normative text, which also says what each kind means, is ``docs/protocol.md``.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import IntEnum
from functools import partial
from io import BytesIO
from struct import Struct
from typing import Final, NamedTuple, TypeAlias, cast

from typedrpc.codec import MAX_SEGMENTS, Payload, Received, Segmented
from typedrpc.errors import ProtocolError

Buffer: TypeAlias = bytes | bytearray | memoryview

VERSION: Final = 1
MAGIC: Final = b"\xd4tRPC\r\n"
PREAMBLE: Final = MAGIC + bytes([VERSION])

SPEAKS_TLS: Final = "it speaks TLS, which begins another way"
"""The fault of a stream that begins as one of TLS does."""

TLS_BEGINS: Final = b"\x16\x03"
TLS_ALERT: Final = b"\x15\x03\x01\x00\x02\x02\x0a"
"""What TLS says to who begins with something unexpected."""

HEADER: Final = Struct(">IBBHI")
HEADER_SIZE: Final = HEADER.size
pack_header: Final = HEADER.pack
unpack_header: Final = HEADER.unpack_from

MAX_FRAME_SIZE: Final = 0x7FFF_FFFF
"""The largest payload that a frame may have, in bytes; so no header begins with 0xFF."""

RECEIVE_SIZE: Final = 64 * 1024
"""Bytes read at once, and the largest frame that is not given a buffer of its own."""

CHUNK_SIZE: Final = 128 * 1024
"""Messages with a larger payload are sent in pieces, whose frames have payloads of so many bytes."""

MAX_PARTIAL: Final = 32
"""Messages of one direction that may be on their way in pieces at a time."""

FEW_PARTIAL: Final = 4
PARTIAL_BYTES: Final = 64 * 1024 * 1024
"""So many may be on their way whatever their size; more only while they have no more than so many bytes together."""


class Kind(IntEnum):
    """What a frame is. Kinds from 0x80 up may be ignored by who does not know them, the rest may not."""

    HELLO = 0x01
    AUTHENTICATE = 0x02
    WELCOME = 0x03
    LIMITS = 0x04
    REQUEST = 0x10
    NOTIFY = 0x11
    RESPONSE = 0x12
    ERROR = 0x13
    BATCH = 0x14
    CANCEL = 0x15
    ITEM = 0x16
    END = 0x17
    CREDIT = 0x18
    RELEASE = 0x19
    PING = 0x20
    PONG = 0x21
    GOODBYE = 0x22
    QUEUED = 0x80


IGNORABLE: Final = 0x80


class Flag:
    """Bits of the header's flags."""

    EXTENSION: Final = 0x01
    MORE: Final = 0x02
    COMPRESSED: Final = 0x04  # reserved
    SEGMENTS: Final = 0x08


KNOWN_FLAGS: Final = Flag.EXTENSION | Flag.MORE | Flag.SEGMENTS

MAY_BE_SPLIT: Final = frozenset(
    map(int, (Kind.REQUEST, Kind.NOTIFY, Kind.RESPONSE, Kind.ERROR, Kind.BATCH, Kind.ITEM, Kind.END))
)
"""The kinds that may travel in pieces."""

_MORE: Final = Flag.MORE
_U16: Final = Struct(">H")
_U32: Final = Struct(">I")


class Frame(NamedTuple):
    """One frame as it came. ``extension`` is the packed map, empty where there is none."""

    kind: int
    command: int
    call: int
    payload: Payload
    extension: Buffer = b""

    def __str__(self) -> str:
        name = Kind(self.kind).name if self.kind in Kind._value2member_map_ else f"kind {self.kind:#04x}"
        return f"{name} call={self.call} command={self.command:#06x} {payload_size(self.payload)} bytes"


new_frame: Final = cast("Callable[[tuple[int, int, int, Payload, Buffer]], Frame]", partial(tuple.__new__, Frame))
"""Makes a frame of its five fields, at half the price of its constructor: for the paths that run for each frame."""


def payload_size(payload: Payload) -> int:
    """Bytes of a payload on the wire, without what an extension adds."""
    if isinstance(payload, Segmented):
        return 2 + 4 * len(payload.segments) + len(payload.body) + sum(map(len, payload.segments))
    return len(payload)


def encode(kind: int, command: int, call: int, payload: Payload, extension: bytes = b"") -> bytes | tuple[Buffer, ...]:
    """The frame as it travels: one buffer, or several where large ones would have to be copied to make it one.

    Args:
        kind: A :class:`Kind`.
        command: The 16-bit command id.
        call: The 32-bit call id.
        payload: The packed payload. Its segments are not copied.
        extension: The packed extension map, 65 535 bytes at most; empty for none.
    """
    flags = 0
    head = b""
    if extension:
        flags = Flag.EXTENSION
        head = _U16.pack(len(extension)) + extension
    if isinstance(payload, Segmented):
        flags |= Flag.SEGMENTS
        segments = sent_segments(payload)
        sizes = [len(segment) for segment in segments]
        head += Struct(f">H{len(sizes)}I").pack(len(sizes), *sizes)
        size = len(head) + len(payload.body) + sum(sizes)
        return (HEADER.pack(size, kind, flags, command, call) + head + payload.body, *segments)
    size = len(head) + len(payload)
    start = HEADER.pack(size, kind, flags, command, call) + head
    return start + payload if size <= RECEIVE_SIZE else (start, payload)


def sent_segments(payload: Segmented) -> Sequence[Buffer]:
    """The segments of a payload of this side: none of them was received."""
    return cast("Sequence[Buffer]", payload.segments)


def may_begin(size: int, count: int, announced: int) -> bool:
    """Whether a message of ``size`` bytes may be begun while ``count`` with ``announced`` bytes are on their way.

    Both sides go by this: one must not begin such a message, the other holds no more of them.
    """
    return count < FEW_PARTIAL or (count < MAX_PARTIAL and announced + size <= PARTIAL_BYTES)


class Pieces:
    """A message on its way out, of which one piece after another is taken.

    Attributes:
        size: Bytes of its whole payload.
        left: Those that have not been taken yet.
    """

    __slots__ = ("_buffers", "_call", "_command", "_flags", "_kind", "left", "size")

    def __init__(self, frame: Sequence[Buffer]) -> None:
        """
        Args:
            frame: The message as one frame, in buffers of which the first has the header. They are not copied.
        """
        self.size, self._kind, self._flags, self._command, self._call = unpack_header(frame[0])
        self.left = self.size
        self._buffers = deque(memoryview(buffer) for buffer in frame if len(buffer))
        self._buffers[0] = self._buffers[0][HEADER_SIZE:]

    def take(self) -> list[Buffer]:
        """The next piece as a frame, in buffers of which the first has the header. There must be something left."""
        start, flags, room = b"", 0, CHUNK_SIZE
        if self.left == self.size:
            start, flags = _U32.pack(self.size), self._flags
            room -= len(start)
        count = min(self.left, room)
        self.left -= count
        if self.left:
            flags |= _MORE
        piece: list[Buffer] = [
            pack_header(len(start) + count, self._kind, flags, self._command, self._call) + start,
        ]
        while count:
            view = self._buffers.popleft()
            if len(view) > count:
                self._buffers.appendleft(view[count:])
                view = view[:count]
            count -= len(view)
            piece.append(view)
        return piece

    def own(self) -> None:
        """Copy what is left, but for bytes: nobody can change it then."""
        self._buffers = deque(view if type(view.obj) is bytes else memoryview(bytes(view)) for view in self._buffers)


_rests: Final[deque[memoryview]] = deque(maxlen=4)
"""Buffers for the rests of large frames. A few are kept, as memory that was written to before takes no time to get."""


def _take_rest() -> memoryview:
    try:
        return _rests.pop()
    except IndexError:
        return memoryview(bytearray(CHUNK_SIZE))


_FLAGS_AT: Final = 5
_NO_FLAGS: Final = 0xFF
"""Where a header has its flags, and what none has there that is accepted."""


class FrameReader:
    """Cuts the bytes of one direction of a connection into frames.

    What is larger than its buffer is copied once more on its way. That takes a small part of the time in which the
    system gives the memory for it, and so it comes as ``bytes`` without any further copy.

    A message that comes in pieces is one frame, which is given when its last piece has come.

    The I/O layer reads into :meth:`get_buffer` and reports with :meth:`received`; then :meth:`next_frame` gives frame
    after frame until it gives None. It never raises on what a peer sends: a fault is recorded in ``fault``, and no
    frame comes any more.

    Not thread-safe: whoever holds the connection's read role uses it.
    """

    __slots__ = (
        "_announced",
        "_end",
        "_left",
        "_lent",
        "_marked",
        "_partial",
        "_preamble",
        "_reads",
        "_rest",
        "_start",
        "_waiting",
        "buffer",
        "fault",
        "limit",
        "view",
    )

    def __init__(self, limit: int, *, preamble: bool = True) -> None:
        """
        Args:
            limit: The largest payload accepted, in bytes; may be changed between frames.
            preamble: Whether the stream begins with the peer's preamble.
        """
        self.buffer = bytearray()  # made when first asked for, if no other is used
        self.view = memoryview(self.buffer)
        self.limit = limit
        self.fault: ProtocolError | None = None
        self._lent: tuple[bytearray, memoryview] | None = None
        self._preamble = preamble
        self._start = 0
        self._end = 0
        # Of a frame larger than the buffer the rest is read apart from others: what it belongs to, and bytes left.
        self._waiting: _Large | None = None
        self._left = 0
        self._rest: memoryview | None = None  # what it is read into
        # Messages of which pieces have come, by kind, command and call, and their bytes together.
        self._partial: dict[tuple[int, int, int], _Large] = {}
        self._announced = 0
        # What was read, but for what `sole_frame` gave, which leaves its trace in the buffer.
        self._reads = 0
        self._marked = -1

    def discard(self) -> None:
        """Nothing is read any more: let go of the buffers, which may be all that a dead connection weighs."""
        self.buffer = bytearray()
        self.view = memoryview(self.buffer)
        self._lent = self.buffer, self.view
        self._waiting = self._rest = None
        self._partial = {}

    def borrow(self, buffer: bytearray, view: memoryview) -> None:
        """Read into this buffer, which others use too; there is one of its own only while a part of a frame waits.

        Args:
            buffer: Of the same size as its own.
            view: A view of it.
        """
        self._lent = buffer, view
        self.keep()

    def keep(self) -> None:
        """No more frames are asked for now: take what is left out of a borrowed buffer, which others may use next."""
        if self._lent is None:
            return
        if not self._end:
            self.buffer, self.view = self._lent
        elif self.buffer is self._lent[0]:
            self._make_buffer()

    def _make_buffer(self) -> memoryview:
        own = bytearray(RECEIVE_SIZE)
        own[: self._end] = self.view[: self._end]
        self.buffer = own
        self.view = view = memoryview(own)
        return view

    @property
    def idle(self) -> bool:
        """Nothing of a frame has come yet: the next byte read is the first of a header, at ``buffer[0]``."""
        return self._end == 0 and self._waiting is None and not self._preamble

    @property
    def in_frame(self) -> bool:
        """The stream stands within a message (or the preamble): its end here would be a truncation."""
        return self._end > self._start or self._waiting is not None or bool(self._partial)

    def get_buffer(self) -> memoryview:
        """Where the next bytes belong; never empty."""
        if self._waiting is not None:
            if self._rest is None:
                self._rest = _take_rest()
            return self._rest[: self._left]
        if self._end:
            return self.view[self._end :]
        return self.view if self.view or self._lent is not None else self._make_buffer()

    def mark(self) -> None:
        """Remember where the stream stands, for :attr:`moved`. Of no use in a borrowed buffer."""
        self._marked = self._reads
        if self.idle:
            self.get_buffer()[_FLAGS_AT] = _NO_FLAGS

    @property
    def moved(self) -> bool:
        """Whether anything was read since the stream was marked."""
        return self._reads != self._marked or (self.idle and self.buffer[_FLAGS_AT] != _NO_FLAGS)

    def received(self, count: int) -> None:
        """``count`` bytes were read into the buffer that :meth:`get_buffer` gave."""
        self._reads += 1
        if self._waiting is not None:
            assert self._rest is not None, "there is no buffer before it is asked for"
            self._waiting.take(self._rest[:count])
            self._left -= count
        else:
            self._end += count

    def sole_frame(self, count: int) -> tuple[int, int, int, bytearray] | None:
        """Kind, command, call and payload, if the ``count`` bytes just read are one plain frame and all there is.

        Otherwise None, and the bytes are still to be reported with :meth:`received`. A short cut for the commonest
        case.
        """
        if count < HEADER_SIZE or self._end or self._waiting is not None or self._preamble:
            return None
        length, kind, flags, command, call = unpack_header(self.buffer)
        if flags or length + HEADER_SIZE != count or length > self.limit:
            return None
        if self._partial and (kind, command, call) in self._partial:
            return None
        return kind, command, call, self.buffer[HEADER_SIZE:count]

    def feed(self, data: Buffer) -> Iterator[Frame]:
        """The frames of ``data``: for callers that have bytes instead of a socket."""
        rest = memoryview(data)
        while rest:
            buffer = self.get_buffer()
            count = min(len(buffer), len(rest))
            buffer[:count] = rest[:count]
            self.received(count)
            rest = rest[count:]
            while (frame := self.next_frame()) is not None:
                yield frame
            if self.fault is not None:
                return

    def next_frame(self) -> Frame | None:
        """The next whole frame, or None when more bytes are needed or the stream is broken (see ``fault``)."""
        if self._waiting is not None:
            return self._finish_large()
        if self.fault is not None:
            return None
        if self._preamble and not self._check_preamble():
            return None
        while True:
            start, end = self._start, self._end
            available = end - start
            if available < HEADER_SIZE:
                self._compact()
                return None
            length, kind, flags, command, call = HEADER.unpack_from(self.buffer, start)
            if flags & _MORE or (self._partial and (kind, command, call) in self._partial):
                large = self._begin_piece(length, kind, flags, command, call)
                if large is None:
                    return None
                if (frame := self._end_piece(large)) is not None:
                    return frame
                continue
            if available < HEADER_SIZE + length:
                return self._begin_partial(length, kind, flags, command, call)
            stop = start + HEADER_SIZE + length
            if length > self.limit or (flags and flags & ~KNOWN_FLAGS):
                self._refuse(length, kind, flags)
                return None
            if stop == end:
                self._start = self._end = 0
            else:
                self._start = stop
            payload = self.buffer[start + HEADER_SIZE : stop]
            if not flags:
                return new_frame((kind, command, call, payload, b""))
            return self._split(kind, flags, command, call, payload)

    def _check_preamble(self) -> bool:
        got = bytes(self.buffer[: min(self._end, len(PREAMBLE))])
        if got[: len(MAGIC)] != MAGIC[: len(got)]:
            tls = got[: len(TLS_BEGINS)] == TLS_BEGINS[: len(got)]
            self.fault = ProtocolError(SPEAKS_TLS if tls else f"not typedrpc: the first bytes are {got!r}")
        elif len(got) == len(PREAMBLE):
            if got != PREAMBLE:
                self.fault = ProtocolError(f"the peer speaks version {got[-1]} of the protocol, this side {VERSION}")
            else:
                self._preamble = False
                self._start = len(PREAMBLE)
        return not self._preamble

    def _refuse(self, length: int, kind: int, flags: int) -> None:
        if length > self.limit:
            self.fault = ProtocolError(
                f"a frame of kind {kind:#04x} announces {length} bytes, the limit is {self.limit}"
            )
        else:
            self.fault = ProtocolError(f"a frame of kind {kind:#04x} has unknown flags {flags:#04x}")

    def _compact(self) -> None:
        """Move what is left to the front, so that the whole buffer is behind it. Once a read, and small."""
        start, end = self._start, self._end
        if start:
            self.buffer[: end - start] = self.buffer[start:end]
            self._start, self._end = 0, end - start

    def _begin_partial(self, length: int, kind: int, flags: int, command: int, call: int) -> Frame | None:
        """A frame of which the header is there, and not all the rest."""
        if length > self.limit or flags & ~KNOWN_FLAGS:
            self._refuse(length, kind, flags)
            return None
        self._compact()
        if HEADER_SIZE + length <= len(self.buffer):
            return None
        large = self._lay_out(length, kind, flags, command, call, HEADER_SIZE, length)
        if large is not None:
            self._waiting, self._left = large, large.left
        return None

    def _lay_out(
        self, size: int, kind: int, flags: int, command: int, call: int, at: int, length: int
    ) -> "_Large | None":
        """A message whose payload of ``size`` bytes begins at ``at``, with the ``length`` bytes that are in this frame.

        What the buffer has of them is taken out of it, which has the frame's header in front. None when more bytes are
        needed, or when it is a fault.
        """
        # The layout is known once the extension and the table of segments have come.
        stop = min(self._end, at + length)
        layout = _layout(self.buffer, at, stop, size, flags)
        if layout is None:
            if stop == at + length:
                self.fault = ProtocolError("an extension or a table of segments that is longer than its frame")
            elif self._end == len(self.buffer):
                self.fault = ProtocolError("an extension and a table of segments that fill the whole buffer")
            return None
        if isinstance(layout, str):
            self.fault = ProtocolError(layout)
            return None
        extension, body_at, sizes = layout
        large = _Large(kind, command, call, bytes(self.buffer[extension]), sizes, bool(flags & Flag.SEGMENTS), size)
        large.left -= body_at - at
        large.take(self.view[body_at:stop])
        self._start, self._end = (stop, self._end) if stop < self._end else (0, 0)
        return large

    def _begin_piece(self, length: int, kind: int, flags: int, command: int, call: int) -> "_Large | None":
        """The header of a piece is there. What it belongs to, if all of the piece is there."""
        large = self._partial.get((kind, command, call))
        if length > self.limit or flags & ~KNOWN_FLAGS:
            self._refuse(length, kind, flags)
            return None
        more = bool(flags & _MORE)
        if large is None:
            self._compact()
            if (large := self._begin_message(length, kind, flags, command, call)) is None:
                return None
            self._left = length - _U32.size - (large.size - large.left)
        elif (fault := large.check_piece(length, more, flags & ~_MORE)) is not None:
            self.fault = ProtocolError(fault)
            return None
        else:
            at = self._start + HEADER_SIZE
            stop = min(self._end, at + length)
            large.take(self.view[at:stop])
            self._left = length - (stop - at)
            self._start, self._end = (stop, self._end) if stop < self._end else (0, 0)
        if self._left:
            self._waiting = large
            return None
        return large

    def _begin_message(self, length: int, kind: int, flags: int, command: int, call: int) -> "_Large | None":
        """A first piece stands at the front of the buffer. None when more bytes are needed, or when it is a fault."""
        if kind not in MAY_BE_SPLIT:
            self.fault = ProtocolError(f"a frame of kind {kind:#04x}, which does not come in pieces, has more")
        elif length <= _U32.size:
            self.fault = ProtocolError("a first piece that is too short to say anything")
        elif self._end >= HEADER_SIZE + _U32.size:
            (size,) = _U32.unpack_from(self.buffer, HEADER_SIZE)
            length -= _U32.size
            if size > self.limit:
                self._refuse(size, kind, 0)
            elif length >= size:
                self.fault = ProtocolError(f"a first piece of {length} bytes, of a message of {size}")
            elif not may_begin(size, len(self._partial), self._announced):
                self.fault = ProtocolError(
                    f"{len(self._partial) + 1} messages in pieces at a time, with {self._announced + size} bytes"
                )
            else:
                large = self._lay_out(size, kind, flags, command, call, HEADER_SIZE + _U32.size, length)
                if large is not None:
                    self._partial[kind, command, call] = large
                    self._announced += size
                return large
        return None

    def _end_piece(self, large: "_Large") -> Frame | None:
        """All of a piece has come: the frame, if it was the last one."""
        if large.left:
            return None
        if self._partial.pop((large.kind, large.command, large.call), None) is not None:
            self._announced -= large.size
        return large.frame()

    def _finish_large(self) -> Frame | None:
        large = self._waiting
        assert large is not None
        if self._left:
            return None
        self._waiting = None
        if self._rest is not None:
            _rests.append(self._rest)
            self._rest = None
        return self._end_piece(large)

    def _split(self, kind: int, flags: int, command: int, call: int, payload: bytearray) -> Frame | None:
        """A whole frame with an extension or segments, from one buffer."""
        layout = _layout(payload, 0, len(payload), len(payload), flags)
        if layout is None or isinstance(layout, str):
            self.fault = ProtocolError(layout or "an extension or a table of segments that is longer than its frame")
            return None
        extension, at, sizes = layout
        parts = []
        for size in sizes:
            parts.append(payload[at : at + size])
            at += size
        body = Segmented(parts[0], list(parts[1:])) if flags & Flag.SEGMENTS else parts[0]
        return Frame(kind, command, call, body, payload[extension])


def _layout(
    buffer: bytearray, start: int, end: int, length: int, flags: int
) -> tuple[slice, int, Sequence[int]] | str | None:
    """Where extension, body and segments of a payload at ``start`` stand, of which ``buffer`` holds up to ``end``.

    Returns the extension's place, where the body starts, and the sizes of body and segments; None when more bytes are
    needed to tell; a sentence when they contradict the frame's length.
    """
    at, stop = start, start + length
    extension = slice(at, at)
    if flags & Flag.EXTENSION:
        if end < at + 2:
            return None
        (size,) = _U16.unpack_from(buffer, at)
        extension = slice(at + 2, at + 2 + size)
        at = extension.stop
        if at > stop:
            return "an extension that is longer than its frame"
    if not flags & Flag.SEGMENTS:
        return (extension, at, (stop - at,)) if end >= at else None
    if end < at + 2:
        return None if at + 2 <= stop else "a table of segments that is longer than its frame"
    (count,) = _U16.unpack_from(buffer, at)
    if count > MAX_SEGMENTS:
        return f"{count} segments in a frame, the limit is {MAX_SEGMENTS}"
    if at + 2 + 4 * count > stop:
        return "a table of segments that is longer than its frame"
    if end < at + 2 + 4 * count:
        return None
    sizes = Struct(f">{count}I").unpack_from(buffer, at + 2)
    at += 2 + 4 * count
    body = stop - at - sum(sizes)
    if body < 0:
        return "segments that are longer than their frame"
    return extension, at, (body, *sizes)


class _Large:
    """A message larger than the reader's buffer, or in pieces, of which a part has come."""

    __slots__ = (
        "_parts",
        "_sizes",
        "call",
        "command",
        "extension",
        "kind",
        "left",
        "segmented",
        "size",
    )

    def __init__(
        self, kind: int, command: int, call: int, extension: bytes, sizes: Sequence[int], segmented: bool, size: int
    ) -> None:
        self.kind = kind
        self.command = command
        self.call = call
        self.extension = extension
        self.segmented = segmented
        self.size = size  # of the whole payload
        self.left = size  # of it, what has not come yet
        self._sizes = sizes
        self._parts = [BytesIO()]

    def check_piece(self, length: int, more: bool, flags: int) -> str | None:
        """What is wrong with a further piece, if anything is."""
        if flags:
            return f"a later piece has flags {flags:#04x}"
        if not length:
            return "an empty piece"
        if length > self.left or (more and length == self.left):
            return f"a piece of {length} bytes{' and more' if more else ''}, where {self.left} are left"
        if length < self.left and not more:
            return f"the last piece has {length} bytes, where {self.left} are left"
        return None

    def take(self, data: memoryview) -> None:
        """More of the payload came. It is copied: nothing is allocated for what may never come."""
        self.left -= len(data)
        parts, sizes = self._parts, self._sizes
        while data:
            part = parts[-1]
            room = sizes[len(parts) - 1] - part.tell()
            part.write(data[:room])
            data = data[room:]
            while len(parts) < len(sizes) and parts[-1].tell() == sizes[len(parts) - 1]:
                parts.append(BytesIO())

    def frame(self) -> Frame:
        body, *segments = self._parts
        data = body.getvalue()
        payload = Segmented(data, [Received(segment) for segment in segments]) if self.segmented else data
        return Frame(self.kind, self.command, self.call, payload, self.extension)


def copied(buffers: Iterable[Buffer]) -> tuple[Buffer, ...]:
    """Buffers that nobody can change: copies, but for those of bytes. Views are new ones, as theirs may be released."""
    return tuple(_copied(buffer) if type(buffer) is memoryview else buffer for buffer in buffers)


def _copied(view: memoryview) -> Buffer:
    return memoryview(view) if type(view.obj) is bytes else bytes(view)
