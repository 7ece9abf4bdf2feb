"""What docs/types.md says of each type is what the code does, and it says it of every type that the code knows."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]  # it ships no types
import pytest

from tests.typing import corpus
from typedrpc.codec import CommandCodec, Segmented
from typedrpc.schema import Parameter, ParameterKind, Schema, SignatureFaults, nodes, schema_of
from typedrpc.schema.conversions import STANDARD
from typedrpc.schema.nodes import Node, children

PAGE: Final = (Path(__file__).resolve().parents[2] / "docs" / "types.md").read_text(encoding="utf-8")

ALSO: Final = """
import array, asyncio, collections, datetime, decimal, enum, fractions, ipaddress, pathlib, typing, uuid, zoneinfo
from collections import ChainMap, Counter, OrderedDict, defaultdict, deque, namedtuple
from collections.abc import (
    AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Collection, Generator, Iterable, Iterator,
    KeysView, Mapping, MutableMapping, MutableSequence, MutableSet, Sequence, Sized, Set as AbstractSet,
)
from dataclasses import InitVar
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from io import BytesIO
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from pathlib import Path, PosixPath, PurePath, PurePosixPath, PureWindowsPath
from typing import IO, Annotated, AnyStr, Literal, LiteralString, Never, Optional, Protocol, Self, TextIO, Union
from uuid import UUID
from zoneinfo import ZoneInfo

from annotated_types import Ge, Gt, Interval, Le, Len, Lt, MaxLen, MinLen, MultipleOf, Predicate


class Plain:
    def __init__(self):
        self.a = 1


class Readable(Protocol):
    a: int


class Name(str): ...


class IntList(list[int]): ...


class Nothing(Enum): ...


@dataclass
class Own:
    a: int

    def __init__(self, b: int) -> None:
        self.a = b


@dataclass
class Rest:
    a: int
    b: InitVar[int]


async def rows():
    yield 1


