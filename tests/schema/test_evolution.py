"""What `compatible` says of two versions, and that what it calls safe arrives."""

import collections
import contextlib
import itertools
import sys
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    MutableMapping,
    MutableSequence,
    Sequence,
)
from collections.abc import MutableSet as AbstractMutableSet
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, fields, is_dataclass, make_dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import Enum, Flag
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, NotRequired, TypedDict, TypeVar, Union

import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from typedrpc.codec import CodecError, CommandCodec
from typedrpc.codec.base import Coder, Coders
from typedrpc.schema import (
    Adaptation,
    Difference,
    Node,
    Schema,
    SignatureFaults,
    UnionNode,
    adapt_result,
    compatible,
    resolution,
    schema_of,
)
from typedrpc.schema import evolution as module
from typedrpc.schema.resolution import MAX_STEPS, Resolution

T = TypeVar("T")


def constraint(name: str, attribute: str) -> Any:
    """A class of annotated-types, which schemas know by its name: the tests do without the package."""
    return type(name, (), {"__module__": "annotated_types", "__init__": lambda self, it: setattr(self, attribute, it)})


CONSTRAINTS = {
    name: constraint(name, attribute)
    for name, attribute in {
        "Gt": "gt",
        "Ge": "ge",
        "Lt": "lt",
        "Le": "le",
        "MultipleOf": "multiple_of",
        "MinLen": "min_length",
        "MaxLen": "max_length",
        "Predicate": "func",
    }.items()
}


def of(name: str, **classes: Any) -> dict[str, Any]:
    """Classes that are called the same in two versions."""
    for cls in classes.values():
        cls.__name__ = cls.__qualname__ = name
    return classes


class Old:
    """The classes of the older version."""

    class Colour(Enum):
        RED = 1
        GREEN = 2

    class Right(Flag):
        READ = 1
        WRITE = 2

    @dataclass(frozen=True)
    class Point:
        x: int
        y: int

    @dataclass
    class Line:
        start: "Old.Point"
        end: "Old.Point"

    @dataclass
    class Tree:
        value: int
        children: "list[Old.Tree]" = field(default_factory=list)

    class Options(TypedDict):
        depth: int
        name: NotRequired[str]

    class Pair(NamedTuple):
        x: int
        y: int

    @dataclass
    class Box(Generic[T]):
        content: T

    @dataclass
    class Cat:
        name: str

    @dataclass
    class Dog:
        name: str


class New:
    """The same classes, later."""

    class Colour(Enum):
        RED = 10
        GREEN = 20
        BLUE = 30

    class Right(Flag):
        READ = 1
        WRITE = 2
        RUN = 4

    class Moved(Flag):
        READ = 2
        WRITE = 1

    @dataclass(frozen=True)
    class Point:
        y: int
        x: int

    @dataclass(frozen=True)
    class Point3:
        x: int
        y: int
        z: int

    @dataclass(frozen=True)
    class Point3Default:
        x: int
        y: int
        z: int = 0

    @dataclass
    class Line:
        start: "New.Point3Default"
        end: "New.Point3Default"

    @dataclass
    class Tree:
        value: float
        children: "list[New.Tree]" = field(default_factory=list)
        label: str = ""

    class Options(TypedDict):
        depth: int
        name: NotRequired[str]
        more: NotRequired[bytes]

    class OptionsAll(TypedDict):
        depth: int
        name: str

    class Kitten(NamedTuple):
        name: str

    @dataclass
    class Puppy:
        name: str


of("Point", a=New.Point3, b=New.Point3Default)
of("Options", a=New.OptionsAll)
of("Right", a=New.Moved)

OldJson = dict[str, "OldJson"] | list["OldJson"] | int | None
NewJson = dict[str, "NewJson"] | list["NewJson"] | int | str | None
NAMES: dict[str, Any] = {
    "OldJson": OldJson,
    "NewJson": NewJson,
    "Union": Union,
    **CONSTRAINTS,
    **{f"Old{name}": value for name, value in vars(Old).items() if isinstance(value, type)},
    **{f"New{name}": value for name, value in vars(New).items() if isinstance(value, type)},
    "Decimal": Decimal,
    "Path": Path,
    "date": date,
    "datetime": datetime,
    "deque": collections.deque,
    "Annotated": Annotated,
    "Any": Any,
    "AsyncIterator": AsyncIterator,
    "Awaitable": Awaitable,
    "Callable": Callable,
    "Literal": Literal,
    "T": T,
    "even": lambda number: not number % 2,
    "Sequence": Sequence,
    "MutableSequence": MutableSequence,
    "Collection": Collection,
    "Iterable": Iterable,
    "Iterator": Iterator,
    "AbstractSet": AbstractSet,
    "MutableSet": AbstractMutableSet,
    "Mapping": Mapping,
    "MutableMapping": MutableMapping,
    "OrderedDict": collections.OrderedDict,
    "defaultdict": collections.defaultdict,
    "Counter": collections.Counter,
}


def version(signature: str) -> Schema:
    namespace = dict(NAMES)
    exec(f"def function{signature}: ...", namespace)
    return schema_of(namespace["function"], method=False)


def taking(hint: str) -> Schema:
    return version(f"(a: {hint}) -> None")


def check(writer: Schema, reader: Schema) -> list[str]:
    """The differences in words. They are the same for schemas that came from a peer."""
    differences = compatible(writer, reader)
    far = Schema.from_data(writer.to_data()), Schema.from_data(reader.to_data())
    assert compatible(far[0], far[1]) == compatible(writer, far[1]) == compatible(far[0], reader) == differences
    return [str(difference) for difference in differences]


def test_a_difference_in_words() -> None:
    assert str(Difference("the result", True, "so")) == "the result: so (safe)"
    assert str(Difference("the result", False, "so")) == "the result: so (breaking)"


# Types. Each pair is looked at both ways round.

