"""How nodes print, compare and hash, and that each survives as data."""

import collections
import collections.abc
import datetime
import decimal
import enum
import pathlib
import typing
import uuid
from dataclasses import dataclass, field, make_dataclass
from typing import Annotated, Any, ClassVar, Generic, Literal, NamedTuple, NewType, Optional, TypeVar, Union

import pytest
from annotated_types import Gt, Le, MaxLen, MinLen, Predicate
from typing_extensions import Doc, TypeAliasType, TypedDict

from typedrpc.schema import (
    ANY,
    IGNORED,
    NONE,
    AliasNode,
    CallbackNode,
    CollectionNode,
    ConstrainedNode,
    Constraint,
    Conversion,
    ConvertedNode,
    EnumNode,
    Field,
    FlagNode,
    IgnoredNode,
    LiteralNode,
    Node,
    ParameterKind,
    RecordNode,
    ScalarNode,
    Schema,
    SignatureFaults,
    StreamNode,
    TupleNode,
    UnionNode,
    children,
    companion_of,
    hashable,
    node_of,
)
from typedrpc.schema.data import NodeWriter
from typedrpc.schema.graphs import bare, misplaced_companion, stands_within


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


class Access(enum.Flag):
    READ = 1
    WRITE = 2


class Coordinates(NamedTuple):
    x: int


class Options(TypedDict, total=False):
    x: int


T = TypeVar("T")


@dataclass
class Box(Generic[T]):
    item: T


@dataclass
class Tree:
    left: "Tree | None"
    right: "Tree | None"


Recursive = TypeAliasType("Recursive", "list[Recursive] | int")


Pairs = TypeAliasType("Pairs", "tuple[int, Pairs] | None")


def is_even(value: int) -> bool:
    return value % 2 == 0


UserId = NewType("UserId", int)


Names = TypeAliasType("Names", list[str])


PRINTED = [
    (None, "None"),
    (type(None), "None"),
    (bool, "bool"),
    (int, "int"),
    (float, "float"),
    (str, "str"),
    (bytes, "bytes"),
    (datetime.datetime, "datetime"),
    (bytearray, "bytearray"),
    (memoryview, "memoryview"),
    (Any, "Any"),
    (collections.deque[int], "deque[int]"),
    (typing.Deque[int], "deque[int]"),  # noqa: UP006
    (collections.OrderedDict[str, int], "OrderedDict[str, int]"),
    (collections.defaultdict[str, list[int]], "defaultdict[str, list[int]]"),
    (collections.Counter[str], "Counter[str]"),
    (decimal.Decimal, "Decimal"),
    (list[uuid.UUID], "list[UUID]"),
    (datetime.date | datetime.timedelta, "date | timedelta"),
    (pathlib.Path, "Path"),
    (Access, "Access"),
    (Coordinates, "Coordinates"),
    (Options, "Options"),
    (Box[int], "Box[int]"),
    (Box[list[str]], "Box[list[str]]"),
    (Tree, "Tree"),
    (Recursive, "Recursive"),
    (Annotated[int, Gt(0), Le(10)], "Annotated[int, Gt(0), Le(10)]"),
    (Annotated[list[str], MinLen(1), "words"], "Annotated[list[str], MinLen(1)]"),
    (list[Annotated[str, MaxLen(3)]], "list[Annotated[str, MaxLen(3)]]"),
    (Annotated[int, Predicate(is_even)], "Annotated[int, Predicate(is_even)]"),
    (Any | None, "Any | None"),
    (list[int], "list[int]"),
    (typing.List[int], "list[int]"),  # noqa: UP006  # both spellings count
    (tuple[int, str], "tuple[int, str]"),
    (tuple[int, ...], "tuple[int, ...]"),
    (tuple[()], "tuple[()]"),
    (typing.Tuple[()], "tuple[()]"),  # noqa: UP006
    (set[str], "set[str]"),
    (frozenset[str], "frozenset[str]"),
    (dict[str, list[int]], "dict[str, list[int]]"),
    (typing.Dict[str, int], "dict[str, int]"),  # noqa: UP006
    (collections.abc.Sequence[int], "Sequence[int]"),
    (typing.Sequence[int], "Sequence[int]"),
    (collections.abc.MutableSequence[int], "MutableSequence[int]"),
    (collections.abc.Collection[int], "Collection[int]"),
    (collections.abc.Iterable[int], "Iterable[int]"),
    (collections.abc.Set[int], "AbstractSet[int]"),
    (typing.AbstractSet[int], "AbstractSet[int]"),
    (collections.abc.MutableSet[int], "MutableSet[int]"),
    (collections.abc.Mapping[str, int], "Mapping[str, int]"),
    (typing.MutableMapping[str, int], "MutableMapping[str, int]"),
    (Optional[int], "int | None"),  # noqa: UP045
    (Union[str, int, None], "int | str | None"),  # noqa: UP007
    (str | int, "int | str"),
    (int | Union[str, bytes], "bytes | int | str"),  # noqa: UP007
    (Literal["b", "a"], "Literal['a', 'b']"),
    (Literal[2, True, 1, b"x", "s", 10], "Literal[True, b'x', 1, 2, 10, 's']"),
    (Literal[None], "None"),
    (Literal["a", None], "Literal['a'] | None"),
    (Literal[Colour.BLUE], "Literal[Colour.BLUE]"),
    (Literal["a", Colour.BLUE], "Literal['a'] | Literal[Colour.BLUE]"),
    (Literal["a"] | Literal["b"], "Literal['a', 'b']"),
    (Literal["a", 1] | str, "Literal[1] | str"),
    (Literal["a"] | str, "str"),
    (Colour, "Colour"),
    (Point, "Point"),
    (list[Line] | None, "list[Line] | None"),
    (UserId, "int"),
    (Names, "list[str]"),
    (Annotated[int, "of meters"], "int"),
    (Annotated[int, Doc("of meters"), "x"], "int"),
    (dict[tuple[int, str], Point], "dict[tuple[int, str], Point]"),
    (dict[frozenset[int], int], "dict[frozenset[int], int]"),
]


