"""Dataclasses, NamedTuples and TypedDicts taken apart into fields."""

import dataclasses
import sys
import typing
from dataclasses import KW_ONLY, InitVar, dataclass, field, make_dataclass
from typing import Annotated, Any, ClassVar, Final, Generic, NamedTuple, NotRequired, Optional, Required, TypeVar

import pytest
import typing_extensions
from typing_extensions import ReadOnly, TypedDict

from typedrpc.codec import CommandCodec
from typedrpc.schema import RecordNode, Schema, SignatureFaults, node_of, schema_of
from typedrpc.schema.records import class_hints, record_name, shown, substitute

T = TypeVar("T")
K = TypeVar("K")
V = TypeVar("V")


def record(hint: Any) -> RecordNode:
    node = node_of(hint)
    assert isinstance(node, RecordNode)
    assert Schema.from_data(Schema((), node).to_data()).result == node
    return node


def fields(hint: Any) -> list[str]:
    """``"name: type"`` for each field, with ``?`` behind the name of one that may be left out."""
    return [f"{one.name}{'' if one.required else '?'}: {one.node}" for one in record(hint).fields]


def arguments(hint: Any) -> list[str | None]:
    """The names under which the constructor takes the fields, None where by position."""
    return [one.argument for one in record(hint).fields]


def fault(hint: Any) -> str:
    with pytest.raises(SignatureFaults) as caught:
        node_of(hint)
    (only,) = caught.value.faults
    return only


# Dataclasses


@dataclass
class Point:
    x: int
    y: int = 0


def test_defaults_and_factories_make_a_field_optional() -> None:
    @dataclass
    class Shape:
        points: list[Point]
        name: str = "x"
        tags: list[str] = field(default_factory=list)

    assert fields(Shape) == ["points: list[Point]", "name?: str", "tags?: list[str]"]
    assert arguments(Shape) == [None, None, None]
    assert record(Shape).cls is Shape
    assert not record(Shape).keyed


def test_keyword_only_fields_are_passed_by_name_in_the_order_of_declaration() -> None:
    @dataclass
    class Some:
        a: int
        _: KW_ONLY
        b: int
        c: int = 0

    @dataclass(kw_only=True)
    class All:
        a: int
        b: int = 0

    @dataclass
    class One:
        a: int = field(kw_only=True)
        b: int

    assert fields(Some) == ["a: int", "b: int", "c?: int"]
    assert arguments(Some) == [None, "b", "c"]
    assert arguments(All) == ["a", "b"]
    assert fields(One) == ["a: int", "b: int"]
    assert arguments(One) == ["a", None]


def test_slots_and_frozen_change_nothing() -> None:
    @dataclass(frozen=True, slots=True)
    class Both:
        a: int
        b: "str | None" = None

    assert fields(Both) == ["a: int", "b?: str | None"]


def test_what_the_constructor_does_not_take_does_not_travel() -> None:
    @dataclass
    class Partly:
        a: int
        version: ClassVar[int] = 1
        registry: "ClassVar[object]" = None
        derived: object = field(init=False, default=0)
        cache: int = field(init=False)

        def __post_init__(self) -> None:
            self.cache = self.a

    assert fields(Partly) == ["a: int"]


def test_an_init_var_needs_a_default() -> None:
    @dataclass
    class Scaled:
        x: int
        scale: InitVar[int]

        def __post_init__(self, scale: int) -> None: ...

    @dataclass
    class Optionally:
        x: int
        scale: InitVar[int] = 1
        z: int = 3

        def __post_init__(self, scale: int) -> None: ...

    assert "takes 'scale', an InitVar, which instances do not keep; give it a default, or make it" in fault(Scaled)
    assert fields(Optionally) == ["x: int", "z?: int"]
    # `scale` is in between, and keeps its default.
    assert arguments(Optionally) == [None, "z"]


def test_final_is_looked_through() -> None:
    @dataclass
    class Fixed:
        a: Final[int]
        b: "Final[str]" = "x"  # pyright: ignore

    assert fields(Fixed) == ["a: int", "b?: str"]
    untyped = make_dataclass("Untyped", [("a", Final)])
    assert fault(untyped).endswith("its field 'a' is Final and says no type; write the type in brackets behind Final")


