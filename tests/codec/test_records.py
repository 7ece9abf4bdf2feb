"""Dataclasses: as arrays of fields, made by calling the class."""

import collections
import dataclasses
import inspect
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Generic, NamedTuple, NotRequired, Required, TypeVar

import msgpack  # type: ignore[import-untyped]  # it ships no types
import pytest
from annotated_types import Predicate
from typing_extensions import TypeAliasType, TypedDict

from tests.codec.both_ways import BothWays, same
from typedrpc.codec import CodecError, CommandCodec
from typedrpc.codec.records import assigned_by
from typedrpc.schema import RecordNode, ScalarNode, Schema, node_of
from typedrpc.schema.nodes import Field

packb: Any = msgpack.packb


@dataclass
class Point:
    x: int
    y: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    verbose: bool = False
    names: list[str] = field(default_factory=list)


@dataclass
class Mixed:
    a: int
    b: int = field(kw_only=True)
    c: int = 3
    made: int = field(init=False, default=0)
    shared: ClassVar[int] = 7

    def __post_init__(self) -> None:
        if self.a < 0:
            raise ValueError("a is negative")
        self.made = self.a * 10


@dataclass
class Shape(Point):
    """Inherits, holds others, and itself has text annotations."""

    corners: "list[Point]" = field(default_factory=list)
    options: "Options | None" = None


@dataclass
class Empty:
    pass


@dataclass
class One:
    only: str


@dataclass
class Blob:
    name: str
    data: bytes


class Sub(Point):
    def extra(self) -> None: ...


def codec_of(hint: Any) -> CommandCodec:
    return CommandCodec("Test.command", Schema((), node_of(hint)))


def trip(hint: Any, value: object) -> Any:
    codec = codec_of(hint)
    return codec.unpack_result(codec.pack_result(value))


VALUES: list[Any] = [
    Point(1, 2.5),
    Options(verbose=True, names=["a"]),
    Mixed(1, b=2),
    Shape(1, 2.0, [Point(3), Point(4, 5.0)], Options()),
    Shape(1),
    Empty(),
    One("x"),
    Blob("a", b"small"),
    Blob("b", b"x" * 70_000),
    Sub(1, 2.0),
]


@pytest.mark.parametrize("value", VALUES, ids=[type(value).__name__ for value in VALUES])
def test_instances_arrive_equal(value: Any) -> None:
    cls: Any = type(value)
    for hint, there in (
        (cls, value),
        (list[cls], [value] * 3),
        (list[cls], []),
        (dict[str, cls], {"a": value}),
        (cls | None, value),
        (tuple[cls, int], (value, 1)),
        (list[tuple[cls, cls]], [(value, value)]),
    ):
        back = trip(hint, there)
        assert back == there
        if hint is cls:
            assert type(back) is cls
            assert vars(back) == vars(value) if hasattr(value, "__dict__") else back == value


def test_the_fields_travel_in_the_order_of_declaration() -> None:
    assert codec_of(Mixed).pack_result(Mixed(1, b=2)) == packb([1, 2, 3])
    assert codec_of(Shape).pack_result(Shape(1)) == packb([1, 0.0, [], None])
    assert codec_of(Empty).pack_result(Empty()) == packb([])


def test_fields_that_the_constructor_does_not_take_are_made_on_arrival() -> None:
    value = Mixed(4, b=1)
    value.made = 5
    assert trip(Mixed, value).made == 40


def test_an_instance_of_a_subclass_arrives_as_the_annotated_class() -> None:
    for hint, value in ((Point, Shape(1, 2.0)), (list[Point], [Point(1), Shape(1, 2.0)]), (Point | None, Sub(1, 2.0))):
        back = trip(hint, value)
        back = back[-1] if isinstance(back, list) else back
        assert type(back) is Point
        assert back.x == 1


def test_fields_are_converted_as_arguments_are() -> None:
    assert repr(trip(Point, Point(True, 2))) == "Point(x=1, y=2.0)"
    assert repr(trip(list[Point], [Point(1, 2)])) == "[Point(x=1, y=2.0)]"


