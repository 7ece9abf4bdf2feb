"""The bytes: packers that are never shared, and segments that are used exactly once."""

import gc
import threading
import tracemalloc
from collections.abc import Iterator
from datetime import datetime, timedelta, tzinfo
from typing import Any

import msgpack  # type: ignore[import-untyped]  # it ships no types
import pytest

from typedrpc.codec import MAX_SEGMENTS, SEGMENT_THRESHOLD, CodecError, CommandCodec, Payload, Segmented, body
from typedrpc.codec.faults import Fault, Misfit
from typedrpc.schema import Parameter, ParameterKind, Schema, node_of
from typedrpc.wire import Kind, encode

packb: Any = msgpack.packb


def codec_of(hint: Any) -> CommandCodec:
    return CommandCodec("Test.command", Schema((), node_of(hint)))


@pytest.fixture(autouse=True)
def _pool() -> None:
    """Starts each test with an empty pool."""
    body._idle.clear()


def test_a_packer_goes_back_after_success_alone() -> None:
    codec = codec_of(int)
    codec.pack_result(1)
    packer = body._idle[0]
    codec.pack_result(2)
    assert body._idle == [packer]
    with pytest.raises(CodecError):
        codec_of(str).pack_result("\ud800")
    assert body._idle == []  # it may hold half a value
    codec.pack_result(3)
    assert len(body._idle) == 1


def test_a_packer_that_has_grown_is_dropped() -> None:
    for hint, large in ((str, "x" * SEGMENT_THRESHOLD), (list[int], list(range(SEGMENT_THRESHOLD)))):
        codec = codec_of(hint)
        codec.pack_result(large)
        assert body._idle == []
    walked = codec_of(list[int])
    walked.pack_result([True, *range(SEGMENT_THRESHOLD)])
    assert body._idle == []


def test_a_packer_is_busy_while_it_packs() -> None:
    """Somebody's code runs in the middle of a value, packs something else, and does not disturb it."""
    inner = codec_of(list[int])
    seen: list[object] = []

    class Zone(tzinfo):
        def utcoffset(self, when: datetime | None) -> timedelta:
            seen.append(inner.unpack_result(inner.pack_result([1, 2, 2**70])))
            return timedelta(0)

        def dst(self, when: datetime | None) -> None:
            return None

        def tzname(self, when: datetime | None) -> str:
            return "own"

    outer = codec_of(list[datetime])
    values = [datetime(2024, 1, 1, tzinfo=Zone())] * 3
    assert outer.unpack_result(outer.pack_result(values)) == values
    assert seen[:3] == [[1, 2, 2**70]] * 3


@pytest.mark.unmeasured
def test_threads_do_not_share_packers() -> None:
    codec = codec_of(list[int])
    values = [[thread, 2**70 + thread] * 50 for thread in range(4)]
    outcomes: list[bool] = []
    start = threading.Barrier(len(values))

    def work(value: list[int]) -> None:
        start.wait()
        outcomes.append(all(codec.unpack_result(codec.pack_result(value)) == value for _ in range(300)))

    threads = [threading.Thread(target=work, args=(value,)) for value in values]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == [True] * len(values)
    assert len(body._idle) <= len(values)


def test_the_hook_packs_what_msgpack_cannot() -> None:
    assert body.pack_hook(2**64) == msgpack.ExtType(1, b"\x01" + b"\0" * 8)
    with pytest.raises(Misfit):
        body.pack_hook(object())


def test_what_msgpack_refuses_is_a_fault() -> None:
    with pytest.raises(Fault, match="expected a value that msgpack can hold, got Misfit"):
        body.pack_body(object())


def test_segments_start_at_the_threshold() -> None:
    codec = codec_of(bytes)
    assert codec.pack_result(b"x" * (SEGMENT_THRESHOLD - 1)) == packb(b"x" * (SEGMENT_THRESHOLD - 1))
    value = b"x" * SEGMENT_THRESHOLD
    payload = codec.pack_result(value)
    assert isinstance(payload, Segmented)
    assert payload.body == b"\xd6\x03\0\0\0\0"
    assert payload.segments[0] is value
    assert codec.unpack_result(payload) == value


def test_a_peer_may_send_any_bytes_as_a_segment_or_in_the_body() -> None:
    codec = codec_of(bytes | None)
    assert codec.unpack_result(Segmented(b"\xd6\x03\0\0\0\0", [bytearray(b"abc")])) == b"abc"
    assert codec.unpack_result(packb(b"x" * 70_000)) == b"x" * 70_000
    assert codec.unpack_result(Segmented(b"\xc0", [])) is None


@pytest.mark.parametrize(
    ("hint", "mark", "segments", "text"),
    [
        (bytes, 0, [], "segment 0, which is not there"),
        (bytes, 1, [b"a"], "segment 1, which is not there"),
        (bytes, 2**32 - 1, [b"a"], "segment 4294967295, which is not there"),
        (bytes, 0, [b"a", b"b"], "expected no further segment, got 1 that nothing refers to"),
        (int, None, [b"a"], "expected no further segment, got 1 that nothing refers to"),
        (None, None, [b"a"], "expected no further segment, got 1 that nothing refers to"),
        (str, 0, [b"a"], "expected str, got Segment"),
        (int, 0, [b"a"], "expected int, got Segment"),
    ],
)
def test_segments_are_used_exactly_once(hint: Any, mark: int | None, segments: list[bytes], text: str) -> None:
    data = (None if hint is None else 1) if mark is None else msgpack.ExtType(3, mark.to_bytes(4, "big"))
    with pytest.raises(CodecError, match=text):
        codec_of(hint).unpack_result(Segmented(packb(data), [*segments]))


