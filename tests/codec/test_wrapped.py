"""Aliases that refer to themselves, constraints, conversions, and what nobody takes."""

import decimal
import ipaddress
import pathlib
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import msgpack  # type: ignore[import-untyped]  # it ships no types
import pytest
import typing_extensions

from tests.codec.both_ways import BothWays, same
from tests.codec.invented import asked
from typedrpc.codec import CodecError, CommandCodec, Segmented, register
from typedrpc.codec.body import pack_hook
from typedrpc.codec.wrapped import CHECKS
from typedrpc.errors import ArgumentError
from typedrpc.schema import CONSTRAINTS, ConvertedNode, Node, RecordNode, ScalarNode, Schema, node_of
from typedrpc.schema.hints import HintReader
from typedrpc.schema.nodes import IGNORED, Field
from typedrpc.schema.records import Scope

packb: Any = msgpack.packb
UTC = timezone.utc  # noqa: UP017  # short

Json = typing_extensions.TypeAliasType(
    "Json",
    "bool | int | float | str | list[Json] | dict[str, Json] | None",
)
Nest = typing_extensions.TypeAliasType("Nest", "list[Nest]")
Twice = typing_extensions.TypeAliasType("Twice", "list[Twice] | Iterable[Twice] | int")


def read(alias: Any) -> Node:
    """The node of an alias of this module."""
    reader = HintReader(scope=Scope(globals(), {}))
    node = reader.read(alias, "the alias")
    assert not reader.faults
    return node


@dataclass(frozen=True)
class Money:
    cents: int


@dataclass(frozen=True)
class Span:
    """Travels as where it starts and how long it is."""

    start: int
    end: int


@dataclass
class Stretch:
    start: int
    length: int


class Odd:
    """Encoded as it is told, decoded into what it is told."""

    def __init__(self, wire: Any) -> None:
        self.wire = wire


def _decode_odd(wire: str) -> Any:
    return Odd(wire) if wire == "good" else wire


register(Money, encode=lambda value: value.cents, decode=Money, travels_as=int)
register(
    Span,
    encode=lambda value: Stretch(value.start, value.end - value.start),
    decode=lambda wire: Span(wire.start, wire.start + wire.length),
    travels_as=Stretch,
)
register(Odd, encode=lambda value: value.wire, decode=_decode_odd, travels_as=str)


class OwnDecimal(Decimal):
    def __str__(self) -> str:
        return "0"


VALUES: list[tuple[Any, Any, Any]] = [
    (date, date(2024, 2, 29), date(2024, 2, 29).toordinal()),
    (date, date.min, 1),
    (date, date.max, 3_652_059),
    (time, time(23, 59, 59, 999_999), [86_399_999_999, 0, None, None]),
    (time, time(1, 2, 3, fold=1), [3_723_000_000, 1, None, None]),
    (time, time(0, tzinfo=UTC), [0, 0, 0, None]),
    (time, time(0, tzinfo=timezone(timedelta(hours=-5))), [0, 0, -18_000_000_000, None]),
    (time, time(12, tzinfo=ZoneInfo("Europe/Berlin")), [43_200_000_000, 0, None, "Europe/Berlin"]),
    (timedelta, timedelta.max, (999_999_999 * 86_400 + 86_399) * 1_000_000 + 999_999),
    (timedelta, timedelta.min, -999_999_999 * 86_400 * 1_000_000),
    (timedelta, timedelta(microseconds=-1), -1),
    (complex, complex(-0.0, 1e300), [-0.0, 1e300]),
    (complex, complex(float("nan"), float("-inf")), None),
    (range, range(5), [0, 5, 1]),
    (range, range(10, -(2**70), -3), None),
    (Decimal, Decimal("-0.00"), "-0.00"),
    (Decimal, Decimal("1E+500"), "1E+500"),
    (Decimal, Decimal("-Infinity"), "-Infinity"),
    (Decimal, Decimal("1." + "3" * 200), "1." + "3" * 200),
    (Fraction, Fraction(-3, 7), [-3, 7]),
    (Fraction, Fraction(2**100, 3), None),
    (uuid.UUID, uuid.UUID(int=2**127 + 1), uuid.UUID(int=2**127 + 1).bytes),
    (pathlib.PurePosixPath, pathlib.PurePosixPath("/a/ü"), "/a/ü"),
    (pathlib.PureWindowsPath, pathlib.PureWindowsPath("c:\\x"), "c:\\x"),
    (pathlib.PurePath, pathlib.PurePath("."), "."),
    (pathlib.Path, pathlib.Path("a/b"), None),
    (ipaddress.IPv4Address, ipaddress.IPv4Address("127.0.0.1"), None),
    (ipaddress.IPv6Address, ipaddress.IPv6Address("fe80::1%eth0"), None),
    (ipaddress.IPv4Network, ipaddress.IPv4Network("10.0.0.0/8"), None),
    (ipaddress.IPv6Network, ipaddress.IPv6Network("::/0"), None),
    (ipaddress.IPv4Interface, ipaddress.IPv4Interface("10.1.2.3/8"), None),
    (ipaddress.IPv6Interface, ipaddress.IPv6Interface("fe80::1/64"), None),
    (Money, Money(5), 5),
]