WRONG: list[tuple[Any, Any, str]] = [
    (Point, Options(), "result: expected Point, got Options"),
    (Point, {"x": 1}, "result: expected Point, got dict"),
    (Point, (1, 2.0), "result: expected Point, got tuple"),
    (Point, Point, "result: expected Point, got type"),
    (Point, None, "result: expected Point, got None"),
    (Point, Point("1"), "result.x: expected int, got str"),  # type: ignore[arg-type]
    (list[Point], [Point(1), Point(1, "y")], "result[1].y: expected float, got str"),  # type: ignore[arg-type]
    (list[Point], [Point(1), None], "result[1]: expected Point, got None"),
    (Shape, Shape(1, 2.0, [Point(1), 5]), "result.corners[1]: expected Point, got int"),  # type: ignore[list-item]
    (dict[str, Shape], {"k": Shape(1, options=Options(names=[1]))}, "result['k'].options.names[0]: expected str"),  # type: ignore[list-item]
]


@pytest.mark.parametrize(("hint", "value", "text"), WRONG, ids=[text for _, _, text in WRONG])
def test_what_does_not_fit_is_refused_with_its_place(hint: Any, value: Any, text: str) -> None:
    with pytest.raises(CodecError) as caught:
        codec_of(hint).pack_result(value)
    assert text in str(caught.value)


BAD: list[tuple[Any, Any, str]] = [
    (Point, None, "result: expected Point, got None"),
    (Point, {}, "result: expected Point, got dict"),
    (Point, [1], "result: expected Point, got list of 1 items for 2 fields"),
    (Point, [1, 2.0, 3], "result: expected Point, got list of 3 items for 2 fields"),
    (Point, "ab", "result: expected Point, got str"),
    (Point, [1, "x"], "result.y: expected float, got str"),
    (list[Point], [1, 2.0, 1], "result: expected list[Point], got list of 3 items for records of 2 fields"),
    (list[Point], [1, 2.0, [1, 2.0], 3.0], "result[1].x: expected int, got list"),
    (list[Point], [1, 2.0, None, 1.0], "result[1].x: expected int, got None"),
    (Empty, [1], "result: expected Empty, got list of 1 items for 0 fields"),
    (list[Empty], [[], [1]], "result[1]: expected Empty, got list of 1 items for 0 fields"),
    (One, ["a", "b"], "result: expected One, got list of 2 items for 1 fields"),
    (Mixed, [-1, 2, 3], "result: expected Mixed, got fields it refuses: ValueError: a is negative"),
    (list[Mixed], [1, 2, 3, -1, 2, 3], "result[1]: expected Mixed, got fields it refuses: ValueError"),
]


@pytest.mark.parametrize(("hint", "data", "text"), BAD, ids=[f"{i}-{text}"[:70] for i, (_, _, text) in enumerate(BAD)])
def test_bad_data_of_a_peer_is_refused_with_its_place(hint: Any, data: Any, text: str) -> None:
    with pytest.raises(CodecError) as caught:
        codec_of(hint).unpack_result(packb(data))
    assert text in str(caught.value)


def test_whatever_a_class_raises_becomes_the_error_of_the_codec() -> None:
    @dataclass
    class Fails:
        x: int

        def __post_init__(self) -> None:
            if self.x:
                raise KeyError("no\nsuch thing" + "x" * 500)

    with pytest.raises(CodecError) as caught:
        codec_of(Fails).unpack_result(packb([1]))
    assert "KeyError" in caught.value.got
    assert "\n" not in caught.value.got
    assert len(caught.value.got) <= 160


def test_an_attribute_that_is_gone_is_a_fault() -> None:
    value = Point(1)
    del value.x
    with pytest.raises(
        CodecError, match=r"result\.x: expected a value, got AttributeError: 'Point' object has no attr"
    ):
        codec_of(Point).pack_result(value)


def test_two_dataclasses_of_one_name_keep_their_fields_and_classes() -> None:
    first = dataclasses.make_dataclass("Twin", [("x", int)])
    second = dataclasses.make_dataclass("Twin", [("x", int)])
    back = trip(tuple[first, second, list[first], list[second]], (first(1), second(2), [first(3)], [second(4)]))  # type: ignore[valid-type]
    assert [type(value) for value in (back[0], back[1], back[2][0], back[3][0])] == [first, second, first, second]


def test_dataclasses_within_dataclasses_share_their_code() -> None:
    """Each level uses the one below four times: inline, the source would have 4 ** 12 parts."""
    cls: Any = Point
    value: Any = Point(1)
    for level in range(12):
        cls = dataclasses.make_dataclass(f"Level{level}", [("a", cls), ("b", cls), ("c", list[cls]), ("d", cls | None)])
        value = cls(value, value, [], None)
    assert trip(cls, value) == value


