"""Classes of attrs travel as records of what their constructor takes."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import pytest

from tests.schema.adapters.trips import faults, refused, refused_on_arrival, trip, trip_either_way
from typedrpc import ArgumentValueError, Server, Service, connect, rpc
from typedrpc.schema import Schema, SignatureFaults, node_of, schema_of
from typedrpc.schema.local import LocalNames

pytest.importorskip("attrs", reason="attrs is not here: pip install 'typedrpc[adapters]'")
import attr
import attrs

T = TypeVar("T")


@attrs.define
class Point:
    x: int
    y: int = 0


@attrs.frozen(slots=False, kw_only=True)
class Frozen:
    name: str
    tags: list[str] = attrs.field(factory=list)


@attrs.define
class Private:
    _secret: int
    __very: int = 1  # pyright: ignore[reportGeneralTypeIssues]  # attrs takes it, as _Private__very
    shown: str = attrs.field(default="", alias="as_")
    double: int = attrs.field(default=attrs.Factory(lambda self: 2 * self._secret, takes_self=True), kw_only=True)
    counted: int = attrs.field(init=False, default=7)


def positive(value: int) -> int:
    return abs(value)


@attrs.define
class Mixed:
    first: int
    _second: int
    third: int
    fourth: int = attrs.field(kw_only=True)
    fifth: int = 5


@attrs.define
class Checked:
    amount: int = attrs.field(converter=positive, validator=attrs.validators.lt(100))
    label: str = attrs.field(default="", validator=attrs.validators.max_len(3))


@attrs.define
class Box(Generic[T]):
    item: T
    others: list[T] = attrs.field(factory=list)


@attrs.define
class Labelled(Box[int]):
    label: "str | None" = None


@attrs.define
class Tree:
    name: str
    children: "list[Tree]" = attrs.field(factory=list)


@attr.s
class Old:
    x = attr.ib(type=int)  # pyright: ignore[reportGeneralTypeIssues]
    y = attr.ib(type=str, default="")  # pyright: ignore[reportGeneralTypeIssues]


@attrs.define
class Constant:
    limit: Final[int] = 3


Made: Any = attrs.make_class("Made", {"x": attrs.field(type=int)})


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (Point, Point(1)),
        (Point, Point(1, 2)),
        (Frozen, Frozen(name="a", tags=["b"])),
        (Private, Private(1, 2, "x", double=5)),
        (Private, Private(4)),
        (Mixed, Mixed(1, 2, 3, fourth=4)),
        (Checked, Checked(-3, "abc")),
        (Box[int], Box(1, [2])),
        (Box[Box[str]], Box(Box("a"), [Box("b", ["c"])])),
        (Labelled, Labelled(1, [2], "x")),
        (Tree, Tree("a", [Tree("b", [Tree("c")]), Tree("d")])),
        (Old, Old(1, "a")),  # pyright: ignore[reportCallIssue]
        (Made, Made(1)),
        (Constant, Constant(4)),
        (list[Point], [Point(1), Point(2)]),
        (dict[str, Box[int] | None], {"a": Box(1), "b": None}),
    ],
    ids=repr,
)
def test_there_and_back(hint: Any, value: object) -> None:
    arrived = trip(hint, value)
    assert type(arrived) is type(value)
    assert arrived == value


def test_what_the_constructor_does_not_take_does_not_travel() -> None:
    value = Private(1)
    value.counted = 99
    assert trip(Private, value).counted == 7
    assert str(node_of(Private)) == "Private"


def test_converters_and_validators_run_on_arrival() -> None:
    @dataclass
    class Wire:
        amount: int
        label: str = ""

    assert trip(Checked, Checked(-3)).amount == 3
    said = refused_on_arrival(Checked, Wire, Wire(100))
    assert said.startswith("result: expected Checked, got fields it refuses: ValueError: 'amount' must be < 100: 100")
    assert "label" in refused_on_arrival(Checked, Wire, Wire(1, "long"))


def test_types_are_checked_before_anything_is_sent() -> None:
    wrong: Any = "1"
    assert refused(Point, Point(wrong)) == "result.x: expected int, got str"
    assert refused(Box[int], Box("a")) == "result.item: expected int, got str"
    assert refused(Point, 1) == "result: expected Point, got int"


def test_a_dataclass_of_the_same_name_and_fields_is_the_same_type() -> None:
    same = dataclasses.make_dataclass("Point", [("x", int), ("y", int, 0)])
    assert node_of(same) == node_of(Point)
    assert Schema((), node_of(same)).fingerprint == Schema((), node_of(Point)).fingerprint
    keyword = dataclasses.make_dataclass("Frozen", [("name", str), ("tags", list[str], dataclasses.field(default=()))])
    assert node_of(keyword) == node_of(Frozen)
    assert node_of(dataclasses.make_dataclass("Point", [("x", int), ("y", int)])) != node_of(Point)


def test_unions_tell_them_apart() -> None:
    hint = Point | Frozen | Box[int] | Box[str] | list[int] | str | None
    for value in (Point(1), Frozen(name="a"), Box(1), Box("a"), [1], "x", None):
        arrived = trip_either_way(hint, value)
        assert type(arrived) is type(value)
        assert arrived == value


def test_names_of_a_function() -> None:
    @attrs.define
    class Inner:
        x: int

    @attrs.define
    class Outer:
        inner: "Inner"
        more: "list[Inner]" = attrs.field(factory=list)

    def take(value: Outer) -> None: ...

    with pytest.raises(NameError):
        schema_of(take, method=False)
    names = LocalNames(__name__, {"test_names_of_a_function": {"Inner": Inner}})
    (parameter,) = schema_of(take, method=False, names=names).parameters
    assert [str(field.node) for field in parameter.node.fields] == ["Inner", "list[Inner]"]  # type: ignore[attr-defined]


@attrs.define(init=False)
class OwnInit:
    x: int

    def __init__(self, text: str) -> None:
        self.x = int(text)


@attrs.define
class Detected:
    x: int

    def __init__(self, x: int, more: int) -> None:
        self.x = x + more


@attr.s
class Untyped:
    x = attr.ib()  # type: ignore[var-annotated]  # that is the point


@attrs.define
class Wrong:
    x: "1 + ''"  # type: ignore[valid-type]  # noqa: F722


@pytest.mark.parametrize(
    ("hint", "text"),
    [
        (Box, "Box cannot travel: it does not say what it holds; give the types in brackets, as in Box[int]"),
        (OwnInit, "its __init__ does not take its fields one by one"),
        (Detected, "its __init__ does not take its fields one by one"),
        (Untyped, "its field 'x' has no type; annotate it"),
        (Box[object], "in Box[object]: object cannot travel"),
        (Wrong, "Wrong cannot travel: "),
    ],
)
def test_what_cannot_travel(hint: Any, text: str) -> None:
    assert text in faults(hint)
    with pytest.raises(SignatureFaults):
        node_of(list[hint])


class Store(Service):
    @rpc
    def move(self, point: Point, by: Checked) -> Point:
        return Point(point.x + by.amount, point.y)

    @rpc
    def wrap(self, item: int) -> Box[Frozen]:
        return Box(Frozen(name=str(item)))


def test_over_a_socket() -> None:
    with Server(Store(), url="tcp://127.0.0.1:0") as server, connect(Store, server.url) as store:
        assert store.move(Point(1, 2), Checked(3)) == Point(4, 2)
        assert store.wrap(5) == Box(Frozen(name="5"))
        checked = Checked(3)
        object.__setattr__(checked, "amount", -200)
        with pytest.raises(ArgumentValueError, match=r"argument 'by': expected Checked, got fields it refuses"):
            store.move(Point(1), checked)


@attrs.define(init=False)
class Turned:
    x: int
    y: int

    def __init__(self, y: int, x: int) -> None:
        self.x, self.y = x, y


def test_an_init_of_ones_own_may_take_the_attributes_in_another_order() -> None:
    assert trip(Turned, Turned(y=2, x=1)) == Turned(y=2, x=1)
