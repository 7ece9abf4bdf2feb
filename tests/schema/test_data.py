"""Schemas as data of a peer: nothing in it is trusted."""

import enum
import json
import random
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, make_dataclass
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple, Required

import pytest
from annotated_types import Gt, Le
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import TypeAliasType, TypedDict

from typedrpc.schema import Node, Schema, children, node_of, schema_of
from typedrpc.schema.data import NodeWriter


@dataclass
class Point:
    x: int
    y: int = 0


def everything(
    self: object, a: int, /, b: "str", c: bool = True, *args: float, d: Point, e: None = None, **kwargs: bytes
) -> list[str]:
    raise NotImplementedError


class Access(enum.Flag):
    READ = 1
    WRITE = 2


class Colour(enum.Enum):
    RED = 1


class Coordinates(NamedTuple):
    x: int
    next: "Coordinates | None" = None


class Options(TypedDict, total=False):
    x: Required[int]
    y: "list[Options]"


Json = TypeAliasType("Json", "dict[str, Json] | list[Json] | str | None")


def every_type(
    access: Access,
    colour: Colour,
    coordinates: Coordinates,
    options: Options,
    json: Json,
    price: Decimal,
    count: Annotated[int, Gt(0), Le(10)],
    other: Any,
    done: Callable[[Coordinates, int], bool],
    failed: Callable[[], Awaitable[None]] | None,
    points: Iterator[Coordinates],
    counts: AsyncIterator[int] | None,
    *buffers: bytearray | memoryview,
    literal: Literal["a", 1, True, b"x"] = "a",
    **mappings: OrderedDict[str, defaultdict[str, Counter[str]]],
) -> tuple[deque[int], AbstractSet[str], tuple[int, ...], tuple[()]]:
    raise NotImplementedError


FORMS = [
    ["ref", 0],
    ["ref", 1],
    ["ref", 2],
    ["ref", 3],
    ["ref", 4],
    ["as", "Decimal", "str"],
    ["Annotated", "int", [["gt", "0"], ["le", "10"]]],
    "Any",
    ["callback", [["ref", 2], "int"], "bool", False],
    ["Union", [["callback", [], "None", True], "None"]],
    ["stream", ["ref", 2], False],
    ["Union", [["stream", "int", True], "None"]],
    ["Union", ["bytearray", "memoryview"]],
    ["Literal", [["bool", "True"], ["bytes", "78"], ["int", "1"], ["str", "a"]]],
    ["OrderedDict", "str", ["defaultdict", "str", ["Counter", "str", "int"]]],
]
SCHEMAS = [schema_of(everything, method=True), schema_of(every_type, method=False)]
GOOD = [schema.to_data() for schema in SCHEMAS]


@pytest.mark.parametrize("schema", SCHEMAS)
def test_a_schema_travels(schema: Schema) -> None:
    data = json.loads(json.dumps(schema.to_data()))
    copy = Schema.from_data(data)
    assert copy == schema
    assert copy.to_data() == data
    assert str(copy) == str(schema)
    assert copy.fingerprint == schema.fingerprint


def test_the_forms_of_the_docstring() -> None:
    parameters, result, definitions = GOOD[1]
    assert definitions == [
        ["flag", "Access", [["READ", 1], ["WRITE", 2]]],
        ["enum", "Colour", ["RED"], False],
        ["record", "Coordinates", [["x", "int", True], ["next", ["Union", [["ref", 2], "None"]], False]], False],
        ["record", "Options", [["x", "int", True], ["y", ["list", ["ref", 3]], False]], True],
        ["alias", "Json", ["Union", [["dict", "str", ["ref", 4]], ["list", ["ref", 4]], "str", "None"]]],
    ]
    assert isinstance(parameters, list)
    assert [item[2] for item in parameters if isinstance(item, list)] == FORMS
    assert result == ["fixed", [["deque", "int"], ["AbstractSet", "str"], ["tuple", "int"], ["fixed", []]]]


