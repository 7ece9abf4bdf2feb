"""Unions: which member a value is, and how the other side knows."""

import collections
import collections.abc
import enum
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, NamedTuple, NotRequired, TypeVar

import msgpack  # type: ignore[import-untyped]  # it ships no types
import pytest
from typing_extensions import TypedDict

from tests.codec.both_ways import BothWays, same
from tests.codec.invented import asked
from typedrpc.codec import CodecError, CommandCodec, Segmented
from typedrpc.schema import Schema, node_of

packb: Any = msgpack.packb


class Colour(enum.Enum):
    RED = 1


class Number(enum.IntEnum):
    ONE = 1


@dataclass
class Base:
    x: int


@dataclass
class Derived(Base):
    y: int = 0


@dataclass
class Further(Derived):
    z: int = 0


@dataclass
class Other:
    x: int


def codec_of(hint: Any) -> CommandCodec:
    return CommandCodec("Test.command", Schema((), node_of(hint)))


def trip(hint: Any, value: object) -> Any:
    codec = codec_of(hint)
    return codec.unpack_result(codec.pack_result(value))


Abc = collections.abc
WIRE: list[tuple[Any, Any, Any]] = [
    # Told apart by their form: the value alone.
    (int | None, 5, 5),
    (int | None, None, None),
    (int | str | bytes | float | bool | None, 1.0, 1.0),
    (list[int] | dict[str, int] | datetime, [1], [1]),
    (Base | None, Base(1), [1]),
    (Colour | int, Colour.RED, "RED"),
    (Literal["a"] | int, "a", "a"),
    (list[int | None], [1, None], [1, None]),
    # With a form in common: the index of the member, then the value.
    (Base | Other, Base(1), [0, [1]]),
    (Base | Other, Other(1), [1, [1]]),
    (Base | Other | None, None, [2, None]),
    (list[int] | set[int], {1}, [1, [1]]),
    (list[int] | list[str], [1], [0, [1]]),
    (list[int] | list[str], ["a"], [1, ["a"]]),
    (list[int] | list[str], [], [0, []]),
    (Colour | str, Colour.RED, [0, "RED"]),
    (Colour | str, "RED", [1, "RED"]),
    (list[Base | Other], [Base(1), Other(2)], [[0, [1]], [1, [2]]]),
]


@pytest.mark.parametrize(("hint", "value", "data"), WIRE, ids=[f"{i}-{hint}" for i, (hint, _, _) in enumerate(WIRE)])
def test_a_tag_stands_where_it_is_needed(hint: Any, value: Any, data: Any) -> None:
    assert codec_of(hint).pack_result(value) == packb(data)
    assert trip(hint, value) == value
    assert type(trip(hint, value)) is type(value)


EXACT: list[tuple[Any, Any]] = [
    (int | bool, True),
    (int | bool, 1),
    (int | float, 1),
    (int | float, 1.0),
    (int | float | bool | str, True),
    (float | Literal[1], 1),
    (int | Number, Number.ONE),
    (int | Number, 1),
    (Base | Derived, Base(1)),
    (Base | Derived, Derived(1, 2)),
    (tuple[int, int] | list[int], (1, 2)),
    (tuple[int, int] | list[int], [1, 2]),
    (tuple[int, int] | tuple[int, ...], (1, 2, 3)),
    (tuple[int] | tuple[int, int] | tuple[str, str], ("a", "b")),
    (dict[str, int] | dict[int, str], {1: "a"}),
    (dict[str, int] | dict[int, str] | Base, Base(3)),
    (set[int] | frozenset[int], frozenset({1})),
    (bytes | str | None, b"x" * 70_000),
    (bytes | list[bytes], [b"x" * 70_000, b"y"]),
    (list[int] | list[list[int] | list[str]], [["a"], [1]]),
]


@pytest.mark.parametrize(("hint", "value"), EXACT, ids=[f"{i}-{hint}" for i, (hint, _) in enumerate(EXACT)])
def test_a_value_of_a_member_keeps_its_type(hint: Any, value: Any) -> None:
    for wider, there in ((hint, value), (list[hint], [value, value]), (hint | datetime, value)):
        arrived = trip(wider, there)
        back = arrived[1] if wider == list[hint] else arrived
        assert back == value
        assert type(back) is type(value)


class Str(str):
    pass


def numbers() -> Iterator[str]:
    yield from ("1", "2")


