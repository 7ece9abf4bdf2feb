"""Scalars, literals and enums: every width, every subclass, every refusal."""

import enum
import math
import pathlib
import struct
import sys
import zoneinfo
from collections.abc import Callable
from datetime import datetime, timedelta, timezone, tzinfo
from typing import Any, Literal
from unittest.mock import Mock
from zoneinfo import ZoneInfo

import msgpack  # type: ignore[import-untyped]  # it ships no types
import pytest

from tests.codec.both_ways import BothWays, same
from typedrpc.codec import SEGMENT_THRESHOLD, CodecError, CommandCodec, Segmented
from typedrpc.codec import anything as anything
from typedrpc.codec import scalars as scalars
from typedrpc.codec.faults import type_name
from typedrpc.codec.scalars import SCALAR_CODERS
from typedrpc.schema import SCALARS, EnumNode, Schema, node_of

packb: Any = msgpack.packb
UTC = timezone.utc  # noqa: UP017  # short


def codec_of(hint: Any) -> CommandCodec:
    return CommandCodec("Test.command", Schema((), node_of(hint)))


def trip(hint: Any, value: object) -> object:
    """A value there and back."""
    codec = codec_of(hint)
    return codec.unpack_result(codec.pack_result(value))


def refused(hint: Any, value: object, expected: str, got: str) -> None:
    with pytest.raises(CodecError) as caught:
        codec_of(hint).pack_result(value)
    assert (caught.value.expected, caught.value.got) == (expected, got)
    assert str(caught.value) == f"Test.command: result: expected {expected}, got {got}"


EDGES = [
    0,
    1,
    2**5,
    2**7,
    2**8,
    2**15,
    2**16,
    2**31,
    2**32,
    2**53,
    2**63,
    2**64,
    2**65,
    2**127,
    2**128,
    2**1000,
    10**5000,
]
INTS = sorted({sign * (edge + step) for edge in EDGES for step in (-1, 0, 1) for sign in (1, -1)})


@pytest.mark.parametrize("value", INTS, ids=[f"{value.bit_length()}-bits-{index}" for index, value in enumerate(INTS)])
def test_ints_of_every_width(value: int) -> None:
    assert trip(int, value) == value
    assert trip(list[int], [value, 0]) == [value, 0]
    assert trip(dict[int, str], {value: "x"}) == {value: "x"}
    assert trip(int | str, value) == value


@pytest.mark.parametrize("value", [-(2**63), 2**64 - 1])
def test_ints_of_64_bits_are_plain_msgpack(value: int) -> None:
    assert codec_of(int).pack_result(value) == packb(value)


@pytest.mark.parametrize(
    ("value", "data"),
    [(2**64, b"\x01" + b"\0" * 8), (-(2**63) - 1, b"\xff\x7f" + b"\xff" * 7), (2**71, b"\0\x80" + b"\0" * 8)],
)
def test_wider_ints_are_an_extension(value: int, data: bytes) -> None:
    assert codec_of(int).pack_result(value) == packb(msgpack.ExtType(1, data))


FLOATS = [0.0, -0.0, 1.5, math.inf, -math.inf, sys.float_info.max, sys.float_info.min, 5e-324, -1e-7, 2.0**53, 0.1]


@pytest.mark.parametrize("value", FLOATS)
def test_floats_arrive_bit_by_bit(value: float) -> None:
    for hint, there in ((float, value), (list[float], [value]), (float | None, value)):
        back: Any = trip(hint, there)
        number = back[0] if isinstance(back, list) else back
        assert type(number) is float
        assert struct.pack(">d", number) == struct.pack(">d", value)


def test_nan_arrives() -> None:
    back = trip(list[float | int], [math.nan, 1])
    assert isinstance(back, list)
    assert math.isnan(back[0])
    assert type(back[1]) is int


