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
The normative text, which also says what each kind means, is ``docs/protocol.md``.
"""

from collections.abc import Iterator, Sequence
from enum import IntEnum
from struct import Struct
from typing import Final, NamedTuple, TypeAlias

from typedrpc.codec import MAX_SEGMENTS, Payload, Segmented
from typedrpc.errors import ProtocolError

Buffer: TypeAlias = bytes | bytearray | memoryview

VERSION: Final = 1
MAGIC: Final = b"\xd4tRPC\r\n"
PREAMBLE: Final = MAGIC + bytes([VERSION])

HEADER: Final = Struct(">IBBHI")
HEADER_SIZE: Final = HEADER.size
pack_header: Final = HEADER.pack
unpack_header: Final = HEADER.unpack_from

MAX_FRAME_SIZE: Final = 0x7FFF_FFFF
"""The largest payload that a frame may have, in bytes; so no header begins with 0xFF."""

RECEIVE_SIZE: Final = 64 * 1024
"""Bytes read at once, and the largest frame that is not given a buffer of its own."""

TRUSTED_SIZE: Final = 128 * 1024
TRUSTED_GROWTH: Final = 8
"""A buffer for a larger announcement begins with so many bytes, and grows to so many times what has come."""


class Kind(IntEnum):
    """What a frame is. Kinds from 0x80 up may be ignored by who does not know them, the rest may not."""

    HELLO = 0x01
    AUTHENTICATE = 0x02  # reserved
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
    MORE: Final = 0x02  # reserved: the message goes on in a later frame
    COMPRESSED: Final = 0x04  # reserved
    SEGMENTS: Final = 0x08


KNOWN_FLAGS: Final = Flag.EXTENSION | Flag.SEGMENTS

_U16: Final = Struct(">H")


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
        sizes = [len(segment) for segment in payload.segments]
        head += Struct(f">H{len(sizes)}I").pack(len(sizes), *sizes)
        size = len(head) + len(payload.body) + sum(sizes)
        return (HEADER.pack(size, kind, flags, command, call) + head + payload.body, *payload.segments)
    size = len(head) + len(payload)
    start = HEADER.pack(size, kind, flags, command, call) + head
    return start + payload if size <= RECEIVE_SIZE else (start, payload)


class FrameReader:
    """Cuts the bytes of one direction of a connection into frames, with as few copies as there can be.

    The I/O layer reads into :meth:`get_buffer` and reports with :meth:`received`; then :meth:`next_frame` gives frame
    after frame until it gives None. It never raises on what a peer sends: a fault is recorded in ``fault``, and no
    frame comes any more.

    Not thread-safe: whoever holds the connection's read role uses it.
    """

    __slots__ = ("_end", "_preamble", "_start", "_waiting", "buffer", "fault", "limit", "view")

    def __init__(self, limit: int, *, preamble: bool = True) -> None:
        """
        Args:
            limit: The largest payload accepted, in bytes; may be changed between frames.
            preamble: Whether the stream begins with the peer's preamble.
        """
        self.buffer = bytearray(RECEIVE_SIZE)
        self.view = memoryview(self.buffer)
        self.limit = limit
        self.fault: ProtocolError | None = None
        self._preamble = preamble
        self._start = 0
        self._end = 0
        # A frame larger than the buffer is read straight into its final buffers.
        self._waiting: _Large | None = None

    def discard(self) -> None:
        """Nothing is read any more: let go of the buffers, which may be all that a dead connection weighs."""
        self.buffer = bytearray()
        self.view = memoryview(self.buffer)
        self._waiting = None

    @property
    def idle(self) -> bool:
        """Nothing of a frame has come yet: the next byte read is the first of a header, at ``buffer[0]``."""
        return self._end == 0 and self._waiting is None and not self._preamble

    @property
    def in_frame(self) -> bool:
        """The stream stands within a frame (or the preamble): its end here would be a truncation."""
        return self._end > self._start or self._waiting is not None

    def get_buffer(self) -> memoryview:
        """Where the next bytes belong; never empty."""
        if self._waiting is not None:
            return self._waiting.get_buffer()
        return self.view[self._end :] if self._end else self.view

    def received(self, count: int) -> None:
        """``count`` bytes were read into the buffer that :meth:`get_buffer` gave."""
        if self._waiting is not None:
            self._waiting.received(count)
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
        start, end = self._start, self._end
        available = end - start
        if available < HEADER_SIZE:
            self._compact()
            return None
        length, kind, flags, command, call = HEADER.unpack_from(self.buffer, start)
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
            return Frame(kind, command, call, payload)
        return self._split(kind, flags, command, call, payload)

    def _check_preamble(self) -> bool:
        got = bytes(self.buffer[: min(self._end, len(PREAMBLE))])
        if got[: len(MAGIC)] != MAGIC[: len(got)]:
            self.fault = ProtocolError(f"not typedrpc: the first bytes are {got!r}")
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
        # The layout of a large frame is known once its extension and its table of segments have come.
        layout = _layout(self.buffer, HEADER_SIZE, self._end, length, flags)
        if layout is None:
            if self._end == len(self.buffer):
                self.fault = ProtocolError("an extension and a table of segments that fill the whole buffer")
            return None
        if isinstance(layout, str):
            self.fault = ProtocolError(layout)
            return None
        extension, body_at, sizes = layout
        large = _Large(kind, command, call, bytes(self.buffer[extension]), sizes, bool(flags & Flag.SEGMENTS))
        large.preload(self.view[body_at : self._end])
        self._waiting = large
        self._start = self._end = 0
        return None

    def _finish_large(self) -> Frame | None:
        large = self._waiting
        assert large is not None
        if not large.complete:
            return None
        self._waiting = None
        return large.frame()

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
    """A frame larger than the reader's buffer, on its way into its final buffers."""

    __slots__ = ("_filled", "_index", "_parts", "_sizes", "_view", "call", "command", "extension", "kind", "segmented")

    def __init__(
        self, kind: int, command: int, call: int, extension: bytes, sizes: Sequence[int], segmented: bool
    ) -> None:
        self.kind = kind
        self.command = command
        self.call = call
        self.extension = extension
        self.segmented = segmented
        self._sizes = sizes
        self._parts: list[bytearray] = []
        self._index = -1
        self._filled = 0
        self._view = memoryview(b"")
        self._advance()

    @property
    def complete(self) -> bool:
        return self._index == len(self._sizes)

    def _advance(self) -> None:
        """Go on to where there is room: the rest of a part that came as far as was trusted, or the next part."""
        if self._index >= 0 and self._filled < self._sizes[self._index]:
            grown = bytearray(min(self._sizes[self._index], TRUSTED_GROWTH * self._filled))
            grown[: self._filled] = self._parts[-1]
            self._parts[-1] = grown
        else:
            self._index += 1
            while self._index < len(self._sizes) and not self._sizes[self._index]:
                self._parts.append(bytearray())
                self._index += 1
            self._filled = 0
            if self.complete:
                self._view = memoryview(b"")
                return
            self._parts.append(bytearray(min(self._sizes[self._index], TRUSTED_SIZE)))
        self._view = memoryview(self._parts[-1])

    def get_buffer(self) -> memoryview:
        return self._view[self._filled :]

    def received(self, count: int) -> None:
        self._filled += count
        if self._filled == len(self._view):
            self._advance()

    def preload(self, data: memoryview) -> None:
        while data:
            buffer = self.get_buffer()
            count = min(len(buffer), len(data))
            buffer[:count] = data[:count]
            self.received(count)
            data = data[count:]

    def frame(self) -> Frame:
        body, *segments = self._parts
        payload: Payload = Segmented(body, list(segments)) if self.segmented else body
        return Frame(self.kind, self.command, self.call, payload, self.extension)