CALLBACK = ["callback", ["int"], "None", False]
STREAM = ["stream", "int", False]


def taking(node: Any, *definitions: Any) -> Any:
    return [[["a", 1, node, True]], "None", [*definitions]]


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
    ([[], ["deque", "int", "int"], []], "no known form"),
    ([[], ["OrderedDict", "int"], []], "no known form"),
    ([[], ["generator", "int"], []], "no known form"),
    ([[], ["Annotated", "int", []], []], "no known form"),
    (taking(["callback", ["int"], "None"]), "no known form"),
    (taking(["callback", "int", "None", False]), "no known form"),
    (taking(["callback", [], "None", 0]), "no known form"),
    (taking(["callback", ["integer"], "None", False]), "no type is named 'integer'"),
    (taking(["list", CALLBACK]), "a callback stands within a type, or beside another"),
    (taking(["Union", [CALLBACK, ["list", CALLBACK]]]), "a callback stands within a type, or beside another"),
    (taking(["Union", [CALLBACK, ["callback", [], "int", False]]]), "a callback stands within a type"),
    (taking(["callback", [CALLBACK], "None", False]), "a callback stands within a type"),
    (taking(["callback", [], CALLBACK, False]), "a callback stands within a type"),
    (taking(["ref", 0], ["alias", "A", CALLBACK]), "a callback stands within a type"),
    (taking(["ref", 0], ["record", "A", [["x", CALLBACK, True]], False]), "a callback stands within a type"),
    (taking(["as", "A", CALLBACK]), "a callback stands within a type"),
    (taking(["Annotated", CALLBACK, [["gt", "0"]]]), "a callback stands within a type"),
    ([[], CALLBACK, []], "a callback stands in a result"),
    ([[], ["Union", [CALLBACK, "None"]], []], "a callback stands in a result"),
    (taking(["stream", "int"]), "no known form"),
    (taking(["stream", "int", 0]), "no known form"),
    (taking(["stream", ["int"], False]), "no known form"),
    (taking(["stream", "integer", False]), "no type is named 'integer'"),
    (taking(["list", STREAM]), "a stream stands within a type, or beside another"),
    (taking(["Union", [STREAM, ["list", STREAM]]]), "a stream stands within a type, or beside another"),
    (taking(["Union", [STREAM, ["stream", "str", True]]]), "a stream stands within a type"),
    (taking(["Union", [CALLBACK, STREAM]]), "a stream stands within a type"),
    (taking(["Union", [STREAM, CALLBACK]]), "a callback stands within a type"),
    (taking(["stream", STREAM, False]), "a stream stands within a type"),
    (taking(["stream", CALLBACK, False]), "a callback stands within a type"),
    (taking(["callback", [STREAM], "None", False]), "a stream stands within a type"),
    (taking(["ref", 0], ["alias", "A", STREAM]), "a stream stands within a type"),
    (taking(["Annotated", STREAM, [["gt", "0"]]]), "a stream stands within a type"),
    ([[], ["Union", [STREAM, "None"]], []], "a stream stands in a result"),
    ([[], ["list", STREAM], []], "a stream stands in a result"),
    ([[], ["stream", STREAM, False], []], "a stream stands in a result"),
    ([[], ["stream", ["ref", 0], True], [["record", "A", [["x", CALLBACK, True]], False]]], "a callback stands in a"),
    ([[], ["Annotated", "int"], []], "no known form"),
    ([[], ["Annotated", "int", [["gt"]]], []], "a constraint is in no known form"),
    ([[], ["Annotated", "int", [["gt", 0]]], []], "a constraint is in no known form"),
    ([[], ["Annotated", "int", [["greater", "0"]]], []], "a constraint is in no known form"),
    ([[], ["Annotated", "int", [["gt", "0" * 201]]], []], "a constraint is in no known form"),
    ([[], ["as", "Money", "euro"], []], "no type is named 'euro'"),
    ([[], ["as", "", "int"], []], "a type has no usable name"),
    ([[], ["as", "M" * 1001, "int"], []], "a type has no usable name"),
    ([[], ["as", 1, "int"], []], "no known form"),
    ([[], ["as", "Money"], []], "no known form"),
    ([[], "ignored", []], "no type is named 'ignored'"),
    ([[], "x" * 100_000, []], "no type is named 'x{80}'"),
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
    ([[], ["ref", 0], [["flag", "F", []]]], "a definition is in no known form"),
    ([[], ["ref", 0], [["flag", "F", ["A"]]]], "a member of a flag is in no known form"),
    ([[], ["ref", 0], [["flag", "F", [["A", True]]]]], "a member of a flag is in no known form"),
    ([[], ["ref", 0], [["flag", "F", [["", 1]]]]], "a member of a flag has no usable name"),
    ([[], ["ref", 0], [["flag", "", [["A", 1]]]]], "a flag has no usable name"),
    ([[], ["ref", 0], [["record", "P", [["x", "int"]], False]]], "a field is in no known form"),
    ([[], ["ref", 0], [["record", "P", [["x", "int", 1]], False]]], "a field is in no known form"),
    ([[], ["ref", 0], [["record", "P", [["", "int", True]], False]]], "a field has no usable name"),
    ([[], ["ref", 0], [["record", "P", [["x", "int", True]] * 2, False]]], "two fields of one name"),
    ([[], ["ref", 0], [["record", "P", []]]], "a definition is in no known form"),
    ([[], ["ref", 0], [["record", "P", [], 0]]], "a definition is in no known form"),
    ([[], ["ref", 0], [["record", "", [], True]]], "a record has no usable name"),
    ([[], ["ref", 0], [["class", "P", [], True]]], "a definition is in no known form"),
    ([[], ["ref", 0], ["record"]], "a definition is in no known form"),
    ([[], ["ref", 0], [["alias", "A"]]], "a definition is in no known form"),
    ([[], ["ref", 0], [["alias", "", "int"]]], "an alias has no usable name"),
    ([[], ["ref", 0], [["alias", "A", ["ref", 0]]]], "an alias stands for itself"),
    ([[], ["ref", 0], [["alias", "A", ["Union", ["int", ["ref", 0]]]]]], "an alias stands for itself"),
    ([[], ["ref", 0], [["alias", "A", ["Annotated", ["ref", 0], [["gt", "0"]]]]]], "an alias stands for itself"),
    ([[], ["ref", 0], [["alias", "A", ["ref", 1]], ["alias", "B", ["ref", 0]]]], "an alias stands for itself"),
    ([[], ["ref", 1], [["alias", "A", ["ref", 1]], ["alias", "B", ["ref", 0]]]], "an alias stands for itself"),
    ([[], ["ref", 0], [["alias", "A", ["list", ["ref", 7]]]]], "there is no definition 7"),
    ([[], ["ref", 10**30], [["alias", "A", "int"]]], "there is no definition 1000"),
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
    chain = [["record", f"D{i}", [["x", ["ref", i + 1], True]], False] for i in range(100_000)]
    with pytest.raises(ValueError, match="nests deeper than 128"):
        Schema.from_data([[], ["ref", 0], chain])
    aliases = [["alias", f"A{i}", ["list", ["ref", i + 1]]] for i in range(100_000)]
    with pytest.raises(ValueError, match="nests deeper than 128"):
        Schema.from_data([[], ["ref", 0], aliases])