@pytest.mark.parametrize("value", [0, 1, -5, True, 2**53, 2**1000])
def test_an_int_for_a_float_arrives_as_a_float(value: int) -> None:
    for hint, there, back in (
        (float, value, float(value)),
        (list[float], [1.0, value], [1.0, float(value)]),
        (dict[str, float], {"a": 1.0, "b": value}, {"a": 1.0, "b": float(value)}),
        (float | None, value, float(value)),
        (float | str, value, float(value)),
    ):
        arrived: Any = trip(hint, there)
        assert arrived == back
        assert all(type(number) is float for number in flat(arrived))


def flat(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else [value]


def test_an_int_too_big_for_a_float_is_refused() -> None:
    refused(float, 10**400, "float", "an int of 1329 bits, too big for one")
    refused(float, 2**53 + 1, "float", "9007199254740993, which no float is equal to")
    refused(list[float] | None, 1, "list[float] | None", "int")
    with pytest.raises(CodecError, match=r"\[0\]: expected float, got 9007199254740993, which no float is equal to"):
        codec_of(list[float]).pack_result([2**53 + 1])
    with pytest.raises(CodecError, match="result: expected float, got an int of 1329 bits, too big for one"):
        codec_of(float).unpack_result(codec_of(int).pack_result(10**400))


def test_a_peer_may_send_an_int_or_a_float_32_for_a_float() -> None:
    for payload in (b"\x03", b"\xca\x40\x40\0\0"):
        value = codec_of(float).unpack_result(payload)
        assert (type(value), value) == (float, 3.0)
        assert codec_of(float | None).unpack_result(payload) == 3.0
    assert codec_of(list[float]).unpack_result(b"\x92\x03\xca\x40\x40\0\0") == [3.0, 3.0]


TEXTS = ["", "a", "\0", "a\0b", "ä", "é", "שלום", "\u202eabc", "👩\u200d🚀", "\U0010ffff", "\ufeff", "a" * 31, "a" * 32]
LENGTHS = [0, 1, 31, 32, 255, 256, 65535, 65536]


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_text(text: str) -> None:
    assert trip(str, text) == text
    assert trip(list[str], [text]) == [text]
    assert trip(dict[str, str], {text: text}) == {text: text}


@pytest.mark.parametrize("length", LENGTHS)
def test_lengths(length: int) -> None:
    assert trip(str, "é" * length) == "é" * length
    assert trip(bytes, b"x" * length) == b"x" * length
    assert trip(list[None], [None] * length) == [None] * length
    assert trip(dict[int, int], dict.fromkeys(range(length), 0)) == dict.fromkeys(range(length), 0)


def test_lone_surrogates_are_refused_with_their_place() -> None:
    refused(str, "ab\ud800", "str", "a lone surrogate at index 2")
    with pytest.raises(CodecError, match=r"result\[1\]: expected str, got a lone surrogate at index 0"):
        codec_of(list[str]).pack_result(["", "\udfff"])
    with pytest.raises(CodecError, match=r"result\['a'\]: expected str, got a lone surrogate"):
        codec_of(dict[str, str | None]).pack_result({"a": "\ud800"})
    with pytest.raises(CodecError, match=r"result\[key '\\ud800'\]: expected str, got a lone surrogate"):
        codec_of(dict[str, int]).pack_result({"\ud800": 1})


def test_a_peer_cannot_send_text_that_is_no_utf_8() -> None:
    with pytest.raises(CodecError, match="expected one msgpack value, got UnicodeDecodeError"):
        codec_of(str).unpack_result(b"\xa1\xff")


class Int(int):
    def __int__(self) -> int:
        return 99

    def __eq__(self, other: object) -> bool:
        raise AssertionError

    __hash__ = int.__hash__


class Float(float):
    def __float__(self) -> float:
        return 99.0


class Str(str):
    def __str__(self) -> str:
        return "other"


class Bytes(bytes):
    def __bytes__(self) -> bytes:
        return b"other"


class Number(enum.IntEnum):
    ONE = 1


class Word(enum.StrEnum):
    A = "a"


class Stamp(datetime):
    pass


@pytest.mark.parametrize(
    ("hint", "value", "base"),
    [
        (int, True, 1),
        (int, Int(5), 5),
        (int, Number.ONE, 1),
        (float, Float(1.5), 1.5),
        (float, Int(5), 5.0),
        (str, Str("text"), "text"),
        (str, Word.A, "a"),
        (bytes, Bytes(b"bytes"), b"bytes"),
        (bytes, Bytes(SEGMENT_THRESHOLD), bytes(SEGMENT_THRESHOLD)),
        (datetime, Stamp(2020, 1, 2, tzinfo=UTC), datetime(2020, 1, 2, tzinfo=UTC)),
    ],
)
def test_an_instance_of_a_subclass_arrives_as_the_base(hint: Any, value: object, base: object) -> None:
    for wider, there in ((hint, value), (list[hint], [value]), (hint | None, value), (tuple[hint], (value,))):
        back: Any = trip(wider, there)
        back = back[0] if isinstance(back, list | tuple) else back
        assert type(back) is type(base)
        assert back == base


@pytest.mark.parametrize(
    ("hint", "wrong", "got"),
    [
        (None, 0, "int"),
        (None, False, "bool"),
        (bool, 1, "int"),
        (bool, None, "None"),
        (int, 1.0, "float"),
        (int, "1", "str"),
        (int, None, "None"),
        pytest.param(int, Mock(spec=int), "Mock", id="int-Mock"),  # it would be named after its address
        (float, "1", "str"),
        (float, None, "None"),
        (str, b"a", "bytes"),
        (str, 1, "int"),
        (bytes, "a", "str"),
        (bytes, bytearray(b"a"), "bytearray"),
        (bytes, memoryview(b"a"), "memoryview"),
        (datetime, datetime(2020, 1, 1).date(), "date"),
        (datetime, "2020-01-01", "str"),
        (str, type("A" * 300, (), {})(), "A" * 157 + "..."),
    ],
)
def test_wrong_types_are_refused_on_both_sides(hint: Any, wrong: object, got: str) -> None:
    name = "None" if hint is None else hint.__name__
    refused(hint, wrong, name, got)
    if type(wrong) not in (int, bool, float, str, bytes, type(None)):
        return  # nothing that a peer could send
    payload = packb(wrong)
    with pytest.raises(CodecError) as caught:
        codec_of(hint).unpack_result(payload)
    assert (caught.value.path, caught.value.expected, caught.value.got) == ("result", name, got)


class Zone(tzinfo):
    """A time zone of somebody's own, which may fail."""

    def __init__(self, offset: Callable[[], timedelta | None]) -> None:
        self._offset = offset

    def utcoffset(self, when: datetime | None) -> timedelta | None:
        return self._offset()

    def tzname(self, when: datetime | None) -> str:
        return "own"

    def dst(self, when: datetime | None) -> timedelta | None:
        return None


DATETIMES = [
    datetime.min,
    datetime.max,
    datetime(1970, 1, 1),
    datetime(2024, 2, 29, 23, 59, 59, 999_999),
    datetime(2024, 10, 27, 2, 30, fold=1),
    datetime.min.replace(tzinfo=UTC),
    datetime.max.replace(tzinfo=UTC),
    datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=5, minutes=45))),
    datetime(2024, 1, 1, tzinfo=timezone(-timedelta(hours=23, minutes=59, seconds=59, microseconds=999_999))),
    datetime(2024, 1, 1, tzinfo=timezone(timedelta(microseconds=1))),
]