CONVERTED: list[tuple[Any, Any, Any]] = [
    (int | str, True, 1),
    (int | str, Str("a"), "a"),
    (float | str, 1, 1.0),
    (float | str, True, 1.0),
    (float | bool, 2, 2.0),
    (float | Literal[1], 2, 2.0),
    (float | Literal["a"], 2, 2.0),
    (int | str, Number.ONE, 1),
    (Base | Derived, Further(1, 2, 3), Derived(1, 2)),
    (Base | Other, Derived(1, 2), Base(1)),
    (Abc.Sequence[int] | None, (1, 2), [1, 2]),
    (Abc.Sequence[int] | str, "ab", "ab"),
    (list[int] | Abc.Sequence[str], [1], [1]),
    (list[int] | Abc.Sequence[str], ["a"], ["a"]),
    (Abc.Iterable[int] | Abc.Iterable[str], numbers(), ["1", "2"]),
    (Abc.Iterable[int] | None, range(2), [0, 1]),
    (dict[str, int] | Abc.Mapping[str, str], {"a": "b"}, {"a": "b"}),
    (Abc.Set[int] | Abc.Sequence[int], {1}, {1}),
]


@pytest.mark.parametrize(
    ("hint", "value", "back"), CONVERTED, ids=[f"{i}-{hint}" for i, (hint, _, _) in enumerate(CONVERTED)]
)
def test_other_values_become_the_nearest_member(hint: Any, value: Any, back: Any) -> None:
    arrived = trip(hint, value)
    assert arrived == back
    assert type(arrived) is type(back)


REFUSED: list[tuple[Any, Any, str]] = [
    (int | str, 1.0, "result: expected int | str, got float"),
    (int | None, "a", "result: expected int | None, got str"),
    (int | float, "a", "result: expected float | int, got str"),
    (list[int] | None, ["a"], "result[0]: expected int, got str"),
    (list[int] | list[bytes], ["a"], "result[0]: expected bytes, got str"),
    (list[list[int]] | list[bytes], [[1], ["a"]], "result[1][0]: expected int, got str"),
    (tuple[int] | tuple[str, str], (1, 2, 3), "result: expected tuple[int] | tuple[str, str], got tuple of 3 items"),
    (Base | Other, Base("x"), "result.x: expected int, got str"),  # type: ignore[arg-type]
    (Literal["a"] | Literal[Colour.RED], "b", "result: expected Literal['a'], got 'b'"),
    (Literal[1] | float, 10**400, "result: expected Literal[1] | float, got an int of 1329 bits"),
    (list[bytes] | list[str], [b"x" * 70_000, 1], "expected bytes, got int"),
]


@pytest.mark.parametrize(
    ("hint", "value", "text"), REFUSED, ids=[f"{i}-{text}"[:70] for i, (_, _, text) in enumerate(REFUSED)]
)
def test_what_is_no_member_is_refused(hint: Any, value: Any, text: str) -> None:
    with pytest.raises(CodecError) as caught:
        codec_of(hint).pack_result(value)
    assert text in str(caught.value)


BAD: list[tuple[Any, Any, str]] = [
    (int | str, 1.0, "result: expected int | str, got float"),
    (int | None, [], "result: expected int | None, got list"),
    (int | list[str], [1], "result[0]: expected str, got int"),
    (Base | Other, None, "result: expected Base | Other, got None without the index of a member"),
    (Base | Other, [], "got list without the index of a member"),
    (Base | Other, [0], "got list without the index of a member"),
    (Base | Other, [0, [1], 2], "got list without the index of a member"),
    (Base | Other, [2, [1]], "got list without the index of a member"),
    (Base | Other, [-1, [1]], "got list without the index of a member"),
    (Base | Other, [False, [1]], "got list without the index of a member"),
    (Base | Other, [0.0, [1]], "got list without the index of a member"),
    (Base | Other, [1, ["x"]], "result.x: expected int, got str"),
    (Base | Other | None, None, "got None without the index of a member"),
]


@pytest.mark.parametrize(("hint", "data", "text"), BAD, ids=[f"{i}-{text}"[:70] for i, (_, _, text) in enumerate(BAD)])
def test_bad_data_of_a_peer(hint: Any, data: Any, text: str) -> None:
    with pytest.raises(CodecError) as caught:
        codec_of(hint).unpack_result(packb(data))
    assert text in str(caught.value)


def test_a_member_that_was_tried_leaves_no_segment_behind() -> None:
    value = [b"x" * 70_000, "a"]
    payload = codec_of(list[bytes] | list[bytes | str]).pack_result(value)
    assert isinstance(payload, Segmented)
    assert payload.segments == [value[0]]


