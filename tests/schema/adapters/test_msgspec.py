"""Structs of msgspec travel as records of their fields."""

import dataclasses
from typing import Annotated, Any, Generic, TypeVar

import pytest

from tests.schema.adapters.trips import faults, refused, refused_on_arrival, trip, trip_either_way
from typedrpc import ArgumentValueError, Server, Service, connect, rpc
from typedrpc.schema import node_of, schema_of
from typedrpc.schema.local import LocalNames

pytest.importorskip("msgspec", reason="msgspec is not here: pip install 'typedrpc[adapters]'")
import msgspec
from msgspec import Meta, Struct

T = TypeVar("T")


class Point(Struct):
    x: int
    y: int = 0


class Frozen(Struct, frozen=True, kw_only=True, rename="camel", tag="F", array_like=True):
    first_name: str
    all_tags: list[str] = []
    nick: "str | None" = None
    last_name: str


class Derived(Frozen, kw_only=False, frozen=True):
    age: int
    height: float = 1.5


class Box(Struct, Generic[T]):
    item: T
    others: list[T] = msgspec.field(default_factory=list)


class Labelled(Box[int]):
    label: str = ""


class Tree(Struct):
    name: str
    children: "list[Tree]" = []


class Limited(Struct):
    age: Annotated[int, Meta(ge=0, lt=150)]
    name: Annotated[str, Meta(max_length=3, description="short")] = ""

    def __post_init__(self) -> None:
        if self.name == "bad":
            raise ValueError("a bad name")


class Empty(Struct):
    pass


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (Point, Point(1)),
        (Point, Point(1, 2)),
        (Frozen, Frozen(first_name="a", last_name="b", all_tags=["c"], nick="d")),
        (Derived, Derived(3, first_name="a", last_name="b")),
        (Box[int], Box(1, [2])),
        (Box[Box[str]], Box(Box("a"), [Box("b", ["c"])])),
        (Labelled, Labelled(1, [2], "x")),
        (Tree, Tree("a", [Tree("b", [Tree("c")]), Tree("d")])),
        (Limited, Limited(149, "abc")),
        (Empty, Empty()),
        (list[Point], [Point(1), Point(2)]),
        (dict[str, Box[int] | None], {"a": Box(1), "b": None}),
    ],
    ids=repr,
)
def test_there_and_back(hint: Any, value: object) -> None:
    arrived = trip(hint, value)
    assert type(arrived) is type(value)
    assert arrived == value


def test_types_are_checked_before_anything_is_sent() -> None:
    wrong: Any = "1"
    assert refused(Point, Point(wrong)) == "result.x: expected int, got str"
    assert refused(Box[int], Box("a")) == "result.item: expected int, got str"


def test_constraints_are_checked_on_both_sides() -> None:
    assert refused(Limited, Limited(150)) == "result.age: expected Annotated[int, Ge(0), Lt(150)], got 150"
    assert refused(Limited, Limited(1, "long")).startswith(
        "result.name: expected Annotated[str, MaxLen(3)], got 'long'"
    )
    Wire = dataclasses.make_dataclass("Wire", [("age", int), ("name", str, "")])
    assert "got 150" in refused_on_arrival(Limited, Wire, Wire(150))
    assert "fields it refuses: ValueError: a bad name" in refused_on_arrival(Limited, Wire, Wire(1, "bad"))


def test_a_dataclass_of_the_same_name_and_fields_is_the_same_type() -> None:
    assert node_of(dataclasses.make_dataclass("Point", [("x", int), ("y", int, 0)])) == node_of(Point)
    fields: list[Any] = [
        ("first_name", str),
        ("all_tags", list[str], ()),
        ("nick", str | None, None),
        ("last_name", str),
    ]
    assert node_of(dataclasses.make_dataclass("Frozen", fields, kw_only=True)) == node_of(Frozen)
    assert node_of(dataclasses.make_dataclass("Point", [("x", int), ("y", int)])) != node_of(Point)


def test_unions_tell_them_apart() -> None:
    hint = Point | Frozen | Box[int] | Box[str] | list[int] | str | None
    for value in (Point(1), Frozen(first_name="a", last_name="b"), Box(1), Box("a"), [1], "x", None):
        arrived = trip_either_way(hint, value)
        assert type(arrived) is type(value)
        assert arrived == value


def test_names_of_a_function() -> None:
    class Inner(Struct):
        x: int

    class Outer(Struct):
        inner: "Inner"

    def take(value: Outer) -> None: ...

    with pytest.raises(NameError):
        schema_of(take, method=False)
    names = LocalNames(__name__, {"test_names_of_a_function": {"Inner": Inner}})
    assert schema_of(take, method=False, names=names).parameters[0].node.fields[0].node == node_of(Inner)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("hint", "text"),
    [
        (Struct, "it says nothing of what travels; name the Struct"),
        (Box, "it does not say what it holds; give the types in brackets, as in Box[int]"),
        (Annotated[str, Meta(pattern="a")], "nothing here checks the pattern of a Meta"),
        (Annotated[str, Meta(tz=True)], "nothing here checks the tz of a Meta"),
        (Box[object], "in Box[object]: object cannot travel"),
    ],
)
def test_what_cannot_travel(hint: Any, text: str) -> None:
    assert text in faults(hint)


class Store(Service):
    @rpc
    def move(self, point: Point, by: Limited) -> Point:
        return Point(point.x + by.age, point.y)

    @rpc
    def wrap(self, item: int) -> Box[Frozen]:
        return Box(Frozen(first_name=str(item), last_name=""))


def test_over_a_socket() -> None:
    with Server(Store(), url="tcp://127.0.0.1:0") as server, connect(Store, server.url) as store:
        assert store.move(Point(1, 2), Limited(3)) == Point(4, 2)
        assert store.wrap(5) == Box(Frozen(first_name="5", last_name=""))
        with pytest.raises(
            ArgumentValueError, match=r"argument 'by'.age: expected Annotated\[int, Ge\(0\), Lt\(150\)\]"
        ):
            store.move(Point(1), Limited(-1))
