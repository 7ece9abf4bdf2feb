"""Values on which mypy, pyright and the run time must give the same verdict, as argument and as result, type by type.

A type is added by adding a row. The values are source text: the checkers see it, and the run time evaluates it, in a
module that begins with ``PREAMBLE``. Where the verdicts cannot agree, because Python's type system forces them apart,
the value has no place here.
"""

from typing import NamedTuple


class Row(NamedTuple):
    """One type.

    Attributes:
        annotation: The type as it is written in a signature.
        right: Values that fit. ``"given -> arrives"`` where what arrives does not equal what was given.
        wrong: Values that do not fit.
    """

    annotation: str
    right: tuple[str, ...]
    wrong: tuple[str, ...]


ARROW = " -> "

PREAMBLE = """\
from array import array
from collections import ChainMap, Counter, OrderedDict, defaultdict, deque
from collections.abc import Collection, Iterable, Mapping, Sequence, Set as AbstractSet
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone
from enum import Enum, IntEnum, StrEnum
from types import MappingProxyType
from typing import Literal, NamedTuple, Optional, Union

from typedrpc.command import rpc
from typedrpc.service import Service


class Colour(Enum):
    RED = "r"
    GREEN = 2


class Other(Enum):
    RED = "r"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Text(StrEnum):
    A = "a"


class Name(str): ...


class Count(int): ...


class Moment(datetime): ...


class IntList(list[int]): ...


class Pair(NamedTuple):
    a: int
    b: str


def enumerated() -> Iterable[int]:
    yield from range(1)


@dataclass(frozen=True)
class Point:
    x: float
    y: float = 0.0


@dataclass(frozen=True)
class Point3(Point):
    z: float = 1.0


@dataclass
class Line:
    start: Point
    end: Point
    label: str | None = None
    tags: list[str] = field(default_factory=list[str])


@dataclass
class Empty: ...
"""