WIDENED = [
    ("bool", "int"),
    ("bool", "float"),
    ("bool", "complex"),
    ("int", "float"),
    ("int", "complex"),
    ("float", "complex"),
    ("int", "int | None"),
    ("int", "int | str"),
    ("int | str", "int | str | None"),
    ("int", "float | str"),
    ("bool | int", "int | str"),
    ("Literal['a']", "Literal['a', 'b']"),
    ("Literal['a', 'b']", "str"),
    ("Literal[1]", "float"),
    ("Literal[True]", "int"),
    ("Literal['a', 1]", "int | str | bytes"),
    ("Literal['a'] | None", "str | None"),
    ("OldColour", "NewColour"),
    ("Literal[OldColour.RED]", "OldColour"),
    ("OldRight", "NewRight"),
    ("list[int]", "Sequence[int]"),
    ("list[int]", "Collection[float]"),
    ("list[bool]", "Iterable[int]"),
    ("list[int]", "MutableSequence[int]"),
    ("deque[int]", "Sequence[int]"),
    ("tuple[int, ...]", "Sequence[int]"),
    ("tuple[int, bool]", "tuple[int, ...]"),
    ("tuple[int, bool]", "Sequence[int]"),
    ("tuple[int, int]", "tuple[float, int]"),
    ("set[int]", "AbstractSet[int]"),
    ("set[int]", "Collection[int]"),
    ("frozenset[int]", "AbstractSet[int]"),
    ("MutableSet[int]", "AbstractSet[int]"),
    ("dict[str, int]", "Mapping[str, int]"),
    ("dict[str, int]", "dict[str, int | None]"),
    ("OrderedDict[str, int]", "dict[str, int]"),
    ("defaultdict[str, int]", "Mapping[str, int]"),
    ("Counter[str]", "Mapping[str, int]"),
    ("MutableMapping[str, int]", "Mapping[str, float]"),
    ("dict[bool, int]", "dict[int, int]"),
    ("int", "Any"),
    ("list[dict[str, int | None]]", "Any"),
    ("dict[Literal['a'], bool]", "Any"),
    ("Annotated[int, Gt(0)]", "int"),
    ("Annotated[int, Gt(1)]", "Annotated[int, Gt(0)]"),
    ("Annotated[int, Gt(0)]", "Annotated[int, Ge(0)]"),
    ("Annotated[int, Ge(1)]", "Annotated[int, Gt(0)]"),
    ("Annotated[int, Lt(5)]", "Annotated[int, Le(5)]"),
    ("Annotated[int, Le(4)]", "Annotated[int, Lt(5)]"),
    ("Annotated[int, MultipleOf(4)]", "Annotated[int, MultipleOf(2)]"),
    ("Annotated[str, MinLen(2)]", "Annotated[str, MinLen(1)]"),
    ("Annotated[str, MinLen(2), MaxLen(3)]", "Annotated[str, MaxLen(4)]"),
    ("Annotated[int, Gt(0)]", "Annotated[int, Gt(0)] | str"),
    ("Annotated[int, Gt(0)] | None", "Annotated[int, Gt(0)] | str | None"),
    ("Annotated[int, Ge(0), Le(9)]", "Annotated[float, Ge(0)]"),
    ("OldPoint", "NewPoint3Default"),
    ("list[OldPoint]", "Sequence[NewPoint3Default]"),
    ("dict[str, OldPoint | None]", "dict[str, NewPoint3Default | None]"),
    ("OldLine", "NewLine"),
    ("OldTree", "NewTree"),
    ("OldOptions", "NewOptions"),
    ("NewOptionsAll", "OldOptions"),
    ("OldBox[int]", "OldBox[int | None]"),
    ("OldCat | OldDog", "OldCat | OldDog | None"),
    ("OldCat", "OldCat | OldDog"),
    ("'OldJson'", "'NewJson'"),
    ("OldPoint | OldCat", "OldCat | NewPoint3Default"),
]

EITHER_WAY = [
    ("OldPoint", "NewPoint"),
    ("OldPoint", "OldPair"),
    ("OldCat", "OldDog"),
    ("OldCat", "NewKitten"),
    ("OldCat | None", "OldDog | None"),
    ("OldCat | int", "int | NewPuppy"),
    ("list[OldPoint]", "list[NewPoint]"),
    ("set[OldPoint]", "set[NewPoint]"),
]

APART = [
    ("int", "str"),
    ("str", "bytes"),
    ("bytes", "bytearray"),
    ("bytearray", "memoryview"),
    ("int", "None"),
    ("float", "Decimal"),
    ("date", "datetime"),
    ("Path", "str"),
    ("Literal['a']", "Literal['b']"),
    ("Literal[1]", "Literal[True]"),
    ("Literal['RED']", "OldColour"),
    ("OldRight", "NewMoved"),
    ("OldRight", "int"),
    ("list[int]", "list[str]"),
    ("list[int]", "int"),
    ("list[int]", "set[int]"),
    ("list[int]", "tuple[int, ...]"),
    ("list[int]", "tuple[int, int]"),
    ("tuple[int, int]", "tuple[int, int, int]"),
    ("dict[str, int]", "dict[int, int]"),
    ("dict[str, int]", "list[int]"),
    ("OldPoint", "OldOptions"),
    ("OldPoint", "dict[str, int]"),
    ("OldPoint", "NewPoint3"),
    ("OldTree", "OldPoint"),
    ("OldBox[int]", "OldBox[str]"),
    ("OldCat | OldDog", "NewKitten | NewPuppy"),
    ("OldCat | OldDog", "NewKitten | OldDog"),
    ("int | str", "bytes | None"),
    ("OldPoint", "Any"),
    ("Annotated[int, Gt(0)]", "Annotated[int, Lt(0)]"),
    ("Annotated[int, Predicate(even)]", "Annotated[int, Gt(0)]"),
    ("'OldJson'", "str"),
]
BREAKS_ONE_WAY = {("OldPoint", "NewPoint3"): True}  # what was added without a default is ignored where it is not known