def test_signatures_without_bytes_take_a_payload_with_no_segments() -> None:
    assert codec_of(int).unpack_result(Segmented(b"\x05", [])) == 5
    assert codec_of(None).unpack_result(Segmented(b"\xc0", [])) is None


def test_a_claimed_length_does_not_cost_memory() -> None:
    gc.collect()
    for payload in (
        b"\xdd\xff\xff\xff\xff\x01",
        b"\xdf\xff\xff\xff\xff\x01\x01",
        b"\xc6\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
    ):
        with pytest.raises(CodecError, match="expected one msgpack value"):
            codec_of(list[int]).unpack_result(payload)


def test_large_values_beyond_the_bound_of_segments_travel_in_the_body() -> None:
    value = bytes(SEGMENT_THRESHOLD)
    codec = codec_of(list[bytes])
    payload = codec.pack_result([value] * (MAX_SEGMENTS + 2))
    assert isinstance(payload, Segmented)
    assert len(payload.segments) == MAX_SEGMENTS
    assert len(payload.body) > 2 * SEGMENT_THRESHOLD
    assert codec.unpack_result(payload) == [value] * (MAX_SEGMENTS + 2)


class Holder:
    """A command that takes a value and gives one, of the same type."""

    def __init__(self, hint: Any) -> None:
        schema = Schema((Parameter("data", ParameterKind.POSITIONAL_OR_KEYWORD, node_of(hint), True),), node_of(hint))
        self.codec = CommandCodec("Test.command", schema)

    def packings(self, value: object) -> Iterator[Payload]:
        yield self.codec.pack_arguments(value)
        yield self.codec.pack_result(value)


LARGE = 64 << 20


@pytest.mark.parametrize(
    "hint", [bytes, bytearray, memoryview, list[bytearray], bytearray | None, dict[str, memoryview]]
)
def test_large_buffers_are_sent_without_a_copy(hint: Any) -> None:
    buffer: Any = bytes(LARGE) if hint is bytes else bytearray(LARGE)
    value = memoryview(buffer) if "memoryview" in str(hint) else buffer
    value = [value] if hint == list[bytearray] else {"key": value} if hint == dict[str, memoryview] else value
    holder = Holder(hint)
    list(holder.packings(value))  # compiles
    tracemalloc.start()
    try:
        for payload in holder.packings(value):
            frame = encode(Kind.REQUEST, 1, 1, payload)
            assert isinstance(frame, tuple)
            assert memoryview(frame[-1]).obj is buffer
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_large_bytearray_arrives_as_the_buffer_that_it_was_read_into() -> None:
    received = bytearray(LARGE)
    codec = codec_of(bytearray)
    assert codec.unpack_result(Segmented(b"\xd6\x03\0\0\0\0", [received])) is received
    args, _ = Holder(bytearray).codec.unpack_arguments(Segmented(b"\x91\xd6\x03\0\0\0\0", [received]))
    assert args[0] is received


def test_a_large_memoryview_arrives_as_a_read_only_view_of_that_buffer() -> None:
    received = bytearray(LARGE)
    view = codec_of(memoryview).unpack_result(Segmented(b"\xd6\x03\0\0\0\0", [received]))
    assert type(view) is memoryview
    assert view.readonly
    assert view.obj is received


def test_large_bytes_arrive_with_one_copy() -> None:
    received = bytearray(LARGE)
    codec = codec_of(bytes)
    payload = Segmented(b"\xd6\x03\0\0\0\0", [received])
    codec.unpack_result(payload)  # compiles
    tracemalloc.start()
    try:
        data = codec.unpack_result(payload)
        assert tracemalloc.get_traced_memory()[1] < LARGE + (1 << 20)
    finally:
        tracemalloc.stop()
    assert data == received


def test_small_buffers_are_copied_into_the_body() -> None:
    for hint, value in ((bytearray, bytearray(b"old")), (memoryview, memoryview(bytearray(b"old")))):
        payload = codec_of(hint).pack_result(value)
        value[:] = b"new"
        arrived = codec_of(hint).unpack_result(payload)
        assert arrived == b"old"
        assert type(arrived) is hint


@pytest.mark.parametrize(
    "view",
    [
        memoryview(bytes(LARGE))[::2],
        memoryview(bytes(LARGE)).cast("i"),
        memoryview(bytes(LARGE)).cast("b"),
        memoryview(bytes(LARGE)).cast("B", (1024, LARGE // 1024)),
    ],
)
def test_views_of_other_than_contiguous_bytes_are_refused(view: memoryview) -> None:
    """The length of a view is its number of items, which is its size in bytes for bytes alone."""
    with pytest.raises(
        CodecError, match=r"expected memoryview, got a memoryview of format '.', not of contiguous bytes"
    ):
        codec_of(memoryview).pack_result(view)


@pytest.mark.parametrize(
    ("array", "ends"),
    [
        (b"\x93\x01\xa1x\xc0", [1, 2, 4, 5]),
        (b"\xdc\x00\x03\x01\xa1x\xc0", [3, 4, 6, 7]),
        (b"\x93\x01\xa1x\xc0more", [1, 2, 4, 9]),
        (b"\x93\x01\xa5x\xc0", [1, 2, 5, 5]),
        (b"\x93\xc1\x01\x02", [1, 4, 4, 4]),
        (b"\x93\x01\xc1\x02", [1, 2, 4, 4]),
        (b"\x93", [1, 1, 1, 1]),
    ],
    ids=["array", "longer head", "more", "cut", "no value", "no value later", "nothing"],
)
def test_where_the_values_of_an_array_end(array: bytes, ends: list[int]) -> None:
    for buffer in (array, bytearray(array), memoryview(array)):
        assert body.ends_of_values(buffer, 3) == ends
