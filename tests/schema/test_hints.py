"""From a hint to its node, or to a sentence that says what cannot travel and what to use instead."""

import collections
import collections.abc
import datetime
import enum
import io
import re
import sys
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import InitVar, dataclass, field, make_dataclass
from typing import Annotated, Any, ClassVar, Generic, Literal, NamedTuple, TypeVar

import pytest
import typing_extensions
from annotated_types import Gt, MaxLen
from typing_extensions import TypeAliasType, TypedDict, Unpack

from typedrpc.schema import (
    AliasNode,
    EnumNode,
    FlagNode,
    RecordNode,
    Schema,
    SignatureFaults,
    StreamNode,
    UnresolvedNames,
    children,
    companion_of,
    node_of,
    schema_of,
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


class OpenBox(Generic[T]):
    pass


class NoFlag(enum.Flag):
    pass


class Tuple(tuple[int, ...]):
    pass


class Seconds(float):
    pass


UNTYPED = "it says nothing of what travels; name the type, or a union of the types, or Any for plain data"


REFUSED: list[tuple[Any, str]] = [
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
    (Callable[[int], int], "a function goes with a call; make it a parameter of a command"),
    (collections.abc.Callable, "as in Callable[[int], None]"),
    (typing.Callable, "as in Callable[[int], None]"),
    (Iterator[int], "a stream goes with a call; make it the result of a command, or a parameter"),
    (typing.AsyncIterator[int], "a stream goes with a call; make it the result of a command, or a parameter"),
    (Iterator, "it does not say what it gives; give the type in brackets, as in Iterator[int]"),
    (typing.Iterator, "give the type in brackets, as in Iterator[int]"),
    (typing.AsyncIterator, "give the type in brackets, as in AsyncIterator[int]"),
    (collections.abc.Generator[int, None, None], "declared by what it gives alone; write Iterator[...] of that"),
    (typing.Generator, "write Iterator[...] of that"),
    (typing.AsyncGenerator[int, None], "declared by what it gives alone; write AsyncIterator[...] of that"),
    (collections.abc.AsyncIterable[int], "write AsyncIterator[...] of that"),
    (T, "the type has to be known; write a concrete type"),
    (collections.deque, "as in deque[int]"),
    (collections.OrderedDict, "as in OrderedDict[str, int]"),
    (collections.defaultdict, "as in defaultdict[str, int]"),
    (collections.Counter, "as in Counter[str]"),
    (typing.Deque, "as in deque[int]"),  # noqa: UP006
    (typing.ParamSpec("P"), "the type has to be known"),
    (typing_extensions.TypeVar("D", default=int), "the type has to be known"),
    (lambda: None, "a function is no type; write the type of one, as in Callable[[int], None]"),
    (io.StringIO, "an open file belongs to its process; send its content as bytes, or its path as Path"),
    (io.BufferedReader, "an open file belongs to its process"),
    (typing.TextIO, "an open file belongs to its process"),
    (Literal[Perm.READ], "the members of a flag combine; name the whole flag"),
    (NoFlag, "the enum has no members; name an enum that has some"),
    (enum.Enum, "the enum has no members"),
    (Text, "use str, or a NewType of it"),
    (Ints, "use the builtin collection with its types in brackets"),
    (ValueError, "raise it, or send its text as str"),
    (Tuple, "use the builtin collection with its types in brackets, or codec.register the class"),
    (Seconds, "use float, or a NewType of it, or codec.register the class"),
    (datetime.tzinfo, "this type is not supported; send it as str, int, float or a dataclass, or codec.register it"),
    (re.Match[str], "this type is not supported"),
    (slice, "this type is not supported"),
    (Plain, "its attributes have no declared types; make it a @dataclass"),
    (Proto, "a Protocol says what an object can do, not what it holds; use a dataclass"),
    (WithInit, "its __init__ does not take its fields one by one"),
    (Derived, "its __init__ does not take its fields one by one"),
    (WithInitVar, "its constructor takes 'scale', an InitVar, which instances do not keep"),
    (Box, "it does not say what it holds; give the types in brackets, as in Box[int]"),
    (OpenBox[int], "OpenBox[int] cannot travel: its attributes have no declared types; make it a @dataclass"),
    (set[list[int]], "list[int] cannot be hashed; use a type that can, a tuple say"),
    (
        dict[Point, int],
        "dict[Point, int] cannot travel: the key Point cannot be hashed; use a type that can, a tuple say",
    ),
    (dict[str, object], "in dict[str, object]: object cannot travel"),
    (set[bytearray], "bytearray cannot be hashed"),
    (dict[Any, int], "Any cannot be hashed"),
    (collections.Counter[list[int]], "list[int] cannot be hashed"),
    (frozenset[Options], "Options cannot be hashed"),
    (Annotated[list[object], "words"], "in list[object]: object cannot travel"),
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
    (deep(65), "types nest deeper than 64 here"),
    (make_dataclass("Odd", [("x", "1 +")]), "an annotation in it cannot be evaluated: SyntaxError"),
]


@pytest.mark.parametrize(
    ("hint", "text"), REFUSED, ids=[f"{i}-{hint!r}"[:60].partition(" at 0x")[0] for i, (hint, _) in enumerate(REFUSED)]
)
def test_what_cannot_travel_is_refused_with_a_remedy(hint: Any, text: str) -> None:
    with pytest.raises(SignatureFaults) as caught:
        node_of(hint, "parameter 'x'")
    assert text in str(caught.value)
    assert all(fault.startswith("parameter 'x'") for fault in caught.value.faults)
    assert all(len(fault) < 800 for fault in caught.value.faults)
    assert str(caught.value) == "; ".join(caught.value.faults)


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


def test_a_flag_carries_its_bits() -> None:
    class Access(enum.IntFlag):
        READ = 1
        WRITE = 2
        BOTH = 3
        NONE = 0

    node = node_of(Access)
    assert isinstance(node, FlagNode)
    assert node.members == (("READ", 1), ("WRITE", 2))
    assert node.cls is Access


# Aliases


Json = typing.Union[dict[str, "Json"], list["Json"], str, int, float, bool, None]  # noqa: UP007
OldStyle: typing_extensions.TypeAlias = "list[int]"
Plainly = list[int]
Recursive = TypeAliasType("Recursive", "list[Recursive] | int")
Even = TypeAliasType("Even", "tuple[int, Odd] | None")
Odd = TypeAliasType("Odd", "tuple[str, Even] | None")
Nested = TypeAliasType("Nested", "list[Nested[T]] | T", type_params=(T,))
Plural = TypeAliasType("Plural", list[T], type_params=(T,))
Twice = TypeAliasType("Twice", Plural[Plural[int]])
Itself = TypeAliasType("Itself", "Itself")  # type: ignore[misc]
ItselfInUnion = TypeAliasType("ItselfInUnion", "int | ItselfInUnion")  # type: ignore[misc]
There = TypeAliasType("There", "Back | int")  # pyright: ignore[reportGeneralTypeIssues]
Back = TypeAliasType("Back", "There | str")  # type: ignore[misc]
Broken = TypeAliasType("Broken", "1 / 0")  # type: ignore[valid-type]
Late = TypeAliasType("Late", "NotThereYet")  # type: ignore[name-defined]  # noqa: F821
LateInModule = TypeAliasType("LateInModule", "typing.NotThereYet")  # type: ignore[name-defined]
Bounded = TypeAliasType("Bounded", "list[Annotated[Bounded, MaxLen(3)]]")
UnfitBounded = TypeAliasType("UnfitBounded", "list[Annotated[UnfitBounded, Gt(3)]]")
Unhashable = TypeAliasType("Unhashable", "list[Unhashable] | dict[Unhashable, int]")


def text_and_target(hint: Any) -> tuple[str, str]:
    node = node_of(hint)
    assert isinstance(node, AliasNode)
    assert Schema.from_data(Schema((), node).to_data()).result == node
    return str(node), str(node.target)


def test_aliases_that_do_not_refer_to_themselves_are_what_they_stand_for() -> None:
    assert node_of(Plainly) == node_of(list[int])
    assert str(node_of(Plural[int])) == "list[int]"
    assert str(node_of(Twice)) == "list[list[int]]"


def test_recursive_aliases() -> None:
    assert text_and_target(Recursive) == ("Recursive", "int | list[Recursive]")
    assert text_and_target(Even) == ("Even", "tuple[int, tuple[str, Even] | None] | None")
    assert text_and_target(Nested[int]) == ("Nested[int]", "int | list[Nested[int]]")
    assert node_of(list[Recursive]) == node_of(list[Recursive])
    assert node_of(Nested[int]) != node_of(Nested[str])


def test_a_union_that_names_itself_in_quotes() -> None:
    def command(json: Json, other: "Json") -> "OldStyle": ...  # type: ignore[empty-body]

    schema = schema_of(command, method=False)
    written = "bool | dict[str, Json] | float | int | list[Json] | str | None"
    assert str(schema) == f"(json: {written}, other: {written}) -> list[int]"
    assert schema.parameters[0].node == schema.parameters[1].node
    assert Schema.from_data(schema.to_data()) == schema


@pytest.mark.parametrize("alias", [Itself, ItselfInUnion, There, Back])
def test_an_alias_that_stands_for_itself_is_refused(alias: Any) -> None:
    with pytest.raises(SignatureFaults, match="cannot travel: it stands for itself; put a collection between"):
        node_of(alias)


def test_an_alias_that_cannot_be_evaluated() -> None:
    with pytest.raises(SignatureFaults) as caught:
        node_of(Broken, "the result")
    assert caught.value.faults == ["the result: an annotation cannot be evaluated: ZeroDivisionError: division by zero"]
    with pytest.raises(UnresolvedNames, match="the result: an annotation does not resolve: name 'NotThereYet' is not"):
        node_of(Late, "the result")
    with pytest.raises(UnresolvedNames, match="module 'typing' has no attribute 'NotThereYet'"):
        node_of(LateInModule)


def test_what_is_asked_of_an_alias_is_looked_at_when_it_has_been_read() -> None:
    assert text_and_target(Bounded) == ("Bounded", "list[Annotated[Bounded, MaxLen(3)]]")
    with pytest.raises(SignatureFaults, match=r"list\[Annotated\[UnfitBounded, Gt\(3\)\]\] cannot be compared"):
        node_of(UnfitBounded)
    with pytest.raises(SignatureFaults, match="Unhashable cannot be hashed"):
        node_of(Unhashable)


PEP_695 = """
type Names = list[str]
type Json = list[Json] | dict[str, Json] | int
type Late = NotThereYet
type LateInModule = typing.NotThereYet
type Itself = Itself | int
type Pair[K, V] = tuple[K, V]
type Tree[T] = tuple[T, list[Tree[T]]]
type Broken = 1 / 0
"""


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the type statement came with Python 3.12")
def test_aliases_of_the_type_statement() -> None:
    scope: dict[str, Any] = {"typing": typing, "__name__": __name__}
    exec(PEP_695, scope)
    assert str(node_of(scope["Names"])) == "list[str]"
    assert text_and_target(scope["Json"]) == ("Json", "dict[str, Json] | int | list[Json]")
    assert str(node_of(scope["Pair"][int, str])) == "tuple[int, str]"
    assert text_and_target(scope["Tree"][int]) == ("Tree[int]", "tuple[int, list[Tree[int]]]")
    assert node_of(scope["Json"]) == node_of(scope["Json"])
    for name in ("Late", "LateInModule"):
        with pytest.raises(UnresolvedNames, match="NotThereYet"):
            node_of(scope[name])
    with pytest.raises(SignatureFaults, match="it stands for itself"):
        node_of(scope["Itself"])
    with pytest.raises(SignatureFaults, match="cannot be evaluated: ZeroDivisionError"):
        node_of(scope["Broken"])


def test_an_alias_of_another_module_means_the_names_of_that(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = types.ModuleType("module_of_an_alias")
    monkeypatch.setitem(sys.modules, "module_of_an_alias", module)
    exec(
        "from typing_extensions import TypeAliasType\n"
        "Plainly = list[str]\n"
        "Alias = TypeAliasType('Alias', 'tuple[Plainly, list[Alias]]')\n",
        vars(module),
    )

    def command(a: Any, b: list["Plainly"]) -> None: ...

    command.__annotations__["a"] = list[module.Alias]
    a, b = (parameter.node for parameter in schema_of(command, method=False).parameters)
    assert str(a) == "list[Alias]"
    assert str(children(children(a)[0])[0]) == "tuple[list[str], list[Alias]]"
    assert str(b) == "list[list[int]]"


# Recursive classes


@dataclass
class Tree:
    value: int
    left: "Tree | None" = None
    children: "list[Tree]" = field(default_factory=list)


@dataclass
class Ping:
    pong: "Pong | None"


@dataclass
class Pong:
    ping: Ping


@dataclass
class Generically(Generic[T]):
    item: T
    next: "Generically[T] | None" = None


class Chain(NamedTuple):
    next: "Chain | None"


class Menu(TypedDict):
    entries: list["Menu"]


class Unhashably(NamedTuple):
    parts: "list[int]"
    next: "Unhashably | None"


def test_recursive_classes() -> None:
    tree = node_of(Tree)
    assert isinstance(tree, RecordNode)
    assert tree.fields[2].node == node_of(list[Tree])
    assert children(tree.fields[2].node)[0] is tree
    ping = node_of(Ping)
    assert [str(one) for one in children(ping)] == ["Pong | None"]
    assert node_of(Pong) != ping
    assert [str(one) for one in children(node_of(Generically[int]))] == ["int", "Generically[int] | None"]
    for hint in (Tree, Ping, Pong, Generically[str], Chain, Menu):
        node = node_of(hint)
        copy = Schema.from_data(Schema((), node).to_data()).result
        assert copy == node
        assert hash(copy) == hash(node)


def test_a_recursive_class_as_key() -> None:
    assert str(node_of(dict[Chain, int])) == "dict[Chain, int]"
    with pytest.raises(SignatureFaults, match="Unhashably cannot be hashed"):
        node_of(set[Unhashably])


def test_a_class_whose_annotation_does_not_resolve_is_named() -> None:
    late: Any = make_dataclass("LateClass", [("x", "NotThereYet")])
    with pytest.raises(UnresolvedNames) as caught:
        node_of(dict[int, late], "the result")
    (fault,) = caught.value.unresolved
    assert fault.startswith("the result, in dict[int, ")
    assert fault.endswith("in LateClass: an annotation does not resolve: name 'NotThereYet' is not defined")
    assert str(caught.value) == fault


def test_of_many_faults_each_is_reported() -> None:
    with pytest.raises(SignatureFaults) as caught:
        node_of(dict[str, tuple[object, list[Plain], Late]], "the result")
    assert len(caught.value.faults) == 2
    assert len(caught.value.unresolved) == 1


P = typing.ParamSpec("P")
Report = Callable[[int], None]
NamedReport = TypeAliasType("NamedReport", Report)
GenericReport = TypeAliasType("GenericReport", Callable[[T], None], type_params=(T,))
OwnReport = typing.NewType("OwnReport", Report)  # type: ignore[valid-newtype]  # at run time it may be of anything


def taking(hint: Any) -> Callable[..., None]:
    def function(a: int, b: Any) -> None: ...

    function.__annotations__["b"] = hint
    return function


CALLBACKS: list[tuple[Any, str]] = [
    (Callable[[int, str], None], "Callable[[int, str], None]"),
    (Callable[[], Point], "Callable[[], Point]"),
    (typing.Callable[[int], list[str]], "Callable[[int], list[str]]"),
    (typing.Callable[["Point"], "int | None"], "Callable[[Point], int | None]"),
    (Callable[[int], collections.abc.Awaitable[None]], "Callable[[int], Awaitable[None]]"),
    (Callable[[int], typing.Awaitable[str]], "Callable[[int], Awaitable[str]]"),
    (Callable[[int], "collections.abc.Awaitable[Point]"], "Callable[[int], Awaitable[Point]]"),
    (Callable[[int], collections.abc.Coroutine[Any, Any, int]], "Callable[[int], Awaitable[int]]"),
    (Callable[[int], typing.Coroutine[Any, Any, int]], "Callable[[int], Awaitable[int]]"),
    (Report | None, "Callable[[int], None] | None"),  # pyright: ignore[reportOperatorIssue]
    (typing.Optional[typing.Callable[[int], None]], "Callable[[int], None] | None"),  # noqa: UP045
    (int | Report | str, "Callable[[int], None] | int | str"),
    (Report | NamedReport, "Callable[[int], None]"),
    (NamedReport, "Callable[[int], None]"),
    (GenericReport[str], "Callable[[str], None]"),
    (NamedReport | None, "Callable[[int], None] | None"),
    (OwnReport, "Callable[[int], None]"),
    (Annotated[Report, "said to whom"], "Callable[[int], None]"),
    (Annotated[Report | None, "said to whom"], "Callable[[int], None] | None"),
]


@pytest.mark.parametrize(("hint", "text"), CALLBACKS, ids=[text for _, text in CALLBACKS])
def test_a_parameter_may_be_a_callback(hint: Any, text: str) -> None:
    schema = schema_of(taking(hint), method=False)
    node = schema.parameters[1].node
    assert str(node) == text
    assert schema.has_callbacks
    callback = companion_of(node)
    assert callback is not None
    assert callback.is_async is ("Awaitable" in text)
    copy = Schema.from_data(schema.to_data())
    assert copy == schema
    assert copy.fingerprint == schema.fingerprint
    assert copy.has_callbacks


def test_every_kind_of_parameter_may_be_a_callback() -> None:
    def function(a: Report, /, b: Report, *c: Report, d: Report | None = None, **e: Report) -> None: ...

    schema = schema_of(function, method=False)
    assert all(companion_of(parameter.node) for parameter in schema.parameters)
    assert not schema_of(taking(list[int]), method=False).has_callbacks


WHOLE = "a function has to be the whole of an argument; give it a parameter of its own, or *args"
PLAIN = "what a function takes and gives is plain data; use the types of values"
TAKES = "it does not say what it takes; write the types in brackets, as in Callable[[int], None]"


@dataclass
class Holds:
    report: Report


Around = TypeAliasType("Around", "int | list[Around] | Callable[[int], None]")
CallsItself = TypeAliasType("CallsItself", "Callable[[CallsItself], None]")

NO_CALLBACKS: list[tuple[Any, str]] = [
    (list[Report], WHOLE),
    (dict[str, Report | None], WHOLE),
    (tuple[Report, int], WHOLE),
    (Report | list[NamedReport], WHOLE),
    (NamedReport | list[NamedReport], WHOLE),
    (Holds, WHOLE),
    (Holds | None, WHOLE),
    (Around, WHOLE),
    (CallsItself, WHOLE),
    (Callable[[Report], None], PLAIN),
    (Callable[[int], Report], PLAIN),
    (Callable[[int], list[Report]] | None, PLAIN),
    (Callable[[Holds], None], PLAIN),
    (Callable[..., int], TAKES),
    (typing.Callable[..., int], TAKES),
    (Callable, TAKES),
    (typing.Callable, TAKES),
    (Callable[P, int], TAKES),  # pyright: ignore[reportGeneralTypeIssues]
    (Callable[typing.Concatenate[int, P], int], TAKES),  # pyright: ignore[reportGeneralTypeIssues]
    (Report | Callable[[str], None], "functions cannot be told apart; give each a parameter of its own"),
    (Report | Callable[[int], collections.abc.Awaitable[None]] | None, "functions cannot be told apart"),  # pyright: ignore[reportOperatorIssue]
    (Annotated[Report, Gt(0)], "nothing is asked of a function; leave the constraints out"),
    (Annotated[Report | None, MaxLen(3)], "nothing is asked of a function"),
    (Callable[[Unpack[tuple[int, ...]]], None], "an unpacked tuple has no place of its own"),
    (Callable[[object], None], UNTYPED),
    (Callable[[int], Iterator[int]], PLAIN),
    (Callable[[typing.AsyncIterator[int]], None], PLAIN),
    (Callable[[int], collections.abc.Awaitable[Iterator[int]]], PLAIN),
    (Report | list[Iterator[int]], "a stream has to be the whole of an argument"),
    (Callable[[int], collections.abc.Awaitable], "Awaitable cannot travel: this type is not supported"),
    (collections.abc.Awaitable[int], "this type is not supported"),
    (print, "a function is no type; write the type of one, as in Callable[[int], None]"),
]


@pytest.mark.parametrize(("hint", "reason"), NO_CALLBACKS, ids=[str(hint)[:60] for hint, _ in NO_CALLBACKS])
def test_what_is_no_callback_says_why(hint: Any, reason: str) -> None:
    with pytest.raises(SignatureFaults) as caught:
        schema_of(taking(hint), method=False)
    (fault,) = caught.value.faults
    assert fault.startswith("parameter 'b'")
    assert reason in fault


@pytest.mark.parametrize("hint", [Report, Report | None, list[Report], Holds])
def test_a_result_is_no_callback(hint: Any) -> None:
    def function(a: int, b: Report) -> Any: ...

    function.__annotations__["return"] = hint
    with pytest.raises(SignatureFaults) as caught:
        schema_of(function, method=False)
    assert caught.value.faults == [
        "the result: Callable[[int], None] cannot travel: a function goes with a call; make it a parameter of a command"
    ]


def test_a_result_is_no_callback_whatever_that_takes() -> None:
    with pytest.raises(SignatureFaults, match="a function goes with a call; make it a parameter of a command"):
        schema_of(giving(Callable[[Report], None]), method=False)


@pytest.mark.parametrize("hint", ["Callable[[int], 'Nowhere']", "Callable[['Nowhere'], None]"])
def test_names_within_a_callback_are_looked_up_and_missed(hint: str) -> None:
    with pytest.raises(UnresolvedNames, match="name 'Nowhere' is not defined"):
        schema_of(taking(eval(hint)), method=False)


Rows = Iterator[int]
AsyncRows = collections.abc.AsyncIterator[int]
NamedRows = TypeAliasType("NamedRows", Rows)
GenericRows = TypeAliasType("GenericRows", Iterator[T], type_params=(T,))
OwnRows = typing.NewType("OwnRows", Rows)  # type: ignore[misc]  # at run time it may be of anything
Loops = TypeAliasType("Loops", "Iterator[Loops]")
OrRows = TypeAliasType("OrRows", "int | list[OrRows] | Iterator[int]")


@dataclass
class HoldsRows:
    rows: Rows


def giving(hint: Any) -> Callable[..., None]:
    def function(a: int) -> Any: ...

    function.__annotations__["return"] = hint
    return function


STREAMS: list[tuple[Any, str]] = [
    (Iterator[int], "Iterator[int]"),
    (typing.Iterator[Point], "Iterator[Point]"),
    (collections.abc.AsyncIterator[list[str]], "AsyncIterator[list[str]]"),
    (typing.AsyncIterator["int | None"], "AsyncIterator[int | None]"),
    (Iterator[Annotated[int, Gt(0)]], "Iterator[Annotated[int, Gt(0)]]"),
    (Iterator[Any], "Iterator[Any]"),
    (Iterator[None], "Iterator[None]"),
    (NamedRows, "Iterator[int]"),
    (GenericRows[str], "Iterator[str]"),
    (OwnRows, "Iterator[int]"),
    ("Rows", "Iterator[int]"),
    (Annotated[Rows, "said to whom"], "Iterator[int]"),
]
STREAMS_OR_ELSE: list[tuple[Any, str]] = [
    (Rows | None, "Iterator[int] | None"),
    (typing.Optional[typing.AsyncIterator[int]], "AsyncIterator[int] | None"),  # noqa: UP045
    (int | NamedRows | str, "Iterator[int] | int | str"),
    (Rows | NamedRows, "Iterator[int]"),
    (list[int] | Rows, "Iterator[int] | list[int]"),
    (AsyncRows | collections.abc.Iterable[int], "AsyncIterator[int] | Iterable[int]"),
    (Annotated[Rows | None, "said to whom"], "Iterator[int] | None"),
]


@pytest.mark.parametrize(
    ("hint", "text"), STREAMS + STREAMS_OR_ELSE, ids=[text for _, text in STREAMS + STREAMS_OR_ELSE]
)
def test_a_parameter_may_be_a_stream(hint: Any, text: str) -> None:
    schema = schema_of(taking(hint), method=False)
    node = schema.parameters[1].node
    assert str(node) == text
    assert schema.has_callbacks
    stream = companion_of(node)
    assert stream is not None
    assert stream.is_async is ("Async" in text)
    copy = Schema.from_data(schema.to_data())
    assert copy == schema
    assert copy.fingerprint == schema.fingerprint
    assert copy.has_callbacks


@pytest.mark.parametrize(("hint", "text"), STREAMS, ids=[text for _, text in STREAMS])
def test_a_result_may_be_a_stream(hint: Any, text: str) -> None:
    schema = schema_of(giving(hint), method=False)
    assert str(schema.result) == text
    assert isinstance(schema.result, StreamNode)
    assert not schema.has_callbacks
    copy = Schema.from_data(schema.to_data())
    assert copy == schema
    assert copy.fingerprint == schema.fingerprint


def test_every_kind_of_parameter_may_be_a_stream_and_the_result_too() -> None:
    def function(a: Rows, /, b: AsyncRows, *c: Rows, d: Rows | None = None, **e: AsyncRows) -> Rows:
        return a

    schema = schema_of(function, method=False)
    assert all(companion_of(parameter.node) for parameter in schema.parameters)
    assert Schema.from_data(schema.to_data()) == schema


WHOLE_STREAM = "a stream has to be the whole of an argument; give it a parameter of its own, or *args"
WHOLE_RESULT = "a stream has to be the whole of a result; use list[...] or Iterable[...], which travel whole"
SAME = ""
PLAIN_ITEMS = "what a stream gives is plain data; use the types of values"

NO_STREAMS: list[tuple[Any, str, str]] = [
    (list[Rows], WHOLE_STREAM, WHOLE_RESULT),
    (dict[str, Rows | None], WHOLE_STREAM, WHOLE_RESULT),
    (tuple[AsyncRows, int], WHOLE_STREAM, WHOLE_RESULT),
    (HoldsRows, WHOLE_STREAM, WHOLE_RESULT),
    (HoldsRows | None, WHOLE_STREAM, WHOLE_RESULT),
    (OrRows, WHOLE_STREAM, WHOLE_RESULT),
    (Loops, WHOLE_STREAM, WHOLE_RESULT),
    (Rows | list[NamedRows], WHOLE_STREAM, WHOLE_RESULT),
    (Iterator[Rows], PLAIN_ITEMS, PLAIN_ITEMS),
    (Iterator[list[AsyncRows]], PLAIN_ITEMS, PLAIN_ITEMS),
    (Iterator[Report], PLAIN_ITEMS, PLAIN_ITEMS),
    (Iterator[HoldsRows], PLAIN_ITEMS, PLAIN_ITEMS),
    (Iterator[Holds], PLAIN_ITEMS, PLAIN_ITEMS),
    (Iterator[object], UNTYPED, UNTYPED),
    (Rows | Iterator[str], "streams cannot be told apart; give each a parameter of its own", SAME),
    (Rows | AsyncRows | None, "streams cannot be told apart; give each a parameter of its own", SAME),
    (Rows | Report, "functions and streams cannot be told apart; give each a parameter of its own", SAME),
    (
        Rows | collections.abc.Iterable[str],
        "Iterator[int] cannot be told from Iterable[str]; give each a parameter",
        SAME,
    ),
    (
        Rows | Annotated[collections.abc.Iterable[str], MaxLen(3)],
        "Iterator[int] cannot be told from Annotated[Iterable[str], MaxLen(3)]",
        SAME,
    ),
    (
        Annotated[Rows, MaxLen(3)],
        "nothing is asked of a stream as a whole; put the constraints at the type within it",
        SAME,
    ),
    (Annotated[Rows | None, MaxLen(3)], "nothing is asked of a stream as a whole", SAME),
]


@pytest.mark.parametrize(
    ("hint", "as_parameter", "as_result"), NO_STREAMS, ids=[str(hint)[:60] for hint, _, _ in NO_STREAMS]
)
def test_what_is_no_stream_says_why(hint: Any, as_parameter: str, as_result: str) -> None:
    for function, where, reason in (
        (taking(hint), "parameter 'b'", as_parameter),
        (giving(hint), "the result", as_result or as_parameter),
    ):
        with pytest.raises(SignatureFaults) as caught:
            schema_of(function, method=False)
        (fault,) = caught.value.faults
        assert fault.startswith(where)
        assert reason in fault


def test_a_result_is_a_stream_or_none_and_nothing_beside_it() -> None:
    for hint in (Rows | None, list[int] | Rows):
        with pytest.raises(SignatureFaults) as caught:
            schema_of(giving(hint), method=False)
        assert caught.value.faults == [f"the result: Iterator[int] cannot travel: {WHOLE_RESULT}"]


@pytest.mark.parametrize("hint", ["Iterator['Nowhere']", "AsyncRows | list['Nowhere']"])
def test_names_within_a_stream_are_looked_up_and_missed(hint: str) -> None:
    with pytest.raises(UnresolvedNames, match="name 'Nowhere' is not defined"):
        schema_of(taking(eval(hint)), method=False)
