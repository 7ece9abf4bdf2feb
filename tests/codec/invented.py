"""Type hints that hypothesis invents, from every kind of type there is, each with a strategy for its values.

``TYPEDRPC_EXAMPLES=50`` runs 50 times as many examples as usual.
"""

from __future__ import annotations

import collections
import collections.abc
import dataclasses
import enum
import inspect
import ipaddress
import itertools
import math
import os
import pathlib
import struct
import sys
import uuid
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from types import SimpleNamespace
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar, Union
from zoneinfo import ZoneInfo

import typing_extensions
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from typedrpc.codec import CommandCodec, Segmented, register
from typedrpc.schema import ParameterKind, Schema, node_of

EXAMPLES = float(os.environ.get("TYPEDRPC_EXAMPLES", "1"))


def thorough(examples: int) -> settings:
    """The settings of a test that runs this many examples, or what ``TYPEDRPC_EXAMPLES`` makes of it."""
    return settings(
        max_examples=max(1, int(examples * EXAMPLES)),
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )


class Typed(NamedTuple):
    """A type hint, its values, and whether they can be keys.

    `greedy`: it takes values of other types too, as its own: ``Sequence[float]`` those of ``deque[int]``.
    """

    hint: Any
    values: st.SearchStrategy[Any]
    hashable: bool = True
    greedy: bool = False


numbers = itertools.count()
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
WORDS = """
self cls a b x type len list dict int str zip map Exception missing misfit segments payload value out pack unpack extra
unknown take_packer give_packer unpackb args kwargs v_1 v_7 a_0 NO_SEGMENTS Segmented ünï __x _match result item count
"""
NAMES = st.sampled_from([name for name in WORDS.split() if name != "__x"])
PUBLIC_NAMES = st.sampled_from([name for name in WORDS.split() if not name.startswith("_") and name != "count"])
KEYS = st.one_of(NAMES, st.sampled_from(["with space", "class", "", "1", "'", '"', "{}", "\n", "日本"]))


make_namedtuple: Any = NamedTuple
make_typeddict: Any = typing_extensions.TypedDict
counter: Any = collections.Counter
make_alias: Any = typing_extensions.TypeAliasType


def generic(origin: Any, *args: Any) -> Any:
    """``origin[args]``, for what is made at run time."""
    return origin[args]


def asked(name: str, argument: Any) -> Any:
    """A constraint of annotated-types, for those who have not installed it."""
    attribute = {"MinLen": "min_length", "MaxLen": "max_length", "MultipleOf": "multiple_of", "Predicate": "func"}
    kind = type(name, (SimpleNamespace,), {"__module__": "annotated_types", "__hash__": object.__hash__})
    return kind(**{attribute.get(name, name.lower()): argument})


# Classes that are registered.


@dataclasses.dataclass(frozen=True)
class Money:
    cents: int


class Words:
    """Neither hashable nor comparable by parts of its own."""

    def __init__(self, words: list[str]) -> None:
        self.words = words

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Words) and self.words == other.words

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __str__(self) -> str:
        return f"Words({self.words})"


def _words_of(value: Words) -> list[str]:
    return value.words


register(Money, encode=lambda value: value.cents, decode=Money, travels_as=int)
register(Words, encode=_words_of, decode=Words)


# Scalars, and the standard library's types.