def test_a_dataclass_of_a_peer_has_no_codec() -> None:
    codec = CommandCodec("Test.command", Schema((), RecordNode("Point", ())))
    with pytest.raises(TypeError, match="the record Point came from a peer; it has no class here"):
        codec.unpack_result(b"\x90")


NUMBER: Any = 1
TEXT: Any = "x"


# NamedTuples.


class Place(NamedTuple):
    x: int
    y: float = 0.0
    name: str = ""


class Labelled(Place):
    """A subclass of a NamedTuple travels as what it is annotated as."""


BoxT = TypeVar("BoxT")


class Named(NamedTuple, Generic[BoxT]):
    item: BoxT
    more: list[BoxT]


class Single(NamedTuple):
    value: None = None


@dataclass
class Box(Generic[BoxT]):
    item: BoxT
    again: "Box[BoxT] | None" = None


@dataclass
class Numbers(Box[int]):
    extra: str = ""


@dataclass
class Tree:
    value: int
    children: "list[Tree]" = field(default_factory=list)
    parent: "Tree | None" = None
    by_name: "dict[str, Tree]" = field(default_factory=dict)


class Chain(NamedTuple):
    value: int
    rest: "Chain | None" = None


class Folder(TypedDict):
    name: str
    inner: "NotRequired[list[Folder]]"


@dataclass
class Even:
    """Refers to itself through another class."""

    odd: "Odd | None" = None


@dataclass
class Odd:
    even: Even
    data: bytes = b""


def test_namedtuples_travel_as_arrays_and_arrive_as_themselves() -> None:
    both = BothWays(Place)
    for value in (Place(1), Place(1, 2.5, "x"), Place(name="y", x=2)):
        assert same(both.arrives(value), value)
        assert both.taken(value)
    assert both.codec.pack_result(Place(1)) == packb([1, 0.0, ""])
    assert same(BothWays(list[Place]).arrives([Place(1), Place(2)]), [Place(1), Place(2)])
    assert same(BothWays(dict[Place, set[Place]]).arrives({Place(1): {Place(2)}}), {Place(1): {Place(2)}})
    assert same(BothWays(Single).arrives(Single()), Single())
    assert same(both.arrives(Labelled(1)), Place(1))
    assert same(BothWays(Named[int]).arrives(Named(1, [2])), Named(1, [2]))


@pytest.mark.parametrize(
    ("hint", "value", "text"),
    [
        (Place, (1, 2.5, "x"), ": expected Place, got tuple"),
        (Place, Place(1, "x"), ".y: expected float, got str"),  # type: ignore[arg-type]
        (tuple[int, float, str], Place(1), None),
        (Named[str], Named(1, []), ".item: expected str, got int"),
        (Named[str], Named("a", [NUMBER]), ".more[0]: expected str, got int"),
    ],
)
def test_what_is_no_such_namedtuple(hint: Any, value: Any, text: str | None) -> None:
    if text is None:
        assert same(BothWays(hint).arrives(value), tuple(value))
    else:
        assert BothWays(hint).refuses(value) == text


def test_bad_namedtuples_of_a_peer() -> None:
    both = BothWays(Place)
    assert both.refuses_payload(packb([1])) == ": expected Place, got list of 1 items for 3 fields"
    assert both.refuses_payload(packb({"x": 1})) == ": expected Place, got dict"
    assert both.refuses_payload(packb([1, 1.0, 5])) == ".name: expected str, got int"


# TypedDicts.


class Movie(TypedDict):
    title: str
    year: NotRequired[int]


class Loose(TypedDict, total=False):
    a: int
    b: Required[float]


Keywords = TypedDict("Keywords", {"class": int, "with space": str, "ünï": NotRequired[list[int]]})


class NoKeys(TypedDict):
    pass


class Kept(TypedDict, Generic[BoxT]):
    item: BoxT
    more: NotRequired[list[BoxT]]


class Sequel(Movie):
    of: "Movie | Sequel"


