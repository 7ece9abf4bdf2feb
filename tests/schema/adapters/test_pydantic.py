"""Models and dataclasses of pydantic travel as records of their fields."""

import dataclasses
from typing import Annotated, Any, Generic, Literal, TypeVar

import pytest

from tests.schema.adapters.trips import faults, refused, refused_on_arrival, trip, trip_either_way
from typedrpc import ArgumentValueError, Server, Service, connect, rpc
from typedrpc.schema import node_of, schema_of
from typedrpc.schema.local import LocalNames

pytest.importorskip("pydantic", reason="pydantic is not here: pip install 'typedrpc[adapters]'")
import pydantic.dataclasses
from annotated_types import Gt
from pydantic import AliasChoices, AliasPath, BaseModel, ConfigDict, Field, RootModel, field_validator

T = TypeVar("T")


class Point(BaseModel):
    x: int
    y: int = 0


class Frozen(BaseModel, frozen=True):
    name: str
    tags: list[str] = Field(default_factory=list)


class Aliased(BaseModel):
    a: int = Field(alias="theA")
    b: int = Field(validation_alias=AliasChoices(AliasPath("q", 0), "not an identifier"))
    c: int = Field(default=0, serialization_alias="C")


class ByName(BaseModel):
    model_config = ConfigDict(populate_by_name=True, extra="forbid")
    a: int = Field(alias="theA")


class Limited(BaseModel):
    age: int = Field(ge=0, lt=150)
    nick: str | None = Field(default=None, max_length=3)
    name: Annotated[str, Field(min_length=1)] = "x"
    either: int | float = Field(default=1, gt=0)
    exact: Annotated[int, Gt(0)] | None = None

    @field_validator("name")
    @classmethod
    def check_name(cls, name: str) -> str:
        if name == "bad":
            raise ValueError("a bad name")
        return name


class Box(BaseModel, Generic[T]):
    item: T
    others: list[T] = []


class Labelled(Box[int]):
    label: str = ""


class Nested(BaseModel):
    point: Point
    boxes: dict[str, Box[Point]] = {}


class Tree(BaseModel):
    name: str
    children: "list[Tree]" = []


class Later(BaseModel):
    item: "DefinedLater | None" = None


class DefinedLater(BaseModel):
    x: int


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"


class Owner(BaseModel):
    pet: Cat | Dog = Field(discriminator="kind")


class Initialising(BaseModel):
    x: int

    def __init__(self, **data: Any) -> None:
        super().__init__(**data)


class Secretive(BaseModel):
    name: str
    cached: int = Field(default=0, exclude=True)
    _private: int = 3


class Numbers(RootModel[list[int]]):
    pass


class Empty(BaseModel):
    pass


@pydantic.dataclasses.dataclass
class Plain:
    x: int
    y: int = Field(default=1, gt=0)
    z: int = dataclasses.field(init=False, default=5)


@pydantic.dataclasses.dataclass
class AliasedPlain:
    x: int = Field(alias="the X")


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True)
class Pair(Generic[T]):
    one: T
    two: list[T]


@dataclasses.dataclass
class OnTop(Plain):
    more: str = ""


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (Point, Point(x=1)),
        (Point, Point(x=1, y=2)),
        (Frozen, Frozen(name="a", tags=["b"])),
        (Aliased, Aliased(theA=1, **{"not an identifier": 2})),
        (ByName, ByName.model_validate({"a": 1})),
        (Limited, Limited(age=149, nick="abc", either=2.5, exact=3)),
        (Box[int], Box[int](item=1, others=[2])),
        (Box[Box[str]], Box[Box[str]](item=Box[str](item="a"))),
        (Labelled, Labelled(item=1, label="x")),
        (Nested, Nested(point=Point(x=1), boxes={"a": Box[Point](item=Point(x=2))})),
        (Tree, Tree(name="a", children=[Tree(name="b", children=[Tree(name="c")])])),
        (Later, Later(item=DefinedLater(x=1))),
        (Owner, Owner(pet=Dog())),
        (Secretive, Secretive(name="a")),
        (Initialising, Initialising(x=1)),
        (AliasedPlain, AliasedPlain(**{"the X": 1})),
        (Numbers, Numbers([1, 2])),
        (Empty, Empty()),
        (Plain, Plain(1, 2)),
        (Pair[int], Pair(one=1, two=[2])),
        (list[Point], [Point(x=1), Point(x=2)]),
        (dict[str, Box[int] | None], {"a": Box[int](item=1), "b": None}),
    ],
    ids=repr,
)
def test_there_and_back(hint: Any, value: object) -> None:
    arrived = trip(hint, value)
    assert type(arrived) is type(value)
    assert arrived == value


def test_a_plain_dataclass_of_a_pydantic_one() -> None:
    assert trip(OnTop, OnTop(1, 2, "a")) == OnTop(1, 2, "a")


def test_what_is_excluded_does_not_travel() -> None:
    arrived = trip(Secretive, Secretive(name="a", cached=7))
    assert (arrived.name, arrived.cached, arrived._private) == ("a", 0, 3)


def test_types_are_checked_before_anything_is_sent() -> None:
    assert refused(Point, Point.model_construct(x="1")) == "result.x: expected int, got str"
    assert refused(Point, Point.model_construct()).startswith("result.x: expected a value, got AttributeError")
    assert refused(Limited, Limited.model_construct(age=150)).startswith(
        "result.age: expected Annotated[int, Ge(0), Lt(150)], got 150"
    )
    assert "MaxLen(3)" in refused(Limited, Limited.model_construct(age=1, nick="long"))