@pytest.mark.parametrize(("hint", "value", "data"), VALUES, ids=[repr(value)[:60] for _, value, _ in VALUES])
def test_converted_values_arrive_as_they_were(hint: Any, value: Any, data: Any) -> None:
    both = BothWays(hint)
    assert same(both.arrives(value), value)
    if data is not None:
        assert both.codec.pack_result(value) == packb(data, default=pack_hook)
    for around in (list[hint], hint | None, dict[hint, int], tuple[hint, hint], set[hint], dict[str, list[hint]]):
        held: Any = value
        match typing_extensions.get_origin(around):
            case kind if kind is list or kind is set:
                held = kind([value])
            case kind if kind is tuple:
                held = (value, value)
            case kind if kind is dict:
                held = {value: 1} if around == dict[hint, int] else {"a": [value]}
        assert same(BothWays(around).arrives(held), held)


@pytest.mark.parametrize("hint", dict.fromkeys(hint for hint, _, _ in VALUES), ids=lambda hint: hint.__name__)
def test_the_source_takes_the_usual_converted_values(hint: Any) -> None:
    value = next(value for other, value, _ in VALUES if other is hint)
    value = timedelta(1) if hint is timedelta else value  # ints of more than 64 bits are left to the walk
    assert BothWays(hint).taken(value)
    assert BothWays(list[hint]).taken([value])


def test_what_travels_as_a_record_has_no_array_of_its_own_in_a_collection() -> None:
    both = BothWays(list[Span])
    assert both.codec.pack_result([Span(1, 2), Span(3, 5)]) == packb([1, 1, 3, 2])
    assert both.arrives([Span(1, 2), Span(3, 5)]) == [Span(1, 2), Span(3, 5)]
    assert both.refuses_payload(packb([1, 1, "x", 2])) == "[1].start: expected int, got str"
    assert (
        both.refuses_payload(packb([1, 1, 3])) == ": expected list[Span], got list of 3 items for records of 2 fields"
    )


def test_an_instance_of_a_subclass_arrives_as_the_class() -> None:
    arrived = BothWays(Decimal).arrives(OwnDecimal("1.5"))
    assert same(arrived, Decimal("1.5"))
    arrived = BothWays(date).arrives(datetime(2024, 5, 6, 7, 8))
    assert same(arrived, date(2024, 5, 6))


@pytest.mark.parametrize(
    ("hint", "value", "arrived"),
    [
        (complex, 1.5, 1.5 + 0j),
        (complex, 2, 2 + 0j),
        (complex, True, 1 + 0j),
        (complex | str, 2, 2 + 0j),
        (complex | float, 1.5, 1.5),
        (complex | float, 2, 2.0),
        (complex | int, 2, 2),
        (complex | int, 2.5, 2.5 + 0j),
    ],
)
def test_floats_and_ints_are_complex_where_nothing_is_nearer(hint: Any, value: Any, arrived: Any) -> None:
    assert same(BothWays(hint).arrives(value), arrived)


def test_an_int_that_no_float_equals_is_not_complex() -> None:
    assert "which no float is equal to" in BothWays(complex).refuses(2**53 + 1)