@pytest.mark.parametrize(("narrow", "wide"), WIDENED)
def test_a_type_may_be_widened_and_not_narrowed(narrow: str, wide: str) -> None:
    old, new = taking(narrow), taking(wide)
    found = check(old, new)
    assert found
    assert all(text.endswith("(safe)") for text in found), found
    back = check(new, old)
    if "NewPoint" not in wide and wide not in ("NewLine", "NewOptions"):
        assert any(text.endswith("(breaking)") for text in back), back


@pytest.mark.parametrize(("narrow", "wide"), WIDENED)
def test_of_a_result_the_other_way_round(narrow: str, wide: str) -> None:
    old, new = version(f"() -> {narrow}"), version(f"() -> {wide}")
    found = check(new, old)
    assert all(text.startswith("the result") and text.endswith("(safe)") for text in found), found


@pytest.mark.parametrize(("first", "second"), EITHER_WAY)
def test_changes_that_are_safe_either_way(first: str, second: str) -> None:
    for writer, reader in ((first, second), (second, first)):
        found = check(taking(writer), taking(reader))
        assert found
        assert all(text.endswith("(safe)") for text in found), found


@pytest.mark.parametrize(("first", "second"), APART)
def test_types_that_have_nothing_to_do_with_each_other(first: str, second: str) -> None:
    for writer, reader in ((first, second), (second, first)):
        found = check(taking(writer), taking(reader))
        if BREAKS_ONE_WAY.get((reader, writer)):
            assert all(text.endswith("(safe)") for text in found), found
        else:
            assert any(text.endswith("(breaking)") for text in found), found


HINTS = sorted({hint for pair in WIDENED + EITHER_WAY + APART for hint in pair})


@pytest.mark.parametrize("hint", HINTS)
def test_a_version_fits_itself(hint: str) -> None:
    schema = version(f"(a: {hint}, b: list[{hint.strip(chr(39))!r}] = ..., *c: {hint}) -> {hint}")
    assert check(schema, schema) == []
    assert check(schema, Schema.from_data(schema.to_data())) == []


ON_BOTH = "and callbacks have to be the same on both sides"
BECOME_ONE = "the reader does not have it, and values that differ in it alone would become one"


@pytest.mark.parametrize(
    ("writer", "reader", "found"),
    [
        ("int", "str", ["parameter 'a': int cannot be read as str (breaking)"]),
        ("int", "float", ["parameter 'a': int is now float (safe)"]),
        ("Callable[[OldTree], int]", "Callable[[OldTree], int]", []),
        (
            "Callable[[int], None]",
            "Callable[[int], None] | None",
            ["parameter 'a': Callable[[int], None] is now Callable[[int], None] | None (safe)"],
        ),
        (
            "Callable[[int], None] | None",
            "Callable[[int], None]",
            ["parameter 'a': None cannot be read as Callable[[int], None] (breaking)"],
        ),
        (
            "Callable[[int], None]",
            "Callable[[float], None]",
            [f"parameter 'a': Callable[[int], None] is Callable[[float], None] here, {ON_BOTH} (breaking)"],
        ),
        (
            "Callable[[], None]",
            "Callable[[], Awaitable[None]]",
            [f"parameter 'a': Callable[[], None] is Callable[[], Awaitable[None]] here, {ON_BOTH} (breaking)"],
        ),
        (
            "Callable[[OldPoint], None]",
            "Callable[[NewPoint], None]",
            [f"parameter 'a': the classes in Callable[[Point], None] differ, {ON_BOTH} (breaking)"],
        ),
        (
            "Callable[[int], None] | None",
            "Callable[[str], None] | None",
            ["parameter 'a': Callable[[int], None] cannot be read as Callable[[str], None] | None (breaking)"],
        ),
        ("Callable[[int], int]", "Any", ["parameter 'a': Callable[[int], int] cannot be read as Any (breaking)"]),
        ("Callable[[int], int]", "int", ["parameter 'a': Callable[[int], int] cannot be read as int (breaking)"]),
        ("Iterator[int]", "Iterator[int]", []),
        ("Iterator[int]", "Iterator[float]", ["parameter 'a'[...]: int is now float (safe)"]),
        ("Iterator[float]", "Iterator[int]", ["parameter 'a'[...]: float cannot be read as int (breaking)"]),
        ("Iterator[int]", "AsyncIterator[int]", ["parameter 'a': Iterator[int] is now AsyncIterator[int] (safe)"]),
        (
            "AsyncIterator[OldPoint]",
            "Iterator[NewPoint]",
            [
                "parameter 'a': AsyncIterator[Point] is now Iterator[Point] (safe)",
                "parameter 'a'[...]: the fields of Point stand in another order (safe)",
            ],
        ),
        ("Iterator[OldTree]", "Iterator[OldTree]", []),
        (
            "Iterator[int]",
            "AsyncIterator[float] | None",
            [
                "parameter 'a': Iterator[int] is now AsyncIterator[float] (safe)",
                "parameter 'a'[...]: int is now float (safe)",
            ],
        ),
        ("Iterator[int] | None", "Iterator[int]", ["parameter 'a': None cannot be read as Iterator[int] (breaking)"]),
        ("Iterator[int]", "list[int]", ["parameter 'a': Iterator[int] cannot be read as list[int] (breaking)"]),
        ("Iterator[int]", "Iterable[int]", ["parameter 'a': Iterator[int] cannot be read as Iterable[int] (breaking)"]),
        ("list[int]", "Iterator[int]", ["parameter 'a': list[int] cannot be read as Iterator[int] (breaking)"]),
        ("Iterator[int]", "Any", ["parameter 'a': Iterator[int] cannot be read as Any (breaking)"]),
        ("int", "Iterator[int]", ["parameter 'a': int cannot be read as Iterator[int] (breaking)"]),
        (
            "Iterator[int]",
            "Callable[[int], None]",
            ["parameter 'a': Iterator[int] cannot be read as Callable[[int], None] (breaking)"],
        ),
        ("int", "str | None", ["parameter 'a': int cannot be read as str | None (breaking)"]),
        ("int | str", "int", ["parameter 'a': str cannot be read as int (breaking)"]),
        ("int", "int | None", ["parameter 'a': int is now int | None (safe)"]),
        ("list[int]", "Sequence[int]", ["parameter 'a': list is now Sequence (safe)"]),
        ("list[int]", "list[str]", ["parameter 'a'[...]: int cannot be read as str (breaking)"]),
        ("tuple[int, int]", "tuple[int, str]", ["parameter 'a'[1]: int cannot be read as str (breaking)"]),
        ("dict[str, int]", "dict[int, int]", ["parameter 'a'[key]: str cannot be read as int (breaking)"]),
        ("NewColour", "OldColour", ["parameter 'a': the reader's Colour has no BLUE (breaking)"]),
        ("OldColour", "NewColour", ["parameter 'a': Colour has other members or another name (safe)"]),
        ("OldPoint", "NewPoint", ["parameter 'a': the fields of Point stand in another order (safe)"]),
        (
            "OldPoint",
            "NewPoint3",
            ["parameter 'a'.z: it is required, and the writer does not have it (breaking)"],
        ),
        (
            "OldPoint",
            "NewPoint3Default",
            ["parameter 'a'.z: the writer does not have it, and its default counts (safe)"],
        ),
        ("NewPoint3", "OldPoint", ["parameter 'a'.z: the reader does not have it, and ignores it (safe)"]),
        (
            "set[NewPoint3]",
            "set[OldPoint]",
            [f"parameter 'a'[...].z: {BECOME_ONE} (breaking)"],
        ),
        ("NewPoint3", "NewPoint3Default", ["parameter 'a'.z: it is required on one side only (safe)"]),
        ("OldCat", "OldDog", ["parameter 'a': Cat is Dog here (safe)"]),
        (
            "OldCat | OldDog",
            "OldDog",
            ["parameter 'a': Cat cannot be read as Dog (breaking)"],
        ),
        ("OldOptions", "NewOptions", ["parameter 'a'.more: the writer does not have it, and it may be missing (safe)"]),
        (
            "OldOptions",
            "NewOptionsAll",
            ["parameter 'a'.name: it has to be there, and the writer may leave it out (breaking)"],
        ),
        (
            "int",
            "Annotated[int, Gt(0)]",
            ["parameter 'a': it has to fit Gt(0), which the writer does not see to (breaking)"],
        ),
        ("Annotated[int, Gt(0)]", "int", ["parameter 'a': the writer sees to Gt(0) (safe)"]),
        ("'OldJson'", "'NewJson'", ["parameter 'a'[...]: OldJson is NewJson here (safe)"]),
    ],
)
def test_differences_of_types_in_words(writer: str, reader: str, found: list[str]) -> None:
    said = check(taking(writer), taking(reader))
    if reader == "'NewJson'":  # what is different within it is said, too
        assert found[0] in said
    else:
        assert said == found