OFFSETS = st.timedeltas(timedelta(hours=-23, minutes=-59), timedelta(hours=23, minutes=59)).map(timezone)
ZONES = st.sampled_from(["Europe/Berlin", "UTC", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe"]).map(
    ZoneInfo
)
INTS = st.one_of(
    st.integers(),
    st.integers(-(2**70), 2**70),
    st.builds(
        lambda power, step, sign: sign * (2**power + step),
        st.sampled_from([5, 7, 8, 15, 16, 31, 32, 53, 63, 64, 65, 127, 300]),
        st.integers(-1, 1),
        st.sampled_from([1, -1]),
    ),
)
BYTES = st.one_of(st.binary(max_size=8), st.sampled_from([255, 256, 65535, 65536, 65537]).map(bytes))
PLAIN = st.recursive(
    st.one_of(st.none(), st.booleans(), INTS, st.floats(), TEXT, st.binary(max_size=4)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.one_of(st.none(), INTS, TEXT, BYTES), inner, max_size=3)
    ),
    max_leaves=6,
)
ODD_PATHS = st.sampled_from([".", "/", "a/../b", "//x", "a b", "ü", ".hidden", "a.tar.gz", "c:\\x", "x\\y", "\0", "~"])


def _paths(cls: Any) -> st.SearchStrategy[Any]:
    return st.one_of(ODD_PATHS, TEXT).map(cls)


def _interface(value: Any, prefix: int) -> str:
    return f"{value}/{prefix % (value.max_prefixlen + 1)}"


V4, V6 = st.ip_addresses(v=4), st.ip_addresses(v=6)
PREFIXES = st.integers(0, 128)
SCALARS: list[Typed] = [
    Typed(None, st.none()),
    Typed(bool, st.booleans()),
    Typed(int, INTS),
    Typed(float, st.floats()),
    Typed(str, TEXT),
    Typed(bytes, BYTES),
    Typed(bytearray, BYTES.map(bytearray), False),
    Typed(memoryview, BYTES.map(memoryview), False),
    Typed(Any, PLAIN, False, True),
    Typed(datetime, st.datetimes(timezones=st.one_of(st.none(), OFFSETS))),
    Typed(datetime, st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1), timezones=ZONES)),
    Typed(Literal["a", 1, True, b"\xff", None], st.sampled_from(["a", 1, True, b"\xff", None])),
    Typed(Literal[2, "two words"], st.sampled_from([2, "two words"])),
]
CONVERTED: list[Typed] = [
    Typed(date, st.dates()),
    Typed(time, st.times(timezones=st.one_of(st.none(), OFFSETS, ZONES))),
    Typed(timedelta, st.timedeltas()),
    Typed(Decimal, st.one_of(st.decimals(allow_nan=False), st.decimals(allow_nan=False, places=3))),
    Typed(complex, st.complex_numbers()),
    Typed(Fraction, st.one_of(st.fractions(), st.builds(Fraction, INTS, st.integers(1, 2**70)))),
    Typed(range, st.builds(range, INTS, INTS, INTS.filter(bool))),
    Typed(uuid.UUID, st.uuids(allow_nil=True)),
    Typed(pathlib.PurePath, _paths(pathlib.PurePath)),
    Typed(pathlib.PurePosixPath, _paths(pathlib.PurePosixPath)),
    Typed(pathlib.PureWindowsPath, _paths(pathlib.PureWindowsPath)),
    Typed(pathlib.Path, _paths(pathlib.Path)),
    Typed(ipaddress.IPv4Address, V4),
    Typed(ipaddress.IPv6Address, st.one_of(V6, V6.map(lambda value: ipaddress.IPv6Address(f"{value}%eth0")))),
    Typed(ipaddress.IPv4Network, st.builds(_interface, V4, PREFIXES).map(lambda text: _network(4, text))),
    Typed(ipaddress.IPv6Network, st.builds(_interface, V6, PREFIXES).map(lambda text: _network(6, text))),
    Typed(ipaddress.IPv4Interface, st.builds(_interface, V4, PREFIXES).map(ipaddress.IPv4Interface)),
    Typed(ipaddress.IPv6Interface, st.builds(_interface, V6, PREFIXES).map(ipaddress.IPv6Interface)),
    Typed(Money, st.builds(Money, INTS)),
    Typed(Words, st.lists(TEXT, max_size=3).map(Words), False),
]


def _network(version: int, text: str) -> Any:
    cls: Any = ipaddress.IPv4Network if version == 4 else ipaddress.IPv6Network
    return cls(text, strict=False)


