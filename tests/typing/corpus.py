"""Values on which mypy, pyright and the run time must give the same verdict, as argument and as result, type by type.

A type is added by adding a row; there is one for each row of the table in docs/types.md, and a test asks for it. The
values are source text: the checkers see it, and the run time evaluates it, in a module that begins with ``PREAMBLE``.
Besides, every value of every row is tried against the annotations of the other rows: see ``APART`` for the pairs that
Python's type system forces apart.
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
from collections import ChainMap, Counter, OrderedDict, UserDict, UserList, defaultdict, deque
from collections.abc import Collection, Iterable, Mapping, MutableMapping, MutableSequence, MutableSet, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import InitVar, dataclass, field
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, Flag, IntEnum, IntFlag, StrEnum
from fractions import Fraction
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from pathlib import Path, PosixPath, PurePath, PurePosixPath, PureWindowsPath
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Final, Generic, Literal, NamedTuple, NewType, NotRequired, Optional
from typing import Required, TypeAlias, TypedDict, TypeVar, Union
from uuid import UUID
from zoneinfo import ZoneInfo

from annotated_types import Ge, Gt, Interval, Le, Len, Lt, MaxLen, MinLen, MultipleOf, Predicate
from typing_extensions import ReadOnly, TypeAliasType

from typedrpc import codec
from typedrpc.command import rpc
from typedrpc.service import Service

T = TypeVar("T")


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


class Mode(Flag):
    READ = 1
    WRITE = 2


class Access(IntFlag):
    READ = 4
    WRITE = 2


class Moved(NamedTuple):
    name: str
    by: Point = Point(0.0)


class Span(NamedTuple, Generic[T]):
    start: T
    end: T


class Film(TypedDict):
    title: str
    year: NotRequired[int]


class Search(TypedDict, total=False):
    text: Required[str]
    limit: int


class Sequel(Film):
    before: ReadOnly[str]


class Page(TypedDict, Generic[T]):
    items: list[T]


@dataclass
class Box(Generic[T]):
    item: T
    label: str = ""


@dataclass
class IntBox(Box[int]):
    size: int = 0


@dataclass
class Tree:
    value: int
    below: list["Tree"] = field(default_factory=lambda: list[Tree]())


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    depth: Final[int]
    name: str = ""


@dataclass
class Scaled:
    unit: ClassVar[str] = "m"
    value: int
    factor: InitVar[int] = 1
    double: int = field(init=False, default=0)

    def __post_init__(self, factor: int) -> None:
        self.value *= factor
        self.double = 2 * self.value


class Money:
    def __init__(self, cents: int) -> None:
        self.cents = cents

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Money) and self.cents == other.cents

    def __hash__(self) -> int:
        return hash(self.cents)

    def to_cents(self) -> int:
        return self.cents


codec.register(Money, encode=Money.to_cents, decode=Money)

UserId = NewType("UserId", int)
Ints = list[int]
Grid: TypeAlias = "list[list[int]]"
Pairs: TypeAlias = list[tuple[T, T]]
Words = TypeAliasType("Words", list[str])
Nested: TypeAlias = "int | list[Nested]"
Forest = TypeAliasType("Forest", "dict[str, Forest]")


def is_even(number: int) -> bool:
    return number % 2 == 0
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
        ("b''", "b'\\xff' * 300", "b'x' * 65_536"),
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
            "datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=ZoneInfo('Europe/Berlin'))",
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
    Row("frozenset[int]", ("frozenset({1, 2})", "frozenset()"), ("{1}", "frozenset({'a'})", "[1]", "None")),
    Row(
        "deque[int]",
        ("deque([1, 2])", "deque([True], maxlen=3)", "deque()"),
        ("[1]", "deque(['a'])", "(1,)", "None", "range(2)"),
    ),
    Row(
        "MutableSequence[int]",
        ("[1]", "deque([1]) -> [1]", "bytearray(b'a') -> [97]", "UserList([1]) -> [1]", "array('i', [1]) -> [1]"),
        ("(1,)", "range(2)", "['a']", "b'a'", "None", "{1}"),
    ),
    Row(
        "Collection[int]",
        ("[1]", "{1: 'a'} -> [1]", "frozenset({1}) -> [1]", "b'a' -> [97]", "range(2) -> [0, 1]"),
        ("['a']", "iter([1])", "1", "None"),
    ),
    Row("MutableSet[int]", ("{1}", "set()"), ("frozenset({1})", "{'a'}", "{1: 'a'}.keys()", "[1]", "None")),
    Row("set[int | str]", ("{1, 'a'}", "set()"), ("{1.5}", "[1]")),
    Row(
        "OrderedDict[str, int]",
        ("OrderedDict(a=1)", "OrderedDict()"),
        ("{'a': 1}", "OrderedDict(a='b')", "Counter('a')", "None"),
    ),
    Row(
        "defaultdict[str, int]",
        ("defaultdict(int, a=1)", "defaultdict(None, {'a': 1})"),
        ("{'a': 1}", "OrderedDict(a=1)", "defaultdict(str, a='b')", "None"),
    ),
    Row("Counter[str]", ("Counter('aab')", "Counter(a=-1)"), ("{'a': 1}", "Counter([1])", "'aab'", "None")),
    Row(
        "MutableMapping[str, int]",
        ("{'a': 1}", "UserDict({'a': 1}) -> {'a': 1}", "ChainMap({'a': 1}) -> {'a': 1}", "Counter('a')"),
        ("MappingProxyType({'a': 1})", "{'a': 'b'}", "[('a', 1)]", "None"),
    ),
    Row("dict[tuple[int, str], int]", ("{(1, 'a'): 2}", "{}"), ("{1: 2}", "{('a', 1): 2}", "{(1, 'a'): 'b'}")),
    Row(
        "dict[Decimal, UUID]", ("{Decimal('1.5'): UUID(int=1)}", "{}"), ("{1.5: UUID(int=1)}", "{Decimal('1.5'): b'x'}")
    ),
    Row(
        "bytearray",
        ("bytearray(b'ab')", "bytearray()", "bytearray(65_536)"),
        ("b'ab'", "memoryview(b'ab')", "'ab'", "[1]", "None"),
    ),
    Row(
        "memoryview",
        ("memoryview(b'ab')", "memoryview(bytearray(b'ab'))", "memoryview(b'x' * 65_536)"),
        ("b'ab'", "bytearray(b'ab')", "'ab'", "None"),
    ),
    Row("Any", ("None", "True", "1", "2**64", "1.5", "'a'", "b'a'", "[1, 'a', None]", "{'a': [{1: b'b'}]}"), ()),
    Row("list[Any]", ("[1, 'a', [None]]", "[]"), ("1", "(1,)", "{1: 2}", "None")),
    Row("dict[str, Any]", ("{'a': 1, 'b': [None]}", "{}"), ("{1: 2}", "['a']", "None")),
    Row("Text", ("Text.A",), ("'a'", "'A'", "Colour.RED", "None")),
    Row("Mode", ("Mode.READ", "Mode.READ | Mode.WRITE", "Mode(0)"), ("1", "Access.READ", "'READ'", "None")),
    Row(
        "Access",
        ("Access.READ", "Access.READ | Access.WRITE", "Access(0)", "~Access.READ"),
        ("4", "Mode.READ", "'READ'", "None"),
    ),
    Row("Literal['a', 1]", ("'a'", "1"), ("'b'", "2", "True", "None", "b'a'")),
    Row("int | str", ("1", "'a'", "True -> 1", "Text.A -> 'a'"), ("1.5", "None", "b'a'", "['a']")),
    Row(
        "date",
        ("date(2024, 2, 29)", "date.min", "datetime(2024, 1, 1, 12) -> date(2024, 1, 1)"),
        ("'2024-02-29'", "1", "time(1)", "timedelta(1)", "None"),
    ),
    Row(
        "time",
        (
            "time(23, 59, 58, 999999)",
            "time(1, fold=1)",
            "time(1, tzinfo=timezone.utc)",
            "time(1, tzinfo=ZoneInfo('Europe/Berlin'))",
        ),
        ("datetime(2024, 1, 1)", "'01:00'", "1", "timedelta(1)", "None"),
    ),
    Row(
        "timedelta",
        ("timedelta(days=-1, microseconds=1)", "timedelta.max", "timedelta(0)"),
        ("1", "1.5", "time(1)", "datetime(2024, 1, 1)", "None"),
    ),
    Row(
        "complex",
        ("1j", "complex(1.5, -0.0)", "1.5 -> 1.5 + 0j", "2 -> 2 + 0j", "True -> 1 + 0j"),
        ("'1j'", "None", "(1.0, 2.0)", "Decimal(1)", "Fraction(1)"),
    ),
    Row("complex | float", ("1.5", "1", "1j", "True"), ("'1'", "Decimal(1)", "None")),
    Row("range", ("range(3)", "range(9, -1, -2)", "range(0)"), ("[0, 1]", "(0, 3)", "3", "None")),
    Row(
        "Decimal",
        ("Decimal('1.50')", "Decimal('Infinity')", "Decimal('-0')", "Decimal('1E+999')"),
        ("1.5", "1", "'1.5'", "Fraction(1, 2)", "None"),
    ),
    Row("Fraction", ("Fraction(1, 3)", "Fraction(-(2**70), 3)"), ("0.5", "1", "'1/3'", "Decimal(1)", "(1, 3)", "None")),
    Row(
        "UUID",
        ("UUID(int=5)", "UUID('12345678123456781234567812345678')"),
        ("'12345678123456781234567812345678'", "b'x' * 16", "5", "None"),
    ),
    Row("Path", ("Path('a/b')", "Path()", "PosixPath('/a')"), ("'a/b'", "PurePath('a')", "b'a'", "None")),
    Row("PosixPath", ("PosixPath('/a/b')",), ("'a/b'", "PurePosixPath('a')", "None")),
    Row("PurePath", ("PurePath('a/b')", "Path('a') -> PurePath('a')", "PurePosixPath('a')"), ("'a'", "b'a'", "None")),
    Row(
        "PurePosixPath",
        ("PurePosixPath('a/b')", "PosixPath('a') -> PurePosixPath('a')"),
        ("'a'", "PureWindowsPath('a')", "None"),
    ),
    Row("PureWindowsPath", ("PureWindowsPath('c:/a')",), ("'a'", "PurePosixPath('a')", "Path('a')", "None")),
    Row(
        "IPv4Address",
        ("IPv4Address('127.0.0.1')", "IPv4Interface('10.0.0.1/8') -> IPv4Address('10.0.0.1')"),
        ("'127.0.0.1'", "1", "IPv6Address('::1')", "None"),
    ),
    Row(
        "IPv6Address",
        ("IPv6Address('::1')", "IPv6Address('fe80::1%eth0')"),
        ("'::1'", "IPv4Address('127.0.0.1')", "None"),
    ),
    Row(
        "IPv4Network",
        ("IPv4Network('10.0.0.0/30')",),
        ("'10.0.0.0/30'", "IPv4Address('10.0.0.0')", "IPv6Network('::/126')", "None"),
    ),
    Row("IPv6Network", ("IPv6Network('fe80::/126')",), ("'fe80::/126'", "IPv4Network('10.0.0.0/30')", "None")),
    Row("IPv4Interface", ("IPv4Interface('10.0.0.1/8')",), ("'10.0.0.1/8'", "IPv4Address('10.0.0.1')", "None")),
    Row("IPv6Interface", ("IPv6Interface('fe80::1/10')",), ("'fe80::1/10'", "IPv6Address('fe80::1')", "None")),
    Row("list[Decimal | Path]", ("[Decimal(1), Path('a')]", "[]"), ("['a']", "[1]", "None")),
    Row("UUID | bytes", ("UUID(int=1)", "b'x' * 16"), ("'x'", "1", "None")),
    Row("Pair", ("Pair(1, 'a')", "Pair(a=True, b='x')"), ("(1, 'a')", "[1, 'a']", "Point(1)", "None")),
    Row("Moved", ("Moved('a')", "Moved('a', Point(1))"), ("('a', Point(1))", "Pair(1, 'a')", "None")),
    Row("Span[int]", ("Span(1, 2)", "Span(start=True, end=2)"), ("Span('a', 'b')", "(1, 2)", "Span(1, None)", "None")),
    Row(
        "Film",
        ("{'title': 'a'}", "{'title': 'a', 'year': 1999}", "Film(title='a')"),
        (
            "{'year': 1999}",
            "{'title': 1}",
            "{'title': 'a', 'year': None}",
            "{'title': 'a', 'more': 1}",
            "[('title', 'a')]",
            "None",
        ),
    ),
    Row(
        "Search",
        ("{'text': 'a'}", "{'text': 'a', 'limit': 3}"),
        ("{}", "{'limit': 3}", "{'text': 'a', 'limit': 'b'}", "None"),
    ),
    Row(
        "Sequel",
        ("{'title': 'a', 'before': 'b'}", "Sequel(title='a', before='b', year=1)"),
        ("{'title': 'a'}", "{'title': 'a', 'before': 1}", "None"),
    ),
    Row("Page[int]", ("{'items': [1]}", "Page(items=[])"), ("{'items': ['a']}", "{}", "{'items': None}", "None")),
    Row(
        "Box[int]",
        ("Box(1)", "Box(True, 'a')", "IntBox(1, 'a', 2) -> Box(1, 'a')"),
        ("Box('a')", "Box(None)", "1", "None"),
    ),
    Row("Box[list[str]]", ("Box(['a'])", "Box([])"), ("Box([1])", "Box('a')", "None")),
    Row("IntBox", ("IntBox(1)", "IntBox(1, 'a', 2)"), ("Box(1)", "1", "None")),
    Row("Box[int] | Box[str]", ("Box(1)", "Box('a')"), ("Box(1.5)", "1", "None")),
    Row("Tree", ("Tree(1)", "Tree(1, [Tree(2), Tree(3, [Tree(4)])])"), ("1", "[Tree(1)]", "Box(1)", "None")),
    Row("Settings", ("Settings(depth=3)", "Settings(depth=True, name='a')"), ("3", "{'depth': 3}", "Point(1)", "None")),
    Row("Scaled", ("Scaled(2)", "Scaled(2, 3) -> Scaled(6)"), ("2", "Box(2)", "None")),
    Row("Money", ("Money(5)",), ("5", "'5'", "Box(5)", "None")),
    Row("dict[Money, list[Money]]", ("{Money(1): [Money(2)]}", "{}"), ("{1: []}", "{Money(1): [2]}", "None")),
    Row("UserId", ("UserId(5)", "UserId(True)"), ("'5'", "5.0", "None")),
    Row("Ints", ("[1]", "[]"), ("['a']", "(1,)", "None")),
    Row("Grid", ("[[1], []]", "[]"), ("[1]", "[['a']]", "None")),
    Row("Pairs[int]", ("[(1, 2)]", "[]"), ("[(1, 'a')]", "[1]", "None")),
    Row("Words", ("['a']", "[]"), ("[1]", "'a'", "None")),
    Row("Nested", ("1", "[1, [2, [True]]]", "[]"), ("'a'", "[1, ['a']]", "1.5", "None")),
    Row("Forest", ("{}", "{'a': {'b': {}}}"), ("{'a': 1}", "{1: {}}", "None")),
    Row("Annotated[int, 'words']", ("1", "True"), ("'a'", "1.0", "None")),
    Row("Annotated[int, Gt(0)]", ("1", "True", "2**64"), ("'a'", "1.0", "None")),
    Row("Annotated[float, Interval(ge=0, lt=1)]", ("0.5", "0", "False"), ("'a'", "None", "1j")),
    Row("Annotated[str, Len(1, 3)]", ("'abc'", "'a'"), ("1", "b'a'", "None")),
    Row("list[Annotated[int, MultipleOf(2), Predicate(is_even)]]", ("[2, 4]", "[]"), ("['a']", "[1.5]", "None")),
    Row("Annotated[list[int], MinLen(1), MaxLen(2)]", ("[1]", "[1, 2]"), ("['a']", "(1,)", "None")),
    Row("Annotated[Decimal, Ge(Decimal(0)), Le(Decimal(9)), Lt(Decimal(9))]", ("Decimal(1)",), ("1", "'1'", "None")),
]


HOLDERS = [
    ("list[{}]", "[{}]"),
    ("dict[str, {}]", "{{'a': {}}}"),
    ("tuple[int, {}]", "(1, {})"),
    ("Box[{}]", "Box({})"),
    ("Mapping[int, {}]", "{{1: {}}}"),
    ("Optional[{}]", "{}"),
    ("Annotated[{}, 'words'] | Empty", "{}"),
]
"""Types that hold others, each with a value that holds a value. The rows take turns."""


def held() -> list[tuple[str, list[str]]]:
    """For each row the type within another one, with all its values within a value of that."""
    found = []
    rows = {row.annotation for row in ROWS}
    for number, row in enumerate(ROWS):
        annotation, value = HOLDERS[number % len(HOLDERS)]
        texts = [text.split(ARROW)[0] for text in (*row.right, *row.wrong)]
        if annotation.format(row.annotation) not in rows:
            found.append((annotation.format(row.annotation), [value.format(text) for text in texts]))
    return found


class Apart(NamedTuple):
    """Pairs of an annotation and values that Python's type system forces apart.

    Attributes:
        reason: Why, in the words that docs/types.md explains.
        taken_by: Who accepts the values.
        annotation: That of a row.
        values: Source text.
    """

    reason: str
    taken_by: frozenset[str]
    annotation: str
    values: tuple[str, ...]


CHECKERS = frozenset({"mypy", "pyright"})
RUN_TIME = frozenset({"run time"})

APART = [
    # Refused by the checkers, carried at run time.
    Apart("NewType", RUN_TIME, "UserId", ("-(2**200)", "-1", "0", "1", "2", "2**53", "2**63 - 1", "2**64", "2**70")),
    Apart("NewType", RUN_TIME, "UserId", ("3", "4", "5", "Count(5)", "True", "False", "Level.LOW", "Level.HIGH")),
    Apart("NewType", RUN_TIME, "UserId", ("Access(0)", "Access.READ", "Access.READ | Access.WRITE", "~Access.READ")),
    Apart("Declared wider", RUN_TIME, "Literal[True]", ("UserId(True)",)),
    Apart("Declared wider", RUN_TIME, "bool", ("UserId(True)",)),
    Apart("Declared wider", RUN_TIME, "bool | str", ("UserId(True)",)),
    Apart("Declared wider", RUN_TIME, "Literal['a', 1]", ("str('a')", "int('1')")),
    Apart("Declared wider", RUN_TIME, "tuple[int, str]", ("tuple([1, 'a'])",)),
    Apart("Declared wider", RUN_TIME, "PosixPath", ("Path('a')", "Path('a/b')", "Path()")),
    Apart(
        "Declared wider",
        RUN_TIME,
        "PurePosixPath",
        ("Path('a')", "Path('a/b')", "Path()", "PurePath('a')", "PurePath('a/b')"),
    ),
    Apart("Empty", RUN_TIME, "Collection[int]", ("''", "Mode(0)", "Access(0)")),
    Apart("Empty", RUN_TIME, "Collection[str]", ("b''", "bytearray()", "range(0)", "Mode(0)", "Access(0)")),
    Apart("Empty", RUN_TIME, "Iterable[int]", ("''", "Mode(0)")),
    Apart("Empty", RUN_TIME, "Sequence[int]", ("''",)),
    Apart("Empty", RUN_TIME, "Sequence[str]", ("b''", "bytearray()", "range(0)")),
    Apart(
        "Declared narrower", RUN_TIME, "Collection[int]", ("Access.READ", "Access.READ | Access.WRITE", "~Access.READ")
    ),
    Apart("Invariance", RUN_TIME, "list[float]", ("IntList([1])",)),
    Apart("Invariance", RUN_TIME, "list[int | None]", ("IntList([1])",)),
    Apart("Invariance", RUN_TIME, "Nested", ("IntList([1])",)),
    Apart(
        "TypedDict",
        RUN_TIME,
        "dict[str, Any]",
        ("Film(title='a')", "Page(items=[])", "Sequel(title='a', before='b', year=1)"),
    ),
    # Accepted by the checkers, refused at run time.
    Apart("Constraints", CHECKERS, "Annotated[int, Gt(0)]", ("-1", "0")),
    Apart(
        "Constraints", CHECKERS, "Annotated[float, Interval(ge=0, lt=1)]", ("-1", "1.0", "True", "4", "float('inf')")
    ),
    Apart("Constraints", CHECKERS, "Annotated[str, Len(1, 3)]", ("''", "'READ'", "'2024-01-01'")),
    Apart(
        "Constraints",
        CHECKERS,
        "list[Annotated[int, MultipleOf(2), Predicate(is_even)]]",
        ("[1]", "[2, 3]", "[1, 2, 3]"),
    ),
    Apart("Constraints", CHECKERS, "Annotated[list[int], MinLen(1), MaxLen(2)]", ("[]", "[1, 2, 3]")),
    Apart(
        "Constraints",
        CHECKERS,
        "Annotated[Decimal, Ge(Decimal(0)), Le(Decimal(9)), Lt(Decimal(9))]",
        ("Decimal(9)", "Decimal(-1)", "Decimal('1E+999')"),
    ),
    Apart("Any", CHECKERS, "Any", ("Level.HIGH", "list", "OrderedDict(a='b')", "{Colour.RED: 1}", "set('a')", "{1.5}")),
    Apart("Any", CHECKERS, "Any", ("Point3(1, 2, 3)", "{(1, 'a'): 2}", "(0, 3)")),
    Apart("Any", CHECKERS, "Any", ("('a',)", "(1, 'a')", "(True, Name('x'))", "Box(5)", "Counter('a')", "Decimal(1)")),
    Apart("Any", CHECKERS, "Any", ("Fraction(1, 3)", "bytearray(65_536)", "datetime(2024, 1, 1, 12)", "{1, 'a'}")),
    Apart("Any", CHECKERS, "list[Any]", ("[Colour.RED, Colour.GREEN]", "[datetime(2024, 1, 1)]")),
    Apart("Any", CHECKERS, "dict[str, Any]", ("{'a': (1,)}",)),
    Apart("TypedDict", CHECKERS, "Film", ("Sequel(title='a', before='b', year=1)",)),
    Apart("Exact ints", CHECKERS, "float", ("2**53 + 1", "10**400")),
    Apart("Exact ints", CHECKERS, "complex", ("2**53 + 1", "10**400")),
    Apart("Surrogates", CHECKERS, "str", ("'\\ud800'",)),
    Apart("Surrogates", CHECKERS, "Any", ("'\\ud800'",)),
    Apart("Formats", CHECKERS, "memoryview", ("memoryview(array('i', [1]))", "memoryview(b'abcd')[::2]")),
    # The checkers differ from each other.
    Apart("Inference", CHECKERS, "dict[tuple[int, int], str]", ("OrderedDict(a='b')",)),
    Apart("Inference", frozenset({"mypy"}), "Sequence[str]", ("[*range(3)]",)),
    Apart("Inference", CHECKERS, "Iterable[int]", ("OrderedDict(a='b')",)),
    Apart("Inference", frozenset({"pyright", "run time"}), "Box[int] | Box[str]", ("Box(True, 'a')",)),
]


def apart(annotation: str) -> dict[str, frozenset[str]]:
    """The values that are listed as apart for an annotation, with who takes them."""
    return {value: entry.taken_by for entry in APART if entry.annotation == annotation for value in entry.values}


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