def test_a_nested_difference_has_its_place() -> None:
    assert check(version("() -> dict[str, list[NewLine]]"), version("() -> dict[str, list[OldLine]]")) == [
        "the result[...][...].start.z: the writer does not have it, and its default counts (safe)",
    ]
    assert [text for text in check(taking("NewTree"), taking("OldTree")) if "breaking" in text] == [
        "parameter 'a'.value: float cannot be read as int (breaking)",
    ]


def test_long_types_are_cut() -> None:
    many = "Literal[" + ", ".join(map(str, range(1000))) + "]"
    (text,) = check(taking(many), taking("str"))
    assert len(text) < 300
    long = Enum("Long", [f"member_{number}_{'x' * 200}" for number in range(30)])  # type: ignore[misc]
    NAMES["Long"] = long
    NAMES["Short"] = of("Long", a=Enum("Short", ["A"]))["a"]
    (text,) = check(taking("Long"), taking("Short"))
    assert len(text) < 300


# Parameters


@pytest.mark.parametrize(
    ("writer", "reader", "found"),
    [
        ("()", "(a: int = 0)", ["parameter 'a': the caller does not give it, and its default counts (safe)"]),
        ("()", "(a: int)", ["parameter 'a': it is required, and the caller does not give it (breaking)"]),
        ("()", "(*a: int)", ["parameter '*a': the caller does not have it (safe)"]),
        ("()", "(**a: int)", ["parameter '**a': the caller does not have it (safe)"]),
        (
            "(a: int = 0)",
            "()",
            ["parameter 'a': the callee does not take it, and ignores it where it is given (safe)"],
        ),
        ("(a: int)", "()", ["parameter 'a': the callee does not take it (breaking)"]),
        ("(*a: int)", "()", ["parameter '*a': the callee does not take it (breaking)"]),
        ("(**a: int)", "()", ["parameter '**a': the callee does not take it (breaking)"]),
        (
            "(a: int)",
            "(b: int)",
            [
                "parameter 'a': the callee does not take it (breaking)",
                "parameter 'b': it is required, and the caller does not give it (breaking)",
            ],
        ),
        ("(*a: int)", "(*b: int)", []),
        ("(**a: int)", "(**b: int)", []),
        ("(a: int, b: str)", "(b: str, a: int)", ["the parameters: they stand in another order (safe)"]),
        ("(a: int)", "(a: int = 0)", ["parameter 'a': it has a default at the callee (safe)"]),
        (
            "(a: int = 0)",
            "(a: int)",
            ["parameter 'a': the callee requires it, and the caller may leave it out (breaking)"],
        ),
        ("(a: int)", "(*, a: int)", ["parameter 'a': it is given in another way (safe)"]),
        ("(*, a: int)", "(a: int)", ["parameter 'a': it is given in another way (safe)"]),
        ("(a: int, /)", "(*, a: int)", ["parameter 'a': it is given in another way (safe)"]),
        ("(*, a: int)", "(a: int, /)", ["parameter 'a': it is given in another way (safe)"]),
        ("(a: int = 0, b: int = 0, /)", "(a: int = 0, b: int = 0, /)", []),
        (
            "(a: int = 0, b: int = 0)",
            "(a: int = 0, b: int = 0, /)",
            [
                "parameter 'a': it is given in another way (safe)",
                "parameter 'b': it is given in another way (safe)",
                "parameter 'b': it goes by position, and the caller may leave out 'a' (breaking)",
            ],
        ),
        (
            "(b: int = 0, a: int = 0, /)",
            "(a: int = 0, b: int = 0, /)",
            [
                "the parameters: they stand in another order (safe)",
                "parameter 'b': it goes by position, and the caller may leave out 'a' (breaking)",
            ],
        ),
        (
            "(b: int = 0, /)",
            "(a: int = 0, b: int = 0, /)",
            [
                "parameter 'a': the caller does not give it, and its default counts (safe)",
                "parameter 'b': it goes by position, and the caller may leave out 'a' (breaking)",
            ],
        ),
        (
            "(a: int, *more: int)",
            "(a: int, b: int = 0, *more: int)",
            [
                "parameter 'b': the caller does not give it, and its default counts (safe)",
                "parameter '*more': it goes by position, and the caller may leave out 'b' (breaking)",
            ],
        ),
        ("(a: int = 0, *more: int)", "(a: int = 0, *more: float)", ["parameter '*more': int is now float (safe)"]),
        (
            "(**more: int)",
            "(a: int = 0, **more: int)",
            [
                "parameter 'a': the caller does not give it, and its default counts (safe)",
                "parameter 'a': the caller may give it among '**more' (breaking)",
            ],
        ),
        ("(a: int, **more: int)", "(a: int, **more: int | None)", ["parameter '**more': int is now int | None (safe)"]),
    ],
)
def test_differences_of_parameters_in_words(writer: str, reader: str, found: list[str]) -> None:
    assert check(version(f"{writer} -> None"), version(f"{reader} -> None")) == found