def test_inheritance_keeps_the_place_and_takes_the_last_type() -> None:
    @dataclass
    class Base:
        a: int
        b: object = None

    @dataclass
    class Derived(Base):
        b: str = ""  # pyright: ignore[reportIncompatibleVariableOverride]
        c: int = 0

    class Undecorated(Derived):
        d: int = 0

    assert fields(Derived) == ["a: int", "b?: str", "c?: int"]
    assert fields(Undecorated) == ["a: int", "b?: str", "c?: int"]
    assert record(Undecorated).cls is Undecorated


def test_an_init_of_its_own_has_to_take_the_fields() -> None:
    @dataclass
    class Good:
        x: int
        y: int = field(kw_only=True)

        def __init__(self, x: int, *, y: int) -> None:
            self.x, self.y = x + 1, y

    @dataclass
    class OtherNames:
        x: int

        def __init__(self, text: str) -> None:
            self.x = int(text)

    @dataclass
    class TooMany:
        x: int

        def __init__(self, x: int, more: int) -> None:
            self.x = x

    @dataclass
    class TooFew:
        x: int
        y: int

        def __init__(self, x: int) -> None:
            self.x = self.y = x

    @dataclass
    class OtherDefault:
        x: int

        def __init__(self, x: int = 0) -> None:
            self.x = x

    @dataclass
    class Anything:
        x: int

        def __init__(self, *args: int, **kwargs: int) -> None:
            self.x = 0

    class Derived(Point):
        def __init__(self) -> None:
            super().__init__(1)

    assert fields(Good) == ["x: int", "y: int"]
    assert arguments(Good) == [None, "y"]
    for cls in (OtherNames, TooMany, TooFew, OtherDefault, Anything, Derived):
        assert "its __init__ does not take its fields one by one; send a dataclass that holds" in fault(cls), cls


def test_a_field_may_be_called_as_its_type_is() -> None:
    import datetime

    date = datetime.date

    @dataclass
    class Event:
        date: "date | None" = None  # type: ignore[valid-type]  # pyright: ignore
        int: "int" = 0

    Event.__module__ = __name__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules[__name__], "date", date, raising=False)
        assert fields(Event) == ["date?: date | None", "int?: int"]


# Generic classes


@dataclass
class Box(Generic[T]):
    item: T
    items: list[T] = field(default_factory=list)
    next: "Box[T] | None" = None
    other: Optional["Box[T]"] = None
    nested: "list[Box[list[T]]]" = field(default_factory=list, init=False)


@dataclass
class Pair(Generic[K, V]):
    key: K
    value: V


@dataclass
class Named(Pair[str, V]):
    more: "dict[str, V]"


@dataclass
class Deep(Named[list[T]], Generic[T]):
    last: T


def test_the_arguments_of_a_generic_dataclass_are_filled_in() -> None:
    assert fields(Box[int]) == ["item: int", "items?: list[int]", "next?: Box[int] | None", "other?: Box[int] | None"]
    node = record(Box[int])
    assert node.name == "Box[int]"
    assert node.cls is Box
    assert node_of(Box[int]) == node
    assert node_of(Box[str]) != node
    assert fields(Box[Point | None])[0] == "item: Point | None"
    assert fields(Box[Box[int]])[0] == "item: Box[int]"


def test_inheritance_binds_type_parameters() -> None:
    assert fields(Pair[int, str]) == ["key: int", "value: str"]
    assert fields(Named[int]) == ["key: str", "value: int", "more: dict[str, int]"]
    assert fields(Deep[bool]) == ["key: str", "value: list[bool]", "more: dict[str, list[bool]]", "last: bool"]


def test_a_generic_class_that_grows_without_end_is_refused() -> None:
    @dataclass
    class Grows(Generic[T]):
        inner: "Grows[list[T]] | None" = None

    cls: Any = Grows
    Grows.__module__ = __name__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules[__name__], "Grows", Grows, raising=False)
        with pytest.raises(SignatureFaults, match="types nest deeper than 64 here; make a part of it a class"):
            node_of(cls[int])


def test_a_generic_class_without_arguments_does_not_say_what_it_holds() -> None:
    assert fault(Box).endswith("it does not say what it holds; give the types in brackets, as in Box[int]")
    assert "the type has to be known; write a concrete type" in fault(Box[T])  # type: ignore[valid-type]