KEYED: list[tuple[Any, Any]] = [
    (Movie, {"title": "x"}),
    (Movie, {"title": "x", "year": 5}),
    (Loose, {"b": 1.0}),
    (Loose, {"a": 1, "b": -0.0}),
    (Keywords, {"class": 1, "with space": "x"}),
    (Keywords, {"class": 1, "with space": "x", "ünï": [1]}),
    (NoKeys, {}),
    (Kept[int], {"item": 1, "more": [2]}),
    (Kept[Movie], {"item": {"title": "x"}}),
    (Sequel, {"title": "3", "of": {"title": "2", "of": {"title": "1"}}}),
    (Folder, {"name": "a", "inner": [{"name": "b"}, {"name": "c", "inner": []}]}),
]


@pytest.mark.parametrize(("hint", "value"), KEYED)
def test_typeddicts_travel_as_maps(hint: Any, value: Any) -> None:
    both = BothWays(hint)
    assert same(both.arrives(value), value)
    assert both.taken(value) or hint is Sequel  # either of two dicts is left to the walk
    assert same(BothWays(list[hint]).arrives([value, value]), [value, value])
    assert same(BothWays(hint | None).arrives(value), value)
    assert same(both.arrives(dict(reversed(value.items()))), value)
    assert same(both.arrives(collections.OrderedDict(value)), value)


@pytest.mark.parametrize(
    ("hint", "value", "text"),
    [
        (Movie, {}, ": expected Movie, got no key 'title'"),
        (Movie, {"year": 5}, ": expected Movie, got no key 'title'"),
        (Loose, {"a": 5}, ": expected Loose, got no key 'b'"),
        (Movie, {"title": "x", "yeer": 5}, ": expected a key of Movie, got the key 'yeer'"),
        (Movie, {"title": "x", 5: 5}, ": expected a key of Movie, got the key 5"),
        (Movie, {"title": "x", ("a",): 5}, ": expected a key of Movie, got the key tuple"),
        (Movie, {"title": "x", "year": None}, "['year']: expected int, got None"),
        (Movie, [("title", "x")], ": expected Movie, got list"),
        (Movie, None, ": expected Movie, got None"),
        (NoKeys, {"a": 1}, ": expected a key of NoKeys, got the key 'a'"),
        (Kept[int], {"item": "x"}, "['item']: expected int, got str"),
        (Folder, {"name": "a", "inner": [{}]}, "['inner'][0]: expected Folder, got no key 'name'"),
    ],
)
def test_what_is_no_such_typeddict(hint: Any, value: Any, text: str) -> None:
    both = BothWays(hint)
    assert both.refuses(value) == text
    if not isinstance(value, dict) or ("a",) not in value:
        assert both.refuses_payload(packb(value)) == text
    else:
        assert both.refuses_payload(packb({"title": "x", msgpack.ExtType(9, b""): 5})).startswith(": expected a key of")


class Own(str):
    pass


def test_a_key_that_is_equal_to_a_name_becomes_it() -> None:
    arrived = BothWays(Movie).arrives({Own("title"): "x"})
    assert [type(key) for key in arrived] == [str]


# Attributes by keyword, generic and recursive classes.


def test_generic_classes_with_their_arguments() -> None:
    assert same(BothWays(Box[int]).arrives(Box(1, Box(2))), Box(1, Box(2)))
    assert same(BothWays(Box[float]).arrives(Box(1, Box(2.5))), Box(1.0, Box(2.5)))
    assert same(BothWays(Box[Box[str]]).arrives(Box(Box("x"))), Box(Box("x")))
    assert same(BothWays(Numbers).arrives(Numbers(1, Numbers(2), "x")), Numbers(1, Box(2), "x"))
    assert BothWays(Box[int]).refuses(Box(NUMBER, Box(TEXT))) == ".again.item: expected int, got str"
    assert BothWays(Numbers).refuses(Numbers("x")) == ".item: expected int, got str"  # type: ignore[arg-type]


RECURSIVE: list[tuple[Any, Any]] = [
    (Tree, Tree(1, [Tree(2, [Tree(3)])], Tree(4), {"a": Tree(5, parent=Tree(6))})),
    (Chain, Chain(1, Chain(2, Chain(3)))),
    (Even, Even(Odd(Even(Odd(Even(), bytes(70_000)))))),
    (Odd, Odd(Even(Odd(Even(), b"x")))),
    (list[Tree | Chain | None], [Tree(1), Chain(1, Chain(2)), None]),
]