@pytest.mark.parametrize(("hint", "text"), PRINTED, ids=[text for _, text in PRINTED])
def test_a_node_prints_as_the_annotation(hint: Any, text: str) -> None:
    assert str(node_of(hint)) == text


@pytest.mark.parametrize(("hint", "text"), PRINTED, ids=[text for _, text in PRINTED])
def test_a_signature_travels(hint: Any, text: str) -> None:
    node = node_of(hint)
    signature = Schema((), node)
    data = signature.to_data()
    copy = Schema.from_data(data)
    assert copy == signature
    assert hash(copy) == hash(signature)
    assert copy.to_data() == data
    assert copy.fingerprint == signature.fingerprint
    assert len(signature.fingerprint) == 8


def test_fingerprints_differ_where_signatures_do() -> None:
    fingerprints = {Schema((), node_of(hint)).fingerprint for hint, _ in PRINTED}
    assert len(fingerprints) == len({text for _, text in PRINTED})


def test_literals_tell_one_from_true() -> None:
    assert node_of(Literal[1]) != node_of(Literal[True])
    assert node_of(Literal[0, False]) == node_of(Literal[False, 0])
    node = node_of(Literal[0, False])
    assert isinstance(node, LiteralNode)
    assert [type(value) for value in node.values] == [bool, int]


def test_the_order_in_a_union_does_not_matter() -> None:
    assert node_of(Union[int, str, None]) == node_of(None | str | int)  # noqa: UP007
    nested = node_of(list[int | str])
    assert nested == node_of(list[str | int])
    assert Schema((), nested).fingerprint == Schema((), node_of(list[str | int])).fingerprint


def twins(name: str) -> tuple[Any, Any]:
    return make_dataclass(name, [("x", int)]), make_dataclass(name, [("x", str)])


def twin_enum(*names: str) -> Any:
    return typing.cast(Any, enum.Enum)("Twin", names)


def test_classes_of_one_name_stay_apart_in_a_union() -> None:
    first, second = twins("Twin")
    assert node_of(first | second) == node_of(second | first)
    assert str(node_of(first | second)) == "Twin | Twin"
    assert Schema.from_data(Schema((), node_of(first | second)).to_data()).result == node_of(first | second)
    one, other = twin_enum("A"), twin_enum("B")
    assert node_of(one | other) == node_of(other | one)
    with pytest.raises(SignatureFaults, match="Twin stands for two classes that look the same; rename one"):
        node_of(first | twins("Twin")[0])
    with pytest.raises(SignatureFaults, match=r"list\[Twin\] stands for two classes that look the same"):
        node_of(typing.cast(Any, list)[first] | typing.cast(Any, list)[twins("Twin")[0]])


