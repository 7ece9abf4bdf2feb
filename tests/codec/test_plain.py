"""Plain data of the protocol's own messages."""

from datetime import datetime
from typing import Any

import msgpack  # type: ignore[import-untyped]  # it ships no types
import pytest
from hypothesis import given
from hypothesis import strategies as st

from typedrpc.codec import CodecError, Segmented, pack_plain, unpack_plain

packb: Any = msgpack.packb

PLAIN = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False), st.binary())
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])) | st.integers(-9, 9), inner)
    ),
    max_leaves=20,
)


@given(PLAIN)
def test_plain_data_arrives_as_it_was(value: object) -> None:
    payload = pack_plain(value)
    for buffer in (payload, bytearray(payload), memoryview(payload)):
        assert unpack_plain(buffer) == value


@pytest.mark.parametrize("value", [object(), {1, 2}, "\ud800", [1, ["\ud800"]], 1j])
def test_what_is_not_plain_is_not_packed(value: object) -> None:
    with pytest.raises(CodecError, match="plain data: expected plain data, got"):
        pack_plain(value)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x01\x02",
        b"\x92\x01",
        b"\xa1\xff",
        b"\x81\x90\x01",
        b"\xd4\x05\0",
        b"\x91\xd6\xff\0\0\0\0",
        b"\xdd\xff\xff\xff\xff",
        b"\x91" * 100_000,
        b"\x91" * 100_000 + b"\xc0",
        b"\x81\x01" * 100_000 + b"\xc0",
        pack_plain([2**64 - 1]) + b"\0",
        pack_plain({"a": [1]})[:-1],
    ],
    ids=lambda data: data[:12].hex(),
)
def test_bad_bytes_are_a_codec_error(data: bytes) -> None:
    with pytest.raises(CodecError) as caught:
        unpack_plain(data)
    assert isinstance(caught.value, ValueError)
    assert str(caught.value).startswith("plain data: expected ")
    assert caught.value.command == ""


@given(st.binary(max_size=60))
def test_any_bytes_are_plain_data_or_a_codec_error(data: bytes) -> None:
    try:
        value = unpack_plain(data)
    except CodecError:
        return
    assert isinstance(value, None | bool | int | float | str | bytes | list | dict)


def test_what_is_not_a_buffer_is_a_codec_error() -> None:
    for wrong in (None, 5, "text"):
        with pytest.raises(CodecError, match="expected one msgpack value, got TypeError"):
            unpack_plain(wrong)  # type: ignore[arg-type]  # that is the point
    with pytest.raises(CodecError, match="plain data: expected plain data, got segments"):
        unpack_plain(Segmented(b"\xc0", []))


def nested(levels: int, *, maps: bool = False) -> object:
    value: object = 1
    for _ in range(levels):
        value = {"a": value} if maps else [value]
    return value


@pytest.mark.parametrize("maps", [False, True])
def test_the_depth_is_limited(maps: bool) -> None:
    assert unpack_plain(packb(nested(32, maps=maps))) == nested(32, maps=maps)
    with pytest.raises(CodecError, match="expected at most 32 levels, got more"):
        unpack_plain(packb(nested(33, maps=maps)))
    assert unpack_plain(packb(nested(3, maps=maps)), max_depth=3) == nested(3, maps=maps)
    with pytest.raises(CodecError, match="expected at most 2 levels, got more"):
        unpack_plain(packb(nested(3, maps=maps)), max_depth=2)
    assert unpack_plain(b"\x01", max_depth=0) == 1


def test_extensions_are_not_plain() -> None:
    """Those of the codec itself neither, but for ints beyond 64 bits."""
    assert unpack_plain(pack_plain([2**70, -(2**70)])) == [2**70, -(2**70)]
    with pytest.raises(CodecError, match="plain data: expected plain data, got Misfit: datetime is not plain"):
        pack_plain([datetime(2024, 1, 1)])
    for extension in (b"\xc7\x0c\x02\x07\xe8\1\1\0\0\0\0\0\0\0\0", b"\xd6\3\0\0\0\0", b"\xd4\1", b"\xd4\5\0"):
        with pytest.raises(CodecError, match="plain data: expected"):
            unpack_plain(b"\x91" + extension)
