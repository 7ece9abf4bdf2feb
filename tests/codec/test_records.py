"""Dataclasses: as arrays of fields, made by calling the class."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, ClassVar

import msgpack  # type: ignore[import-untyped]  # it ships no types
import pytest

from typedrpc.codec import CodecError, CommandCodec
from typedrpc.schema import RecordNode, Schema, node_of

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
    (list[Point], [[1, 2.0], [1]], "result[1]: expected Point, got list of 1 items for 2 fields"),
    (list[Point], [[1, 2.0], 5], "result[1]: expected Point, got int"),
    (list[Point], [[1, 2.0], [None, 1.0]], "result[1].x: expected int, got None"),
    (Empty, [1], "result: expected Empty, got list of 1 items for 0 fields"),
    (list[Empty], [[], [1]], "result[1]: expected Empty, got list of 1 items for 0 fields"),
    (One, ["a", "b"], "result: expected One, got list of 2 items for 1 fields"),
    (Mixed, [-1, 2, 3], "result: expected Mixed, got fields it refuses: ValueError: a is negative"),
    (list[Mixed], [[1, 2, 3], [-1, 2, 3]], "result[1]: expected Mixed, got fields it refuses: ValueError"),
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
    with pytest.raises(TypeError, match="the dataclass Point came from a peer; it has no class here"):
        codec.unpack_result(b"\x90")
