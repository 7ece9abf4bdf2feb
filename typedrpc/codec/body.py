"""Bytes: everything that the package knows of msgpack itself, its extension types, and the segments beside a body.

No packer is ever shared: whoever packs takes one out of the pool and puts it back after success, so a packer that
another thread, a hook or a finalizer finds in the pool is idle, and one that raised in mid-value is never used again.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence, Sized
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from functools import partial
from io import BytesIO
from typing import Any, Final, NamedTuple, TypeAlias, cast

import msgpack  # type: ignore[import-untyped]  # it ships no types

from typedrpc.codec.faults import Fault, Misfit, cut
from typedrpc.schema.conversions import zone_key, zone_of

Buffer: TypeAlias = "bytes | bytearray | memoryview"

SEGMENT_THRESHOLD: Final = 65536
"""From this many bytes on a ``bytes`` value travels beside the body instead of in it."""

MAX_SEGMENTS: Final = 4096
"""Segments that a payload may have; further large values travel in the body."""

MAX_CALLBACKS: Final = 65535
"""Callbacks and streams that may go with a call as arguments."""

EXT_INT: Final = 1
EXT_DATETIME: Final = 2
EXT_SEGMENT: Final = 3
EXT_CALLBACK: Final = 4

_NAIVE = struct.Struct(">HBBBBBBI")
_AWARE = struct.Struct(">HBBBBBBIq")
_INDEX = struct.Struct(">I")
_CALLBACK = struct.Struct(">H")
_MICROSECOND = timedelta(microseconds=1)


class Received:
    """A large value of the peer's, as it was read: ``bytes()`` of it is no copy, and its view may be changed."""

    __slots__ = ("_buffer",)

    def __init__(self, buffer: BytesIO) -> None:
        """
        Args:
            buffer: Where it was written to; it ends where the value does.
        """
        self._buffer = buffer

    def __len__(self) -> int:
        return self._buffer.tell()

    def __bytes__(self) -> bytes:
        return self._buffer.getvalue()

    def view(self) -> memoryview:
        """Its bytes, in the buffer that it was written to."""
        return self._buffer.getbuffer()


class Segmented(NamedTuple):
    """A body, and the values of `SEGMENT_THRESHOLD` bytes and more that travel beside it, by their index.

    A memoryview among them is one of single bytes, so that its length is its size.
    """

    body: Buffer
    segments: Sequence[Buffer | Received]

    def release(self) -> None:
        """Let go of the buffers, which their owners cannot resize while somebody looks at them."""
        for segment in self.segments:
            if type(segment) is memoryview:
                segment.release()


Payload: TypeAlias = "Buffer | Segmented"


class CodecError(ValueError):
    """A result does not fit its annotation, or what a peer sent cannot be read.

    Attributes:
        command: The command, ``"Store.put"``; empty for the protocol's own messages.
        path: From the result to the value: ``"result[3].price"``.
        expected: What should be there.
        got: What is there.
    """

    def __init__(self, command: str, path: str, expected: str, got: str) -> None:
        self.command = command
        self.path = path
        self.expected = expected
        self.got = got
        super().__init__(command, path, expected, got)

    def __str__(self) -> str:
        where = f"{self.command}: {self.path}" if self.command else self.path
        return f"{where}: expected {self.expected}, got {self.got}"


class Segment(NamedTuple):
    """Stands in an unpacked body for the segment with this number."""

    number: int


class CallbackIndex(NamedTuple):
    """Stands in an unpacked body for the callback, or the stream, with this number."""

    number: int


class UnknownExtension:
    """Stands in an unpacked body for an extension that is malformed or unknown. Fits no type."""

    __slots__ = ()


UNKNOWN = UnknownExtension()

MAX_SAME_HASH = 1000
"""Ints beyond 64 bits in one body that may have the same hash. As keys of maps, n such take n * n comparisons."""


def pack_hook(value: object) -> object:
    """What msgpack cannot pack itself: ints beyond 64 bits, and datetimes."""
    if type(value) is int:
        return msgpack.ExtType(EXT_INT, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))
    if type(value) is datetime:
        return pack_datetime(value)
    raise Misfit


