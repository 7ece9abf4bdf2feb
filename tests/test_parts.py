import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from typedrpc.codec import pack_plain, unpack_plain
from typedrpc.parts import (
    PART_OVERHEAD,
    Parts,
    count_parts,
    open_parts,
    pack_outcomes,
    pack_parts,
    results_as_array,
    split_outcomes,
    split_parts,
)

BODIES = st.lists(st.binary(max_size=300), max_size=40)
OUTCOMES = st.lists(st.tuples(st.booleans(), st.binary(max_size=300)), max_size=40)


@given(BODIES)
def test_bodies_come_out_as_they_went_in(bodies: list[bytes]) -> None:
    payload = pack_parts(bodies)
    assert count_parts(payload) == len(bodies)
    assert len(payload) == PART_OVERHEAD * (len(bodies) + 1) + sum(map(len, bodies))
    for buffer in (payload, bytearray(payload), memoryview(payload)):
        assert split_parts(buffer) == bodies


@given(OUTCOMES)
def test_outcomes_come_out_as_they_went_in(outcomes: list[tuple[bool, bytes]]) -> None:
    payload = pack_outcomes(outcomes)
    for buffer in (payload, bytearray(payload), memoryview(payload)):
        assert split_outcomes(buffer) == outcomes


@given(BODIES)
def test_results_alone_are_plain_parts(bodies: list[bytes]) -> None:
    assert pack_outcomes([(False, body) for body in bodies]) == pack_parts(bodies)


def test_the_bytes_are_those_of_the_table() -> None:
    assert pack_parts([b"a", b"", b"bc"]) == bytes.fromhex("00000003 00000001 00000000 00000002") + b"abc"
    assert pack_outcomes([(True, b"a"), (False, b"bc")]) == bytes.fromhex("00000002 80000001 00000002") + b"abc"
    assert pack_parts([]) == bytes(4)


@given(BODIES, st.data())
def test_a_payload_that_is_cut_or_goes_on_is_malformed(bodies: list[bytes], data: st.DataObject) -> None:
    payload = pack_parts(bodies)
    cut = payload[: data.draw(st.integers(0, len(payload) - 1))]
    for wrong in (cut, payload + b"x"):
        assert isinstance(split_parts(wrong), str)
        assert isinstance(split_outcomes(wrong), str)


@given(st.binary(max_size=64))
def test_whatever_comes_gives_parts_of_it_or_a_sentence(payload: bytes) -> None:
    parts, outcomes = split_parts(payload), split_outcomes(payload)
    if not isinstance(parts, str):
        assert pack_parts(parts) == payload
        assert outcomes == [(False, part) for part in parts]  # no size in 64 bytes has its highest bit set
    if not isinstance(outcomes, str):
        assert pack_outcomes(outcomes) == payload


@pytest.mark.parametrize("count", [1, 2**16, 2**32 - 1])
def test_a_count_that_the_payload_has_no_room_for_costs_nothing(count: int) -> None:
    payload = struct.pack(">I", count) + bytes(3)
    assert split_parts(payload) == f"a table of {count} parts in 7 bytes"
    assert split_outcomes(payload) == f"a table of {count} parts in 7 bytes"


def test_what_is_wrong_is_said() -> None:
    assert split_parts(b"abc") == "a table of parts in 3 bytes"
    assert count_parts(b"abc") == -1
    assert split_parts(pack_parts([b"a", b"b"]) + b"c") == "2 parts that end at 14 of 15 bytes"


def test_parts_are_slices_of_the_payload() -> None:
    payload = bytearray(pack_parts([b"ab", b"cd"]))
    parts = split_parts(memoryview(payload))
    payload[-1:] = b"x"
    assert not isinstance(parts, str)
    assert [bytes(part) for part in parts] == [b"ab", b"cx"]


@given(st.binary(max_size=60) | BODIES.map(pack_parts))
def test_parts_that_are_cut_when_asked_for_are_the_same(payload: bytes) -> None:
    split, parts = split_parts(payload), open_parts(payload)
    if isinstance(split, str):
        assert parts == split
        return
    assert isinstance(parts, Parts)
    assert [parts[index] for index in range(len(parts))] == split
    assert parts.size(0, len(parts)) == sum(map(len, split))


@given(st.lists(st.integers(0, 2**63) | st.text(max_size=5), min_size=1, max_size=40), st.data())
def test_values_are_one_array(values: list[object], data: st.DataObject) -> None:
    payload = pack_parts([pack_plain(value) for value in values])
    for buffer in (payload, bytearray(payload), memoryview(payload)):
        parts = open_parts(buffer)
        assert isinstance(parts, Parts)
        start = data.draw(st.integers(0, len(values)))
        stop = data.draw(st.integers(start, len(values)))
        assert unpack_plain(parts.as_array(start, stop), max_depth=5) == values[start:stop]
        array = results_as_array(buffer)
        assert array is not None
        assert unpack_plain(array, max_depth=5) == values


@pytest.mark.parametrize(
    "payload",
    [b"abc", pack_parts([]), pack_parts([b"\x01"]) + b"x", pack_outcomes([(False, b"\x01"), (True, b"\x02")])],
    ids=["short", "empty", "more", "error"],
)
def test_what_is_no_array_of_results(payload: bytes) -> None:
    assert results_as_array(payload) is None