def test_a_union_of_one_type_in_two_spellings_is_that_type() -> None:
    assert node_of(Union[list[Point], typing.List[Point]]) == node_of(list[Point])  # noqa: UP006, UP007


@pytest.mark.parametrize(
    ("hint", "expected"),
    [
        (int, True),
        (Colour, True),
        (list[int], False),
        (tuple[int, ...], True),
        (tuple[list[int], ...], False),
        (tuple[int, list[int]], False),
        (int | tuple[int], True),
        (frozenset[int], True),
        (dict[str, int], False),
        (Point, False),
        (make_dataclass("Frozen", [("x", int)], frozen=True), True),
        (bytearray, False),
        (memoryview, False),
        (Any, False),
        (Access, True),
        (Options, False),
        (Coordinates, True),
        (NamedTuple("Holds", [("x", list[int])]), False),
        (make_dataclass("FrozenList", [("x", list[int])], frozen=True), True),
        (decimal.Decimal, True),
        (Annotated[int, Gt(0)], True),
        (Annotated[list[int], MinLen(1)], False),
        (Recursive, False),
        (Pairs, True),
        (tuple[Coordinates, ...], True),
        (collections.deque[int], False),
    ],
)
def test_hashable(hint: Any, expected: bool) -> None:
    assert hashable(node_of(hint)) is expected


def test_what_came_from_a_peer_may_be_hashable() -> None:
    assert hashable(RecordNode("Point", ()))
    assert not hashable(RecordNode("Options", (), keyed=True))
    assert hashable(ConvertedNode("Money", node_of(list[int])))


def test_a_converted_class_that_cannot_be_hashed() -> None:
    class Unhashable:
        __hash__ = None  # type: ignore[assignment]

    conversion = Conversion(Unhashable, "Unhashable", int, hash, lambda _: Unhashable())
    assert not hashable(ConvertedNode("Unhashable", ScalarNode("int"), conversion))


def test_a_node_is_what_its_parts_are() -> None:
    nodes = [node_of(hint) for hint, _ in PRINTED]
    again = [node_of(hint) for hint, _ in PRINTED]
    assert nodes == again
    assert list(map(hash, nodes)) == list(map(hash, again))
    assert all(repr(node) for node in nodes)
    different = {text for _, text in PRINTED}
    assert len(set(nodes)) == len(different)
    assert ScalarNode("int") != "int"
    assert (RecordNode("A", ()) == AliasNode("A", NONE)) is False
    assert CollectionNode("list", NONE) != CollectionNode("set", NONE)
    assert TupleNode((NONE, NONE)) != TupleNode((NONE,))
    assert RecordNode("A", ()) != RecordNode("A", (), keyed=True)
    assert RecordNode("A", (Field("x", NONE, True),)) != RecordNode("A", (Field("x", NONE, False),))
    assert ConvertedNode("A", NONE) != ConvertedNode("A", ANY)
    assert FlagNode("F", (("A", 1),)) != FlagNode("F", (("A", 2),))
    assert IgnoredNode() == IGNORED
    assert str(IGNORED) == "ignored"


def test_what_is_python_s_alone_is_not_compared() -> None:
    assert EnumNode("E", ("A",), cls=Colour) == EnumNode("E", ("A",))
    assert FlagNode("F", (("A", 1),), cls=Access) == FlagNode("F", (("A", 1),))
    assert RecordNode("P", (), cls=Point) == RecordNode("P", ())
    assert Constraint("gt", "0", 0) == Constraint("gt", "0")
    assert hash(Constraint("gt", "0", 0)) == hash(Constraint("gt", "0"))
    assert Constraint("gt", "0") != Constraint("ge", "0")
    assert repr(Constraint("gt", "0")) == "Gt(0)"
    assert Field("x", NONE, True, "x") == Field("x", NONE, True)
    assert hash(Field("x", NONE, True, "x")) == hash(Field("x", NONE, True))
    assert Field("x", NONE, True) != "x"
    assert repr(Field("x", NONE, True)) == "Field('x', None, required=True)"


# Graphs with cycles


def cycle(length: int, name: str = "Ring", field: str = "next") -> RecordNode:
    """A record that holds itself by way of as many of its like."""
    ring = [RecordNode(name) for _ in range(length)]
    for one, following in zip(ring, [*ring[1:], ring[0]], strict=True):
        one.complete((Field(field, following, True),))
    return ring[0]