@pytest.mark.parametrize("value", DATETIMES, ids=str)
def test_datetimes(value: datetime) -> None:
    for hint, there in ((datetime, value), (list[datetime], [value]), (dict[datetime, None], {value: None})):
        arrived: Any = trip(hint, there)
        back = arrived if hint is datetime else next(iter(arrived))
        assert type(back) is datetime
        assert (back, back.utcoffset(), back.fold) == (value, value.utcoffset(), value.fold)
        assert back.tzinfo is None if value.tzinfo is None else type(back.tzinfo) is timezone


def test_datetimes_of_other_zones_arrive_with_their_offset() -> None:
    value = datetime(2024, 1, 1, tzinfo=Zone(lambda: timedelta(hours=3)))
    back = trip(datetime, value)
    assert isinstance(back, datetime)
    assert back == value
    assert back.tzinfo == timezone(timedelta(hours=3))
    assert trip(datetime, datetime(2024, 1, 1, tzinfo=Zone(lambda: None))) == datetime(2024, 1, 1)


def fail() -> timedelta:
    raise RuntimeError("no offset today")


def test_a_datetime_whose_zone_fails_is_refused() -> None:
    value = datetime(2024, 1, 1, tzinfo=Zone(fail))
    refused(datetime, value, "datetime", "one that cannot be read: RuntimeError: no offset today")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 11,
        b"\0" * 12,
        b"\0" * 13,
        b"\xff" * 12,
        b"\xff" * 20,
        struct.pack(">HBBBBBBI", 2024, 2, 30, 0, 0, 0, 0, 0),
        struct.pack(">HBBBBBBI", 2024, 1, 1, 0, 0, 0, 2, 0),
        struct.pack(">HBBBBBBIq", 2024, 1, 1, 0, 0, 0, 0, 0, 86_400_000_000),
        struct.pack(">HBBBBBBIq", 2024, 1, 1, 0, 0, 0, 0, 0, 2**63 - 1),
    ],
)
def test_bad_datetimes_of_a_peer(data: bytes) -> None:
    with pytest.raises(CodecError, match="result: expected datetime, got UnknownExtension"):
        codec_of(datetime).unpack_result(packb(msgpack.ExtType(2, data)))