@pytest.mark.parametrize(
    ("hint", "value", "text"),
    [
        (Decimal, 1.5, ": expected Decimal, got float"),
        (list[date], ["2024-01-01"], "[0]: expected date, got str"),
        (pathlib.PurePosixPath, pathlib.PureWindowsPath("x"), ": expected PurePosixPath, got PureWindowsPath"),
        (pathlib.Path, pathlib.Path("\ud800"), ": expected str, got a lone surrogate at index 0"),
        (Odd, Odd(5), ": expected str, got int"),
        (Fraction, 1, ": expected Fraction, got int"),
        (complex, "1", ": expected complex, got str"),
    ],
)
def test_what_is_no_such_value_is_refused(hint: Any, value: Any, text: str) -> None:
    assert BothWays(hint).refuses(value) == text


def test_a_time_in_a_zone_that_needs_a_date_is_refused() -> None:
    class Zone(ZoneInfo):
        pass

    with_key = time(1, tzinfo=Zone("Europe/Berlin"))
    assert BothWays(time).arrives(with_key).tzinfo == ZoneInfo("Europe/Berlin")
    import io

    with open(next(iter(_zone_files())), "rb") as file:
        nameless = ZoneInfo.from_file(io.BytesIO(file.read()))
    text = BothWays(time).refuses(time(1, tzinfo=nameless))
    assert text.startswith(": expected time, got one that cannot be encoded: ValueError: the offset of the time zone")


def _zone_files() -> Iterable[str]:
    import zoneinfo

    return (f"{root}/Europe/Berlin" for root in zoneinfo.TZPATH if pathlib.Path(root, "Europe/Berlin").exists())


@pytest.mark.parametrize(
    ("hint", "data", "text"),
    [
        (date, 0, "got 0: ValueError: "),
        (date, 2**80, "got "),
        (date, True, "expected int, got bool"),
        (time, [86_400_000_000, 0, None, None], "got tuple: ValueError: "),
        (time, [-1, 0, None, None], "got tuple: ValueError: "),
        (time, [0, 2, None, None], "got tuple: ValueError: "),
        (time, [0, 0, 86_400_000_000, None], "got tuple: ValueError: "),
        (time, [0, 0, None, "No/Where"], "the time zone 'No/Where', which is not known here"),
        (time, [0, 0, None, "../../etc/passwd"], "which is not known here"),
        (time, [0, 0, None, "x" * 1000], "which is not known here"),
        (timedelta, 2**100, "OverflowError"),
        (complex, [1.0], "got list of 1 items"),
        (range, [0, 1, 0], "ValueError: range() arg 3 must not be zero"),
        (Decimal, "one", "got 'one': InvalidOperation"),
        (Fraction, [1, 0], "ZeroDivisionError"),
        (uuid.UUID, b"short", "got b'short': ValueError"),
        (ipaddress.IPv4Address, "1.2.3", "AddressValueError"),
        (ipaddress.IPv4Network, "10.0.0.1/8", "ValueError"),
        (Odd, "bad", "expected Odd, got str from its decode function"),
        (Money, "5", "expected int, got str"),
    ],
)
def test_bad_data_of_a_peer_is_refused(hint: Any, data: Any, text: str) -> None:
    wide = msgpack.ExtType(1, data.to_bytes(20, "big")) if type(data) is int and data >= 2**64 else data
    assert text in BothWays(hint).refuses_payload(packb(wide))


def test_a_signalling_nan_cannot_be_hashed() -> None:
    quiet = BothWays(list[Decimal]).arrives([Decimal("NaN"), Decimal("sNaN")])
    assert [str(value) for value in quiet] == ["NaN", "sNaN"]
    assert "TypeError: Cannot hash" in BothWays(set[Decimal]).refuses_payload(packb(["sNaN"]))
    assert "TypeError: Cannot hash" in BothWays(dict[Decimal, int]).refuses_payload(packb({"sNaN": 1}))


def test_the_precision_of_the_context_is_of_no_concern() -> None:
    with decimal.localcontext() as context:
        context.prec = 2
        assert same(BothWays(Decimal).arrives(Decimal("1.23456")), Decimal("1.23456"))


# Constraints.