def test_cyclic_graphs_compare_and_hash() -> None:
    assert cycle(1) == cycle(1)
    assert hash(cycle(1)) == hash(cycle(1))
    assert cycle(1) != cycle(1, "Other")
    assert cycle(1) != cycle(1, field="other")
    assert node_of(Tree) == node_of(Tree)
    assert node_of(Recursive) == node_of(Recursive)
    assert {node_of(Tree): 1}[node_of(Tree)] == 1
    assert repr(cycle(1)) == "RecordNode('Ring', ['next'])"
    assert repr(node_of(Recursive)) == "AliasNode('Recursive')"


@pytest.mark.unmeasured
def test_graphs_that_unroll_to_the_same_tree_are_equal() -> None:
    assert cycle(1) == cycle(2) == cycle(3)
    assert cycle(61) == cycle(59)
    assert hash(cycle(1)) == hash(cycle(2))
    assert Schema((), cycle(1)).fingerprint == Schema((), cycle(7)).fingerprint
    # Their product is what a comparison of each with each would have to visit.
    assert cycle(10_007) == cycle(10_009)
    other_end = RecordNode("Ring", (Field("next", RecordNode("Ring", (Field("next", NONE, True),)), True),))
    assert cycle(1) != other_end


def test_a_difference_behind_a_cycle_is_found() -> None:
    def graph(last: Node) -> RecordNode:
        first, second = RecordNode("A"), RecordNode("B")
        first.complete((Field("b", second, True), Field("self", first, True)))
        second.complete((Field("a", first, True), Field("last", last, True)))
        return first

    assert graph(NONE) == graph(NONE)
    assert graph(NONE) != graph(ANY)


def test_aliases_of_cycles() -> None:
    def json(name: str = "Json") -> AliasNode:
        alias = AliasNode(name)
        alias.complete(UnionNode((CollectionNode("list", alias), NONE)))
        return alias

    assert json() == json()
    assert hash(json()) == hash(json())
    assert json() != json("Other")
    assert bare(ConstrainedNode(json(), (Constraint("gt", "0"),))) == json().target


@pytest.mark.unmeasured
def test_graphs_deeper_than_python_recurses() -> None:
    def chain(end: Node) -> RecordNode:
        node = RecordNode("Chain", (Field("next", end, True),))
        for _ in range(10_000):
            node = RecordNode("Chain", (Field("next", node, True),))
        return node

    assert chain(NONE) == chain(NONE)
    assert chain(NONE) != chain(ANY)
    assert cycle(1) != chain(NONE)
    assert hash(chain(NONE)) == hash(chain(ANY))
    assert hashable(chain(NONE))
    written = AliasNode("A", NONE)
    for number in range(10_000):
        written = AliasNode(f"A{number}", TupleNode((written, written)))
    assert hashable(written)
    assert not stands_within(written, AliasNode("A"))
    assert len(NodeWriter().definitions) == 0
    writer = NodeWriter()
    assert writer.write(written) == ["ref", 0]
    assert len(writer.definitions) == 10_001


def test_an_alias_within_itself() -> None:
    alias = AliasNode("A")
    assert stands_within(alias, alias)
    assert stands_within(UnionNode((NONE, alias)), alias)
    assert stands_within(ConstrainedNode(alias, ()), alias)
    assert stands_within(AliasNode("B", UnionNode((alias, NONE))), alias)
    assert not stands_within(AliasNode("B"), alias)
    assert not stands_within(CollectionNode("list", alias), alias)
    unions: Node = UnionNode((NONE, ANY))
    for number in range(200):  # each way through them apart would take for ever
        unions = AliasNode(f"U{number}", UnionNode((unions, unions)))
    assert not stands_within(unions, alias)


def test_a_node_that_is_being_read() -> None:
    record, alias = RecordNode("R"), AliasNode("A")
    assert children(record) == children(alias) == ()
    assert hashable(record)
    assert hashable(alias)
    assert bare(alias) is alias
    assert record != RecordNode("R", ())
    assert alias != AliasNode("A", NONE)
    with pytest.raises(AssertionError, match="R is being read"):
        assert record.fields
    with pytest.raises(AssertionError, match="A is being read"):
        assert alias.target is not None