@pytest.mark.parametrize("hint", [None, bool, int, float, str, bytes, datetime, list[int], dict[str, int], int | None])
@pytest.mark.parametrize(
    "extension",
    [
        b"\xc7\0\x01",
        b"\xd4\x04\0",
        b"\xd6\xff\0\0\0\0",
        b"\xd4\x03\0",
        b"\xd6\x03\0\0\0\0",
        b"\xd4\x80\0",
        b"\xc7\0\x7f",
    ],
    ids=bytes.hex,
)
def test_extensions_that_fit_no_type(hint: Any, extension: bytes) -> None:
    with pytest.raises(CodecError):
        codec_of(hint).unpack_result(extension)
    with pytest.raises(CodecError):
        codec_of(list[hint]).unpack_result(b"\x91" + extension)


Mixed = Literal["a", 1, True, b"\x01", None, "ü"]


@pytest.mark.parametrize("value", ["a", 1, True, b"\x01", None, "ü"])
def test_literals_arrive_with_their_type(value: object) -> None:
    back = trip(Mixed, value)
    assert type(back) is type(value)
    assert back == value
    assert trip(dict[Mixed, Mixed], {value: value}) == {value: value}
    assert trip(tuple[Mixed, int], (value, True)) == (value, 1)


@pytest.mark.parametrize(
    ("value", "got"),
    [
        ("b", "'b'"),
        (0, "0"),
        (2, "2"),
        (False, "False"),
        (1.0, "1.0"),
        (b"\x02", r"b'\x02'"),
        (Str("a"), "Str"),
        (Number.ONE, "Number"),
        ([], "list"),
        ("x" * 500, "'" + "x" * 156 + "..."),
        (2**300, "an int of 301 bits"),
    ],
)
def test_literals_check_type_and_value(value: object, got: str) -> None:
    refused(Literal["a", 1, True, b"\x01"], value, r"Literal[True, b'\x01', 1, 'a']", got)


@pytest.mark.parametrize("value", ["b", 0, 2, False, 1.0, None, [], {}])
def test_literals_are_checked_on_arrival(value: object) -> None:
    with pytest.raises(CodecError, match="expected Literal"):
        codec_of(Literal["a", 1, True]).unpack_result(packb(value))


class Colour(enum.Enum):
    RED = 1
    BLUE = "blue"
    CRIMSON = 1  # noqa: PIE796  # an alias of RED
    name_ = 3

    @property
    def nice(self) -> str:
        return self.name.title()


