import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from typedrpc.codec import pack_plain, unpack_plain
from typedrpc.parts import (
    PART_OVERHEAD,
    Values,
    count_parts,
    is_array,
    open_array,
    pack_array,
    pack_outcomes,
    pack_parts,
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
    if not isinstance(outcomes, str) and not is_array(payload):
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


VALUES = st.none() | st.integers(0, 2**63) | st.binary(max_size=5) | st.lists(st.text(max_size=3), max_size=3)


@given(st.lists(VALUES, min_size=1, max_size=40), st.data())
def test_values_come_out_of_an_array_as_they_went_in(values: list[object], data: st.DataObject) -> None:
    packed = [pack_plain(value) for value in values]
    start = data.draw(st.integers(0, len(values)))
    stop = data.draw(st.integers(start, len(values)))
    payload = data.draw(st.sampled_from([pack_array(packed), pack_plain(values)]))
    buffer = data.draw(st.sampled_from([bytes, bytearray, memoryview]))(payload)
    assert is_array(buffer)
    assert count_parts(buffer) == len(values)
    found = open_array(buffer)
    assert isinstance(found, Values)
    assert [found[index] for index in range(len(found))] == packed
    assert found.size(start, stop) == sum(map(len, packed[start:stop]))
    assert unpack_plain(found.as_array(start, stop), max_depth=20) == values[start:stop]
    assert split_outcomes(buffer) == [(False, body) for body in packed]


@given(st.binary(min_size=1, max_size=3), st.binary(max_size=60))
def test_values_of_anything_are_all_that_is_there(head: bytes, rest: bytes) -> None:
    payload = bytes([0x90 | (head[0] & 0x0F)]) + head[1:] + rest
    found = open_array(payload)
    count = payload[0] & 0x0F
    if isinstance(found, str):
        assert count == 0 or count >= len(payload)
        return
    assert b"".join(bytes(found[index]) for index in range(count)) == payload[1:]


@pytest.mark.parametrize("payload", [b"", b"\x00", b"\x90", b"\x91", b"\xdc\x00", b"\xdd\x00\x00\x00\x02\x01", b"\xc1"])
def test_what_is_no_array_of_values(payload: bytes) -> None:
    assert isinstance(open_array(payload), str)


def test_a_table_is_no_array() -> None:
    assert not is_array(pack_parts([b"\x90"] * 1024))