Loose = namedtuple("Loose", "a b")
Loop = TypeAliasType("Loop", "Loop | int")
"""


def executed(name: str, *sources: str) -> dict[str, Any]:
    module = ModuleType(name)
    sys.modules[name] = module
    for source in sources:
        exec(source, vars(module))
    return vars(module)


OTHER: Final = PAGE[PAGE.index("<!-- other libraries: begin") : PAGE.index("<!-- other libraries: end")]
BLOCKS: Final = re.findall(r"(?ms)^```python\n(.*?)^```", PAGE.replace(OTHER, ""))
NAMES: Final = executed("typedrpc_types_page", *BLOCKS, ALSO)
STAND_FOR: Final = {"A": int, "B": str, "K": str, "V": int}
CORPUS: Final = executed("typedrpc_types_corpus", corpus.PREAMBLE)


def rows(*head: str) -> list[list[str]]:
    """The rows of the table with this head."""
    for block in re.findall(r"(?m)(?:^\|.*\n)+", PAGE):
        cells = [[cell.strip() for cell in line.strip().strip("|").split(" | ")] for line in block.splitlines()]
        if tuple(cells[0][: len(head)]) == head:
            return cells[2:]
    raise AssertionError(f"there is no table {head}")


def quoted(cell: str) -> list[str]:
    return [text.replace("\\|", "|") for text in re.findall(r"`([^`]+)`", cell)]


def read(annotation: str, names: dict[str, Any], **further: Any) -> Node:
    """The node of the source text of an annotation."""
    names = names | further
    exec(f"def take(value: {annotation}) -> None: ...", names)
    return schema_of(names["take"], method=False).parameters[0].node


TABLE: Final = rows("annotation", "accepts", "travels as")
ANNOTATIONS: Final = [(annotation, row) for row in TABLE for annotation in quoted(row[0])]
KINDS: Final = {"Enum", "IntEnum", "StrEnum", "Flag", "IntFlag", "NamedTuple", "TypedDict", "NewType", "codec.register"}
"""What the first column names besides annotations."""
NODES: Final = {
    annotation: read(annotation, NAMES, T=int, **STAND_FOR) for annotation, _ in ANNOTATIONS if annotation not in KINDS
}


def below(node: Node, seen: set[int]) -> Iterator[Node]:
    if id(node) not in seen:
        seen.add(id(node))
        yield node
        for child in children(node):
            yield from below(child, seen)


def test_the_table_has_every_type_that_the_code_knows() -> None:
    seen: set[int] = set()
    found = [node for top in NODES.values() for node in below(top, seen)]
    tops = [*NODES.values()]
    kinds = {cls for cls in vars(nodes).values() if isinstance(cls, type) and issubclass(cls, Node)}
    kinds = {cls for cls in kinds if not cls.__name__.startswith("_")} - {Node, nodes.IgnoredNode}
    assert {type(node) for node in found} == kinds
    assert {node.name for node in tops if isinstance(node, nodes.ScalarNode)} == set(nodes.SCALARS.values())
    assert {node.kind for node in tops if isinstance(node, nodes.CollectionNode)} == nodes.COLLECTIONS
    assert {node.kind for node in tops if isinstance(node, nodes.MappingNode)} == nodes.MAPPINGS
    assert {node.name for node in tops if isinstance(node, nodes.ConvertedNode)} == STANDARD | {"Money"}
    literals = [node for node in found if isinstance(node, nodes.LiteralNode)]
    assert {name for node in literals for name, _ in node.items} == nodes.LITERAL_TYPES
    assert {node.keyed for node in tops if isinstance(node, nodes.RecordNode)} == {False, True}


def test_each_type_has_one_row() -> None:
    for annotation in NODES:
        assert [name for name, _ in ANNOTATIONS].count(annotation) == 1
    assert all(any(name in NODES for name in quoted(row[0])) for row in TABLE)


COMPANIONS: Final = {
    "Callable[[A, B], T]": ["lambda a, b: 1"],
    "Callable[[A], Awaitable[T]]": ["asyncio.sleep"],
    "Callable[[A], T] | None": ["lambda a: 1", "print", "None"],
    "Iterator[T]": ["iter([1])", "(x for x in [1])", "zip([1])"],
    "AsyncIterator[T]": ["rows()"],
    "Iterator[T] | None": ["map(int, [1])", "None"],
}
"""Values of the callbacks and streams of the table. They have no row in the corpus, whose values are plain results."""


class CompanionSample:
    """The values of a callback or a stream, packed as an argument."""

    def __init__(self, annotation: str) -> None:
        codec = CommandCodec(
            "take", Schema((Parameter("value", ParameterKind(1), NODES[annotation], True),), nodes.NONE)
        )
        self.packed: list[object] = []
        self.arrived: list[object] = []
        for text in COMPANIONS[annotation]:
            payload, callbacks = codec.pack_with_callbacks((eval(text, NAMES),), {})
            (packed,) = msgpack.unpackb(payload)
            self.packed.append(packed)
            (arrived,), _ = codec.unpack_with_callbacks(payload, lambda index, callback: (index, callback))
            assert arrived is None or (arrived[1] is callbacks[arrived[0]][0])
            self.arrived.append(arrived)


class Sample:
    """The values of a row of the corpus, packed."""

    def __init__(self, row: corpus.Row, names: dict[str, Any]) -> None:
        names = dict(names)
        exec(f"def take(value: {row.annotation}) -> {row.annotation}: ...", names)
        codec = CommandCodec("take", schema_of(names["take"], method=False))
        self.packed: list[object] = []
        self.arrived: list[object] = []
        for text in row.right:
            payload = codec.pack_result(eval(text.split(corpus.ARROW)[0], names))
            body = payload.body if isinstance(payload, Segmented) else payload
            # Nothing here knows the extensions of the codec: this is what any implementation of msgpack sees.
            self.packed.append(msgpack.unpackb(body, strict_map_key=False))
            self.arrived.append(codec.unpack_result(payload))


def samples_of(annotation: str) -> Sample | CompanionSample:
    """Values of a row of the table, by the row of the corpus with the same type."""
    if annotation in COMPANIONS:
        return CompanionSample(annotation)
    found = [row for row in corpus.ROWS if CORPUS_NODES[row.annotation] == NODES[annotation]]
    assert found, f"the corpus has no row for {annotation}"
    return Sample(found[0], CORPUS)


CORPUS_NODES: Final = {row.annotation: read(row.annotation, CORPUS) for row in corpus.ROWS}


def form(data: object) -> str:
    """What msgpack says that something is."""
    if isinstance(data, msgpack.ExtType):
        return f"ext {data.code}"
    kinds = {bool: "bool", int: "int", float: "float", str: "str", bytes: "bin", list: "array", dict: "map"}
    return "nil" if data is None else kinds[type(data)]


def has_form(data: object, text: str) -> bool:
    """Whether something that msgpack has unpacked is of a form as the page writes it: ``"int"``, ``"[int, any]"``."""
    if not text.startswith("["):
        return text == "any" or form(data) in text.split("|")
    parts = text[1:-1].split(", ")
    return isinstance(data, list) and len(data) == len(parts) and all(map(has_form, data, parts))


FORMS: Final = {"nil", "bool", "int", "float", "str", "bin", "array", "map", "ext 1", "ext 2", "ext 3", "ext 4"}
ROWS: Final = [pytest.param(row, id=row[0]) for row in TABLE]


@pytest.mark.parametrize("row", ROWS)
def test_values_travel_as_the_table_says(row: list[str]) -> None:
    packed = [data for text in quoted(row[0]) if text in NODES for data in samples_of(text).packed]
    forms = [text for text in quoted(row[2]) if text in FORMS or text.startswith("[")]
    assert forms
    for data in packed:
        assert any(has_form(data, text) for text in forms), data
    for text in forms:
        assert any(has_form(data, text) for data in packed), f"nothing in the corpus travels as {text}"


@pytest.mark.parametrize("row", [row for row in ROWS if quoted(row.values[0][3])])  # type: ignore[index]
def test_values_arrive_as_the_table_says(row: list[str]) -> None:
    arrived = [value for text in quoted(row[0]) if text in NODES for value in samples_of(text).arrived]
    assert {type(value).__name__.replace("NoneType", "None") for value in arrived} <= {*quoted(row[3])}


def test_classes_of_other_libraries_travel_as_their_table_says() -> None:
    for library in ("attrs", "msgspec", "numpy", "pydantic"):
        pytest.importorskip(library)
    (block,) = re.findall(r"(?ms)^```python\n(.*?)^```", OTHER)
    names = NAMES | executed("typedrpc_types_libraries", block)
    values: dict[str, list[str]] = {
        "Rect": ["Rect(1.5)"],
        "User": ["User(name='a')"],
        "Event": ["Event('a', 1)"],
        "NDArray[np.float32]": ["np.zeros(3, np.float32)", "np.zeros((256, 64), np.float32)"],
        "np.ndarray[tuple[int, int], np.dtype[np.uint8]]": ["np.zeros((2, 3), np.uint8)"],
        "Annotated[NDArray[np.uint8], codec.Shape(2, None)]": ["np.zeros((2, 3), np.uint8)"],
        "NDArray[np.datetime64]": ["np.array(['2024-01-01'], 'datetime64[D]')"],
        "np.float32": ["np.float32(1.5)"],
        "np.int64": ["np.int64(-1)"],
    }
    listed = []
    for row in rows("annotation", "travels as"):
        annotations = [text for text in quoted(row[0]) if text != "Struct"]
        samples = [Sample(corpus.Row(text, tuple(values[text]), ()), names) for text in annotations]
        forms = [text for text in quoted(row[1]) if text in FORMS or text.startswith("[")]
        packed = [data for sample in samples for data in sample.packed]
        assert all(any(has_form(data, text) for text in forms) for data in packed)
        assert all(any(has_form(data, text) for data in packed) for text in forms)
        assert {type(value).__name__ for sample in samples for value in sample.arrived} <= {*quoted(row[2])}
        listed += annotations
    assert listed == [*values]


def test_the_constraints_are_those_of_the_code() -> None:
    named = {text.split("(")[0] for row in rows("constraint", "asks") for text in quoted(row[0]) if "(" in text}
    assert named - {"Interval", "Len"} == set(nodes.CONSTRAINTS.values())


WORDS: Final = {"Protocol", "namedtuple", "__init__", "InitVar"}
REFUSED: Final = [
    (text, row) for row in rows("annotation", "because", "instead") for text in quoted(row[0]) if text not in WORDS
]


@pytest.mark.parametrize(("annotation", "row"), REFUSED, ids=[text for text, _ in REFUSED])
def test_what_cannot_travel_is_refused_with_this_reason_and_remedy(annotation: str, row: list[str]) -> None:
    with pytest.raises(SignatureFaults) as caught:
        read(annotation, NAMES)
    (fault,) = caught.value.faults
    for word in quoted(row[2]):
        assert word in fault
    reason = row[1].replace("\\|", "|")
    assert reason in fault or reason in SAID_OTHERWISE


SAID_OTHERWISE: Final = {
    "it would arrive as its base",
    "an exception is raised, not returned",
    "instances do not keep it",
    "it cannot be hashed",
}


def test_every_reason_of_the_code_is_on_the_page() -> None:
    source = (Path(nodes.__file__).parent / "refusals.py").read_text(encoding="utf-8")
    told = {fault for text, _ in REFUSED for fault in faults_of(text)}
    for reason in set(re.findall(r'(?s)return \(?\s*f?"([^"{]{10,})', source)) - UNREACHED:
        assert any(reason in fault for fault in told), reason


UNREACHED: Final = {"the name was not resolved; write the type itself"}
"""Names in annotations are looked up before."""


def faults_of(annotation: str) -> list[str]:
    with pytest.raises(SignatureFaults) as caught:
        read(annotation, NAMES)
    return caught.value.faults


def test_the_finder_of_the_page_finds() -> None:
    names = dict(NAMES)
    exec("def take(value: Tagged[int]) -> Tagged[int]: ...", names)
    schema = schema_of(names["take"], method=False)
    assert str(schema.result) == "Tagged[int]"
    codec = CommandCodec("take", schema)
    arrived = codec.unpack_result(codec.pack_result(names["Tagged"](5)))
    assert isinstance(arrived, names["Tagged"])
    assert arrived.value == 5