Odd: Any = enum.Enum("Odd", [("two words", object()), ("ü", 2)])
Flavour: Any = enum.Enum("Flavour", [("SWEET", "a"), ("SOUR", "b")], type=str)


@pytest.mark.parametrize("cls", [Colour, Odd, Flavour, Number, Word])
def test_enums_travel_by_name(cls: Any) -> None:
    for member in cls:
        assert codec_of(cls).pack_result(member) == packb(member.name)
        for hint, there in (
            (cls, member),
            (list[cls], [member]),
            (dict[cls, cls], {member: member}),
            (cls | int, member),
        ):
            back: Any = trip(hint, there)
            assert (back if hint in (cls, cls | int) else next(iter(back))) is member


def test_an_alias_travels_as_the_member_that_it_names() -> None:
    assert trip(Colour, Colour.CRIMSON) is Colour.RED
    with pytest.raises(CodecError, match="expected Colour, got 'CRIMSON'"):
        codec_of(Colour).unpack_result(packb("CRIMSON"))


@pytest.mark.parametrize("wrong", ["RED", 1, None, Odd.ü, Number.ONE])
def test_only_members_fit_an_enum(wrong: object) -> None:
    refused(Colour, wrong, "Colour", "None" if wrong is None else type(wrong).__name__)


@pytest.mark.parametrize("data", ["GREEN", "red", "", 1, None, ["RED"], {}])
def test_unknown_members_of_a_peer(data: object) -> None:
    with pytest.raises(CodecError, match="expected Colour, got"):
        codec_of(Colour).unpack_result(packb(data))


def test_literal_members_of_an_enum() -> None:
    hint = Literal[Colour.RED]
    assert trip(hint, Colour.RED) is Colour.RED
    assert trip(hint | str, Colour.RED) is Colour.RED
    assert trip(hint | str, "RED") == "RED"
    refused(hint, Colour.BLUE, "Literal[Colour.RED]", "Colour.BLUE")
    refused(list[hint] | None, 1, "list[Literal[Colour.RED]] | None", "int")
    with pytest.raises(CodecError, match="got 'BLUE'"):
        codec_of(hint).unpack_result(packb("BLUE"))


def test_an_enum_of_a_peer_has_no_codec() -> None:
    codec = CommandCodec("Test.command", Schema((), EnumNode("Colour", ("RED",))))
    with pytest.raises(TypeError, match="the enum Colour came from a peer; it has no class here"):
        codec.pack_result(1)


def test_large_bytes_in_keys_stay_in_the_body() -> None:
    large = b"x" * SEGMENT_THRESHOLD
    for hint, value in ((dict[bytes, bytes], {large: b""}), (dict[bytes | int, int], {large: 1, 2: 3})):
        payload = codec_of(hint).pack_result(value)
        assert not isinstance(payload, Segmented)
        assert codec_of(hint).unpack_result(payload) == value
    with pytest.raises(CodecError, match="got Segment"):
        codec_of(dict[bytes, int]).unpack_result(b"\x81\xd6\x03\0\0\0\0\x01")


def test_every_scalar_of_the_schema_has_a_coder() -> None:
    assert set(SCALAR_CODERS) == set(SCALARS.values())


# Buffers.