CONSTRAINED: list[tuple[Any, list[Any], list[Any]]] = [
    (Annotated[int, asked("Gt", 0)], [1, 2**70], [0, -1, -(2**70)]),
    (Annotated[int, asked("Ge", 0), asked("Lt", 10)], [0, 9, True], [-1, 10]),
    (Annotated[float, asked("Le", 1.5)], [1.5, 1, -0.0], [1.6, 2, float("nan"), float("inf")]),
    (Annotated[int, asked("MultipleOf", 3)], [0, 9, -3], [1]),
    (Annotated[float, asked("MultipleOf", 0.5)], [1.5], [1.25, float("inf"), float("nan")]),
    (Annotated[str, asked("MinLen", 1), asked("MaxLen", 3)], ["a", "abc"], ["", "abcd"]),
    (Annotated[bytes, asked("MaxLen", 65536)], [b"", bytes(65536)], [bytes(65537)]),
    (Annotated[list[int], asked("MinLen", 1)], [[1]], [[]]),
    (Annotated[dict[str, int], asked("MaxLen", 1)], [{}, {"a": 1}], [{"a": 1, "b": 2}]),
    (Annotated[set[int], asked("MaxLen", 1)], [set(), {1}], [{1, 2}]),
    (Annotated[str, asked("Predicate", str.isdigit)], ["12"], ["", "a"]),
    (Annotated[Decimal, asked("Gt", 0)], [Decimal("0.1")], [Decimal(0), Decimal("NaN")]),
    (Annotated[date, asked("Ge", date(2024, 1, 1))], [date(2024, 1, 1)], [date(2023, 12, 31)]),
    (Annotated[datetime, asked("Lt", datetime(2024, 1, 1))], [datetime(2023, 1, 1)], [datetime(2024, 1, 1)]),
]


@pytest.mark.parametrize(("hint", "good", "bad"), CONSTRAINED, ids=[str(hint) for hint, _, _ in CONSTRAINED])
def test_constraints_are_checked_on_both_sides(hint: Any, good: list[Any], bad: list[Any]) -> None:
    both, free = BothWays(hint), CommandCodec("Test.command", Schema((), node_of(hint).base))  # type: ignore[attr-defined]
    nested, union = BothWays(dict[str, list[hint]]), BothWays(hint | None)
    for value in good:
        assert both.arrives(value) == value
        assert nested.arrives({"a": [value]}) == {"a": [value]}
        assert union.arrives(value) == value
    for value in bad:
        assert both.refuses(value).startswith(": expected Annotated[")
        assert nested.refuses({"a": [value]}).startswith("['a'][0]: expected Annotated[")
        assert union.refuses(value)
        assert both.refuses_payload(free.pack_result(value)).startswith(": expected Annotated[")


def test_the_words_of_a_constraint() -> None:
    assert BothWays(Annotated[int, asked("Gt", 0)]).refuses(-5) == ": expected Annotated[int, Gt(0)], got -5"
    text = BothWays(Annotated[str, asked("MaxLen", 3)]).refuses("abcd")
    assert text == ": expected Annotated[str, MaxLen(3)], got 'abcd' of length 4"
    assert BothWays(Annotated[int, asked("Gt", 0)]).refuses("x") == ": expected int, got str"


def fails(value: object) -> bool:
    raise LookupError("what")


def test_what_a_comparison_or_a_predicate_raises_is_the_error_of_the_codec() -> None:
    text = BothWays(Annotated[int, asked("Predicate", fails)]).refuses(1)
    assert text.endswith(", got 1: LookupError: what")
    aware = BothWays(Annotated[datetime, asked("Gt", datetime(2024, 1, 1))])
    assert "TypeError: can't compare" in aware.refuses(datetime(2025, 1, 1, tzinfo=UTC))
    assert "TypeError: can't compare" in aware.refuses_payload(BothWays(datetime).codec.pack_result(datetime.now(UTC)))


def test_a_constrained_iterable_may_be_looked_at_once() -> None:
    both = BothWays(Annotated[Iterable[int], asked("MinLen", 2)])
    assert both.codec.unpack_result(both.codec.pack_result(iter([1, 2]))) == [1, 2]
    assert both.codec.unpack_arguments(both.codec.pack_arguments(iter([1, 2]))) == (([1, 2],), {})
    with pytest.raises(ValueError, match="MinLen"):
        both.codec.pack_result(iter([1]))


def test_a_constrained_key() -> None:
    both = BothWays(dict[Annotated[bytes, asked("MinLen", 1)], int])
    assert both.arrives({bytes(70_000): 1}) == {bytes(70_000): 1}
    assert both.refuses({b"": 1}).startswith("[key b'']: expected Annotated[bytes, MinLen(1)]")