CONSTRAINED: list[Typed] = [
    Typed(Annotated[int, asked("Gt", -5)], st.integers(-4, 2**70)),
    Typed(Annotated[int, asked("Lt", -5)], st.integers(max_value=-6)),
    Typed(Annotated[int, asked("Ge", 0), asked("MultipleOf", 7)], st.integers(0, 2**64).map(lambda value: value * 7)),
    Typed(Annotated[float, asked("Le", 1.5)], st.floats(max_value=1.5)),
    Typed(Annotated[str, asked("MinLen", 1)], TEXT.filter(bool)),
    Typed(Annotated[bytes, asked("MaxLen", 65536)], BYTES.filter(lambda value: len(value) <= 65536)),
    Typed(Annotated[list[int], asked("MaxLen", 2)], st.lists(INTS, max_size=2), False),
    Typed(Annotated[str, asked("Predicate", str.isdigit)], st.integers(0, 99).map(str)),
    Typed(Annotated[Decimal, asked("Gt", 0)], st.decimals(1, 10, allow_nan=False)),
]


@st.composite
def enums(draw: st.DrawFn) -> Typed:
    """An enum of one of the five kinds; of a plain one perhaps some members only."""
    names = draw(st.lists(st.sampled_from(["RED", "BLUE", "two words", "x", "ünï"]), min_size=1, unique=True))
    kind: Any = draw(st.sampled_from([enum.Enum, enum.IntEnum, enum.StrEnum, enum.Flag, enum.IntFlag]))
    values: dict[Any, list[Any]] = {enum.StrEnum: names, enum.Enum: [(name,) for name in names]}
    flags = issubclass(kind, enum.Flag)
    chosen = values.get(kind, [1 << index if flags else index for index, _ in enumerate(names)])
    cls = kind(f"Enum{next(numbers)}", list(zip(names, chosen, strict=True)))
    members = list(cls)
    if flags:
        return Typed(cls, st.integers(0, 2 ** len(names) - 1).map(cls))
    if draw(st.booleans()):
        some = draw(st.lists(st.sampled_from(members), min_size=1, unique=True))
        return Typed(generic(Literal, *some), st.sampled_from(some))
    return Typed(cls, st.sampled_from(members))


# What holds others.


