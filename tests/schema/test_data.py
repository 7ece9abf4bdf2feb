"""Schemas as data of a peer: nothing in it is trusted."""

import random
from dataclasses import dataclass, make_dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from typedrpc.schema import Node, Schema, node_of, schema_of
from typedrpc.schema.data import NodeWriter


@dataclass
class Point:
    x: int
    y: int = 0


def everything(
    self: object, a: int, /, b: "str", c: bool = True, *args: float, d: Point, e: None = None, **kwargs: bytes
) -> list[str]:
    raise NotImplementedError


GOOD = schema_of(everything, method=True).to_data()


BAD: list[tuple[Any, str]] = [
    (None, "no known form"),
    ([], "no known form"),
    ([[], "int"], "no known form"),
    ([[], "int", 3], "definitions are not in a list"),
    ([[], "integer", []], "no type is named 'integer'"),
    ([[], 3, []], "no known form"),
    ([[], ["list"], []], "no known form"),
    ([[], ["list", "int", "int"], []], "no known form"),
    ([[], ["dict", "int"], []], "no known form"),
    ([[], ["deque", "int"], []], "no known form"),
    ([[], ["fixed", "int"], []], "no known form"),
    ([[], ["Union", ["int"]], []], "no known form"),
    ([[], ["Literal", []], []], "no known form"),
    ([[], ["Literal", ["a"]], []], "a literal is in no known form"),
    ([[], ["Literal", [["float", "1"]]], []], "a literal is in no known form"),
    ([[], ["Literal", [["int", "x"]]], []], "a literal int is not in its form"),
    ([[], ["Literal", [["int", "1" * 5000]]], []], "a literal int is not in its form"),
    ([[], ["Literal", [["bool", "true"]]], []], "a literal bool is not in its form"),
    ([[], ["Literal", [["bytes", "xx"]]], []], "a literal bytes is not in its form"),
    ([[], ["ref", 0], []], "there is no definition 0"),
    ([[], ["ref", -1], [["enum", "E", ["A"], False]]], "there is no definition -1"),
    ([[], ["ref", True], [["enum", "E", ["A"], False]] * 2], "there is no definition True"),
    ([[], ["ref", 0], [["enum", "E", [], False]]], "a definition is in no known form"),
    ([[], ["ref", 0], [["enum", "E", [1], False]]], "an enum member has no usable name"),
    ([[], ["ref", 0], [["enum", "", ["A"], False]]], "an enum has no usable name"),
    ([[], ["ref", 0], [["enum", "E" * 1001, ["A"], False]]], "an enum has no usable name"),
    ([[], ["ref", 0], [["dataclass", "P", [["x", "int"]]]]], "a field is in no known form"),
    ([[], ["ref", 0], [["dataclass", "P", [["x y", "int", True]]]]], "a field is in no known form"),
    ([[], ["ref", 0], [["dataclass", "P", [["x", "int", True]] * 2]]], "two fields of one name"),
    ([[], ["ref", 0], [["dataclass", "P", [["x", ["ref", 0], True]]]]], "definition 0 refers to itself"),
    ([[["x", 1, "int"]], "int", []], "a parameter is in no known form"),
    ([[["x y", 1, "int", True]], "int", []], "a parameter is in no known form"),
    ([[["x", True, "int", True]], "int", []], "a parameter is in no known form"),
    ([[["x" * 1001, 1, "int", True]], "int", []], "a parameter has no usable name"),
    ([[["x", 7, "int", True]], "int", []], "7 is not a valid ParameterKind"),
    ([[["x", 2, "int", True]], "int", []], "a variadic parameter cannot be required"),
    ([[["x", 1, "int", True], ["y", 0, "int", True]], "int", []], "not in the order of their kinds"),
    ([[["x", 2, "int", False], ["y", 2, "int", False]], "int", []], "not in the order of their kinds"),
    ([[["x", 1, "int", True], ["x", 1, "int", True]], "int", []], "two parameters have one name"),
    ([[["x", 1, "int", False], ["y", 1, "int", True]], "int", []], "a required parameter follows an optional one"),
]


@pytest.mark.parametrize(("data", "text"), BAD, ids=[f"{i}-{text}" for i, (_, text) in enumerate(BAD)])
def test_bad_data_is_a_value_error(data: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Schema.from_data(data)


def test_data_that_nests_deep_is_a_value_error() -> None:
    data: Any = "int"
    for _ in range(100_000):
        data = ["list", data]
    with pytest.raises(ValueError, match="nests deeper than 128"):
        Schema.from_data([[], data, []])
    chain = [["dataclass", f"D{i}", [["x", ["ref", i + 1], True]]] for i in range(100_000)]
    with pytest.raises(ValueError, match="nests deeper than 128"):
        Schema.from_data([[], ["ref", 0], chain])


JUNK = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-1, 5),
        st.sampled_from(["int", "list", "dict", "Union", "ref", "Literal", "fixed", "enum", "dataclass", "x", "str"]),
    ),
    lambda inner: st.lists(inner, max_size=4),
)


@given(st.one_of(JUNK, st.lists(JUNK, min_size=3, max_size=3)))
def test_junk_is_a_value_error_or_a_signature(data: Any) -> None:
    try:
        signature = Schema.from_data(data)
    except ValueError:
        return
    assert Schema.from_data(signature.to_data()) == signature


def mutate(data: Any, source: random.Random) -> Any:
    """A copy of `data` with something in it replaced, left out or repeated."""
    if not isinstance(data, list) or source.random() < 0.05:
        return source.choice([None, "int", 1, [], data])
    copy = list(data)
    if copy:
        at = source.randrange(len(copy))
        copy[at : at + 1] = source.choice([[], [copy[at]] * 2, [mutate(copy[at], source)], [mutate(copy[at], source)]])
    return copy


@given(st.randoms(use_true_random=False))
def test_mutated_data_is_a_value_error_or_a_signature(source: random.Random) -> None:
    try:
        signature = Schema.from_data(mutate(GOOD, source))
    except ValueError:
        return
    assert str(signature)


def test_shared_dataclasses_are_written_once() -> None:
    """Levels of dataclasses that each use the one below four times: inline, this would be 4 ** 30 nodes."""
    cls: Any = Point
    for level in range(30):
        cls = make_dataclass(f"Level{level}", [(name, cls) for name in "abcd"])
    signature = Schema((), node_of(cls))
    assert hash(signature) == hash(Schema((), node_of(cls)))
    data = signature.to_data()
    assert len(repr(data)) < 10_000
    assert Schema.from_data(data).to_data() == data


def test_an_unknown_kind_of_node_cannot_be_written() -> None:
    class OtherNode(Node):
        pass

    with pytest.raises(TypeError, match="OtherNode has no form as data"):
        NodeWriter().write(OtherNode())
