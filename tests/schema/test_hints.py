"""From a hint to its node, or to a sentence that says what cannot travel and what to use instead."""

import collections
import collections.abc
import datetime
import enum
import io
import re
import sys
import typing
from collections.abc import Callable, Iterator
from dataclasses import InitVar, dataclass, field, make_dataclass
from typing import Annotated, Any, ClassVar, Generic, Literal, NamedTuple, TypeVar

import pytest
from typing_extensions import TypeAliasType, TypedDict, Unpack

from typedrpc.schema import (
    EnumNode,
    RecordNode,
    Schema,
    SignatureFaults,
    children,
    node_of,
)


class Colour(enum.Enum):
    RED = 1
    BLUE = 2
    CRIMSON = 1  # noqa: PIE796  # an alias of RED


@dataclass
class Point:
    x: int
    y: int = 0


@dataclass(frozen=True)
class Line:
    start: Point
    ends: list[Point]
    label: "str | None" = None
    colour: Colour = Colour.RED
    version: ClassVar[int] = 1
    length: float = field(init=False, default=0.0)


T = TypeVar("T")


def test_a_dataclass_carries_its_fields_and_its_class() -> None:
    node = node_of(Line)
    assert isinstance(node, RecordNode)
    assert [(f.name, str(f.node), f.required) for f in node.fields] == [
        ("start", "Point", True),
        ("ends", "list[Point]", True),
        ("label", "str | None", False),
        ("colour", "Colour", False),
    ]
    assert node.cls is Line
    assert node.fields[0].node is children(node.fields[1].node)[0]  # one node for each class
    copy = Schema.from_data(Schema((), node).to_data()).result
    assert isinstance(copy, RecordNode)
    assert copy == node
    assert copy.cls is None
    assert copy != node_of(make_dataclass("Line", [("start", Point), ("ends", list[Point])]))


def test_an_enum_carries_the_names_of_its_members_without_aliases() -> None:
    node = node_of(Colour)
    assert isinstance(node, EnumNode)
    assert node.members == ("RED", "BLUE")
    assert node.cls is Colour
    part = node_of(Literal[Colour.CRIMSON])
    assert isinstance(part, EnumNode)
    assert (part.members, part.literal) == (("RED",), True)
    assert part != node


def recursive() -> Any:
    @dataclass
    class Tree:
        left: "Tree | None"

    Tree.__annotations__["left"] = Tree | None
    Tree.__dataclass_fields__["left"].type = Tree | None
    return Tree


def deep(levels: int) -> Any:
    hint: Any = int
    for _ in range(levels):
        hint = list[hint]
    return hint


class Plain:
    pass


class Proto(typing.Protocol):
    x: int


class Coordinates(NamedTuple):
    x: int


class Options(TypedDict):
    x: int


class Perm(enum.Flag):
    READ = 1


class Text(str):
    pass


class Ints(list[int]):
    pass


@dataclass
class WithInit:
    x: int

    def __init__(self, text: str) -> None:
        self.x = int(text)


@dataclass
class WithInitVar:
    x: int
    scale: InitVar[int]


class Derived(Point):
    def __init__(self) -> None:
        super().__init__(1)


@dataclass
class Box(Generic[T]):
    item: T


Unresolved = TypeAliasType("Unresolved", "list[int]")


UNTYPED = "it says nothing of what travels"