@pytest.mark.unmeasured
def test_data_whose_depth_shows_only_in_the_whole_can_be_worked_with() -> None:
    """Each parameter is shallow: what it refers to was read with the one before."""

    def chain(name: str, end: str) -> Schema:
        definitions: list[Any] = [[name, f"D{i}", [["x", ["ref", i + 1], True]], False] for i in range(2_000)]
        definitions.append(["record", "End", [["x", end, True]], False])
        parameters = [[f"p{i}", 1, ["ref", i], True] for i in range(2_000, -1, -50)]
        return Schema.from_data([parameters, "None", definitions])

    assert chain("record", "int") == chain("record", "int")
    assert chain("record", "int") != chain("record", "str")
    assert hash(chain("record", "int")) == hash(chain("record", "int"))
    assert Schema.from_data(chain("record", "int").to_data()) == chain("record", "int")
    assert str(chain("record", "int")).startswith("(p2000: End, p1950: D1950, ")


def test_unions_that_double_at_each_alias_take_no_time() -> None:
    definitions: list[Any] = [["alias", f"A{i}", ["Union", [["ref", i + 1], ["ref", i + 1]]]] for i in range(60)]
    definitions.append(["alias", "End", "int"])
    assert str(Schema.from_data([[], ["ref", 0], definitions])) == "() -> A0"