PEP_695 = """
from dataclasses import dataclass
from typing import NamedTuple, TypedDict

@dataclass
class Box[T]:
    item: T
    next: "Box[T] | None" = None

@dataclass
class Ints(Box[int]):
    more: list[int] | None = None

class Pair[K, V](NamedTuple):
    key: K
    value: V

class Options[T](TypedDict, total=False):
    item: T
    items: "list[T]"

type Tree[T] = T | list[Tree[T]]
type Names = list[str]
"""


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the syntax came with Python 3.12")
def test_type_parameters_in_brackets() -> None:
    scope: dict[str, Any] = {"__name__": __name__}
    with pytest.MonkeyPatch.context() as patch:
        exec(PEP_695, scope)
        patch.setattr(sys.modules[__name__], "Box", scope["Box"])
        assert fields(scope["Box"][str]) == ["item: str", "next?: Box[str] | None"]
        assert fields(scope["Ints"]) == ["item: int", "next?: Box[int] | None", "more?: list[int] | None"]
        assert fields(scope["Pair"][int, str]) == ["key: int", "value: str"]
        assert fields(scope["Options"][int]) == ["item?: int", "items?: list[int]"]
        assert str(node_of(scope["Names"])) == "list[str]"
        assert str(node_of(typing.cast(Any, list)[scope["Tree"][int]])) == "list[Tree[int]]"


# Named tuples


class Coordinates(NamedTuple):
    x: int
    y: "int | None" = None


class Generically(NamedTuple, Generic[T]):
    item: T
    others: "tuple[T, ...]" = ()


def test_a_named_tuple() -> None:
    assert fields(Coordinates) == ["x: int", "y?: int | None"]
    assert arguments(Coordinates) == [None, None]
    Functional = NamedTuple("Functional", [("a", int), ("b", "str")])  # noqa: UP014
    assert fields(Functional) == ["a: int", "b: str"]


def test_a_generic_named_tuple() -> None:
    assert fields(Generically[int]) == ["item: int", "others?: tuple[int, ...]"]
    assert record(Generically[int]).name == "Generically[int]"
    assert "as in Generically[int]" in fault(Generically)


def test_a_subclass_of_a_named_tuple() -> None:
    class Sub(Coordinates):
        def length(self) -> int:
            return self.x

    class WithNew(Coordinates):
        def __new__(cls, text: str) -> "WithNew":
            return super().__new__(cls, int(text))

    class WithInit(Coordinates):
        def __init__(self, *args: int) -> None: ...

    assert fields(Sub) == ["x: int", "y?: int | None"]
    assert record(Sub).cls is Sub
    for cls in (WithNew, WithInit):
        assert "its __new__ is its own; send a NamedTuple or a dataclass that holds what it takes" in fault(cls)


def test_a_named_tuple_without_types() -> None:
    import collections

    untyped = collections.namedtuple("untyped", "a b")
    assert fault(untyped).endswith("its field 'a' has no type; make it a NamedTuple with annotations")


# Typed dicts


class Movie(TypedDict):
    name: str
    year: NotRequired[int]


class Partial(TypedDict, total=False):
    name: Required[str]
    year: int


class Longer(Movie, Partial, total=False):
    length: ReadOnly[int]
    director: "Required[ReadOnly[str]]"


Odd = TypedDict("Odd", {"not an identifier": int, "class": NotRequired["str"]})


class GenericDict(TypedDict, Generic[T]):
    item: T
    items: "list[T]"


class BoundDict(GenericDict[list[T]], Generic[T]):
    more: NotRequired[T]


def test_a_typed_dict() -> None:
    assert fields(Movie) == ["name: str", "year?: int"]
    assert fields(Partial) == ["name: str", "year?: int"]
    assert record(Movie).keyed
    assert record(Movie).cls is Movie


def test_typed_dicts_inherit() -> None:
    assert sorted(fields(Longer)) == ["director: str", "length?: int", "name: str", "year?: int"]


def test_keys_need_not_be_identifiers() -> None:
    assert fields(Odd) == ["not an identifier: int", "class?: str"]


def test_a_generic_typed_dict() -> None:
    assert fields(GenericDict[int]) == ["item: int", "items: list[int]"]
    assert fields(BoundDict[int]) == ["item: list[int]", "items: list[list[int]]", "more?: int"]
    assert "as in GenericDict[int]" in fault(GenericDict)


def test_the_typed_dict_of_typing() -> None:
    class Plain(typing.TypedDict, total=False):
        a: int
        b: typing.Required[str]

    assert fields(Plain) == ["a?: int", "b: str"]