def test_where_a_class_of_the_users_has_the_name_of_a_scalar() -> None:
    class Strange:
        pass

    from typedrpc.schema.conversions import register

    register(Strange, encode=lambda value: "", decode=lambda text: Strange(), travels_as=str, name="int")
    NAMES["Strange"] = Strange
    assert "breaking" in check(taking("int"), taking("Strange"))[0]
    assert "breaking" in check(taking("Strange"), taking("int"))[0]


# Bounds


def test_a_comparison_takes_a_bounded_number_of_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = taking("OldTree"), taking("NewTree")
    assert all(difference.safe for difference in compatible(old, new))
    monkeypatch.setattr(resolution, "MAX_STEPS", 5)
    assert [str(difference) for difference in compatible(old, new)][-1] == (
        "the types: they are too large, or nest too deep, to be compared (breaking)"
    )
    node, differences = adapt_result(old.result, new.result)
    assert (node, differences) == (new.result, [])


def records(count: int, data: Callable[[int], list[Any]]) -> list[Any]:
    return [["record", "Tree", data(index), False] for index in range(count)]


HOSTILE: dict[str, Callable[[], list[Any]]] = {
    "a chain of records, the last one first": lambda: [
        [[f"p{index}", 3, ["ref", 999 - index], False] for index in range(1000)],
        "None",
        records(1000, lambda i: [["children", ["list", ["ref", i + 1] if i < 999 else "int"], False]]),
    ],
    "unions of everything": lambda: [
        [["a", 1, ["ref", 0], True]],
        "None",
        records(40, lambda i: [["children", ["list", ["Union", [["ref", j] for j in range(40)]]], False]]),
    ],
    "a union of many": lambda: [[["a", 1, ["Union", ["int"] * 15_000], True]], "None", []],
    "many enums": lambda: [
        [["a", 1, ["Union", [["ref", 0]] * 10_000], True]],
        "None",
        [["enum", "Colour", [f"m{number}" for number in range(5000)], False]],
    ],
    "aliases that double": lambda: [
        [["a", 1, ["ref", 0], True]],
        "None",
        [
            *(["alias", f"A{i}", ["Union", [["ref", i + 1], ["ref", i + 1]]]] for i in range(60)),
            ["alias", "Z", ["list", ["ref", 0]]],
        ],
    ],
}


@pytest.mark.unmeasured
@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_made_to_be_expensive_takes_few_steps(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    far = Schema.from_data(HOSTILE[name]())
    taken = []

    class Counted(Resolution):
        def _step(self, count: int = 1) -> None:
            taken.append(count)
            super()._step(count)

    monkeypatch.setattr(module, "Resolution", Counted)
    own = taking("OldTree | NewColour | int | list[OldTree]")
    for writer, reader in ((far, own), (own, far)):
        taken.clear()
        assert not all(difference.safe for difference in compatible(writer, reader))
        assert len(taken) <= 2 * (MAX_STEPS + 1)  # of the arguments and of the result


# What is safe arrives


def coders_of(node: Node) -> Coder:
    return Coders().of(node)


def assert_same_form(writer: Coder, reader: Coder, seen: set[tuple[int, int]]) -> None:
    """That two coders, one for the writer's values and one for the reader's, have one wire form."""
    if (id(writer), id(reader)) in seen:
        return
    seen.add((id(writer), id(reader)))
    assert (writer.wire, writer.also_wire, writer.map_key) == (reader.wire, reader.also_wire, reader.map_key)
    if isinstance(writer.node, UnionNode):
        assert isinstance(reader.node, UnionNode)
        assert len(writer.parts) == len(reader.parts)
        for one, other in zip(writer.parts, reader.parts, strict=True):
            assert_same_form(one, other, seen)


MEMBERS = [
    "None",
    "bool",
    "int",
    "float",
    "complex",
    "str",
    "bytes",
    "date",
    "datetime",
    "Decimal",
    "Literal[1, 'a']",
    "OldColour",
    "OldRight",
    "list[int]",
    "tuple[int, str]",
    "frozenset[str]",
    "dict[str, int]",
    "dict[tuple[int, int], int]",
    "OldPoint",
    "OldCat",
    "OldOptions",
    "Annotated[int, Gt(0)]",
    "'OldJson'",
]
LATER = {"OldPoint": "NewPoint3Default", "OldOptions": "NewOptions", "OldColour": "NewColour", "OldRight": "NewRight"}


@pytest.mark.parametrize(("first", "second"), list(itertools.combinations(MEMBERS, 2)))
def test_a_union_has_a_tag_where_the_writers_has_one(first: str, second: str) -> None:
    """Whatever the reader's own would have."""
    hint = f"Union[{first}, {second}]"
    writer = version(f"() -> {hint}").result
    for more in ("", "None", "list[bytes]", "str", "dict[str, bytes]", "OldCat", "float"):
        later = ", ".join([LATER.get(first, first), LATER.get(second, second), more])
        reader = version(f"() -> Union[{later.rstrip(', ')}]").result
        node, differences = adapt_result(writer, reader)
        assert all(difference.safe for difference in differences), differences
        if not isinstance(writer, UnionNode):  # one of the two is part of the other
            continue
        assert_same_form(coders_of(writer), coders_of(node), set())


UNHURRIED = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]