@pytest.mark.parametrize(("hint", "value"), RECURSIVE)
def test_classes_that_hold_themselves(hint: Any, value: Any) -> None:
    both = BothWays(hint)
    assert same(both.arrives(value), value)
    assert both.taken(value)


def test_a_fault_deep_within_a_recursive_class() -> None:
    bad: Any = "x"
    value = Tree(1, [Tree(2), Tree(3, by_name={"k": Tree(4, parent=Tree(bad))})])
    assert BothWays(Tree).refuses(value) == ".children[1].by_name['k'].parent.value: expected int, got str"
    assert BothWays(Chain).refuses(Chain(1, Chain(2, bad))).startswith(".rest.rest: expected Chain | None, got str")


def test_a_value_that_holds_itself_is_refused() -> None:
    tree = Tree(1)
    tree.children += [tree, tree, tree]
    assert "nests too deeply, or holds itself" in BothWays(Tree).refuses(tree)
    assert "nests too deeply, or holds itself" in BothWays(Tree | Chain).refuses(tree)
    even = Even()
    even.odd = Odd(even)
    assert "nests too deeply, or holds itself" in BothWays(Even).refuses(even)
    folder: Any = {"name": "a"}
    folder["inner"] = [folder, folder]
    assert "nests too deeply, or holds itself" in BothWays(Folder).refuses(folder)


@pytest.mark.parametrize("depth", [5_000, 100_000])
def test_data_of_a_peer_that_nests_too_deeply_is_refused(depth: int) -> None:
    heads: list[tuple[Any, bytes]] = [
        (Tree, b"\x94\x01\x91"),
        (Chain, b"\x92\x01"),
        (Even, b"\x91\x92"),
        (Folder, b"\x81\xa5inner\x91"),
    ]
    for hint, head in heads:
        assert BothWays(hint).refuses_payload(head * depth)
        assert BothWays(hint).refuses_payload(head * 400)


class ByKeyword:
    """Neither dataclass nor tuple: its constructor takes one field by position, one under another name."""

    def __init__(self, first: int, /, *, second: str = "", kind: float = 0.0) -> None:
        self.first, self.second_value, self.kind = first, second, kind


KEYWORD = RecordNode(
    "ByKeyword",
    (
        Field("first", ScalarNode("int"), True),
        Field("second_value", ScalarNode("str"), True, "second"),
        Field("kind", ScalarNode("float"), False, "kind"),
    ),
    cls=ByKeyword,
)


def test_attributes_that_are_given_by_keyword() -> None:
    both = BothWays(KEYWORD)
    value = ByKeyword(5, second="x", kind=1.5)
    payload = both.codec.pack_result(value)
    assert payload == packb([5, "x", 1.5])
    for unpack in (both.codec.unpack_result, both.unpack_walk, both.unpack_source):
        assert vars(unpack(payload)) == vars(value)
    assert both.refuses(ByKeyword(5, second=1)) == ".second_value: expected str, got int"  # type: ignore[arg-type]


@dataclass
class Turned:
    """Keyword-only fields stand among the others."""

    a: int = field(kw_only=True)
    b: str
    c: float = field(kw_only=True, default=1.5)
    d: bytes = b""


def test_keyword_only_fields_travel_where_they_are_declared() -> None:
    value = Turned("x", a=1)
    assert same(BothWays(Turned).arrives(value), value)
    assert BothWays(Turned).codec.pack_result(value) == packb([1, "x", 1.5, b""])


@dataclass(frozen=True)
class Frozen:
    at: int
    name: str


PointAlias = TypeAliasType("PointAlias", Point)
Positive = Annotated[Point, Predicate(lambda point: point.x > 0)]


