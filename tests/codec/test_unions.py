"""Unions: which member a value is, and how the other side knows."""

import collections.abc
import enum
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import msgpack  # type: ignore[import-untyped]  # it ships no types
import pytest

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