SCALARS: dict[str, st.SearchStrategy[Any]] = {
    "None": st.none(),
    "bool": st.booleans(),
    "int": st.integers(-(2**70), 2**70),
    "small": st.integers(-1000, 1000),
    "float": st.floats(allow_nan=False),
    "str": st.text(max_size=4),
    "bytes": st.binary(max_size=4),
}
PYTHON: dict[str, Any] = {"None": None, "bool": bool, "int": int, "small": int, "float": float, "str": str}
PYTHON["bytes"] = bytes

Spec = tuple[Any, ...]
"""A type to be: its kind and its parts. Records: name and fields, each name, type and whether it has a default."""


@st.composite
def specs(draw: st.DrawFn, depth: int = 3) -> Spec:
    kinds = ["scalar", "scalar", "literal", "enum"]
    kinds += ["list", "tuple", "Sequence", "dict", "fixed", "union", "record", "typed"] if depth else []
    kind = draw(st.sampled_from(kinds))
    inner = specs(depth - 1)
    match kind:
        case "scalar":
            return kind, draw(st.sampled_from(sorted(SCALARS)))
        case "literal":
            return kind, tuple(draw(st.lists(st.sampled_from(["a", "b", 1, 2]), min_size=1, unique=True)))
        case "enum":
            return kind, draw(st.sampled_from("EF")), tuple(sorted(draw(st.sets(st.sampled_from("ABC"), min_size=1))))
        case "list" | "tuple" | "Sequence" | "dict":
            return kind, draw(inner)
        case "fixed" | "union":
            return kind, tuple(draw(st.lists(inner, min_size=1, max_size=3)))
        case _:
            names = draw(st.lists(st.sampled_from("xyzw"), max_size=3, unique=True))
            parts = [(name, draw(inner), draw(st.booleans())) for name in names]
            return kind, draw(st.sampled_from("RS")), _ordered(kind, parts)


def _ordered(kind: str, parts: list[Any]) -> tuple[Any, ...]:
    return tuple(sorted(parts, key=lambda part: part[2])) if kind == "record" else tuple(parts)


@st.composite
def mild(draw: st.DrawFn, spec: Spec) -> Spec:
    """A version of a type with fields in another order, and further ones with defaults."""
    match spec:
        case ("list" | "tuple" | "Sequence" | "dict") as kind, inner:
            return kind, draw(mild(inner))
        case ("fixed" | "union") as kind, items:
            return kind, tuple(draw(mild(item)) for item in items)
        case ("record" | "typed") as kind, name, parts:
            later = [(field, draw(mild(inner)), optional) for field, inner, optional in parts]
            later += [(field, draw(specs(1)), True) for field in draw(st.sets(st.sampled_from("uv")))]
            return kind, name, _ordered(kind, draw(st.permutations(later)))
    return spec


@st.composite
def wild(draw: st.DrawFn, spec: Spec) -> Spec:
    """A version of a type with any changes at all."""
    if draw(st.integers(0, 5)) == 0:
        return draw(specs(1))
    match spec:
        case "scalar", name:
            return "scalar", draw(st.sampled_from([name, name, "float", "int"]))
        case "literal", values:
            return draw(st.sampled_from([spec, ("literal", (*values, "zz")), ("scalar", "str")]))
        case "enum", name, members:
            return "enum", name, tuple(sorted({*members, *draw(st.sets(st.sampled_from("ABCD")))}))
        case ("list" | "tuple" | "Sequence" | "dict") as kind, inner:
            other = "dict" if kind == "dict" else draw(st.sampled_from([kind, "Sequence"]))
            return other, draw(wild(inner))
        case "union", items:
            return "union", (*(draw(wild(item)) for item in items), *draw(st.lists(specs(1), max_size=2)))
        case "fixed", items:
            return "fixed", tuple(draw(wild(item)) for item in items)
        case ("record" | "typed") as kind, name, parts:
            later = [(field, draw(wild(inner)), draw(st.booleans())) for field, inner, _ in parts]
            later = draw(st.permutations(later))[draw(st.integers(0, 1)) :]
            later += [(field, draw(specs(1)), draw(st.booleans())) for field in draw(st.sets(st.sampled_from("uv")))]
            return kind, draw(st.sampled_from([name, name, "T"])), _ordered(kind, later)
    return spec