def test_what_an_iterator_gave_is_seen_by_every_member_that_is_tried() -> None:
    hint = list[Abc.Iterable[int]] | list[Abc.Iterable[str]]
    assert trip(hint, [numbers(), iter("ab")]) == [["1", "2"], ["a", "b"]]
    assert trip(tuple[int, Abc.Iterable[int]] | tuple[int, Abc.Iterable[str]], (1, numbers())) == (1, ["1", "2"])


def test_a_dataclass_decides_for_its_instances() -> None:
    """One that does not fit is not cut down to a base class that it would fit."""
    with pytest.raises(CodecError, match=r"result\.y: expected int, got str"):
        codec_of(Base | Derived).pack_result(Derived(1, "y"))  # type: ignore[arg-type]
    with pytest.raises(CodecError, match=r"result\[1\]\.y: expected int, got str"):
        codec_of(list[Base | Derived]).pack_result([Base(1), Further(1, "y")])  # type: ignore[arg-type]


def test_a_form_is_claimed_by_one_member_of_the_generated_code_at_most() -> None:
    """An int is a float where there is no int, and the literal comes first where there is one."""
    codec = codec_of(float | Literal[1, 2])
    for value in (1, 2, 3, 1.5):
        back = codec.unpack_result(codec.pack_result(value))
        assert back == value
        assert type(back) is (int if value in (1, 2) else float)


# Members of one class, TypedDicts, Any, constraints, flags, converted types.


ItemT = TypeVar("ItemT")


@dataclass
class Box(Generic[ItemT]):
    again: "Box[int] | Box[str] | None"
    item: ItemT


class Cat(TypedDict):
    name: str
    lives: int


class Dog(TypedDict):
    name: str
    tricks: NotRequired[list[str]]


class Spot(NamedTuple):
    x: int


class Access(enum.Flag):
    READ = 1
    WRITE = 2


class Mode(enum.IntFlag):
    A = 1
    B = 2


SMALL, LARGE = Annotated[int, asked("Lt", 10)], Annotated[int, asked("Gt", 100)]
SHORT = Annotated[str, asked("MaxLen", 2)]
MIXED: list[tuple[Any, list[Any]]] = [
    (Box[int] | Box[str], [Box(None, 1), Box(None, "x"), Box(Box(Box(None, "y"), 2), "x")]),
    (list[Box[int]] | list[Box[str]], [[Box(None, 1)], [Box(None, "x")], []]),
    (Cat | Dog, [{"name": "a", "lives": 9}, {"name": "b"}, {"name": "c", "tricks": ["roll"]}]),
    (Cat | dict[str, int], [{"name": "a", "lives": 9}, {"lives": 9}, {}]),
    (Cat | list[int], [{"name": "a", "lives": 9}, [1]]),
    (int | Any, [1, "x", [1], None, {"a": 1.5}]),
    (Any | None, [1, None, [None]]),
    (Box[int] | Any, [Box(None, 1), [None, 1], 1]),
    (Decimal | Any, [Decimal("1.5"), "1.5", 1]),
    (datetime | Any, [datetime(2024, 1, 1), "x", 5]),
    (SMALL | LARGE, [1, 1000, -5]),
    (SMALL | str, [1, "x"]),
    (SMALL | float, [1, 1.5]),
    (SHORT | bytes, ["ab", b"x"]),
    (SHORT | Decimal, ["ab", Decimal(1)]),
    (Access | int, [Access.READ, 5, Access(0), 0]),
    (Mode | int, [Mode.A, 5, Mode.A | Mode.B, 3]),
    (Mode | Access | Number, [Mode.A, Access.READ, Number.ONE]),
    (Access | float, [Access.READ, 1.0]),
    (Access | bool, [Access.READ, True]),
    (date | datetime, [date(2024, 1, 1), datetime(2024, 1, 1)]),
    (date | int, [date(2024, 1, 1), 5]),
    (date | time | Decimal | complex, [date(2024, 1, 1), time(1), Decimal("1.0"), 1j]),
    (Decimal | str, [Decimal("1.0"), "1.0"]),
    (list[int] | list[float], [[1], [1.5], []]),
    (dict[str, bool] | dict[str, int] | dict[str, float], [{"a": 1}, {"a": True}, {"a": 1.0}]),
    (list[Base] | list[Derived], [[Base(1)], [Derived(1)], [Further(1)][:0]]),
    (tuple[float, list[int]] | tuple[float, list[bool]], [(1.5, [1]), (1.5, [True])]),
    (list[Decimal] | list[str], [[Decimal(1)], ["1"]]),
    (bytes | bytearray | memoryview, [b"a", bytearray(b"a"), memoryview(b"a"), bytes(70_000), bytearray(70_000)]),
    (Spot | tuple[int] | list[int], [Spot(1), (1,), [1]]),
    (
        collections.deque[int]
        | list[int]
        | collections.OrderedDict[str, int]
        | dict[str, int]
        | collections.Counter[str],
        [
            collections.deque([1]),
            [1],
            collections.OrderedDict(a=1),
            {"a": 1},
            collections.Counter("a"),
        ],
    ),
    (range | tuple[int, int, int], [range(3), (0, 3, 1)]),
]