@pytest.mark.parametrize("length", [0, 1, 31, 32, 255, 256, 65535, 65536, 65537])
def test_buffers_of_every_length(length: int) -> None:
    data = bytes(range(256)) * (length // 256 + 1)
    for hint in (bytes, bytearray, memoryview):
        value = hint(data[:length])
        both = BothWays(hint)
        assert same(both.arrives(value), value)
        assert both.taken(value)
        assert same(BothWays(list[hint]).arrives([value, value]), [value, value])  # type: ignore[valid-type]
        assert isinstance(both.codec.pack_result(value), Segmented) is (length >= SEGMENT_THRESHOLD)


def test_a_large_buffer_arrives_in_the_one_that_it_was_read_into() -> None:
    read = bytearray(70_000)
    sent: Any = codec_of(bytearray).pack_result(bytearray(70_000))
    payload = Segmented(sent.body, [read])
    assert codec_of(bytearray).unpack_result(payload) is read
    view = codec_of(memoryview).unpack_result(payload)
    assert view.obj is read
    assert view.readonly


def test_a_buffer_is_read_when_it_is_sent() -> None:
    """Large ones are not copied while they wait; that they are borrowed shows in that they cannot be resized."""
    value = bytearray(70_000)
    payload = codec_of(bytearray).pack_result(value)
    with pytest.raises(BufferError):
        value.append(1)
    del payload
    value.append(1)


class Buffer(bytearray):
    pass


def test_an_instance_of_a_subclass_of_bytearray_arrives_as_one() -> None:
    assert same(BothWays(bytearray).arrives(Buffer(b"ab")), bytearray(b"ab"))
    assert same(BothWays(bytearray).arrives(Buffer(70_000)), bytearray(70_000))


@pytest.mark.parametrize(
    ("hint", "value", "text"),
    [
        (bytearray, b"a", ": expected bytearray, got bytes"),
        (memoryview, bytearray(b"a"), ": expected memoryview, got bytearray"),
        (bytes, bytearray(b"a"), ": expected bytes, got bytearray"),
        (memoryview, memoryview(b"abcd")[::2], ": expected memoryview, got a memoryview of format 'B', not of"),
        (memoryview, memoryview(b"abcd").cast("H"), ": expected memoryview, got a memoryview of format 'H', not of"),
        (memoryview, memoryview(b"abcd").cast("B", (2, 2)), ": expected memoryview, got a memoryview of format"),
    ],
)
def test_what_is_no_buffer_of_bytes_is_refused(hint: Any, value: object, text: str) -> None:
    assert BothWays(hint).refuses(value).startswith(text)
    assert BothWays(list[hint]).refuses([value]).startswith(f"[0]{text}")


@pytest.mark.parametrize("hint", [bytearray, memoryview])
@pytest.mark.parametrize("data", [None, "a", 5, [1, 2]])
def test_what_a_peer_sends_for_a_buffer(hint: Any, data: object) -> None:
    assert BothWays(hint).refuses_payload(packb(data)).startswith(f": expected {hint.__name__}, got ")


def test_a_released_memoryview_is_refused() -> None:
    view = memoryview(b"abc")
    view.release()
    assert BothWays(memoryview).refuses(view).startswith(": expected memoryview, got ")


# Any.


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        -(2**70),
        1.5,
        "ü\0",
        b"\xff",
        [],
        {},
        [1, [2, {"a": None}]],
        {"a": [1.5], 5: b"x", None: {}, True: 1, b"k": 2, 2.5: 3, 2**80: 4},
        {2**70: [2**70]},
    ],
)
def test_plain_data_is_any_data(value: object) -> None:
    assert same(BothWays(Any).arrives(value), value)
    assert same(BothWays(dict[str, Any]).arrives({"a": value}), {"a": value})
    assert same(BothWays(list[Any]).arrives([value, value]), [value, value])


def test_the_source_takes_plain_data() -> None:
    assert BothWays(Any).taken([1, {"a": [1.5, b"x"], "b": {}}])
    assert BothWays(Any).taken("ü")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ((1,), ": expected plain data, got tuple"),
        ([1, {"a": [0, {2}]}], "[1]['a'][1]: expected plain data, got set"),
        ({"a": Int(1)}, "['a']: expected plain data, got Int"),
        ({"a": [0, {(1,): 1}]}, "['a'][1]: expected a plain key, got tuple"),
        ([{5: {"x": object()}}], "[0][5]['x']: expected plain data, got object"),
        (["ü", "a\ud800"], "[1]: expected str, got a lone surrogate at index 1"),
        ({"a": {"\udfff": 1}}, "['a']['\\udfff']: expected str, got a lone surrogate at index 0"),
        (bytearray(b"a"), ": expected plain data, got bytearray"),
        (datetime.min, ": expected plain data, got datetime"),
    ],
)
def test_other_than_plain_data_is_refused_with_its_place(value: object, text: str) -> None:
    assert BothWays(Any).refuses(value) == text
    assert BothWays(list[Any]).refuses([None, value]) == f"[1]{text}"