def test_nodes_are_small_and_complete_once() -> None:
    assert not any(hasattr(node_of(hint), "__dict__") for hint, _ in PRINTED)
    record, alias = node_of(Point), node_of(Recursive)
    assert isinstance(record, RecordNode)
    assert isinstance(alias, AliasNode)
    with pytest.raises(AssertionError):
        record.complete(())
    with pytest.raises(AssertionError):
        alias.complete(NONE)
    assert children(ScalarNode("int")) == ()
    assert [str(child) for child in children(node_of(dict[str, int]))] == ["str", "int"]
    assert [str(child) for child in children(node_of(tuple[str, int]))] == ["str", "int"]
    assert [str(child) for child in children(node_of(str | int))] == ["int", "str"]
    assert [str(child) for child in children(node_of(Point))] == ["int", "int"]
    assert [kind.value for kind in ParameterKind] == [0, 1, 2, 3, 4]


def test_callbacks_print_compare_and_hash_by_what_they_take_and_give() -> None:
    int_, str_ = node_of(int), node_of(str)
    nodes = [
        CallbackNode((), NONE),
        CallbackNode((), NONE, is_async=True),
        CallbackNode((int_,), NONE),
        CallbackNode((), int_),
        CallbackNode((int_, str_), NONE),
        CallbackNode((str_, int_), NONE),
        CallbackNode((int_, str_), int_, is_async=True),
    ]
    assert list(map(str, nodes)) == [
        "Callable[[], None]",
        "Callable[[], Awaitable[None]]",
        "Callable[[int], None]",
        "Callable[[], int]",
        "Callable[[int, str], None]",
        "Callable[[str, int], None]",
        "Callable[[int, str], Awaitable[int]]",
    ]
    assert len(set(nodes)) == len(nodes)
    assert all((one == other) is (one is other) for one in nodes for other in nodes)
    again = CallbackNode((node_of(int), node_of(str)), NONE)
    assert again == nodes[4]
    assert hash(again) == hash(nodes[4])
    assert children(again) == (int_, str_, NONE)
    assert not hashable(again)
    assert repr(nodes[0]) == "CallbackNode(parameters=(), result=ScalarNode(name='None'), is_async=False)"


def test_where_a_callback_may_stand() -> None:
    callback, other = CallbackNode((node_of(int),), NONE), CallbackNode((), NONE)
    for node in (callback, UnionNode((callback, NONE))):
        assert companion_of(node) is callback
        assert misplaced_companion(node, parameter=True) is None
        assert misplaced_companion(node) is callback
    for wrong in (CollectionNode("list", callback), UnionNode((other, callback)), AliasNode("A", callback)):
        assert misplaced_companion(wrong, parameter=True) is callback
    # The same node at the right place and at a wrong one.
    assert misplaced_companion(UnionNode((callback, CollectionNode("list", callback))), parameter=True) is callback
    assert companion_of(node_of(int | None)) is None
    assert misplaced_companion(node_of(list[Point]), parameter=True) is None


def test_streams_print_compare_and_hash_by_what_they_give() -> None:
    int_, str_ = node_of(int), node_of(str)
    nodes: list[Node] = [
        StreamNode(int_),
        StreamNode(str_),
        StreamNode(int_, is_async=True),
        CollectionNode("list", int_),
    ]
    assert [str(node) for node in nodes[:3]] == ["Iterator[int]", "Iterator[str]", "AsyncIterator[int]"]
    assert len(set(nodes)) == len(nodes)
    assert all((one == other) is (one is other) for one in nodes for other in nodes)
    again = StreamNode(node_of(int))
    assert again == nodes[0]
    assert hash(again) == hash(nodes[0])
    assert children(again) == (int_,)
    assert not hashable(again)
    assert repr(again) == "StreamNode(item=ScalarNode(name='int'), is_async=False)"


def test_where_a_stream_may_stand() -> None:
    stream, callback = StreamNode(node_of(int)), CallbackNode((), NONE)
    for node in (stream, UnionNode((stream, NONE))):
        assert companion_of(node) is stream
        assert misplaced_companion(node, parameter=True) is None
        assert misplaced_companion(node) is stream
    assert misplaced_companion(stream, result=True) is None
    assert misplaced_companion(UnionNode((stream, NONE)), result=True) is stream
    for wrong in (
        CollectionNode("list", stream),
        AliasNode("A", stream),
        CallbackNode((stream,), NONE),
        StreamNode(stream),
    ):
        assert misplaced_companion(wrong, parameter=True) is stream
    assert misplaced_companion(StreamNode(stream), result=True) is stream
    assert misplaced_companion(StreamNode(callback), result=True) is callback
    assert misplaced_companion(UnionNode((stream, callback)), parameter=True) is callback