@pytest.mark.parametrize(("hint", "values"), MIXED, ids=[str(hint) for hint, _ in MIXED])
def test_a_value_arrives_as_the_member_that_it_is(hint: Any, values: list[Any]) -> None:
    both = BothWays(hint)
    for value in values:
        assert same(both.arrives(value), value)
    assert same(BothWays(list[hint]).arrives(values), values)
    assert same(BothWays(dict[str, hint | None]).arrives({"a": values[0], "b": None}), {"a": values[0], "b": None})


@pytest.mark.parametrize(
    ("hint", "value", "text"),
    [
        (Box[int] | Box[str], Box(None, 1.5), ".item: expected "),
        (Box[int] | Box[str], Box(Box(None, b""), 1), ".again.item: expected "),  # type: ignore[arg-type]
        (Cat | Dog, {"name": "a", "lives": "x"}, "['lives']: expected int, got str"),
        (Cat | Dog, {"name": 5}, ""),
        (SMALL | LARGE, 50, ": expected Annotated[int, Gt(100)] | Annotated[int, Lt(10)], got 50"),
        (SMALL | LARGE, "x", ": expected Annotated[int, Gt(100)] | Annotated[int, Lt(10)], got str"),
        (SHORT | bytes, "abc", ": expected Annotated[str, MaxLen(2)], got 'abc' of length 3"),
        (Access | str, Mode.A, ": expected Access | str, got Mode"),
        (date | Decimal, "1.5", ": expected Decimal | date, got str"),
        (int | Any, (1,), ": expected plain data, got tuple"),
    ],
)
def test_what_is_none_of_the_members_is_refused(hint: Any, value: Any, text: str) -> None:
    refused = BothWays(hint).refuses(value)
    assert refused.startswith(text)
    assert "expected" in refused


@pytest.mark.parametrize(
    ("hint", "value", "back"),
    [
        (list[int] | list[float], [1, 1.5], [1.0, 1.5]),
        (list[float] | list[str], [1], [1.0]),
        (list[float] | list[complex], [1, True], [1 + 0j, 1 + 0j]),
        (list[Base] | list[Other], [Further(1)], [Base(1)]),
        (list[bytes | float] | list[bytes | str], [bytes(70_000), 1], [bytes(70_000), 1.0]),
        (float | str | None, 5, 5.0),
    ],
)
def test_where_no_member_keeps_the_types_the_first_takes_the_value(hint: Any, value: Any, back: Any) -> None:
    assert same(BothWays(hint).arrives(value), back)


def chain(depth: int, item: Any) -> Any:
    value = None
    for index in range(depth):
        value = Box(value, item if index == 0 else "x")
    return value


@pytest.mark.parametrize("item", [1, "x", 1.5, bytes(70_000)], ids=type)
def test_members_that_are_tried_in_turn_do_not_multiply(item: object) -> None:
    """At each level both members take all but the last field: without a memory that is 2 ** 60 times."""
    for hint in (Box[int] | Box[str], Box[int] | Box[str] | Box[bytes], list[Box[int]] | list[Box[str]]):
        both = BothWays(hint)
        value = [chain(60, item)] if typing.get_origin(typing.get_args(hint)[0]) is list else chain(60, item)
        if isinstance(item, int | str):
            assert both.arrives(value) == value
        else:
            assert "expected" in both.refuses(value)


def test_a_value_that_occurs_twice_arrives_twice() -> None:
    """What a member made of a value is remembered, with the segments that it put beside the body."""
    hint = list[list[bytes] | tuple[bytes, ...] | collections.abc.Sequence[int] | collections.abc.Sequence[bytes]]
    large = bytes(70_000)
    shared: Any = collections.UserList([large, b"x", large])
    arrived = BothWays(hint).arrives([shared, [large], shared, shared])
    assert same(arrived, [[large, b"x", large], [large], [large, b"x", large], [large, b"x", large]])