def test_extensions_of_a_peer_are_not_plain_data() -> None:
    for data in (msgpack.Timestamp(1), msgpack.ExtType(77, b""), msgpack.ExtType(3, b"\0\0\0\0")):
        assert BothWays(Any).refuses_payload(packb([1, data])).startswith("[1]: expected plain data, got ")


def test_how_deep_plain_data_may_nest() -> None:
    for value in (nest([], 199), nest(5, 200), nest({"a": []}, 198)):
        assert same(BothWays(Any).arrives(value), value)
        assert BothWays(Any).taken(value)
    for value in (nest([], 200), nest(5, 201), nest([[]], 199), nest({"a": {}}, 199)):
        assert "expected plain data of at most 200 levels, got more" in BothWays(Any).refuses(value)
        assert "expected plain data of at most 200 levels, got more" in BothWays(Any).refuses_payload(packb(value))


def nest(value: object, levels: int) -> object:
    for _ in range(levels):
        value = [value]
    return value


def test_more_plain_data_than_is_looked_at_level_by_level(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anything, "MANY", 10)
    value = [{"a": [1, None, [2.5]], "b": {5: "x"}} for _ in range(20)]
    assert BothWays(Any).taken(value)
    for bad in ([*value, {"a": [(1,)]}], [*value, {(1,): 1}], [*value, nest([], 199)], (value,)):
        assert BothWays(Any).refuses(bad)
    assert BothWays(Any).taken([*value, nest([], 198)])


# Flags.


class Access(enum.Flag):
    READ = 1
    WRITE = 2
    RUN = 8
    BOTH = 3


class Loose(enum.IntFlag):
    A = 1
    B = 4


class Kept(enum.Flag, boundary=enum.KEEP):
    A = 1


class Dropping(enum.Flag, boundary=enum.CONFORM):
    A = 1


class Ejecting(enum.IntFlag, boundary=enum.EJECT):
    A = 1


@pytest.mark.parametrize(
    "value",
    [
        Access(0),
        *Access,
        Access.READ | Access.RUN,
        ~Access.READ,
        Loose.A,
        Loose(0),
        Loose.A | Loose.B,
        ~Loose.A,
        Loose(2),
        Kept.A,
    ],
    ids=repr,
)
def test_flags_travel_as_their_bits(value: enum.Flag) -> None:
    both = BothWays(type(value))
    assert both.arrives(value) is value
    assert both.taken(value)
    assert both.codec.pack_result(value) == packb(value.value)
    assert same(BothWays(dict[type(value), list[type(value)]]).arrives({value: [value]}), {value: [value]})  # type: ignore[misc]


@pytest.mark.parametrize("value", [1, True, Loose.A, None, "READ", 1.0])
def test_what_is_no_flag(value: object) -> None:
    assert BothWays(Access).refuses(value) == f": expected Access, got {type_name(value)}"


@pytest.mark.parametrize(
    ("cls", "data"),
    [
        (Access, 4),
        (Access, 16),
        (Access, 2**80),
        (Dropping, 2),
        (Dropping, 3),
        (Ejecting, 2),
        (Access, "READ"),
        (Loose, True),
    ],
)
def test_bits_that_a_class_refuses_or_drops_are_refused_from_a_peer(cls: Any, data: Any) -> None:
    packed = packb(msgpack.ExtType(1, data.to_bytes(12, "big")) if data == 2**80 else data)
    assert BothWays(cls).refuses_payload(packed).startswith(f": expected {cls.__name__}, got ")


@pytest.mark.parametrize("value", [Loose(8), Loose(1 << 40), Kept(6)], ids=repr)
def test_bits_beyond_those_of_the_members_are_refused_both_ways(value: enum.Flag) -> None:
    """Classes that keep them keep each combination for good, so a peer could fill the memory."""
    both = BothWays(type(value))
    assert both.refuses(value).endswith(f"got {value.value}, which has bits beyond those of the members")
    assert both.refuses_payload(packb(value.value)).endswith(f"got {value.value}: bits beyond those of the members")