def test_every_constraint_of_the_schema_is_checked() -> None:
    assert set(CHECKS) == set(CONSTRAINTS)


# Aliases that refer to themselves.


def test_a_recursive_alias() -> None:
    both = BothWays(read(Json))
    value: Any = {"a": [1, 2.5, None, True, {"b": []}], "c": "x" * 70_000}
    assert same(both.arrives(value), value)
    assert both.taken(value)
    assert both.refuses({"a": [{"b": (1,)}]}).startswith("['a'][0]['b']: expected ")
    assert both.refuses_payload(packb({"a": [b"x"]})).startswith("['a'][0]: expected ")


@pytest.mark.unmeasured
@pytest.mark.parametrize("hint", [Json, Nest, Twice, Any, list[Any]])
def test_a_value_that_holds_itself_is_refused(hint: Any) -> None:
    once: list[Any] = []
    once.append(once)
    often: list[Any] = []
    often += [often, often, often]
    through: list[Any] = [[[]]]
    through[0][0] += [through, [through]]
    for value in (once, often, through):
        assert "nests too deeply" in (text := BothWays(read(hint)).refuses(value)) or "levels, got more" in text


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("depth", [2000, 100_000])
@pytest.mark.parametrize("hint", [Json, Nest, Twice])
def test_what_nests_too_deeply_is_refused_on_both_sides(hint: Any, depth: int) -> None:
    both = BothWays(read(hint))
    for pack in (both.codec.pack_result, both.codec.pack_arguments):
        with pytest.raises(ValueError, match=r"nests too deeply|msgpack can hold"):
            pack(nested(depth))
    for head in (b"\x91", b"\x92\x01", b"\x81\xa1a"):
        for tail in (b"\x90", b"\xc1", b"\xa1a"):
            with pytest.raises(CodecError):
                both.codec.unpack_result(head * depth + tail)
            with pytest.raises(ArgumentError):
                both.codec.unpack_arguments(b"\x91" + head * depth + tail)


@pytest.mark.unmeasured
@pytest.mark.parametrize("depth", [*range(100, 1200, 100), 509, 510, 511, 512, 513, 1022, 1023, 1024, 1025])
@pytest.mark.parametrize("hint", [Json, Nest, Twice, Any])
def test_what_nests_deeply_arrives_or_is_refused(hint: Any, depth: int) -> None:
    """How deep a value may be depends on the stack that is left; nothing but the codec's error tells of it."""
    both = BothWays(read(hint))
    value = nested(depth)
    for pack, unpack in (
        (both.codec.pack_result, both.codec.unpack_result),
        (both.codec.pack_arguments, lambda payload: both.codec.unpack_arguments(payload)[0][0]),
    ):
        try:
            payload = pack(value)
        except (ArgumentError, CodecError):
            assert depth > 100
            continue
        try:
            arrived = unpack(payload)
        except (ArgumentError, CodecError):
            assert depth > 100
            continue
        levels = 0
        while arrived:
            (arrived,) = arrived
            levels += 1
        assert levels == depth


# What nobody takes.


def test_a_field_that_nobody_takes_is_read_over() -> None:
    pair = RecordNode("Money", (Field("cents", ScalarNode("int"), True), Field("more", IGNORED, True)), cls=Money)
    both = BothWays(pair)
    for more in (None, [1, {"a": [msgpack.Timestamp(1)]}], {"x": msgpack.ExtType(77, b"")}):
        assert both.received(packb([5, more])) == Money(5)
    marked = [5, {"a": [msgpack.ExtType(3, b"\0\0\0\0")]}]
    assert both.received(Segmented(packb(marked), [b"big"])) == Money(5)
    assert "no further segment" in both.refuses_payload(Segmented(packb([5, None]), [b"big"]))
    assert "expected bytes, got segment 0" in both.refuses_payload(packb(marked))


def test_a_type_of_a_peer_has_no_codec() -> None:
    codec = CommandCodec("Test.command", Schema((), ConvertedNode("Money", ScalarNode("int"))))
    with pytest.raises(TypeError, match="the type Money came from a peer; it has no class here"):
        codec.unpack_result(b"\x01")