@pytest.mark.parametrize(
    ("hint", "value", "data"),
    [
        (list[Point], [Point(1, 2.0), Point(3, 4.0)], [1, 2.0, 3, 4.0]),
        (list[Point], [], []),
        (list[PointAlias], [Point(1, 2.0), Point(3, 4.0)], [1, 2.0, 3, 4.0]),
        (list[Positive], [Point(1, 2.0), Point(3, 4.0)], [1, 2.0, 3, 4.0]),
        (list[One], [One("a"), One("b")], ["a", "b"]),
        (list[Empty], [Empty(), Empty()], [[], []]),
        (set[Frozen], {Frozen(1, "a")}, [1, "a"]),
        (tuple[Frozen, ...], (Frozen(1, "a"), Frozen(2, "b")), [1, "a", 2, "b"]),
        (collections.deque[Frozen], collections.deque([Frozen(1, "a")]), [1, "a"]),
        (tuple[Frozen, Frozen], (Frozen(1, "a"), Frozen(2, "b")), [[1, "a"], [2, "b"]]),
        (dict[str, Frozen], {"k": Frozen(1, "a")}, {"k": [1, "a"]}),
        (dict[Frozen, int], {Frozen(1, "a"): 2}, [[[1, "a"], 2]]),
        (list[Frozen | None], [Frozen(1, "a"), None], [[1, "a"], None]),
        (list[NoKeys], [{}, {}], [{}, {}]),
        (list[list[Frozen]], [[Frozen(1, "a"), Frozen(2, "b")], []], [[1, "a", 2, "b"], []]),
        (list[Shape], [Shape(1, 2.0, [Point(3, 4.0)])], [1, 2.0, [3, 4.0], None]),
    ],
)
def test_the_records_in_a_collection_have_no_arrays_of_their_own(hint: Any, value: Any, data: Any) -> None:
    both = BothWays(hint)
    assert both.codec.pack_result(value) == packb(data)
    assert both.arrives(value) == value


@pytest.mark.parametrize("left_over", [1, 2])
def test_what_is_left_over_of_a_set_of_records_is_refused(left_over: int) -> None:
    @dataclass(frozen=True)
    class Three:
        a: int
        b: int
        c: int

    both = BothWays(set[Three])
    text = f"expected set[Three], got list of {3 + left_over} items for records of 3 fields"
    assert both.refuses_payload(packb([1] * (3 + left_over))) == f": {text}"
    assert both.refuses_payload(packb([1, 2, 3] * 2)) == ": expected set[Three], got two elements that become one"


class Slots:
    __slots__ = ("x", "y")

    def __init__(self, x: int, y: int) -> None:
        self.x = x
        self.y = y


class Swaps:
    def __init__(self, x: int, y: int) -> None:
        self.x = y
        self.y = x


class Notes:
    def __init__(self, x: int) -> None:
        self.x = x
        made.append(self)


class Overwrites:
    def __init__(self, x: int) -> None:
        self.x = x
        self.x = 3


class Takes:
    def __init__(self, x: int, *more: int) -> None:
        self.x = x


class Renames:
    def __init__(self, x: int) -> None:
        self.y = x


class Counted(type):
    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        made.append(cls)
        return super().__call__(*args, **kwargs)


@dataclass
class ByMetaclass(metaclass=Counted):
    x: int


@dataclass
class ByNew:
    x: int

    def __new__(cls, *args: Any) -> "ByNew":
        made.append(cls)
        return super().__new__(cls)


@dataclass(slots=True)
class Slotted:
    x: int
    y: int = 0


@dataclass(kw_only=True)
class ByName:
    x: int
    y: int = 0


made: list[Any] = []


@pytest.mark.parametrize("cls", [Point, Slots, Slotted, ByName, Box])
def test_a_constructor_that_only_assigns_is_known(cls: Any) -> None:
    assert assigned_by(cls) == tuple(inspect.signature(cls).parameters)


@pytest.mark.parametrize(
    "cls",
    [
        Options,
        Mixed,
        Place,
        Shape,
        Empty,
        Swaps,
        Notes,
        Overwrites,
        Takes,
        Renames,
        ByMetaclass,
        ByNew,
        Frozen,
        int,
        object,
    ],
)
def test_a_constructor_that_does_more_is_not_taken_for_one_that_only_assigns(cls: Any) -> None:
    assert assigned_by(cls) == ()


@pytest.mark.parametrize("cls", [ByMetaclass, ByNew])
def test_who_has_a_say_in_making_an_instance_is_asked(cls: Any) -> None:
    made.clear()
    assert trip(list[cls], [cls(1)]) == [cls(1)]
    assert len(made) == 3


def test_an_attribute_that_is_a_property_is_assigned_as_the_constructor_would() -> None:
    @dataclass
    class Doubled:
        x: int

    def double(self: Any, value: int) -> None:
        self.__dict__["x"] = value * 2

    Doubled.x = property(lambda self: self.__dict__["x"], double)  # type: ignore[assignment]  # it is what is tested
    value = Doubled(1)
    assert value.x == 2
    assert trip(Doubled, value).x == trip(list[Doubled], [value])[0].x == 4