def test_a_peer_may_make_so_many_combinations_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    class Many(enum.Flag):
        A = 1
        B = 2
        C = 4

    both = BothWays(Many)
    made = len(Many._value2member_map_)
    monkeypatch.setattr(scalars, "MAX_COMBINATIONS", made + 1)
    assert both.codec.unpack_result(packb(3)) is Many.A | Many.B
    assert both.codec.unpack_result(packb(3)) is Many.A | Many.B
    assert both.refuses_payload(packb(6)) == f": expected Many, got 6: more than {made + 1} different combinations"


def test_negative_bits_of_a_peer() -> None:
    """Python reads them as all bits but those; what is sent never has them."""
    assert BothWays(Access).refuses_payload(packb(-2)).startswith(": expected Access, got -2")
    assert BothWays(Loose).refuses_payload(packb(-2)).startswith(": expected Loose, got -2")


# Time zones by name.


ZONES = ["Europe/Berlin", "UTC", "America/New_York", "Asia/Kolkata", "Etc/GMT+5", "Pacific/Apia"]


@pytest.mark.parametrize("key", ZONES)
def test_a_zone_arrives_by_its_name(key: str) -> None:
    zone = ZoneInfo(key)
    for value in (
        datetime(2024, 7, 1, 12, tzinfo=zone),
        datetime(2024, 1, 1, tzinfo=zone),
        datetime(2024, 10, 27, 2, 30, tzinfo=zone, fold=1),
        datetime(2024, 3, 31, 2, 30, tzinfo=zone),  # skipped in Berlin
        datetime(1, 1, 2, tzinfo=zone),
        datetime(9999, 12, 30, tzinfo=zone),
    ):
        both = BothWays(datetime)
        arrived = both.arrives(value)
        assert same(arrived, value)
        assert arrived.tzinfo is ZoneInfo(key)
        assert same(BothWays(list[datetime | None]).arrives([value, None]), [value, None])


def test_an_unknown_zone_of_a_peer_is_refused_by_name() -> None:
    fields = struct.pack(">HBBBBBBIq", 2024, 1, 1, 0, 0, 0, 0, 0, 0)
    for name in (b"No/Where", b"../x", b"\0", b"x" * 100_000, b"/etc/passwd", b"Europe"):
        text = BothWays(datetime).refuses_payload(packb(msgpack.ExtType(2, fields + name)))
        assert text.startswith(": expected datetime, got one in the time zone ")
        assert "tzdata" in text
        assert len(text) < 200
    assert "got UnknownExtension" in BothWays(datetime).refuses_payload(packb(msgpack.ExtType(2, fields + b"\xff")))


def test_a_zone_without_a_name_arrives_as_its_offset() -> None:
    folder = next(root for root in zoneinfo.TZPATH if pathlib.Path(root, "Europe/Berlin").exists())
    with pathlib.Path(folder, "Europe/Berlin").open("rb") as file:
        nameless = ZoneInfo.from_file(file)
    arrived = BothWays(datetime).arrives(datetime(2024, 7, 1, tzinfo=nameless))
    assert same(arrived, datetime(2024, 7, 1, tzinfo=timezone(timedelta(hours=2))))


def test_a_zone_with_another_offset_here_is_refused() -> None:
    """The two sides have other zone data: the clock on the wall would be another moment."""
    packed = msgpack.unpackb(
        BothWays(datetime).codec.pack_result(datetime(2024, 1, 1, tzinfo=ZoneInfo("Europe/Berlin")))
    )
    moved = msgpack.ExtType(2, packed.data[:12] + struct.pack(">q", 9 * 3600 * 10**6) + packed.data[20:])
    fault = BothWays(datetime).refuses_payload(packb(moved))
    assert "one in the time zone 'Europe/Berlin', which has another offset here" in fault
