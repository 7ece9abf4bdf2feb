import struct
import tracemalloc
from collections.abc import Callable
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.back_to_back import joined
from typedrpc.codec import MAX_SEGMENTS, Payload, Received, Segmented
from typedrpc.wire import (
    CHUNK_SIZE,
    FEW_PARTIAL,
    HEADER,
    HEADER_SIZE,
    KNOWN_FLAGS,
    MAGIC,
    MAX_PARTIAL,
    MAY_BE_SPLIT,
    PARTIAL_BYTES,
    PREAMBLE,
    RECEIVE_SIZE,
    VERSION,
    Buffer,
    Flag,
    Frame,
    FrameReader,
    Kind,
    Pieces,
    encode,
    may_begin,
    pack_header,
    payload_size,
)

LIMIT: Final = 4 * 1024 * 1024
LAST_BUFFERED: Final = RECEIVE_SIZE - HEADER_SIZE
"""The largest payload whose frame fits the reader's own buffer."""

Plain = tuple[int, int, int, bytes | tuple[bytes, ...], bytes]


def plain(payload: Payload) -> bytes | tuple[bytes, ...]:
    """A payload to compare: bytes, or body and segments."""
    if isinstance(payload, Segmented):
        return (bytes(payload.body), *map(bytes, payload.segments))
    return bytes(payload)


def comparable(frame: Frame) -> Plain:
    return frame.kind, frame.command, frame.call, plain(frame.payload), bytes(frame.extension)


def wire(kind: int, command: int, call: int, payload: Payload, extension: bytes = b"") -> bytes:
    return joined(encode(kind, command, call, payload, extension))


def header(length: int, kind: int = Kind.REQUEST, flags: int = 0, command: int = 1, call: int = 1) -> bytes:
    return HEADER.pack(length, kind, flags, command, call)


def read(data: Buffer, *, limit: int = LIMIT, preamble: bool = False) -> tuple[list[Plain], str | None]:
    """What a reader makes of all the bytes at once: frames, and the text of the fault."""
    reader = FrameReader(limit, preamble=preamble)
    found = [comparable(frame) for frame in reader.feed(data)]
    return found, None if reader.fault is None else str(reader.fault)


def read_cut(data: bytes, cuts: list[int], *, limit: int = LIMIT) -> tuple[list[Plain], str | None]:
    """The same, with the bytes cut at some places."""
    reader = FrameReader(limit, preamble=False)
    found = []
    for start, stop in zip([0, *cuts], [*cuts, len(data)], strict=True):
        found += [comparable(frame) for frame in reader.feed(data[start:stop])]
        if reader.fault is not None:
            return found, str(reader.fault)
    return found, None


def check_three_ways(data: bytes, expected: list[Plain], fault: str | None = None) -> None:
    """Whole, byte by byte, and with trailing data: frames, and then a fault if there is one."""
    assert read(data) == (expected, fault)
    assert read_cut(data, list(range(1, len(data)))) == (expected, fault)
    trailing = (int(Kind.PONG), 0, 0, b"tail", b"")
    after = [] if fault is not None else [trailing]
    assert read(data + wire(Kind.PONG, 0, 0, b"tail")) == ([*expected, *after], fault)


# Frames that are as they should be