@pytest.mark.unmeasured
def test_many_aliases_are_looked_at_once_each() -> None:
    definitions: list[Any] = [["alias", f"A{i}", ["Union", [["ref", max(0, i - 1)], "int"]]] for i in range(6_000)]
    definitions[0] = ["alias", "A0", "str"]
    parameters = [[f"p{i}", 1, ["ref", i], True] for i in range(6_000)]
    assert len(Schema.from_data([parameters, "None", definitions]).parameters) == 6_000
    definitions[0] = ["alias", "A0", ["ref", 50]]
    with pytest.raises(ValueError, match="an alias stands for itself"):
        Schema.from_data([parameters, "None", definitions])


@pytest.mark.unmeasured
def test_many_definitions_are_read_once_each() -> None:
    definitions: list[Any] = [["record", f"R{i}", [["x", ["ref", i // 2], True]], False] for i in range(6_000)]
    data = [[[f"p{i}", 1, ["ref", i], True] for i in range(6_000)], "None", definitions]
    schema = Schema.from_data(data)
    assert len(schema.parameters) == 6_000
    assert schema == Schema.from_data(data)


JUNK = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-1, 5),
        st.sampled_from(
            [
                "int",
                "list",
                "dict",
                "Union",
                "ref",
                "Literal",
                "fixed",
                "Annotated",
                "gt",
                "as",
                "callback",
                "stream",
                "x",
                "str",
            ]
        ),
        st.sampled_from(["enum", "flag", "record", "alias", "1"]),
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
        signature = Schema.from_data(mutate(source.choice(GOOD), source))
    except ValueError:
        return
    assert str(signature)


def test_callbacks_are_looked_for_in_each_definition_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at = 0

    def count(node: Node) -> tuple[Node, ...]:
        nonlocal looked_at
        looked_at += 1
        return children(node)

    monkeypatch.setattr("typedrpc.schema.graphs.children", count)
    definitions: list[Any] = [["record", f"R{i}", [["x", ["ref", max(0, i - 1)], True]], False] for i in range(500)]
    parameters = [[f"p{i}", 1, ["ref", i], True] for i in range(500)]
    schema = Schema.from_data([[["a", 1, CALLBACK, True], *parameters], "None", definitions])
    assert schema.has_callbacks
    assert looked_at < 2_000


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


def test_a_union_directly_within_a_union_is_refused() -> None:
    within = ["Union", ["int", ["Union", ["str", "None"]]]]
    with pytest.raises(ValueError, match="a union stands directly within a union"):
        Schema.from_data([[], within, []])


def test_a_bool_is_no_index_even_of_a_definition_that_was_read() -> None:
    definitions = [["enum", "A", ["X"], False], ["enum", "B", ["Y"], False]]
    with pytest.raises(ValueError, match="there is no definition True"):
        Schema.from_data([[["a", 1, ["ref", 1], True]], ["ref", True], definitions])