def test_nothing_is_converted_on_arrival() -> None:
    Wire = dataclasses.make_dataclass("Wire", [("x", str), ("y", int, 0)])
    assert refused_on_arrival(Point, Wire, Wire("1")) == "result.x: expected int, got str"


def test_the_models_own_validators_refuse() -> None:
    fields: list[Any] = [
        ("age", int),
        ("nick", str | None),
        ("name", str),
        ("either", int | float),
        ("exact", int | None),
    ]
    Wire = dataclasses.make_dataclass("Wire", fields)
    assert "got 150" in refused_on_arrival(Limited, Wire, Wire(150, None, "a", 1, None))
    assert "got fields it refuses: ValidationError: " in refused_on_arrival(
        Limited, Wire, Wire(1, None, "bad", 1, None)
    )
    # Which member of a union a constraint is for, the model alone knows.
    assert "got fields it refuses: ValidationError: " in refused_on_arrival(Limited, Wire, Wire(1, None, "a", 0, None))


def test_a_dataclass_of_the_same_name_and_fields_is_the_same_type() -> None:
    assert node_of(dataclasses.make_dataclass("Point", [("x", int), ("y", int, 0)])) == node_of(Point)
    fields: list[Any] = [("x", int), ("y", Annotated[int, Gt(0)], 1)]
    assert node_of(dataclasses.make_dataclass("Plain", fields)) == node_of(Plain)

    @dataclasses.dataclass
    class Pair(Generic[T]):
        one: T
        two: list[T]

    assert node_of(Pair[int]) == node_of(globals()["Pair"][int])


def test_unions_tell_them_apart() -> None:
    hint = Point | Frozen | Box[int] | Box[str] | Plain | list[int] | str | None
    values = (Point(x=1), Frozen(name="a"), Box[int](item=1), Box[str](item="a"), Plain(1), [1], "x", None)
    for value in values:
        arrived = trip_either_way(hint, value)
        assert type(arrived) is type(value)
        assert arrived == value


def test_names_of_a_function() -> None:
    class Outer(BaseModel):
        inner: "Inner"

    @pydantic.dataclasses.dataclass
    class Other:
        inner: "Inner"

    def take(value: Outer) -> None: ...
    def take_other(value: Other) -> None: ...

    for function in (take, take_other):
        with pytest.raises(NameError, match=r"names something that is not defined \(yet\)"):
            schema_of(function, method=False)

    class Inner(BaseModel):
        x: int

    for function in (take, take_other):
        names = LocalNames(__name__, {"test_names_of_a_function": {"Inner": Inner}})
        node: Any = schema_of(function, method=False, names=names).parameters[0].node
        assert node.fields[0].node == node_of(Inner)


class Open(BaseModel, extra="allow"):
    x: int


class ByPath(BaseModel):
    x: int = Field(validation_alias=AliasPath("a", 0))


class Hidden(BaseModel):
    x: int = Field(exclude=True)


@pydantic.dataclasses.dataclass
class Initialised:
    x: int
    seed: dataclasses.InitVar[int]


class OwnInit(BaseModel):
    x: int

    def __init__(self, text: str) -> None:
        super().__init__(x=int(text))


@pytest.mark.parametrize(
    ("hint", "text"),
    [
        (BaseModel, "it says nothing of what travels; name the model"),
        (Box, "it does not say what it holds; give the types in brackets, as in Box[int]"),
        (Pair, "it does not say what it holds; give the types in brackets, as in Pair[int]"),
        (Open, 'it keeps fields that it does not declare (extra="allow")'),
        (ByPath, "its field 'x' is looked for in a path alone"),
        (Hidden, "its field 'x' is excluded from what is sent, and has no default"),
        (Initialised, "its __init__ does not take its fields one by one"),
        (OwnInit, "its __init__ does not take its fields one by one"),
        (Box[Any], None),
    ],
)
def test_what_cannot_travel(hint: Any, text: str | None) -> None:
    if text is None:
        assert trip(hint, hint(item=[1])) == hint(item=[1])
    else:
        assert text in faults(hint)


class Store(Service):
    @rpc
    def move(self, point: Point, by: Limited) -> Point:
        return Point(x=point.x + by.age, y=point.y)

    @rpc
    def wrap(self, item: int) -> Box[Frozen]:
        return Box[Frozen](item=Frozen(name=str(item)))


def test_over_a_socket() -> None:
    with Server(Store(), url="tcp://127.0.0.1:0") as server, connect(Store, server.url) as store:
        assert store.move(Point(x=1, y=2), Limited(age=3)) == Point(x=4, y=2)
        assert store.wrap(5) == Box[Frozen](item=Frozen(name="5"))
        bad = Limited.model_construct(age=1, nick=None, name="bad", either=1, exact=None)
        with pytest.raises(ArgumentValueError, match="argument 'by': expected Limited, got fields it refuses"):
            store.move(Point(x=1), bad)


def test_a_field_with_the_name_of_a_keyword() -> None:
    fields: dict[str, Any] = {"class": (int, ...), "if": (str, "x")}
    Model: Any = pydantic.create_model("Model", **fields)
    value = Model(**{"class": 1})
    assert trip(Model, value) == value