ROWS = [
    Row("None", ("None",), ("0", "False", "''", "()")),
    Row("bool", ("True", "False"), ("1", "0.0", "'True'", "None")),
    Row(
        "int",
        ("Level.LOW", "0", "-1", "2**63 - 1", "2**64", "-(2**200)", "True", "Count(5)", "Level.HIGH"),
        ("Text.A", "Colour.GREEN", "int", "print", "[1]", "...", "1.0", "'1'", "None", "1j", "b'1'"),
    ),
    Row(
        "float",
        ("Level.LOW", "1.5", "1", "True", "float('inf')", "-0.0", "2**53"),
        ("Text.A", "float", "'1.5'", "None", "1j", "b''"),
    ),
    Row(
        "str",
        ("f'{1}'", "Text.A -> 'a'", "''", "'größe'", "'\\0' * 300", "Name('x')"),
        ("Colour.RED", "str", "Level.LOW", "bytearray(b'x')", "b''", "1", "None", "['x']"),
    ),
    Row(
        "bytes",
        ("b''", "b'\\xff' * 300"),
        ("memoryview(b'')", "Name('x')", "'x'", "None", "[1]", "bytearray(b'x')", "1"),
    ),
    Row(
        "list[int]",
        ("IntList([1])", "[*range(3)]", "[]", "[1, 2, 3]", "[True, Count(2)]", "list(range(2000))"),
        (
            "deque([1])",
            "range(2)",
            "list",
            "iter([1])",
            "[[1]]",
            "(1, 2)",
            "['a']",
            "[1, None]",
            "{1}",
            "None",
            "1",
            "[1.5]",
        ),
    ),
    Row("list[list[str]]", ("[]", "[[], ['a', 'b']]"), ("['a']", "[['a'], [1]]", "[('a',)]")),
    Row("list[float]", ("[1.5, 2]", "[]"), ("['1.5']", "[None]")),
    Row(
        "tuple[int, str]",
        ("Pair(1, 'a') -> (1, 'a')", "(1, 'a')", "(True, Name('x'))"),
        ("(1,)", "(1, 2)", "('a', 1)", "(1, 'a', 3)", "[1, 'a']", "None"),
    ),
    Row("tuple[()]", ("()",), ("(1,)", "[]", "None")),
    Row(
        "tuple[int, ...]",
        ("()", "(1,)", "(1, 2, 3)", "tuple(range(9))"),
        ("range(2)", "Pair(1, 'a')", "('a',)", "(1, 'a')", "[1]", "1", "None"),
    ),
    Row("tuple[tuple[int, str], ...]", ("()", "((1, 'a'), (2, 'b'))"), ("(1, 'a')", "((1, 2),)")),
    Row(
        "dict[str, int]",
        ("OrderedDict(a=1)", "Counter('aab')", "defaultdict(int, a=1)", "{}", "{'a': 1}", "dict(a=1, b=2)"),
        (
            "MappingProxyType({'a': 1})",
            "Counter([1])",
            "OrderedDict(a='b')",
            "{'a': 'b'}",
            "{1: 1}",
            "[('a', 1)]",
            "None",
            "{'a'}",
        ),
    ),
    Row("dict[int, list[str]]", ("{1: ['a'], 2**70: []}",), ("{'1': ['a']}", "{1: 'a'}", "{1: [2]}")),
    Row("dict[tuple[int, int], str]", ("{(1, 2): 'a'}", "{}"), ("{1: 'a'}", "{(1,): 'a'}", "{(1, 2): 3}")),
    Row(
        "dict[Colour, Point]",
        ("{Colour.RED: Point(1, 2)}",),
        ("{'RED': Point(1, 2)}", "{Colour.RED: 1}", "{Other.RED: Point(1)}"),
    ),
    Row("dict[Point, int]", ("{Point(1.0, 2.0): 3}",), ("{(1.0, 2.0): 3}",)),
    Row("dict[None, int]", ("{None: 3}",), ("{0: 3}",)),
    Row(
        "set[int]",
        ("{True, Count(2)}", "set()", "{1, 2}"),
        ("{1: 1}.keys()", "{1: 1}", "set('a')", "[1]", "{'a'}", "frozenset({1})", "None", "{1.5}"),
    ),
    Row("set[tuple[int, str]]", ("{(1, 'a'), (2, 'b')}",), ("{1}", "{(1, 2)}")),
    Row("frozenset[str]", ("frozenset()", "frozenset({'a', 'b'})"), ("{'a'}", "frozenset({1})", "['a']", "None")),
    Row("Optional[int]", ("None", "5", "True"), ("'5'", "5.0", "b''")),
    Row("str | None", ("None", "'x'"), ("1", "b'x'", "False")),
    Row("list[int | None]", ("[1, None, 2]", "[None]"), ("['a']", "[1.5]", "None")),
    Row("Union[int, str]", ("1", "'1'", "Name('x')", "True"), ("1.5", "None", "b'1'", "[1]")),
    Row("int | float", ("1", "1.5", "2**70"), ("'1'", "None")),
    Row("bool | str", ("True", "'x'"), ("1", "None", "b'x'")),
    Row("int | str | None", ("1", "'1'", "None"), ("1.5", "b'1'")),
    Row("list[int] | dict[str, int]", ("[1]", "{'a': 1}", "[]", "{}"), ("['a']", "{'a': 'b'}", "(1,)")),
    Row("list[int] | list[str]", ("[1]", "['a']"), ("[1.5]", "[None]", "1")),
    Row(
        "Point | Line",
        ("Point(1, 2)", "Line(Point(1), Point(2))", "Point3(1, 2, 3) -> Point(1, 2)"),
        ("1", "None", "Empty()"),
    ),
    Row("Point | tuple[float, float]", ("Point(1, 2)", "(1.5, 2.5)"), ("(1.5,)", "[1.5, 2.5]")),
    Row("int | Union[str, None, bytes]", ("1", "'x'", "None", "b'x'"), ("1.5", "[]")),
    Row("Literal['a', 'b']", ("'a'", "'b'"), ("'c'", "b'a'", "1", "None")),
    Row("Literal[1, 'x', None, b'y']", ("1", "'x'", "None", "b'y'"), ("2", "'1'", "True", "'y'", "1.0")),
    Row("Literal[True]", ("True",), ("False", "1", "'True'")),
    Row("Literal[Colour.RED]", ("Colour.RED",), ("Colour.GREEN", "'r'", "Other.RED")),
    Row("list[Literal['a', 'b']]", ("['a', 'b']",), ("['c']", "'a'")),
    Row("Colour", ("Colour.RED", "Colour.GREEN"), ("Colour", "Text.A", "'r'", "'RED'", "2", "None", "Other.RED")),
    Row("Level", ("Level.LOW",), ("1", "'LOW'", "Colour.RED")),
    Row("list[Colour]", ("[Colour.RED, Colour.GREEN]", "[]"), ("['RED']", "[Other.RED]")),
    Row(
        "Point",
        ("Point(1.5, 2.5)", "Point(1)", "Point(x=1, y=2)", "Point3(1, 2, 3) -> Point(1, 2)"),
        ("Point", "object()", "(1.5, 2.5)", "{'x': 1.5}", "None", "Empty()", "Line(Point(1), Point(2))"),
    ),
    Row(
        "Line",
        ("Line(Point(0), Point(1))", "Line(Point(0), Point(1), 'x', ['a', 'b'])"),
        ("Point(1)", "(Point(0), Point(1))", "None"),
    ),
    Row("Empty", ("Empty()",), ("None", "()", "{}")),
    Row("list[Line]", ("[Line(Point(0), Point(1))] * 3", "[]"), ("[Point(0)]", "Line(Point(0), Point(1))")),
    Row("dict[str, Line | None]", ("{'a': Line(Point(0), Point(1)), 'b': None}",), ("{'a': Point(0)}", "{'a': 1}")),
    Row(
        "datetime",
        (
            "Moment(2024, 1, 1)",
            "datetime(2024, 10, 27, fold=1)",
            "datetime(2024, 2, 29, 23, 59, 58, 999999)",
            "datetime(2024, 1, 1, tzinfo=timezone.utc)",
            "datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=-3, minutes=-30)))",
        ),
        ("timedelta(0)", "datetime", "date(2024, 1, 1)", "'2024-01-01'", "0.0", "None"),
    ),
    Row("list[datetime]", ("[datetime(2024, 1, 1)]", "[]"), ("[date(2024, 1, 1)]", "datetime(2024, 1, 1)")),
    Row(
        "Sequence[int]",
        (
            "b'ab' -> [97, 98]",
            "deque([1]) -> [1]",
            "array('i', [1, 2]) -> [1, 2]",
            "[1, 2]",
            "(1, 2) -> [1, 2]",
            "range(3) -> [0, 1, 2]",
            "[]",
            "(True,) -> [1]",
        ),
        ("'ab'", "iter([1])", "deque(['a'])", "{1: 1}.values()", "{1}", "['a']", "1", "None", "{1: 2}", "('a',)"),
    ),
    Row("Sequence[str]", ("['a']", "('a',) -> ['a']", "'ab' -> ['a', 'b']"), ("[1]", "b'ab'", "None")),
    Row(
        "Mapping[str, int]",
        (
            "MappingProxyType({'a': 1}) -> {'a': 1}",
            "ChainMap({'a': 1}) -> {'a': 1}",
            "OrderedDict(a=1)",
            "{'a': 1}",
            "{}",
        ),
        ("Counter([1])", "{'a'}", "'ab'", "{'a': 'b'}", "{1: 1}", "[('a', 1)]", "None"),
    ),
    Row("Mapping[int, Sequence[str]]", ("{1: ['a']}", "{1: ('a',)} -> {1: ['a']}"), ("{'1': ['a']}", "{1: [1]}")),
    Row(
        "Iterable[int]",
        (
            "iter([1, 2]) -> [1, 2]",
            "map(int, ['1']) -> [1]",
            "b'ab' -> [97, 98]",
            "{'a': 1}.values() -> [1]",
            "enumerated() -> [0]",
            "[1]",
            "(1,) -> [1]",
            "{1} -> [1]",
            "range(2) -> [0, 1]",
            "(n * n for n in (1, 2)) -> [1, 4]",
            "{1: 'a'} -> [1]",
        ),
        ("{'a': 1}", "Point(1)", "int", "1", "None", "['a']", "'12'", "(str(n) for n in (1, 2))"),
    ),
    Row(
        "Collection[str]",
        (
            "'ab' -> ['a', 'b']",
            "{'a': 1} -> ['a']",
            "{'a': 1}.keys() -> ['a']",
            "['a']",
            "{'a'} -> ['a']",
            "('a',) -> ['a']",
        ),
        ("[1]", "1", "None"),
    ),
    Row(
        "AbstractSet[int]",
        ("{1}", "frozenset({1}) -> {1}", "{1: 'a'}.keys() -> {1}"),
        ("[1]", "{'a'}", "{1: 'a'}", "None"),
    ),
]

#: Calls of ``f(self, a: int, /, b: str = "", *args: float, key: bool, **rest: bytes) -> str``: source text and verdict.
CALLS = {
    "f(1, key=True)": True,
    "f(1, 'b', key=True)": True,
    "f(1, b='b', key=True)": True,
    "f(1, 'b', 1.5, 2, True, key=False)": True,
    "f(1, key=True, more=b'x', a=b'positional only')": True,
    "f(1, 'b', *(1.5, 2), key=True)": True,
    "f(key=True)": False,
    "f(a=1, key=True)": False,
    "f(1)": False,
    "f(1, 'b', 'c', key=True)": False,
    "f(1, 2, key=True)": False,
    "f(1, 'b', b='b', key=True)": False,
    "f(1, key=1)": False,
    "f(1, key=True, more='x')": False,
    "f('1', key=True)": False,
    "f(1, 'b', True)": False,
}