REFUSED: list[tuple[Any, str]] = [
    (Any, UNTYPED),
    (object, UNTYPED),
    (list, "list cannot travel: it does not say what it holds; give the types in brackets, as in list[int]"),
    (typing.List, "as in list[int]"),  # noqa: UP006
    (dict, "as in dict[str, int]"),
    (typing.Dict, "as in dict[str, int]"),  # noqa: UP006
    (tuple, "as in tuple[int, str]"),
    (typing.Tuple, "as in tuple[int, str]"),  # noqa: UP006
    (set, "as in set[int]"),
    (collections.abc.Sequence, "as in Sequence[int]"),
    (typing.Mapping, "as in Mapping[str, int]"),
    (Callable[[int], int], "a function stays in its process; offer it as a command of a service instead"),
    (collections.abc.Callable, "a function stays in its process"),
    (typing.Callable, "a function stays in its process"),
    (Iterator[int], "streams cannot travel yet; use list[...] or Iterable[...]"),
    (collections.abc.Generator[int, None, None], "streams cannot travel yet"),
    (typing.AsyncIterator[int], "streams cannot travel yet"),
    (typing.AsyncIterator, "streams cannot travel yet"),
    (T, "the type has to be known; write a concrete type"),
    ("int", "the name was not resolved; write the type itself"),
    (bytearray, "use bytes"),
    (memoryview, "use bytes"),
    (io.StringIO, "an open file belongs to its process; send its content as bytes, or its path as str"),
    (typing.TextIO, "an open file belongs to its process"),
    (Options, "use a dataclass"),
    (Coordinates, "use a dataclass"),
    (Perm, "flags combine; use a frozenset of a plain Enum, or an int"),
    (Literal[Perm.READ], "flags combine"),
    (enum.Enum, "the enum has no members"),
    (Text, "use str, or a NewType of it"),
    (Ints, "use the builtin collection with its types in brackets"),
    (ValueError, "raise it, or send its text as str"),
    (complex, "this type is not supported; send it as str, int, float or a dataclass"),
    (datetime.timedelta, "this type is not supported"),
    (collections.deque[int], "this type is not supported"),
    (Plain, "its attributes have no declared types; make it a @dataclass"),
    (Proto, "its attributes have no declared types"),
    (WithInit, "its __init__ does not take its fields one by one"),
    (Derived, "its __init__ does not take its fields one by one"),
    (WithInitVar, "its constructor takes 'scale', an InitVar, which instances do not keep"),
    (Box, "generic dataclasses cannot travel yet; write one dataclass for each type"),
    (Box[int], "generic dataclasses cannot travel yet"),
    (set[list[int]], "list[int] cannot be hashed; use a type that can, a tuple say"),
    (dict[Point, int], "the key Point cannot be hashed"),
    (dict[str, object], "in dict[str, object]: object cannot travel"),
    (Annotated[int, {"ge": 0}], "constraints are not checked yet"),
    (Annotated[int, []], "constraints are not checked yet"),
    (Literal["\ud800"], "a lone surrogate is not text"),
    (typing.cast(Any, Literal)[1.5], "1.5 is none of str, int, bool, bytes, None, enum member"),
    (tuple[int, *tuple[str, ...]], "an unpacked tuple has no place of its own"),
    (
        typing.cast(Any, tuple)[int, typing.cast(Any, Unpack)[tuple[str, ...]]],
        "an unpacked tuple has no place of its own",
    ),
    (typing.Never, "no type of this kind is known; use one of None, bool, int"),
    (typing.Self, "no type of this kind is known"),
    (type[int], "this type is not supported"),
    ([int], "[<class 'int'>] cannot travel: no type of this kind is known; use one of None, bool, int"),
    ({}, "no type of this kind is known"),
    (3, "no type of this kind is known"),
    (Unresolved, "the name was not resolved; write the type itself"),
    (recursive(), "recursive types cannot travel yet"),
    (deep(65), "types nest deeper than 64 here"),
    (make_dataclass("Odd", [("x", "1 +")]), "an annotation in it cannot be evaluated: SyntaxError"),
]


@pytest.mark.parametrize(("hint", "text"), REFUSED, ids=[f"{i}-{hint!r}"[:60] for i, (hint, _) in enumerate(REFUSED)])
def test_what_cannot_travel_is_refused_with_a_remedy(hint: Any, text: str) -> None:
    with pytest.raises(SignatureFaults) as caught:
        node_of(hint, "parameter 'x'")
    assert text in str(caught.value)
    assert all(fault.startswith("parameter 'x'") for fault in caught.value.faults)
    assert all(len(fault) < 800 for fault in caught.value.faults)
    assert str(caught.value) == "; ".join(caught.value.faults)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the type statement came with Python 3.12")
def test_aliases_of_the_type_statement() -> None:
    scope: dict[str, Any] = {}
    exec("type Names = list[str]\ntype Json = list[Json] | dict[str, Json] | int\ntype Late = NotThereYet", scope)
    assert str(node_of(scope["Names"])) == "list[str]"
    with pytest.raises(SignatureFaults, match="Json cannot travel: recursive types cannot travel yet") as caught:
        node_of(scope["Json"])
    assert len(caught.value.faults) == 2
    with pytest.raises(NameError):
        node_of(scope["Late"])


def test_an_init_that_takes_the_fields_is_as_good_as_the_generated_one() -> None:
    @dataclass
    class Own:
        x: int
        y: int = field(kw_only=True)

        def __init__(self, x: int, *, y: int) -> None:
            self.x, self.y = x + 1, y

    assert str(node_of(Own)) == "Own"


def test_nesting_up_to_the_limit_is_fine() -> None:
    assert Schema.from_data(Schema((), node_of(deep(63))).to_data()).result == node_of(deep(63))


def test_a_long_hint_is_cut_in_the_text_of_its_fault() -> None:
    with pytest.raises(SignatureFaults) as caught:
        node_of(dict[str, tuple[tuple(object for _ in range(50))]])  # type: ignore[misc]  # made at run time
    assert "..." in caught.value.faults[0]


def test_a_fault_within_a_dataclass_names_the_field() -> None:
    bad: Any = make_dataclass("Bad", [("ok", int), ("wrong", dict[str, object])])
    with pytest.raises(SignatureFaults) as caught:
        node_of(typing.cast(Any, list)[bad], "the result")
    assert len(caught.value.faults) == 1
    assert re.fullmatch(
        r"the result, in list\[.*Bad\], in Bad\.wrong, in dict\[str, object\]: object cannot travel: .*",
        caught.value.faults[0],
    )