STRINGS = """
from __future__ import annotations
from dataclasses import dataclass, field, InitVar, KW_ONLY
from typing import ClassVar, Final, Generic, NamedTuple, TypeVar
from typing_extensions import NotRequired, ReadOnly, Required, TypedDict

T = TypeVar("T")

@dataclass
class Everything(Generic[T]):
    a: int
    b: Final[list[T]]
    c: ClassVar[int] = 0
    d: InitVar[int] = 1
    e: object = field(init=False, default=None)
    _: KW_ONLY
    f: Everything[T] | None = None

class Tuple(NamedTuple):
    a: int
    b: list[Tuple] | None = None

class Dict(TypedDict, total=False):
    a: Required[int]
    b: ReadOnly[Required[str]]
    c: list[Dict]

class Total(TypedDict):
    k: NotRequired[ReadOnly[int]]
    l: str

class Both(Total, Dict):
    z: NotRequired[int]
"""


def test_all_kinds_with_annotations_as_strings(monkeypatch: pytest.MonkeyPatch) -> None:
    import types

    module: Any = types.ModuleType("module_with_strings")
    monkeypatch.setitem(sys.modules, "module_with_strings", module)
    exec(STRINGS, vars(module))
    assert fields(module.Everything[int]) == ["a: int", "b: list[int]", "f?: Everything[int] | None"]
    assert arguments(module.Everything[int]) == [None, None, "f"]
    assert fields(module.Tuple) == ["a: int", "b?: list[Tuple] | None"]
    assert fields(module.Dict) == ["a: int", "b: str", "c?: list[Dict]"]
    assert fields(module.Total) == ["k?: int", "l: str"]
    assert sorted(fields(module.Both)) == ["a: int", "b: str", "c?: list[Dict]", "k?: int", "l: str", "z?: int"]


def test_an_inherited_annotation_means_what_its_own_module_means(monkeypatch: pytest.MonkeyPatch) -> None:
    """The modules give one name to different types, and the strings are nested."""
    import types

    module: Any = types.ModuleType("module_of_the_base")
    monkeypatch.setitem(sys.modules, "module_of_the_base", module)
    exec(
        "from dataclasses import dataclass\n"
        "from typing import NamedTuple\n"
        "from typing_extensions import TypedDict\n"
        "class Point(NamedTuple):\n    label: str\n"
        "@dataclass\nclass Base:\n    points: list['Point']\n"
        "class Dict(TypedDict):\n    points: list['Point']\n",
        vars(module),
    )

    derived = make_dataclass("Derived", [("own", list["Point"])], bases=(module.Base,))
    derived.__module__ = __name__

    class DerivedDict(module.Dict):  # type: ignore[misc]  # made at run time
        own: list["Point"]

    for cls in (derived, DerivedDict):
        ours = {one.name: str(one.node) for one in record(cls).fields}
        assert ours == {"points": "list[Point]", "own": "list[Point]"}
        points, own = (one.node for one in sorted(record(cls).fields, key=lambda one: one.name, reverse=True))
        assert points == node_of(list[module.Point])
        assert own == node_of(list[Point])


# The parts


def test_names_and_hints_in_words() -> None:
    assert record_name(Box, (int, list[Point])) == "Box[int, list[Point]]"
    assert shown(Box[int]) == "Box[int]"
    assert shown(tuple[int, ...]) == "tuple[int, ...]"
    assert shown(typing.List[int]) == "list[int]"  # noqa: UP006
    assert shown(int | None) == "int | None"
    assert shown(typing_extensions.Literal["a"]) == "Literal['a']"
    assert len(shown(tuple[(int,) * 100])) == 120  # type: ignore[misc]


def test_substitution() -> None:
    assert substitute(T, {T: int}) is int
    assert substitute(V, {T: int}) is V
    assert substitute(list[T], {T: int}) == list[int]  # type: ignore[valid-type]
    assert substitute(dict[K, V], {K: str}) == dict[str, V]  # type: ignore[valid-type]
    assert substitute(int, {T: str}) is int
    assert substitute(Box, {T: str}) is Box
    assert {name: hint.hint for name, hint in class_hints(Pair, (int, str), None).items()} == {"key": int, "value": str}