class World:
    """Makes the hints of one version, and values of them."""

    def __init__(self) -> None:
        self._made: dict[Spec, Any] = {}

    def hint(self, spec: Spec) -> Any:
        if spec not in self._made:
            self._made[spec] = self._make(spec)
        return self._made[spec]

    def _make(self, spec: Spec) -> Any:
        match spec:
            case "scalar", name:
                return PYTHON[name]
            case "literal", values:
                return Literal[values]
            case "enum", name, members:
                return Enum(name, list(members))
            case "list", inner:
                return list[self.hint(inner)]  # type: ignore[misc]
            case "tuple", inner:
                return tuple[self.hint(inner), ...]  # type: ignore[misc]
            case "Sequence", inner:
                return Sequence[self.hint(inner)]  # type: ignore[misc]
            case "dict", inner:
                return dict[str, self.hint(inner)]  # type: ignore[misc]
            case "fixed", items:
                return tuple[tuple(self.hint(item) for item in items)]  # type: ignore[misc]
            case "union", items:
                return Union[tuple(self.hint(item) for item in items)]  # noqa: UP007  # as many as there are
            case "record", name, parts:
                return make_dataclass(
                    name,
                    [
                        (part, self.hint(inner), field(default_factory=partial(self.least, inner)))
                        if optional
                        else (part, self.hint(inner))
                        for part, inner, optional in parts
                    ],
                )
            case "typed", name, parts:
                hints = {part: NotRequired[self.hint(i)] if optional else self.hint(i) for part, i, optional in parts}
                return TypedDict(name, hints)  # type: ignore[operator]
        raise AssertionError(spec)

    def least(self, spec: Spec) -> Any:
        """Some value, the default of a field."""
        match spec:
            case "scalar", name:
                return None if name == "None" else PYTHON[name]()
            case "literal", values:
                return values[0]
            case "enum", _, _:
                return next(iter(self.hint(spec)))
            case (("list" | "Sequence"), _):
                return []
            case "tuple", _:
                return ()
            case "fixed", items:
                return tuple(map(self.least, items))
            case "union", items:
                return self.least(items[0])
            case "record", _, _:
                return self.hint(spec)(**{part: self.least(inner) for part, inner, _ in spec[2]})
            case "typed", _, parts:
                return {part: self.least(inner) for part, inner, optional in parts if not optional}
        return {}

    def values(self, spec: Spec) -> st.SearchStrategy[Any]:
        match spec:
            case "scalar", name:
                return SCALARS[name]
            case "literal", values:
                return st.sampled_from(values)
            case "enum", _, _:
                return st.sampled_from(list(self.hint(spec)))
            case (("list" | "Sequence"), inner):
                return st.lists(self.values(inner), max_size=3)
            case "tuple", inner:
                return st.lists(self.values(inner), max_size=3).map(tuple)
            case "dict", inner:
                return st.dictionaries(st.text(max_size=2), self.values(inner), max_size=2)
            case "fixed", items:
                return st.tuples(*map(self.values, items))
            case "union", items:
                return st.one_of(*map(self.values, items))
            case "record", _, parts:
                return st.builds(self.hint(spec), **{part: self.values(inner) for part, inner, _ in parts})
            case "typed", _, parts:
                return st.fixed_dictionaries(
                    {part: self.values(inner) for part, inner, optional in parts if not optional},
                    optional={part: self.values(inner) for part, inner, optional in parts if optional},
                )
        raise AssertionError(spec)


def codec(hint: Any) -> CommandCodec:
    def function(first: Any, a: Any, last: Any = None) -> Any: ...

    function.__annotations__ = {"first": int, "a": hint, "last": int | None, "return": hint}
    try:
        schema = schema_of(function, method=False)
    except SignatureFaults as problem:
        # Two classes of one name may have come out alike, and no contract may have those.
        assert all("stands for two classes that look the same" in fault for fault in problem.faults)
        reject()
    return CommandCodec("Store.put", schema)


def facts(value: object) -> object:
    """What a value says, whatever its class."""
    match value:
        case Enum():
            return "enum", value.name
        case list() | tuple():
            return [facts(item) for item in value]
        case dict():
            return {name: facts(item) for name, item in value.items()}
        case _ if is_dataclass(value):
            return {one.name: facts(getattr(value, one.name)) for one in fields(value)}
        case _:
            return type(value).__name__, value