GOOD: Final[dict[str, tuple[bytes, list[Plain]]]] = {
    "nothing": (b"", []),
    "no payload": (
        bytes.fromhex("00000000 20 00 0000 00000000"),
        [(Kind.PING, 0, 0, b"", b"")],
    ),
    "the largest fields": (
        bytes.fromhex("00000001 ff 00 ffff ffffffff 61"),
        [(0xFF, 0xFFFF, 0xFFFF_FFFF, b"a", b"")],
    ),
    "two frames": (
        wire(Kind.REQUEST, 7, 1, b"\x90") + wire(Kind.REQUEST, 8, 3, b"\x91\x01"),
        [(Kind.REQUEST, 7, 1, b"\x90", b""), (Kind.REQUEST, 8, 3, b"\x91\x01", b"")],
    ),
    "an extension": (
        bytes.fromhex("00000006 10 01 0007 00000001 0003 810102 90"),
        [(Kind.REQUEST, 7, 1, b"\x90", b"\x81\x01\x02")],
    ),
    "an empty extension": (
        bytes.fromhex("00000003 10 01 0007 00000001 0000 90"),
        [(Kind.REQUEST, 7, 1, b"\x90", b"")],
    ),
    "an extension and nothing else": (
        bytes.fromhex("00000003 10 01 0007 00000001 0001 80"),
        [(Kind.REQUEST, 7, 1, b"", b"\x80")],
    ),
    "no segments": (
        bytes.fromhex("00000003 12 08 0000 00000001 0000 90"),
        [(Kind.RESPONSE, 0, 1, (b"\x90",), b"")],
    ),
    "one segment": (
        bytes.fromhex("00000009 12 08 0000 00000001 0001 00000002 90 6162"),
        [(Kind.RESPONSE, 0, 1, (b"\x90", b"ab"), b"")],
    ),
    "empty segments, and no body": (
        bytes.fromhex("0000000f 12 08 0000 00000001 0003 00000000 00000001 00000000 61"),
        [(Kind.RESPONSE, 0, 1, (b"", b"", b"a", b""), b"")],
    ),
    "extension and segments": (
        bytes.fromhex("0000000b 10 09 0001 00000001 0001 80 0001 00000001 90 61"),
        [(Kind.REQUEST, 1, 1, (b"\x90", b"a"), b"\x80")],
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_frame_is_read_whole_byte_by_byte_and_with_trailing_data(name: str) -> None:
    check_three_ways(*GOOD[name])


@pytest.mark.parametrize("size", [0, 1, LAST_BUFFERED - 1, LAST_BUFFERED, LAST_BUFFERED + 1, RECEIVE_SIZE])
@pytest.mark.parametrize("before", [b"", wire(Kind.PING, 0, 0, b""), wire(Kind.PING, 0, 0, bytes(40_000))])
def test_frames_around_the_size_of_the_buffer(size: int, before: bytes) -> None:
    payload = bytes(size)
    data = before + wire(Kind.REQUEST, 1, 1, payload) + wire(Kind.PONG, 0, 0, b"tail")
    found, fault = read(data)
    assert fault is None
    assert found[-2:] == [(Kind.REQUEST, 1, 1, payload, b""), (Kind.PONG, 0, 0, b"tail", b"")]
    assert len(found) == (3 if before else 2)


@pytest.mark.parametrize("size", [CHUNK_SIZE, 2 * CHUNK_SIZE, 8 * CHUNK_SIZE, 12 * CHUNK_SIZE])
@pytest.mark.parametrize("more", [-1, 0, 1])
def test_frames_and_segments_of_several_reads(size: int, more: int) -> None:
    size += more
    payload = bytes(range(256)) * (size // 256) + bytes(size % 256)
    frames: list[tuple[Payload, bytes | tuple[bytes, ...]]] = [
        (payload, payload),
        (Segmented(b"body", [payload, b"", b"x"]), (b"body", payload, b"", b"x")),
        (Segmented(payload, []), (payload,)),
    ]
    data = b"".join(wire(Kind.RESPONSE, 0, 1, sent) for sent, _ in frames)
    assert read(data) == ([(Kind.RESPONSE, 0, 1, got, b"") for _, got in frames], None)


@pytest.mark.parametrize("size", [0, 1, 30_000, 65_535 - 20, 65_522])
def test_an_extension_beside_a_large_payload(size: int) -> None:
    extension, payload = bytes(size), bytes(100_000)
    expected = [(int(Kind.REQUEST), 1, 1, payload, extension)]
    assert read(wire(Kind.REQUEST, 1, 1, payload, extension)) == (expected, None)


@pytest.mark.parametrize("count", [0, 1, 2, 255, MAX_SEGMENTS])
@pytest.mark.parametrize("size", [0, 1, 17])
def test_numbers_of_segments(count: int, size: int) -> None:
    segments = [bytes([index % 256]) * size for index in range(count)]
    data = wire(Kind.REQUEST, 1, 1, Segmented(b"body", list(segments))) + wire(Kind.PONG, 0, 0, b"")
    assert read(data) == ([(Kind.REQUEST, 1, 1, (b"body", *segments), b""), (Kind.PONG, 0, 0, b"", b"")], None)
    cuts = list(range(1, len(data), 5000))
    assert read_cut(data, cuts) == read(data)


def test_large_segments_arrive_in_memory_of_their_own() -> None:
    reader = FrameReader(LIMIT, preamble=False)
    (frame,) = reader.feed(wire(Kind.REQUEST, 1, 1, Segmented(b"body", [bytes(70_000), bytes(10)])))
    assert isinstance(frame.payload, Segmented)
    large, small = frame.payload.segments
    assert isinstance(large, Received)
    assert isinstance(small, Received)
    assert (len(large), len(small)) == (70_000, 10)
    large.view()[0] = 1
    assert bytes(small) == bytes(10)


def test_a_payload_is_not_overwritten_by_what_comes_next() -> None:
    reader = FrameReader(LIMIT, preamble=False)
    (first,) = reader.feed(wire(Kind.REQUEST, 1, 1, b"first"))
    (second,) = reader.feed(wire(Kind.REQUEST, 1, 3, b"other"))
    assert plain(first.payload) == b"first"
    assert plain(second.payload) == b"other"


# Messages in pieces


def cut(frame: bytes, sizes: list[int]) -> list[bytes]:
    """A whole frame as pieces: so many bytes of the payload in each, the last one has the rest."""
    size, kind, flags, command, call = HEADER.unpack_from(frame)
    payload, pieces = frame[HEADER_SIZE:], []
    for number, count in enumerate([*sizes, size - sum(sizes)]):
        part, payload = payload[:count], payload[count:]
        start = struct.pack(">I", size) if not number else b""
        more = (flags if not number else 0) | (Flag.MORE if payload else 0)
        pieces.append(header(len(start) + len(part), kind, more, command, call) + start + part)
    assert not payload
    return pieces


MORE: Final = Flag.MORE
SPLIT: Final[dict[str, tuple[bytes, list[Plain]]]] = {
    "two pieces": (
        bytes.fromhex("00000006 10 02 0007 00000001 00000003 9261 00000001 10 00 0007 00000001 62"),
        [(Kind.REQUEST, 7, 1, b"\x92ab", b"")],
    ),
    "an extension and segments": (
        b"".join(cut(wire(Kind.REQUEST, 1, 1, Segmented(b"body", [b"", b"abc", b"de"]), b"\x80"), [18, 3, 2])),
        [(Kind.REQUEST, 1, 1, (b"body", b"", b"abc", b"de"), b"\x80")],
    ),
    "nothing behind the table": (
        b"".join(cut(wire(Kind.ERROR, 0, 1, Segmented(b"", [b"a"])), [6])),
        [(Kind.ERROR, 0, 1, (b"", b"a"), b"")],
    ),
    "others in between": (
        b"".join(
            part
            for pieces in zip(
                cut(wire(Kind.RESPONSE, 0, 1, b"first"), [1, 1, 1]),
                cut(wire(Kind.RESPONSE, 0, 3, b"other"), [2, 1, 1]),
                [wire(Kind.PING, 0, 1, b""), wire(Kind.REQUEST, 0, 1, b"x"), b"", b""],
                strict=True,
            )
            for part in pieces
        ),
        [
            (Kind.PING, 0, 1, b"", b""),
            (Kind.REQUEST, 0, 1, b"x", b""),
            (Kind.RESPONSE, 0, 1, b"first", b""),
            (Kind.RESPONSE, 0, 3, b"other", b""),
        ],
    ),
    "one after another under the same id": (
        b"".join(cut(wire(Kind.NOTIFY, 7, 0, b"first"), [2]) + cut(wire(Kind.NOTIFY, 7, 0, b"other"), [3])),
        [(Kind.NOTIFY, 7, 0, b"first", b""), (Kind.NOTIFY, 7, 0, b"other", b"")],
    ),
    "more pieces than calls may be nested": (
        b"".join(cut(wire(Kind.NOTIFY, 7, 0, bytes(2000)), [1] * 1999)),
        [(Kind.NOTIFY, 7, 0, bytes(2000), b"")],
    ),
}


@pytest.mark.parametrize("name", SPLIT)
def test_pieces_are_read_whole_byte_by_byte_and_with_trailing_data(name: str) -> None:
    check_three_ways(*SPLIT[name])


def test_the_last_piece_is_no_sole_frame() -> None:
    reader = FrameReader(LIMIT, preamble=False)
    first, last = cut(wire(Kind.RESPONSE, 0, 7, b"abc"), [2])
    assert list(reader.feed(first)) == []
    assert (reader.idle, reader.in_frame) == (True, True)
    other = wire(Kind.RESPONSE, 0, 9, b"")
    assert sole(reader, other) == (Kind.RESPONSE, 0, 9, b"")
    reader.buffer[: len(last)] = last
    assert reader.sole_frame(len(last)) is None
    (frame,) = reader.feed(last)
    assert comparable(frame) == (Kind.RESPONSE, 0, 7, b"abc", b"")
    assert (reader.idle, reader.in_frame) == (True, False)


@pytest.mark.parametrize("more", [-1, 0, 1, CHUNK_SIZE - 5, CHUNK_SIZE - 4, CHUNK_SIZE - 3, 3 * CHUNK_SIZE])
@pytest.mark.parametrize("extension", [b"", b"\x80"])
def test_a_message_is_cut_and_put_together(more: int, extension: bytes) -> None:
    payload = Segmented(b"body", [bytes(range(256)) * 400, bytearray(CHUNK_SIZE - 102_400 + more)])
    frame = encode(Kind.REQUEST, 5, 7, payload, extension)
    assert isinstance(frame, tuple)
    pieces = Pieces(frame)
    parts = []
    while pieces.left:
        parts.append(joined(tuple(pieces.take())))
    assert all(len(part) == HEADER_SIZE + CHUNK_SIZE for part in parts[:-1])
    assert [part[5] & MORE for part in parts] == [MORE] * (len(parts) - 1) + [0]
    assert read(b"".join(parts)) == ([comparable(Frame(Kind.REQUEST, 5, 7, payload, extension))], None)


def test_pieces_are_not_copied_until_they_are_to_be_owned() -> None:
    buffer = bytearray(2 * CHUNK_SIZE)
    pieces = Pieces((header(len(buffer)), memoryview(buffer)))
    pieces.take()
    pieces.own()
    buffer[-1] = 7
    buffer.clear()
    assert joined(tuple(pieces.take()))[-CHUNK_SIZE:] == bytes(CHUNK_SIZE)


def first_piece(size: int, call: int = 1, kind: int = Kind.REQUEST) -> bytes:
    return header(5, kind, MORE, 1, call) + struct.pack(">I", size) + b"a"


def test_so_many_messages_may_be_on_their_way() -> None:
    small = b"".join(first_piece(2, call) for call in range(MAX_PARTIAL))
    assert read(small) == ([], None)
    found, fault = read(small + first_piece(2, MAX_PARTIAL))
    assert (found, fault) == ([], f"{MAX_PARTIAL + 1} messages in pieces at a time, with {2 * MAX_PARTIAL + 2} bytes")
    large = b"".join(first_piece(PARTIAL_BYTES, call) for call in range(FEW_PARTIAL))
    assert read(large, limit=PARTIAL_BYTES) == ([], None)
    assert read(large + first_piece(2, FEW_PARTIAL), limit=PARTIAL_BYTES)[1] is not None


def test_what_is_complete_makes_room_for_others() -> None:
    pieces = [cut(wire(Kind.REQUEST, 1, call, b"ab"), [1]) for call in range(2 * MAX_PARTIAL)]
    data = b"".join(first + last for first, last in pieces) + b"".join(first for first, _ in pieces[:MAX_PARTIAL])
    found, fault = read(data)
    assert (len(found), fault) == (2 * MAX_PARTIAL, None)


@pytest.mark.parametrize(
    ("size", "count", "announced", "expected"),
    [
        (0x7FFF_FFFF, FEW_PARTIAL - 1, 3 * 0x7FFF_FFFF, True),
        (1, FEW_PARTIAL, PARTIAL_BYTES - 1, True),
        (2, FEW_PARTIAL, PARTIAL_BYTES - 1, False),
        (1, MAX_PARTIAL - 1, 100, True),
        (1, MAX_PARTIAL, 100, False),
    ],
)
def test_which_messages_may_be_begun(size: int, count: int, announced: int, expected: bool) -> None:
    assert may_begin(size, count, announced) is expected


# Faults

BAD: Final[dict[str, tuple[bytes, str]]] = {
    "unknown flag": (header(1, flags=0x10) + b"a", "a frame of kind 0x10 has unknown flags 0x10"),
    "every flag": (header(1, flags=0xFF) + b"a", "a frame of kind 0x10 has unknown flags 0xff"),
    "compressed": (header(1, flags=Flag.COMPRESSED) + b"a", "a frame of kind 0x10 has unknown flags 0x04"),
    "one byte over the limit": (
        header(LIMIT + 1),
        f"a frame of kind 0x10 announces {LIMIT + 1} bytes, the limit is {LIMIT}",
    ),
    "4 GiB": (header(0xFFFF_FFFF), f"a frame of kind 0x10 announces {0xFFFF_FFFF} bytes, the limit is {LIMIT}"),
    "no room for the size of an extension": (
        header(1, flags=Flag.EXTENSION) + b"\0",
        "an extension or a table of segments that is longer than its frame",
    ),
    "an extension in an empty frame": (
        header(0, flags=Flag.EXTENSION),
        "an extension or a table of segments that is longer than its frame",
    ),
    "an extension longer than its frame": (
        header(4, flags=Flag.EXTENSION) + b"\0\3ab",
        "an extension that is longer than its frame",
    ),
    "no room for the table of segments": (
        header(1, flags=Flag.SEGMENTS) + b"\0",
        "a table of segments that is longer than its frame",
    ),
    "a table longer than its frame": (
        header(6, flags=Flag.SEGMENTS) + b"\0\2\0\0\0\0",
        "a table of segments that is longer than its frame",
    ),
    "segments longer than their frame": (
        header(8, flags=Flag.SEGMENTS) + b"\0\1\0\0\0\3ab",
        "segments that are longer than their frame",
    ),
    "segments whose sizes overflow": (
        header(12, flags=Flag.SEGMENTS) + b"\0\2" + b"\xff" * 8 + b"ab",
        "segments that are longer than their frame",
    ),
    "too many segments": (
        header(2, flags=Flag.SEGMENTS) + struct.pack(">H", MAX_SEGMENTS + 1),
        f"{MAX_SEGMENTS + 1} segments in a frame, the limit is {MAX_SEGMENTS}",
    ),
    "pieces of a kind that has none": (
        header(5, Kind.PING, MORE) + struct.pack(">I", 2) + b"a",
        "a frame of kind 0x20, which does not come in pieces, has more",
    ),
    "pieces of a kind that is not known": (
        header(5, 0xF0, MORE) + struct.pack(">I", 2) + b"a",
        "a frame of kind 0xf0, which does not come in pieces, has more",
    ),
    "a first piece without a size": (
        header(3, flags=MORE) + b"abc",
        "a first piece that is too short to say anything",
    ),
    "a first piece with nothing but a size": (
        header(4, flags=MORE) + struct.pack(">I", 2),
        "a first piece that is too short to say anything",
    ),
    "a first piece that is all of it": (
        header(6, flags=MORE) + struct.pack(">I", 2) + b"ab",
        "a first piece of 2 bytes, of a message of 2",
    ),
    "pieces of a message over the limit": (
        first_piece(LIMIT + 1),
        f"a frame of kind 0x10 announces {LIMIT + 1} bytes, the limit is {LIMIT}",
    ),
    "a first piece over the limit": (
        header(LIMIT + 1, flags=MORE),
        f"a frame of kind 0x10 announces {LIMIT + 1} bytes, the limit is {LIMIT}",
    ),
    "pieces with an unknown flag": (
        header(5, flags=MORE | Flag.COMPRESSED) + struct.pack(">I", 2) + b"a",
        "a frame of kind 0x10 has unknown flags 0x06",
    ),
    "an extension that is cut": (
        header(7, flags=MORE | Flag.EXTENSION) + struct.pack(">IH", 20, 2) + b"a",
        "an extension or a table of segments that is longer than its frame",
    ),
    "an extension in pieces that is longer than the message": (
        header(7, flags=MORE | Flag.EXTENSION) + struct.pack(">IH", 20, 30) + b"a",
        "an extension that is longer than its frame",
    ),
    "a later piece with flags": (
        first_piece(9) + header(2, flags=MORE | Flag.SEGMENTS) + b"ab",
        "a later piece has flags 0x08",
    ),
    "an empty piece": (first_piece(9) + header(0, flags=MORE), "an empty piece"),
    "an empty last piece": (first_piece(9) + header(0), "an empty piece"),
    "more than was announced": (first_piece(3) + header(3) + b"abc", "a piece of 3 bytes, where 2 are left"),
    "more behind all of it": (
        first_piece(3) + header(2, flags=MORE) + b"ab",
        "a piece of 2 bytes and more, where 2 are left",
    ),
    "less than was announced": (first_piece(9) + header(2) + b"ab", "the last piece has 2 bytes, where 8 are left"),
    "another message under the same id": (
        first_piece(9) + header(6, flags=MORE) + struct.pack(">I", 3) + b"ab" + header(6) + bytes(6),
        "a piece of 6 bytes, where 2 are left",
    ),
    "an extension that leaves no room for the table": (
        header(4, flags=Flag.EXTENSION | Flag.SEGMENTS) + b"\0\1\x80\0",
        "a table of segments that is longer than its frame",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_fault_is_recorded_and_ends_the_stream(name: str) -> None:
    data, fault = BAD[name]
    check_three_ways(data, [], fault)
    good = wire(Kind.REQUEST, 7, 1, b"\x90")
    check_three_ways(good + data, [(Kind.REQUEST, 7, 1, b"\x90", b"")], fault)


LARGE: Final = 200_000
BAD_LARGE: Final[dict[str, tuple[bytes, str]]] = {
    "unknown flag": (header(LARGE, flags=0x40), "a frame of kind 0x10 has unknown flags 0x40"),
    "too many segments": (
        header(LARGE, flags=Flag.SEGMENTS) + b"\xff\xff" + bytes(LARGE - 2),
        f"65535 segments in a frame, the limit is {MAX_SEGMENTS}",
    ),
    "segments longer than their frame": (
        header(LARGE, flags=Flag.SEGMENTS) + struct.pack(">HI", 1, LARGE) + bytes(LARGE - 6),
        "segments that are longer than their frame",
    ),
    "extension and table that fill the buffer": (
        header(LARGE, flags=Flag.EXTENSION | Flag.SEGMENTS) + struct.pack(">H", 0xFFFF) + bytes(LARGE - 2),
        "an extension and a table of segments that fill the whole buffer",
    ),
    "an extension that fills the buffer": (
        header(LARGE, flags=Flag.EXTENSION) + struct.pack(">H", 65_523) + bytes(LARGE - 2),
        "an extension and a table of segments that fill the whole buffer",
    ),
    "pieces whose extension and table fill the buffer": (
        header(LARGE, flags=MORE | Flag.EXTENSION | Flag.SEGMENTS)
        + struct.pack(">IH", LARGE, 65_520)
        + bytes(LARGE - 6),
        "an extension and a table of segments that fill the whole buffer",
    ),
    "a table that does not fit behind the extension": (
        header(LARGE, flags=Flag.EXTENSION | Flag.SEGMENTS)
        + struct.pack(">H", 60_000)
        + bytes(60_000)
        + struct.pack(">H", MAX_SEGMENTS)
        + bytes(LARGE - 60_004),
        "an extension and a table of segments that fill the whole buffer",
    ),
}


@pytest.mark.parametrize("name", BAD_LARGE)
@pytest.mark.parametrize("before", [b"", wire(Kind.PING, 0, 0, bytes(1000))])
def test_a_fault_of_a_frame_larger_than_the_buffer(name: str, before: bytes) -> None:
    data, fault = BAD_LARGE[name]
    expected: list[Plain] = [(Kind.PING, 0, 0, bytes(1000), b"")] if before else []
    assert read(before + data) == (expected, fault)
    assert read_cut(before + data, list(range(1, len(before + data), 997))) == (expected, fault)


def test_after_a_fault_nothing_comes_any_more() -> None:
    reader = FrameReader(LIMIT, preamble=False)
    assert list(reader.feed(header(1, flags=0x80) + b"a")) == []
    fault = reader.fault
    assert fault is not None
    for _ in range(3):
        assert list(reader.feed(wire(Kind.PING, 0, 0, bytes(RECEIVE_SIZE)))) == []
        assert reader.next_frame() is None
        assert reader.fault is fault


def test_the_limit_may_change_between_frames() -> None:
    reader = FrameReader(10, preamble=False)
    assert len(list(reader.feed(wire(Kind.PING, 0, 0, bytes(10))))) == 1
    reader.limit = 100_000
    assert len(list(reader.feed(wire(Kind.PING, 0, 0, bytes(100_000))))) == 1
    reader.limit = 10
    assert list(reader.feed(wire(Kind.PING, 0, 0, bytes(11)))) == []
    assert reader.fault is not None


# The preamble


def test_the_preamble_is_as_documented() -> None:
    assert PREAMBLE.hex(" ") == "d4 74 52 50 43 0d 0a 01"


@pytest.mark.parametrize("size", [1, 2, 7, 8, 9, 1000])
def test_the_preamble_comes_first(size: int) -> None:
    data = PREAMBLE + wire(Kind.HELLO, 0, 0, b"\x80") + wire(Kind.PING, 0, 0, b"")
    reader = FrameReader(LIMIT)
    found = [frame for at in range(0, len(data), size) for frame in reader.feed(data[at : at + size])]
    assert [frame.kind for frame in found] == [Kind.HELLO, Kind.PING]
    assert reader.fault is None


STRANGERS: Final = {
    "http": (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "not typedrpc: the first bytes are b'G"),
    "tls": (bytes.fromhex("1603010200010001fc0303"), "it speaks TLS"),
    "zeros": (bytes(20), "not typedrpc: the first bytes are b'\\x00"),
    "a frame without a preamble": (wire(Kind.PING, 0, 0, b""), "not typedrpc: the first bytes are b'\\x00"),
    "line ends rewritten": (b"\xd4tRPC\n\x01" + bytes(5), "not typedrpc: the first bytes are b'\\xd4tRPC\\n"),
    "high bit stripped": (b"TtRPC\r\n\x01", "not typedrpc: the first bytes are b'T"),
    "the next version": (MAGIC + bytes([VERSION + 1]), f"the peer speaks version {VERSION + 1} of the protocol"),
    "version 0": (MAGIC + b"\0", "the peer speaks version 0 of the protocol, this side 1"),
    "version 255": (MAGIC + b"\xff" + bytes(100), "the peer speaks version 255 of the protocol, this side 1"),
}


@pytest.mark.parametrize("name", STRANGERS)
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_a_stranger_is_known_at_once(name: str, size: int) -> None:
    data, fault = STRANGERS[name]
    reader = FrameReader(LIMIT)
    for at in range(0, len(data), size):
        assert list(reader.feed(data[at : at + size])) == []
    assert str(reader.fault).startswith(fault)


def test_no_more_than_the_preamble_is_needed_to_know_a_stranger() -> None:
    reader = FrameReader(LIMIT)
    assert list(reader.feed(b"G")) == []
    assert reader.fault is not None


# Between frames


def test_idle_and_in_frame() -> None:
    reader = FrameReader(LIMIT)
    data = PREAMBLE + wire(Kind.PING, 0, 0, b"abc")
    seen = []
    for at in range(len(data)):
        seen.append((reader.idle, reader.in_frame))
        list(reader.feed(data[at : at + 1]))
    assert seen[0] == (False, False)
    assert seen[1:8] == [(False, True)] * 7
    assert seen[8] == (True, False)
    assert seen[9:] == [(False, True)] * (len(data) - 9)
    assert (reader.idle, reader.in_frame) == (True, False)


def test_a_large_frame_on_its_way_is_in_frame() -> None:
    reader = FrameReader(LIMIT, preamble=False)
    list(reader.feed(header(100_000)))
    assert (reader.idle, reader.in_frame) == (False, True)
    list(reader.feed(bytes(99_999)))
    assert (reader.idle, reader.in_frame) == (False, True)
    assert len(list(reader.feed(b"x"))) == 1
    assert (reader.idle, reader.in_frame) == (True, False)


def sole(reader: FrameReader, data: bytes) -> tuple[int, int, int, bytes] | None:
    reader.get_buffer()[: len(data)] = data
    found = reader.sole_frame(len(data))
    return None if found is None else (*found[:3], bytes(found[3]))


def test_a_sole_frame_is_taken_without_being_received() -> None:
    reader = FrameReader(LIMIT, preamble=False)
    assert sole(reader, wire(Kind.RESPONSE, 0, 7, b"\x01")) == (Kind.RESPONSE, 0, 7, b"\x01")
    assert reader.idle
    assert sole(reader, wire(Kind.REQUEST, 5, 9, b"")) == (Kind.REQUEST, 5, 9, b"")
    assert reader.idle


def no_state(reader: FrameReader) -> None:
    """Nothing came before."""


def half_a_frame(reader: FrameReader) -> None:
    list(reader.feed(header(5)))


def half_a_large_frame(reader: FrameReader) -> None:
    list(reader.feed(header(100_000)))


@pytest.mark.parametrize(
    ("prepare", "data"),
    [
        (no_state, b""),
        (no_state, header(0)[:-1]),
        (no_state, header(1)),
        (no_state, header(0) + b"a"),
        (no_state, header(0) * 2),
        (no_state, header(1, flags=Flag.EXTENSION) + b"\0"),
        (no_state, header(2, flags=Flag.SEGMENTS) + b"\0\0"),
        (no_state, header(101) + bytes(101)),
        (half_a_frame, header(0)),
        (half_a_large_frame, header(0)),
    ],
)
def test_what_is_no_sole_frame(prepare: Callable[[FrameReader], None], data: bytes) -> None:
    reader = FrameReader(200_000, preamble=False)
    prepare(reader)
    reader.limit = 100
    assert sole(reader, data) is None


def test_before_the_preamble_there_is_no_sole_frame() -> None:
    assert sole(FrameReader(LIMIT), wire(Kind.RESPONSE, 0, 7, b"\x01")) is None


def test_bytes_that_were_no_sole_frame_are_read_the_usual_way() -> None:
    reader = FrameReader(LIMIT, preamble=False)
    data = wire(Kind.RESPONSE, 0, 7, b"\x01") * 2
    assert sole(reader, data) is None
    reader.received(len(data))
    assert reader.next_frame() == Frame(Kind.RESPONSE, 0, 7, bytearray(b"\x01"))
    assert reader.next_frame() == Frame(Kind.RESPONSE, 0, 7, bytearray(b"\x01"))
    assert reader.next_frame() is None


# Encoding


def test_a_small_frame_is_one_buffer_and_a_large_payload_is_not_copied() -> None:
    assert encode(Kind.REQUEST, 0x0102, 0x03040506, b"ab") == bytes.fromhex("00000002 10 00 0102 03040506 6162")
    large = bytes(RECEIVE_SIZE + 1)
    head, payload = encode(Kind.REQUEST, 1, 1, large)
    assert head == header(len(large))
    assert payload is large


def test_segments_are_not_copied() -> None:
    first, second = bytes(70_000), bytearray(80_000)
    head, *segments = encode(Kind.RESPONSE, 0, 1, Segmented(b"body", [first, second]))
    assert head == header(150_014, Kind.RESPONSE, Flag.SEGMENTS, 0) + struct.pack(">HII", 2, 70_000, 80_000) + b"body"
    assert segments[0] is first
    assert segments[1] is second


def test_the_header_is_packed_alike_both_ways() -> None:
    assert pack_header(1, 2, 3, 4, 5) == HEADER.pack(1, 2, 3, 4, 5)


@pytest.mark.parametrize(
    "payload",
    [b"", bytearray(b"abc"), memoryview(b"abcd"), Segmented(b"ab", []), Segmented(b"ab", [b"c", memoryview(b"de")])],
)
def test_payload_size_is_what_travels(payload: Payload) -> None:
    assert len(wire(Kind.REQUEST, 1, 1, payload)) == HEADER_SIZE + payload_size(payload)


def test_a_frame_in_words() -> None:
    assert str(Frame(Kind.REQUEST, 0x1F, 3, b"abc")) == "REQUEST call=3 command=0x001f 3 bytes"
    assert str(Frame(0x77, 0, 0, Segmented(b"abc", [b"de"]))) == "kind 0x77 call=0 command=0x0000 11 bytes"


# Memory


def held_after(data: bytes) -> int:
    """Bytes that a reader allocates at most while it takes these."""
    reader = FrameReader(0x7FFF_FFFF, preamble=False)
    tracemalloc.start()
    try:
        for at in range(0, len(data), 4096):
            assert list(reader.feed(data[at : at + 4096])) == []
        assert reader.fault is None
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


ANNOUNCED: Final = 0x7FFF_FFFF


@pytest.mark.parametrize(
    "head",
    [
        header(ANNOUNCED),
        header(ANNOUNCED, flags=Flag.SEGMENTS) + struct.pack(">HI", 1, ANNOUNCED - 6),
        header(ANNOUNCED, flags=Flag.SEGMENTS) + struct.pack(">H4096I", 4096, *[500_000] * 4096),
        header(ANNOUNCED, flags=Flag.EXTENSION) + b"\0\1\x80",
        header(ANNOUNCED, flags=MORE) + struct.pack(">I", ANNOUNCED),
    ],
    ids=["plain", "one segment", "many segments", "extension", "pieces"],
)
def test_an_announcement_alone_costs_no_more_than_the_buffer_for_what_comes(head: bytes) -> None:
    assert held_after(head) < CHUNK_SIZE + 256 * 1024
    assert held_after(head + bytes(100_000)) < CHUNK_SIZE + 400 * 1024


@pytest.mark.parametrize("came", [CHUNK_SIZE, CHUNK_SIZE + 1, 3_000_000])
def test_memory_grows_with_what_has_come(came: int) -> None:
    assert held_after(header(ANNOUNCED) + bytes(came)) < 1.25 * came + CHUNK_SIZE + 256 * 1024


def test_a_large_value_is_not_copied_to_become_bytes() -> None:
    value = bytes(range(256)) * 1000
    data = wire(Kind.RESPONSE, 0, 1, Segmented(b"body", [value]))
    (frame,) = FrameReader(LIMIT, preamble=False).feed(data)
    assert isinstance(frame.payload, Segmented)
    (segment,) = frame.payload.segments
    assert isinstance(segment, Received)
    assert bytes(segment) == value
    assert bytes(segment) is bytes(segment)
    view = segment.view()
    assert not view.readonly
    assert len(view) == len(segment) == 256_000


def test_a_reader_lets_go_of_its_buffers() -> None:
    tracemalloc.start()
    try:
        reader = FrameReader(LIMIT, preamble=False)
        list(reader.feed(header(2_000_000) + bytes(1_000_000)))
        assert tracemalloc.get_traced_memory()[0] > 1_000_000
        reader.discard()
        assert tracemalloc.get_traced_memory()[0] < 10_000
    finally:
        tracemalloc.stop()
    assert len(reader.get_buffer()) == 0


def fill(reader: FrameReader, data: bytes) -> list[Frame]:
    """What a reader gives when it has read some bytes, and is not asked for more."""
    reader.get_buffer()[: len(data)] = data
    reader.received(len(data))
    frames = list(iter(reader.next_frame, None))
    reader.keep()
    return frames


def test_a_reader_has_no_buffer_before_it_is_asked_for_one() -> None:
    reader = FrameReader(LIMIT, preamble=False)
    assert not reader.buffer
    assert len(reader.get_buffer()) == RECEIVE_SIZE
    assert len(reader.buffer) == RECEIVE_SIZE


@pytest.mark.parametrize("cut", range(1, HEADER_SIZE + 3))
def test_readers_that_share_a_buffer_do_not_disturb_each_other(cut: int) -> None:
    """One of its own is kept for as long as a part of a frame waits, and no longer."""
    shared = bytearray(RECEIVE_SIZE)
    readers = [FrameReader(LIMIT, preamble=False) for _ in range(3)]
    for reader in readers:
        reader.borrow(shared, memoryview(shared))
    data = wire(Kind.REQUEST, 5, 9, b"abc")
    for reader in readers[:2]:
        assert len(fill(reader, data + data[:cut])) == 1
        assert reader.buffer is not shared
    assert [frame.payload for frame in fill(readers[2], wire(Kind.PING, 0, 0, bytes(100)))] == [bytes(100)]
    for reader in readers[:2]:
        assert [(frame.command, frame.call, frame.payload) for frame in fill(reader, data[cut:])] == [(5, 9, b"abc")]
    assert all(reader.buffer is shared for reader in readers)


def test_a_large_message_needs_no_buffer_beside_its_own() -> None:
    shared = bytearray(RECEIVE_SIZE)
    reader = FrameReader(LIMIT, preamble=False)
    reader.borrow(shared, memoryview(shared))
    assert fill(reader, header(RECEIVE_SIZE + 10) + bytes(1000)) == []
    assert reader.in_frame
    assert reader.buffer is shared
    shared[:] = b"x" * RECEIVE_SIZE
    frames: list[Frame] = []
    while not frames:
        frames = fill(reader, bytes(len(reader.get_buffer())))
    assert [frame.payload for frame in frames] == [bytes(RECEIVE_SIZE + 10)]
    assert reader.buffer is shared


# Whatever comes

PAYLOADS = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([0, 1, LAST_BUFFERED - 2, LAST_BUFFERED, LAST_BUFFERED + 1, 70_000, 150_000]).map(bytes),
)
SEGMENTED = st.builds(Segmented, st.binary(max_size=40), st.lists(PAYLOADS, max_size=4))
FRAMES = st.builds(
    Frame,
    st.integers(0, 255) | st.sampled_from(sorted(MAY_BE_SPLIT)),
    st.integers(0, 0xFFFF),
    st.integers(0, 0xFFFF_FFFF),
    st.one_of(PAYLOADS, SEGMENTED),
    st.one_of(st.just(b""), st.binary(max_size=60), st.just(bytes(60_000))),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(FRAMES, max_size=6), st.data())
def test_what_is_encoded_is_read_again_wherever_it_is_cut(frames: list[Frame], data: st.DataObject) -> None:
    encoded = b"".join(joined(encode(*frame[:4], bytes(frame.extension))) for frame in frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(encoded)), max_size=12)))
    assert read_cut(encoded, cuts) == ([comparable(frame) for frame in frames], None)


@settings(max_examples=60, deadline=None)
@given(st.lists(FRAMES, max_size=6), st.data())
def test_pieces_that_take_turns_are_put_together_again(frames: list[Frame], data: st.DataObject) -> None:
    """Messages in pieces of any size, in any turns, with whole frames between them, wherever the bytes are cut."""
    waiting: list[tuple[Plain, list[bytes]]] = []
    for call, frame in enumerate(frames):
        sent = joined(encode(frame.kind, frame.command, call, frame.payload, bytes(frame.extension)))
        size, head = len(sent) - HEADER_SIZE, 2 + len(frame.extension) if frame.extension else 0
        if isinstance(frame.payload, Segmented):
            head += 2 + 4 * len(frame.payload.segments)
        pieces = [sent]
        if frame.kind in MAY_BE_SPLIT and size > head + 1:
            places = st.integers(max(head, 1), size - 1)
            cuts = sorted(data.draw(st.sets(places, max_size=4)))
            if cuts:
                pieces = cut(sent, [stop - start for start, stop in zip([0, *cuts], cuts, strict=False)])
        waiting.append((comparable(frame._replace(call=call)), pieces))
    encoded, expected = b"", []
    while waiting:
        index = data.draw(st.integers(0, len(waiting) - 1))
        plain_frame, pieces = waiting[index]
        encoded += pieces.pop(0)
        if not pieces:
            expected.append(plain_frame)
            del waiting[index]
    stops = sorted(data.draw(st.lists(st.integers(0, len(encoded)), max_size=12)))
    assert read_cut(encoded, stops) == (expected, None)


HEADERS = st.builds(
    header,
    st.one_of(st.integers(0, 64), st.integers(0, 0xFFFF_FFFF)),
    st.integers(0, 255),
    st.integers(0, 255) | st.sampled_from([0, *range(KNOWN_FLAGS + 1)]),
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.one_of(
            HEADERS,
            st.builds(first_piece, st.integers(0, 300) | st.just(LIMIT), st.integers(1, 3)),
            st.binary(max_size=64),
            st.just(bytes(5000)),
        ),
        max_size=12,
    ),
    st.booleans(),
)
def test_no_bytes_make_the_reader_raise(parts: list[bytes], preamble: bool) -> None:
    reader = FrameReader(LIMIT, preamble=preamble)
    for part in [PREAMBLE, *parts]:
        broken = reader.fault
        found = list(reader.feed(part))
        if broken is not None:
            assert not found
            assert reader.fault is broken
        elif reader.fault is None:
            assert len(reader.get_buffer()) > 0


def test_whether_anything_was_read_since_it_was_looked() -> None:
    reader = FrameReader(1 << 20, preamble=False)
    whole = HEADER.pack(3, 1, 0, 7, 1) + b"abc"

    def receive(data: bytes) -> None:
        reader.get_buffer()[: len(data)] = data
        if reader.sole_frame(len(data)) is None:
            reader.received(len(data))
            while reader.next_frame() is not None:
                pass

    def moved() -> bool:
        return reader.moved

    assert moved()  # nobody has looked yet
    # What comes, in turns: whole frames, which leave nothing behind, and parts that leave the stream as it was.
    for piece in (whole, whole, whole[:5], whole[5:] + whole[:5], whole[5:], HEADER.pack(200_000, 1, 0, 7, 1)):
        reader.mark()
        assert not moved()
        receive(piece)
        assert moved()
        reader.mark()
        assert not moved()