def pack_datetime(value: datetime) -> object:
    """The extension for a datetime: its own fields, the offset from UTC if it has one, and the name of its zone."""
    fields = (value.year, value.month, value.day, value.hour, value.minute, value.second, value.fold, value.microsecond)
    offset = value.utcoffset()
    if offset is None:
        return msgpack.ExtType(EXT_DATETIME, _NAIVE.pack(*fields))
    zone = zone_key(value.tzinfo) or ""
    return msgpack.ExtType(EXT_DATETIME, _AWARE.pack(*fields, offset // _MICROSECOND) + zone.encode())


def ends_of_values(array: Buffer, count: int) -> list[int]:
    """Where the first of the values in an array begins, and each ends.

    Trusts nothing and never raises. The first value that cannot be cut is all the rest, and those after it are empty.
    What is behind the last value belongs to it.

    Args:
        array: The array.
        count: How many it says it holds.
    """
    ends: list[int] = []
    with suppress(Exception):
        unpacker = msgpack.Unpacker(max_buffer_size=len(array))
        unpacker.feed(array)
        unpacker.read_array_header()
        ends.append(unpacker.tell())
        for _ in range(count - 1):
            unpacker.skip()
            ends.append(unpacker.tell())
    return ends + [len(array)] * (count + 1 - len(ends))


class UnknownZone(NamedTuple):
    """Stands in an unpacked body for a datetime in a time zone that is not known here."""

    reason: str


def unpack_hook(hashes: dict[int, int], code: int, data: bytes) -> object:
    """The value of an extension. Never raises: what cannot be read becomes `UNKNOWN`, which fits no type.

    Args:
        hashes: How often each hash has occurred among the ints of this body: a new dict for each.
        code: Which extension.
        data: Its bytes.
    """
    if code == EXT_INT and data:
        number = int.from_bytes(data, "big", signed=True)
        key = hash(number)
        hashes[key] = count = hashes.get(key, 0) + 1
        return number if count <= MAX_SAME_HASH else UNKNOWN
    if code == EXT_DATETIME:
        return _unpack_datetime(data)
    if code == EXT_SEGMENT and len(data) == _INDEX.size:
        return Segment(*_INDEX.unpack(data))
    if code == EXT_CALLBACK and len(data) == _CALLBACK.size:
        return CallbackIndex(*_CALLBACK.unpack(data))
    return UNKNOWN


def _unpack_datetime(data: bytes) -> object:
    zone: Any = None
    name, offset = "", 0
    try:
        if len(data) == _NAIVE.size:
            year, month, day, hour, minute, second, fold, microsecond = _NAIVE.unpack(data)
        else:
            year, month, day, hour, minute, second, fold, microsecond, offset = _AWARE.unpack_from(data)
            zone = timezone(timedelta(microseconds=offset))
            if len(data) > _AWARE.size:
                name = data[_AWARE.size :].decode()
                try:
                    zone = zone_of(name)
                except ValueError as error:
                    return UnknownZone(str(error))
        value = datetime(year, month, day, hour, minute, second, microsecond, zone, fold=fold)
        if name and value.utcoffset() != timedelta(microseconds=offset):
            return UnknownZone(f"the time zone {name[:40]!r}, which has another offset here: the zone data differ")
        return value
    except (ValueError, OverflowError, struct.error):
        return UNKNOWN


def segment_mark(index: int) -> object:
    """What stands in the body for the segment with this index."""
    return msgpack.ExtType(EXT_SEGMENT, _INDEX.pack(index))


def segment(value: Buffer, segments: list[Buffer]) -> object:
    """Puts a large value beside the body, as long as there is room. Returns what stands for it in the body."""
    if len(segments) >= MAX_SEGMENTS:
        return value
    segments.append(value)
    return segment_mark(len(segments) - 1)


def callback_mark(index: int) -> object:
    """What stands in the body for the callback, or the stream, with this index."""
    return msgpack.ExtType(EXT_CALLBACK, _CALLBACK.pack(index))


class Packing:
    """What a walk keeps while it packs the values of one payload.

    Attributes:
        segments: The values that travel beside the body, so far.
        callbacks: The functions that stay here, so far, each with the codec for calling it; streams among them.
        adapted: How many values did not have just the type that they travel as: ints for floats, subclasses.
    """

    __slots__ = ("_read", "_remembered", "adapted", "callbacks", "segments")

    def __init__(self, callbacks: list[tuple[Any, Any]] | None = None) -> None:
        self.segments: list[Buffer] = []
        self.callbacks = [] if callbacks is None else callbacks
        self.adapted = 0
        self._read: dict[int, tuple[object, list[object]]] = {}
        self._remembered: dict[object, tuple[object, object, list[Buffer], int, list[Any]]] = {}

    def items(self, iterable: Iterable[object]) -> Iterable[object]:
        """The items of `iterable`, the same ones each time it is asked for: members of a union are tried in turn."""
        return iterable if isinstance(iterable, Sized) else self.once(iterable)

    def once(self, iterable: Any) -> list[object]:
        """The items of what may be gone after one look."""
        # The entry keeps the iterable alive, so its id stays its own.
        if id(iterable) not in self._read:
            self._read[id(iterable)] = (iterable, [*iterable])
        return self._read[id(iterable)][1]

    def remembered(self, key: tuple[object, int], value: object, pack: Callable[[], object]) -> object:
        """What `pack` gives, or the Fault that it raises, from the first time on.

        Args:
            key: Who asks, and the id of the value.
            value: The value, which is kept, so that its id stays its own.
            pack: Packs it.
        """
        used, adapted, given = len(self.segments), self.adapted, len(self.callbacks)
        place = (*key, used, given)  # packed values refer to segments and callbacks by number
        found = self._remembered.get(place)
        if found is None:
            try:
                found = (value, pack(), self.segments[used:], self.adapted - adapted, self.callbacks[given:])
            except Fault as fault:
                found = (value, fault.copy(), [], 0, [])
            self._remembered[place] = found
        else:
            self.segments += found[2]
            self.adapted += found[3]
            self.callbacks += found[4]
        if isinstance(found[1], Fault):
            raise found[1].copy()
        return found[1]

    def payload(self, body: bytes) -> Payload:
        """The payload with this body."""
        return Segmented(body, self.segments) if self.segments else body


class CallbackReader:
    """The callbacks and streams of one payload, each to be used once.

    Args:
        make: ``make(number, callback)`` gives what the handler gets, where `callback` is whatever the coder has for it.
            It is asked once for a number, also where the source gives up and the walk comes to it again. None refuses
            callbacks.
        drop: ``drop(number)`` is told of each that nobody here takes, once.
    """

    __slots__ = ("_drop", "_made", "_make", "_taken")

    def __init__(
        self, make: Callable[[int, Any], Any] | None = None, drop: Callable[[int], object] | None = None
    ) -> None:
        self._make = make
        self._drop = drop
        self._made: dict[int, object] = {}
        self._taken: set[int] = set()

    def take(self, data: CallbackIndex, callback: object) -> object:
        """What calls the function that `data` stands for.

        Raises:
            Fault: It was used before, or nothing here takes callbacks.
        """
        if self._make is None:
            raise Fault("no callback or stream", "one, which nothing here takes", is_type=False)
        self._use(data.number)
        if data.number not in self._made:
            self._made[data.number] = self._make(data.number, callback)
        return self._made[data.number]

    def drop(self, data: CallbackIndex) -> None:
        """Lets go of a function that nobody here takes. Raises Fault where it was used before."""
        if self._drop is None:
            return
        self._use(data.number)
        if data.number not in self._made:
            self._made[data.number] = None
            self._drop(data.number)

    def again(self) -> CallbackReader:
        """Begins once more. What was made stays: to make it twice and drop one would end the other."""
        self._taken.clear()
        return self

    def copy(self) -> CallbackReader:
        """One at the same place, which goes its own way; both have what either has made."""
        reader = CallbackReader(self._make, self._drop)
        reader._made = self._made
        reader._taken = self._taken.copy()
        return reader

    def _use(self, number: int) -> None:
        if number in self._taken:
            raise Fault("a callback or stream of its own", f"number {number}, which was given before", is_type=False)
        self._taken.add(number)


NO_CALLBACKS = CallbackReader()


class SegmentReader:
    """What travels beside the body of one payload: its segments, each to be used once.

    Attributes:
        callbacks: Reads its callbacks. Those that nobody expects fit no type.
    """

    __slots__ = ("_left",)

    def __init__(self, segments: Sequence[Buffer | Received]) -> None:
        self._left = dict(enumerate(segments))

    @property
    def callbacks(self) -> CallbackReader:
        return NO_CALLBACKS

    def copy(self) -> SegmentReader:
        """One at the same place, which goes its own way."""
        return self._copied(SegmentReader(()))

    def _copied(self, reader: SegmentReader) -> SegmentReader:
        reader._left = self._left.copy()
        return reader

    def take(self, data: object) -> Buffer | Received:
        """The bytes that `data` stands for, in the buffer that they were read into.

        Raises:
            Fault: It stands for no segment, or for one that was used before.
        """
        if type(data) is not Segment:
            raise Misfit
        try:
            return self._left.pop(data.number)
        except KeyError:
            raise Fault("bytes", f"segment {data.number}, which is not there", is_type=False) from None

    def finish(self) -> None:
        """Raises Fault if a segment was not used."""
        if self._left:
            raise Fault("no further segment", f"{len(self._left)} that nothing refers to", is_type=False)


class BesideReader(SegmentReader):
    """What travels beside the body of one payload that may have callbacks, too."""

    __slots__ = ("_callbacks",)

    def __init__(self, segments: Sequence[Buffer | Received], callbacks: CallbackReader) -> None:
        super().__init__(segments)
        self._callbacks = callbacks

    @property
    def callbacks(self) -> CallbackReader:
        return self._callbacks

    def copy(self) -> SegmentReader:
        return self._copied(BesideReader((), self._callbacks.copy()))


NO_SEGMENTS = SegmentReader(())

# Idle packers, as their bound `pack`. list.pop and list.append are atomic, with and without a GIL.
_idle: list[Callable[[Any], bytes]] = []
take_packer = _idle.pop
give_packer = _idle.append
unpackb = cast("Callable[..., Any]", msgpack.unpackb)


def new_packer() -> Callable[[Any], bytes]:
    """The `pack` of a packer of its own."""
    return cast("Callable[[Any], bytes]", msgpack.Packer(default=pack_hook, autoreset=True).pack)


def pack_body(value: object) -> bytes:
    """The bytes of data that the walk has made.

    Raises:
        Fault: msgpack refuses: a length beyond 32 bits, say.
    """
    try:
        packer = take_packer()
    except IndexError:
        packer = new_packer()
    try:
        body = packer(value)
    except Exception as error:
        raise Fault("a value that msgpack can hold", f"{type(error).__name__}: {error}", is_type=False) from error
    if len(body) < SEGMENT_THRESHOLD:
        give_packer(packer)
    return body


def unpack_body(body: object) -> object:
    """The data in the bytes of a peer.

    Raises:
        Fault: The bytes are not those of one msgpack value.
    """
    try:
        return unpackb(body, strict_map_key=False, ext_hook=partial(unpack_hook, {}))
    except Exception as error:
        raise Fault("one msgpack value", f"{type(error).__name__}: {cut(str(error))}", is_type=False) from error


def open_payload(payload: Payload, callbacks: CallbackReader = NO_CALLBACKS) -> tuple[object, SegmentReader]:
    """The data of a payload and the reader of what is beside it. Raises Fault as `unpack_body` does."""
    body, segments = (payload.body, payload.segments) if isinstance(payload, Segmented) else (payload, [])
    return unpack_body(body), SegmentReader(segments) if callbacks is NO_CALLBACKS else BesideReader(
        segments, callbacks
    )