def test_a_class_without_its_module(monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_dataclass("Made", [("x", "int"), ("y", "Made | None")])
    made.__module__ = "no.module.of.this.name"
    assert dataclasses.is_dataclass(made)
    with pytest.raises(NameError, match="'Made' is not defined"):
        node_of(made)


@dataclass
class Outer:
    @dataclass
    class Point:
        label: str

    point: "Point"
    points: "list[Outer.Point]"


def test_a_class_within_the_class_hides_that_of_the_module() -> None:
    assert [one.node for one in record(Outer).fields] == [node_of(Outer.Point), node_of(list[Outer.Point])]


def test_a_field_whose_type_is_none() -> None:
    @dataclass
    class Nothing:
        a: None
        b: "None" = None

    assert fields(Nothing) == ["a: None", "b?: None"]
    assert fields(NamedTuple("Functional", [("a", None)])) == ["a: None"]


Ts = typing_extensions.TypeVarTuple("Ts")


@dataclass
class Variadic(Generic[*Ts]):
    items: tuple[*Ts]


@dataclass
class VariadicInside:
    inner: Variadic[int, str]


def test_a_type_parameter_that_stands_for_many_types_is_refused() -> None:
    words = "its type parameters stand for more than one type each; write a class without them"
    assert words in fault(Variadic[int, str])
    assert words in fault(VariadicInside)


def test_a_typed_dict_that_may_hold_more_is_refused() -> None:
    class Open(TypedDict, extra_items=int):  # type: ignore[call-arg]  # mypy does not know it
        a: str

    class Closed(TypedDict, closed=True):
        a: str

    assert "it may hold more than it declares; put what that is into a dict of its own" in fault(Open)
    assert fields(Closed) == ["a: str"]


def test_a_name_among_the_arguments_is_one_of_the_place(monkeypatch: pytest.MonkeyPatch) -> None:
    import types

    module: Any = types.ModuleType("module_of_a_box")
    monkeypatch.setitem(sys.modules, "module_of_a_box", module)
    exec(
        "from dataclasses import dataclass\nfrom typing import Generic, TypeVar\nT = TypeVar('T')\n"
        "class Point: pass\n"
        "@dataclass\nclass Box(Generic[T]):\n    item: T\n    items: list[T]\n",
        vars(module),
    )

    def command(box: Any) -> None: ...

    command.__annotations__["box"] = module.Box["Point"]
    (parameter,) = schema_of(command, method=False).parameters
    assert isinstance(parameter.node, RecordNode)
    assert parameter.node.name == "Box[Point]"
    assert [one.node for one in parameter.node.fields] == [node_of(Point), node_of(list[Point])]


def test_the_name_of_a_generic_class_does_not_depend_on_how_its_arguments_are_written() -> None:
    spellings = [Box[int | None], Box[Optional[int]], Box[typing.Union[None, int]], Box["int | None"]]  # noqa: UP007, UP045
    assert {record(hint).name for hint in spellings} == {"Box[int | None]"}
    assert len({Schema((), node_of(hint)).fingerprint for hint in spellings}) == 1
    assert record(Box[typing.List[Point]]).name == "Box[list[Point]]"  # noqa: UP006
    assert record(Box[typing.Annotated[int, "words"]]).name == "Box[int]"
    long: Any = typing.cast(Any, tuple)[(Point,) * 100]
    assert len(record(typing.cast(Any, Box)[long]).name) == 300


def test_an_argument_that_cannot_travel_is_one_fault() -> None:
    assert "in Box[object]: object cannot travel" in fault(Box[object])
    with pytest.raises(NameError, match="an annotation does not resolve: name 'NotThere' is not"):
        node_of(Box["NotThere"])  # type: ignore[name-defined]


@dataclasses.dataclass
class Turned:
    x: int
    y: int

    def __init__(self, y: int, x: int) -> None:
        self.x, self.y = x, y


def test_an_init_of_ones_own_may_take_the_fields_in_another_order() -> None:
    codec = CommandCodec("Test.command", Schema((), node_of(Turned)))
    assert codec.unpack_result(codec.pack_result(Turned(y=2, x=1))) == Turned(y=2, x=1)


def test_what_annotated_is_given_among_the_arguments_need_not_be_hashable() -> None:
    @dataclasses.dataclass
    class Held(Generic[T]):
        item: T

    assert str(node_of(Held[Annotated[int, {"doc": 1}]])) == "Held[int]"