def within(part: object, whole: object) -> bool:
    """Whether all of one is in the other, which may have further fields."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(name in whole and within(part[name], whole[name]) for name in part)
    if isinstance(part, list):
        return (
            isinstance(whole, list)
            and len(part) == len(whole)
            and all(within(*pair) for pair in zip(part, whole, strict=True))
        )
    return part == whole


def arrive(writer: CommandCodec, reader: CommandCodec, value: object) -> tuple[object, object]:
    """A value as an argument of a caller with one version, and as a result for one."""
    args, kwargs = reader.unpack_arguments_of(Schema.from_data(writer.schema.to_data()))(
        writer.pack_arguments(1, value)
    )
    assert (args[0], len(args), kwargs) == (1, 2, {})
    result = reader.unpack_result_of(Schema.from_data(writer.schema.to_data()))(writer.pack_result(value))
    return args[1], result


@settings(max_examples=60, deadline=None, suppress_health_check=UNHURRIED)
@given(st.data())
def test_fields_in_another_order_and_with_defaults_arrive_equal(data: st.DataObject) -> None:
    spec = data.draw(specs())
    old, new = World(), World()
    writer, reader = codec(old.hint(spec)), codec(new.hint(data.draw(mild(spec))))
    assert compatible(writer.schema, writer.schema) == compatible(reader.schema, reader.schema) == []
    differences = Adaptation(writer.schema, reader.schema).differences
    value = data.draw(old.values(spec))
    # A union may have two classes of one name, and then one may look like the other.
    if all(difference.safe for difference in differences) and "union" not in repr(spec):
        for arrived in arrive(writer, reader, value):
            assert within(facts(value), facts(arrived))
    else:
        assert "union" in repr(spec)


@settings(max_examples=120, deadline=None, suppress_health_check=UNHURRIED)
@given(st.data())
def test_what_is_safe_arrives(data: st.DataObject) -> None:
    spec = data.draw(specs())
    old, new = World(), World()
    writer, reader = codec(old.hint(spec)), codec(new.hint(data.draw(wild(spec))))
    check(writer.schema, reader.schema)
    if not all(difference.safe for difference in Adaptation(writer.schema, reader.schema).differences):
        return
    node, _ = adapt_result(writer.schema.result, reader.schema.result)
    assert_same_form(coders_of(writer.schema.result), coders_of(node), set())
    value = data.draw(old.values(spec))
    try:
        arrived, result = arrive(writer, reader, value)
    except Exception as error:
        assert "no float is equal to it" in str(error) or "too large to convert to float" in str(error)
        return
    assert facts(arrived) == facts(result)
    # It is a value of the reader's type: it can be sent on as one.
    reader.unpack_arguments(reader.pack_arguments(1, arrived))


# Calls that are bound by one version and unpacked by another


@st.composite
def signatures(draw: st.DrawFn) -> str:
    """Parameters of every kind, all of them ints."""
    names = iter(draw(st.permutations("abcd")))
    counts = [draw(st.integers(0, 2)) for _ in range(3)]
    positional_only, either, keyword_only = counts
    required = draw(st.integers(0, 3))
    parts = []
    for index in range(positional_only + either):
        name = next(names, None)
        if name is not None:
            parts.append(f"{name}: int" if index < required else f"{name}: int = 0")
        if index + 1 == positional_only and parts:
            parts.append("/")
    star = draw(st.sampled_from(["", "*s: int"]))
    named = [
        f"{name}: int" + draw(st.sampled_from(["", " = 0"]))
        for name, _ in zip(names, range(keyword_only), strict=False)
    ]
    if star or named:
        parts.append(star or "*")
    parts += named
    parts += draw(st.sampled_from([[], ["**k: int"]]))
    return f"({', '.join(parts)}) -> None"


def function_of(text: str) -> Any:
    """A function that returns what it is given, by name; those with stars by these."""
    namespace: dict[str, Any] = {}
    exec(f"def function{text}: return locals()", namespace)
    return namespace["function"]


def given_to(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, object]:
    given: dict[str, object] = function(*args, **kwargs)
    stars = {"s": "*", "k": "**"}
    return {stars.get(name, name): value for name, value in given.items() if value}


def calls(function: Any) -> Iterator[tuple[tuple[int, ...], dict[str, int]]]:
    """All ways to call it, with values that tell the arguments apart, and none of them false."""
    for count in range(5):
        for names in itertools.chain.from_iterable(itertools.combinations("abcd", size) for size in range(5)):
            call = tuple(range(1, count + 1)), {name: ord(name) for name in names}
            try:
                function(*call[0], **call[1])
            except TypeError:
                continue
            yield call


@settings(max_examples=200, deadline=None, suppress_health_check=UNHURRIED)
@given(signatures(), signatures())
def test_every_call_of_a_safe_version_can_be_bound(old: str, new: str) -> None:
    writer, reader = function_of(old), function_of(new)
    codecs = [CommandCodec("Store.put", schema_of(function, method=False)) for function in (writer, reader)]
    assert compatible(codecs[0].schema, codecs[0].schema) == []
    if not all(difference.safe for difference in compatible(codecs[0].schema, codecs[1].schema)):
        return
    unpack = codecs[1].unpack_arguments_of(codecs[0].schema)
    known = {parameter.name for parameter in codecs[1].schema.parameters} | {"*", "**"}
    for args, kwargs in calls(writer):
        arrived = unpack(codecs[0].pack_arguments(*args, **kwargs))
        expected = {name: value for name, value in given_to(writer, args, kwargs).items() if name in known}
        assert given_to(reader, *arrived) == expected


@pytest.mark.parametrize("key", ["datetime", "bytearray"])
def test_keys_that_are_not_plain_are_nothing_for_any(key: str) -> None:
    writer = Schema.from_data([[], ["dict", key, "int"], []])
    reader = Schema.from_data([[], "Any", []])
    assert [difference.safe for difference in compatible(reader, writer)] == [False]


def test_a_comparison_that_runs_out_of_stack_is_refused_and_not_taken_for_what_it_found() -> None:
    def own() -> list[float]:
        return []

    def other() -> list[int]:
        return []

    codec = CommandCodec("Test.own", schema_of(own, method=False))
    callee = schema_of(other, method=False)
    payload = CommandCodec("Test.other", callee).pack_result([1])
    outcomes = set()

    def deeper(left: int) -> None:
        if left:
            deeper(left - 1)
            return
        try:
            outcomes.add(type(codec.unpack_result_of(callee)(payload)[0]))
        except (CodecError, RecursionError) as error:
            outcomes.add(type(error))

    for left in range(sys.getrecursionlimit() - 80, sys.getrecursionlimit()):
        with contextlib.suppress(RecursionError):
            deeper(left)
    assert outcomes <= {float, CodecError, RecursionError}
    assert outcomes >= {CodecError}


def one_of(*names: str) -> Schema:
    """A command that takes one of some records, each with an int of its own name or, where it has a dot, so called."""
    fields = {name.partition(".")[0]: name.partition(".")[2] for name in names}
    records: list[Any] = [
        ["record", name, [[field, "int", False]] if field else [], False] for name, field in fields.items()
    ]
    members: Any = [["ref", index] for index in range(len(records))]
    return Schema.from_data([[["v", 1, ["Union", members] if len(members) > 1 else members[0], True]], "None", records])


@pytest.mark.parametrize(
    ("old", "new", "safe"),
    [
        (("Pause", "Stop"), ("Pause", "Erase"), False),
        (("Deposit.amount", "Query"), ("Withdraw.who", "Query"), False),
        (("A.x", "B.x"), ("B.x", "C.x"), False),
        (("Deposit.amount",), ("Withdraw.who",), False),
        (("Deposit.amount",), ("Withdraw.amount",), True),
    ],
)
def test_classes_are_not_guessed_to_be_renamed(old: tuple[str, ...], new: tuple[str, ...], safe: bool) -> None:
    assert all(difference.safe for difference in compatible(one_of(*old), one_of(*new))) is safe
