"""How nodes print, compare and hash, and that each survives as data."""

import collections
import collections.abc
import datetime
import enum
import typing
from dataclasses import dataclass, field, make_dataclass
from typing import Annotated, Any, ClassVar, Literal, NewType, Optional, Union

import pytest
from typing_extensions import Doc, TypeAliasType

from typedrpc.schema import (
    NONE,
    CollectionNode,
    LiteralNode,
    ParameterKind,
    RecordNode,
    ScalarNode,
    Schema,
    SignatureFaults,
    children,
    hashable,
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
    ],
)
def test_hashable(hint: Any, expected: bool) -> None:
    assert hashable(node_of(hint)) is expected


def test_what_came_from_a_peer_may_be_hashable() -> None:
    assert hashable(RecordNode("Point", ()))


def test_nodes_are_frozen_and_small() -> None:
    node = CollectionNode("list", NONE)
    with pytest.raises(AttributeError):
        node.kind = "set"  # type: ignore[misc]
    assert not hasattr(node, "__dict__")
    assert children(ScalarNode("int")) == ()
    assert [str(child) for child in children(node_of(dict[str, int]))] == ["str", "int"]
    assert [str(child) for child in children(node_of(tuple[str, int]))] == ["str", "int"]
    assert [str(child) for child in children(node_of(str | int))] == ["int", "str"]
    assert [str(child) for child in children(node_of(Point))] == ["int", "int"]
    assert [kind.value for kind in ParameterKind] == [0, 1, 2, 3, 4]