def _without_nan(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Keys: a NaN may stand twice in a dict, and arrives as two that become one."""
    return values.filter(lambda value: not holds_nan(value))


def holds_nan(value: Any) -> bool:
    """Whether there is a NaN among what is hashed when `value` is."""
    match value:
        case float():
            return math.isnan(value)
        case complex():
            return math.isnan(value.real) or math.isnan(value.imag)
        case tuple() | frozenset():
            return any(map(holds_nan, value))
    if dataclasses.is_dataclass(value):
        return any(holds_nan(getattr(value, field.name)) for field in dataclasses.fields(value))
    return False


def hashable_of(types: st.SearchStrategy[Typed]) -> st.SearchStrategy[Typed]:
    """Those of `types` whose values can be keys."""
    return types.filter(lambda typed: typed.hashable).map(
        lambda typed: typed._replace(values=_without_nan(typed.values))
    )


def collection_of(item: Typed) -> st.SearchStrategy[Typed]:
    lists = st.lists(item.values, max_size=4)
    abc = collections.abc
    return st.sampled_from(
        [
            Typed(generic(list, item.hint), lists, False),
            Typed(generic(tuple, item.hint, ...), lists.map(tuple), item.hashable),
            Typed(generic(collections.deque, item.hint), lists.map(collections.deque), False),
            *(
                Typed(generic(kind, item.hint), lists, False, True)
                for kind in (abc.Sequence, abc.MutableSequence, abc.Collection, abc.Iterable)
            ),
        ]
    )


def set_of(item: Typed) -> st.SearchStrategy[Typed]:
    sets = st.sets(item.values, max_size=4)
    return st.sampled_from(
        [
            Typed(generic(set, item.hint), sets, False),
            Typed(generic(frozenset, item.hint), sets.map(frozenset)),
            Typed(generic(collections.abc.Set, item.hint), sets, False, True),
            Typed(generic(collections.abc.MutableSet, item.hint), sets, False, True),
        ]
    )


@st.composite
def tuples(draw: st.DrawFn, types: st.SearchStrategy[Typed]) -> Typed:
    items = draw(st.lists(types, max_size=3))
    hint = generic(tuple, *(item.hint for item in items)) if items else tuple[()]
    return Typed(hint, st.tuples(*(item.values for item in items)), all(item.hashable for item in items))


@st.composite
def mappings(draw: st.DrawFn, types: st.SearchStrategy[Typed]) -> Typed:
    key = draw(hashable_of(types))
    origin: Any = draw(
        st.sampled_from(
            [
                dict,
                collections.OrderedDict,
                collections.defaultdict,
                collections.Counter,
                collections.abc.Mapping,
                collections.abc.MutableMapping,
            ]
        )
    )
    if origin is counter:
        return Typed(origin[key.hint], st.dictionaries(key.values, INTS, max_size=4).map(counter), False)
    value = draw(types)
    made: Any = {
        collections.OrderedDict: collections.OrderedDict,
        collections.defaultdict: lambda pairs: collections.defaultdict(None, pairs),
    }.get(origin, dict)
    greedy = not issubclass(origin, dict)
    values = st.dictionaries(key.values, value.values, max_size=4).map(made)
    return Typed(origin[key.hint, value.hint], values, False, greedy)


@st.composite
def unions(draw: st.DrawFn, types: st.SearchStrategy[Typed]) -> Typed:
    greedy = (
        draw(st.lists(types.filter(lambda typed: typed.greedy), max_size=1)) if draw(st.integers(0, 9)) == 0 else []
    )
    others = st.sampled_from(CONVERTED) if greedy else types.filter(lambda typed: not typed.greedy)
    members = [*greedy, *draw(st.lists(others, min_size=1, max_size=4))]
    hint = generic(Union, *(member.hint for member in members), *draw(st.sampled_from([[], [None]])))
    return Typed(
        hint, st.one_of([member.values for member in members]), all(member.hashable for member in members), bool(greedy)
    )


def here(cls: Any) -> Any:
    """`cls` as if it were defined in this module."""
    cls.__module__ = __name__
    return cls


@st.composite
def dataclass_types(draw: st.DrawFn, types: st.SearchStrategy[Typed]) -> Typed:
    names = draw(st.lists(NAMES, max_size=4, unique=True))
    fields = [
        (name, draw(types), draw(st.booleans()), draw(st.sampled_from(["no", "no", "value", "factory"])))
        for name in names
    ]
    frozen = draw(st.booleans())
    optional = False
    made: list[tuple[str, Any, Any]] = []
    for name, typed, kw_only, default in fields:
        if optional and not kw_only and default == "no":
            default = "value"
        optional = optional or (not kw_only and default != "no")
        kinds = {"no": {}, "value": {"default": None}, "factory": {"default_factory": list}}
        made.append((name, typed.hint, dataclasses.field(kw_only=kw_only, **kinds[default])))  # type: ignore[arg-type]
    cls = here(dataclasses.make_dataclass(f"Class{next(numbers)}", made, frozen=frozen, slots=draw(st.booleans())))
    values = st.fixed_dictionaries({name: typed.values for name, typed, _, _ in fields})
    hashable = frozen and all(typed.hashable for _, typed, _, _ in fields)
    return Typed(cls, values.map(lambda kwargs: cls(**kwargs)), hashable)


@st.composite
def namedtuple_types(draw: st.DrawFn, types: st.SearchStrategy[Typed]) -> Typed:
    names = draw(st.lists(PUBLIC_NAMES, max_size=4, unique=True))
    items = [draw(types) for _ in names]
    cls: Any = here(
        make_namedtuple(f"Tuple{next(numbers)}", [(name, item.hint) for name, item in zip(names, items, strict=True)])
    )
    values = st.tuples(*(item.values for item in items))
    return Typed(cls, values.map(lambda row: cls(*row)), all(item.hashable for item in items))


@st.composite
def typeddict_types(draw: st.DrawFn, types: st.SearchStrategy[Typed]) -> Typed:
    names = draw(st.lists(KEYS, max_size=4, unique=True))
    items = {name: draw(types) for name in names}
    given = {name for name in names if draw(st.booleans())}
    wrap: list[Any] = [typing_extensions.Required, typing_extensions.ReadOnly]
    hints = {
        name: (draw(st.sampled_from(wrap)) if name in given else typing_extensions.NotRequired)[item.hint]
        for name, item in items.items()
    }
    cls = here(make_typeddict(f"Dict{next(numbers)}", hints))
    values = st.fixed_dictionaries(
        {name: items[name].values for name in names if name in given},
        optional={name: items[name].values for name in names if name not in given},
    )
    return Typed(cls, values, False)


ItemT = TypeVar("ItemT")
KeyT = TypeVar("KeyT")


@dataclasses.dataclass
class Box(Generic[ItemT]):
    item: ItemT
    more: list[ItemT] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Pair(Generic[KeyT, ItemT]):
    key: KeyT
    item: ItemT | None = None


class Held(NamedTuple, Generic[ItemT]):
    item: ItemT
    boxed: Box[ItemT]


class Kept(typing_extensions.TypedDict, Generic[ItemT]):
    item: ItemT
    rest: typing_extensions.NotRequired[dict[str, ItemT]]


@st.composite
def generics(draw: st.DrawFn, types: st.SearchStrategy[Typed]) -> Typed:
    """A generic class with its arguments."""
    item = draw(types)
    boxes = st.builds(Box, item.values, st.lists(item.values, max_size=2))
    match draw(st.sampled_from(["box", "pair", "held", "kept"])):
        case "box":
            return Typed(generic(Box, item.hint), boxes, False)
        case "pair":
            key = draw(types)
            values = st.builds(Pair, key=key.values, item=st.one_of(st.none(), item.values))
            return Typed(generic(Pair, key.hint, item.hint), values, False)
        case "held":
            return Typed(generic(Held, item.hint), st.builds(Held, item.values, boxes), False)
        case _:
            rest = {"rest": st.dictionaries(TEXT, item.values, max_size=2)}
            return Typed(generic(Kept, item.hint), st.fixed_dictionaries({"item": item.values}, optional=rest), False)


def _itself(kind: str, inner: Any) -> Any:
    """An annotation that names the class `kind` in one of the ways in which a class may hold itself."""
    return {
        "list": f"list[{kind}]",
        "optional": f"{kind} | None",
        "dict": f"dict[str, {kind}]",
        "tuple": f"tuple[{kind}, ...]",
        "both": f"list[{kind} | None] | None",
    }[inner]


def _held(way: str, inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    match way:
        case "list":
            return st.lists(inner, max_size=2)
        case "optional":
            return st.one_of(st.none(), inner)
        case "dict":
            return st.dictionaries(TEXT, inner, max_size=2)
        case "tuple":
            return st.lists(inner, max_size=2).map(tuple)
        case _:
            return st.one_of(st.none(), st.lists(st.one_of(st.none(), inner), max_size=2))


_EMPTY: dict[str, Any] = {"list": [], "optional": None, "dict": {}, "tuple": (), "both": None}


@st.composite
def recursive(draw: st.DrawFn, types: st.SearchStrategy[Typed]) -> Typed:
    """A dataclass, NamedTuple or TypedDict that holds itself."""
    name, item, way = f"Self{next(numbers)}", draw(types), draw(st.sampled_from(sorted(_EMPTY)))
    hint = _itself(name, way)
    kind = draw(st.sampled_from(["dataclass", "tuple", "dict"]))
    cls: Any
    make: Callable[[Any, Any], Any]
    if kind == "dataclass":
        cls = dataclasses.make_dataclass(name, [("item", item.hint), ("inner", hint)], slots=draw(st.booleans()))
        make = cls
    elif kind == "tuple":
        cls = make_namedtuple(name, [("item", item.hint), ("inner", hint)])
        make = cls
    else:
        cls = make_typeddict(name, {"item": item.hint, "inner": hint})
        make = lambda item, inner: {"item": item, "inner": inner}  # noqa: E731
    setattr(sys.modules[__name__], name, here(cls))
    leaves = st.builds(make, item.values, st.just(_EMPTY[way]))
    values = st.recursive(leaves, lambda inner: st.builds(make, item.values, _held(way, inner)), max_leaves=4)
    return Typed(cls, values, False)


LEAVES: list[Typed] = [Typed(int, INTS), Typed(str, TEXT), Typed(None, st.none()), Typed(float, st.floats())]


@st.composite
def aliases(draw: st.DrawFn, types: st.SearchStrategy[Typed]) -> Typed:
    """An alias, or a class that holds one that refers to itself: ``Json``."""
    item, name = draw(types), f"Alias{next(numbers)}"
    if draw(st.booleans()):
        return item._replace(hint=make_alias(name, item.hint))
    leaf = draw(st.sampled_from(LEAVES))
    way: Any = draw(st.sampled_from([list, dict]))
    cls = here(dataclasses.make_dataclass(f"Leaf{next(numbers)}", [("item", item.hint)]))
    ends = st.one_of(leaf.values, st.builds(cls, item.values))
    inner = list[name] if way is list else dict[str, name]  # type: ignore[valid-type]
    values = st.recursive(ends, lambda inner: _held("list" if way is list else "dict", inner), max_leaves=5)
    alias = make_alias(name, generic(Union, leaf.hint, cls, inner))
    setattr(sys.modules[__name__], name, alias)
    holder = here(dataclasses.make_dataclass(f"Holder{next(numbers)}", [("held", name)]))
    return Typed(holder, st.builds(holder, values), False)


def wider(types: st.SearchStrategy[Typed]) -> st.SearchStrategy[Typed]:
    """Types that are made of `types`."""
    return st.one_of(
        types.flatmap(collection_of),
        hashable_of(types).flatmap(set_of),
        tuples(types),
        mappings(types),
        unions(types),
        dataclass_types(types),
        namedtuple_types(types),
        typeddict_types(types),
        generics(types),
        recursive(types),
        aliases(types),
    )


SMALL_TYPES = st.one_of(st.sampled_from([*SCALARS, *CONVERTED, *CONSTRAINED]), enums())
TYPES = st.one_of(wider(st.recursive(SMALL_TYPES, wider, max_leaves=4)), st.recursive(SMALL_TYPES, wider, max_leaves=5))


# Functions.


def make_function(parameters: list[inspect.Parameter]) -> Callable[..., Any]:
    """A function with these parameters that returns what it was given."""
    function: Any
    scope: dict[str, Any] = {"D": "default"}
    shown = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in parameters]
    text = str(inspect.Signature(shown)).replace("<default>", "D")
    exec(f"def function{text}: return {{**locals()}}", scope)
    function = scope["function"]
    function.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters} | {"return": None}
    return function  # type: ignore[no-any-return]  # made at run time


class Default:
    def __repr__(self) -> str:
        return "<default>"


@st.composite
def functions(draw: st.DrawFn, types: st.SearchStrategy[Typed]) -> tuple[Callable[..., Any], dict[str, Typed]]:
    """A function and the types of its parameters."""
    names = draw(st.lists(NAMES, max_size=6, unique=True))
    kinds = sorted(draw(st.lists(st.sampled_from(list(ParameterKind)), min_size=len(names), max_size=len(names))))
    types_by_name: dict[str, Typed] = {}
    parameters: list[inspect.Parameter] = []
    optional = False
    for name, kind in zip(names, kinds, strict=True):
        if kind in (ParameterKind.VAR_POSITIONAL, ParameterKind.VAR_KEYWORD) and kinds.count(kind) > 1:
            continue
        has_default = kind is ParameterKind.KEYWORD_ONLY and draw(st.booleans())
        if kind <= ParameterKind.POSITIONAL_OR_KEYWORD:
            has_default = optional = optional or draw(st.booleans())
        types_by_name[name] = draw(types)
        parameters.append(
            inspect.Parameter(
                name,
                inspect._ParameterKind(kind),
                default=Default() if has_default else inspect.Parameter.empty,
                annotation=types_by_name[name].hint,
            )
        )
    return make_function(parameters), types_by_name


# Payloads of a hostile peer.


SPLINTERS = [
    b"\xc0",
    b"\xc1",
    b"\xc3",
    b"\x90",
    b"\x80",
    b"\x05",
    b"\xa1a",
    b"\xc4\x01a",
    b"\xcb\x7f\xf8\0\0\0\0\0\0",
    b"\xa1\xff",
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\xc9\xff\xff\xff\xff\x01",
    b"\xd6\xff\0\0\0\0",
    b"\xd4\x01\x80",
    b"\xc7\x00\x01",
    b"\xc7\x09\x01\x01" + b"\0" * 8,
    b"\xd6\x03\0\0\0\0",
    b"\xc7\x0c\x02" + b"\xff" * 12,
    b"\xc7\x14\x02" + struct.pack(">HBBBBBBIq", 1, 1, 1, 0, 0, 0, 0, 0, 10**17),
    b"\xc7\x17\x02" + struct.pack(">HBBBBBBIq", 1, 1, 1, 0, 0, 0, 0, 0, 0) + b"UTC",
    b"\x91" * 100,
    b"\x91" * 1100,
    b"\x81\xa1a" * 300,
]
"""What is put into payloads: of other types, malformed, deep, of huge announced lengths."""


@st.composite
def mutated(draw: st.DrawFn, payload: bytes) -> bytes:
    """A good payload with some bits and bytes changed, cut out or put in, or cut short."""
    data = bytearray(payload)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(["set", "flip", "cut", "swap", "end", "insert"])):
            case "set" if at < len(data):
                data[at] = draw(st.integers(0, 255))
            case "flip" if at < len(data):
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del data[at : at + draw(st.integers(1, 3))]
            case "swap":
                data[at : at + 1] = draw(st.sampled_from(SPLINTERS))
            case "end" if draw(st.booleans()):
                del data[at:]
            case _:
                data[at:at] = draw(st.sampled_from(SPLINTERS))
    return bytes(data)


class Attacked(NamedTuple):
    """A type, a good payload of it, and mutated ones."""

    hint: Any
    good: bytes
    bad: list[bytes]


def attacks(count: int, first_seed: int = 0, payloads: int = 20) -> list[Attacked]:
    """`count` invented types with payloads, the same ones for the same arguments."""
    found: list[Attacked] = []

    @seed(first_seed)
    @settings(thorough(count), max_examples=count, database=None, phases=[Phase.generate])
    @given(st.data())
    def invent(data: st.DataObject) -> None:
        typed = data.draw(TYPES)
        codec = CommandCodec("Hostile.command", Schema((), node_of(typed.hint)))
        good = codec.pack_result(data.draw(typed.values))
        body = bytes(good.body if isinstance(good, Segmented) else good)
        found.append(Attacked(typed.hint, body, [data.draw(mutated(body)) for _ in range(payloads)]))

    invent()
    return found
