"""Round trips and hostile payloads over types, signatures and calls that hypothesis invents."""

import collections.abc
import dataclasses
import enum
import inspect
import itertools
import re
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from typing import Any, Literal, NamedTuple, Union

import msgpack  # type: ignore[import-untyped]  # it ships no types
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from typedrpc.codec import CodecError, CommandCodec, Segmented
from typedrpc.codec.base import Coders
from typedrpc.codec.body import Packing, pack_body
from typedrpc.codec.faults import Fault
from typedrpc.errors import ArgumentError
from typedrpc.schema import ParameterKind, Schema, node_of, schema_of

thorough = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


class Typed(NamedTuple):
    """A type hint, its values, and whether they can be keys."""

    hint: Any
    values: st.SearchStrategy[Any]
    hashable: bool = True


numbers = itertools.count()
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
OFFSETS = st.timedeltas(timedelta(hours=-23, minutes=-59), timedelta(hours=23, minutes=59))
WORDS = """
self cls a b x type len list dict int str zip map Exception missing misfit segments payload value out pack unpack extra
unknown take_packer give_packer unpackb args kwargs v_1 v_7 a_0 NO_SEGMENTS Segmented ünï __x _ match
"""
NAMES = st.sampled_from(WORDS.split())

SCALARS = [
    Typed(None, st.none()),
    Typed(bool, st.booleans()),
    Typed(int, st.one_of(st.integers(), st.integers(-(2**70), 2**70))),
    Typed(float, st.floats(allow_nan=False)),
    Typed(str, TEXT),
    Typed(bytes, st.one_of(st.binary(max_size=8), st.sampled_from([65535, 65536, 65537]).map(bytes))),
    Typed(datetime, st.datetimes(timezones=st.one_of(st.none(), OFFSETS.map(timezone)))),
    Typed(Literal["a", 1, True, b"\xff", None], st.sampled_from(["a", 1, True, b"\xff", None])),
]


def generic(origin: Any, *args: Any) -> Any:
    """``origin[args]``, for what is made at run time."""
    return origin[args]


@st.composite
def enums(draw: st.DrawFn) -> Typed:
    names = draw(st.lists(st.sampled_from(["RED", "BLUE", "two words", "x"]), min_size=1, unique=True))
    make: Any = draw(st.sampled_from([enum.Enum, enum.IntEnum]))
    cls = make(f"Enum{next(numbers)}", [(name, index) for index, name in enumerate(names)])
    return Typed(cls, st.sampled_from(list(cls)))


def collection_of(item: Typed) -> st.SearchStrategy[Typed]:
    lists = st.lists(item.values, max_size=4)
    return st.sampled_from(
        [
            Typed(generic(list, item.hint), lists, False),
            Typed(generic(tuple, item.hint, ...), lists.map(tuple), item.hashable),
            Typed(generic(collections.abc.Sequence, item.hint), lists, False),
            Typed(generic(collections.abc.Iterable, item.hint), lists, False),
        ]
    )


def set_of(item: Typed) -> st.SearchStrategy[Typed]:
    return st.sampled_from(
        [
            Typed(generic(set, item.hint), st.sets(item.values, max_size=4), False),
            Typed(generic(frozenset, item.hint), st.frozensets(item.values, max_size=4)),
            Typed(generic(collections.abc.Set, item.hint), st.sets(item.values, max_size=4), False),
        ]
    )


@st.composite
def tuples(draw: st.DrawFn, types: st.SearchStrategy[Typed]) -> Typed:
    items = draw(st.lists(types, max_size=3))
    return Typed(
        generic(tuple, *(item.hint for item in items)),
        st.tuples(*(item.values for item in items)),
        all(item.hashable for item in items),
    )


@st.composite
def mappings(draw: st.DrawFn, types: st.SearchStrategy[Typed]) -> Typed:
    key, value = draw(types.filter(lambda typed: typed.hashable)), draw(types)
    origin: Any = draw(st.sampled_from([dict, Mapping]))
    return Typed(origin[key.hint, value.hint], st.dictionaries(key.values, value.values, max_size=4), False)


@st.composite
def unions(draw: st.DrawFn, types: st.SearchStrategy[Typed]) -> Typed:
    members = draw(st.lists(types, min_size=1, max_size=3))
    hint = generic(Union, *(member.hint for member in members), *draw(st.sampled_from([[], [None]])))
    return Typed(hint, st.one_of([member.values for member in members]), all(member.hashable for member in members))


@st.composite
def dataclass_types(draw: st.DrawFn, types: st.SearchStrategy[Typed]) -> Typed:
    names = draw(st.lists(NAMES.filter(lambda name: name != "__x"), max_size=4, unique=True))
    fields = [(name, draw(types), draw(st.booleans())) for name in names]
    cls = dataclasses.make_dataclass(
        f"Class{next(numbers)}",
        [(name, typed.hint, dataclasses.field(kw_only=kw_only)) for name, typed, kw_only in fields],
        frozen=draw(st.booleans()),
        slots=draw(st.booleans()),
    )
    cls.__module__ = __name__
    values = st.fixed_dictionaries({name: typed.values for name, typed, _ in fields})
    return Typed(cls, values.map(lambda kwargs: cls(**kwargs)), False)


def wider(types: st.SearchStrategy[Typed]) -> st.SearchStrategy[Typed]:
    return st.one_of(
        types.flatmap(collection_of),
        types.filter(lambda typed: typed.hashable).flatmap(set_of),
        tuples(types),
        mappings(types),
        unions(types),
        dataclass_types(types),
    )


TYPES = st.recursive(st.one_of(st.sampled_from(SCALARS), enums()), wider, max_leaves=5)


def same(a: Any, b: Any) -> bool:
    """Equal in value and in type, all the way down."""
    if type(a) is not type(b):
        return False
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if dataclasses.is_dataclass(a):
        return all(same(getattr(a, field.name), getattr(b, field.name)) for field in dataclasses.fields(a))
    if isinstance(a, datetime):
        return (a, a.utcoffset(), a.fold) == (b, b.utcoffset(), b.fold)
    return bool(a == b)


def codec_of(hint: Any) -> CommandCodec:
    return CommandCodec("Test.command", Schema((), node_of(hint)))


@thorough
@given(st.data())
def test_every_value_of_every_type_arrives_as_it_was(data: st.DataObject) -> None:
    typed = data.draw(TYPES)
    codec = codec_of(typed.hint)
    for value in data.draw(st.lists(typed.values, min_size=1, max_size=3)):
        assert same(codec.unpack_result(codec.pack_result(value)), value)


@thorough
@given(st.data())
def test_the_source_and_the_walk_agree(data: st.DataObject) -> None:
    typed, other = data.draw(TYPES), data.draw(TYPES)
    codec, coder = codec_of(typed.hint), Coders().of(node_of(typed.hint))
    value = data.draw(st.one_of(typed.values, other.values))
    packing = Packing()
    try:
        walked = coder.pack(value, packing)
    except Fault as fault:
        with pytest.raises(
            CodecError, match=re.escape(f"result{fault.path}: expected {fault.expected}, got {fault.got}")
        ):
            codec.pack_result(value)
        return
    payload = codec.pack_result(value)
    body, beside = payload if isinstance(payload, Segmented) else (payload, [])
    assert body == pack_body(walked)
    assert beside == packing.segments


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


@thorough
@given(st.data())
def test_calls_bind_as_python_binds_them(data: st.DataObject) -> None:
    function, types = data.draw(functions(st.sampled_from(SCALARS[:6])))
    codec = CommandCodec("Test.command", schema_of(function, method=False))
    for _ in range(4):
        # Nearly right calls: any number of positional arguments, any of the names, and some that are unknown.
        parameters = list(inspect.signature(function).parameters.values())
        positional = [p for p in parameters if p.kind <= inspect.Parameter.VAR_POSITIONAL]
        star = [p for p in positional if p.kind is inspect.Parameter.VAR_POSITIONAL]
        plain = [p for p in positional if p not in star]
        count = data.draw(st.integers(0, len(plain) + 2))
        chosen = [*plain[:count], *(star or plain[-1:]) * max(0, count - len(plain))]
        args = [data.draw(types[p.name].values) for p in chosen]
        named = data.draw(st.sets(st.sampled_from([p.name for p in parameters] + ["further"]), max_size=4))
        double = [p for p in parameters if p.kind is inspect.Parameter.VAR_KEYWORD]
        by_name = {p.name: p for p in parameters if p.kind in (1, 3)}
        kwargs = {}
        for name in named | {p.name for p in by_name.values() if p.default is p.empty and p not in chosen}:
            source = [by_name[name]] if name in by_name else double or parameters
            kwargs[name] = data.draw(types[source[0].name].values) if source else 1
        try:
            expected = function(*args, **kwargs)
        except TypeError:
            with pytest.raises(ArgumentError) as caught:
                codec.pack_arguments(*args, **kwargs)
            assert isinstance(caught.value, TypeError)
            continue
        arrived_args, arrived_kwargs = codec.unpack_arguments(codec.pack_arguments(*args, **kwargs))
        assert type(arrived_args) is tuple
        assert same(function(*arrived_args, **arrived_kwargs), expected)


@thorough
@given(st.data())
def test_arguments_of_every_type_arrive_as_they_were(data: st.DataObject) -> None:
    function, types = data.draw(functions(TYPES))
    codec = CommandCodec("Test.command", schema_of(function, method=False))
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for parameter in inspect.signature(function).parameters.values():
        value = data.draw(types[parameter.name].values)
        if parameter.kind in (0, 1, 2):
            args.append(value)
        elif parameter.kind == 3:
            kwargs[parameter.name] = value
        else:
            kwargs["further"] = value
    arrived_args, arrived_kwargs = codec.unpack_arguments(codec.pack_arguments(*args, **kwargs))
    assert same(function(*arrived_args, **arrived_kwargs), function(*args, **kwargs))


def attack(codec: CommandCodec, payload: Any) -> None:
    """Unpacks a payload of a peer. Anything but a value or the documented error fails."""
    with suppress(ArgumentError):
        codec.unpack_arguments(payload)
    with suppress(CodecError):
        codec.unpack_result(payload)


@st.composite
def mutated(draw: st.DrawFn, payload: bytes) -> bytes:
    """A good payload with some bytes changed, cut out or put in."""
    data = bytearray(payload)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(["set", "cut", "insert"])):
            case "set" if at < len(data):
                data[at] = draw(st.integers(0, 255))
            case "cut":
                del data[at : at + draw(st.integers(1, 3))]
            case _:
                data[at:at] = draw(st.sampled_from(SPLINTERS))
    return bytes(data)


SPLINTERS = [
    b"\xc0",
    b"\xc1",
    b"\xc3",
    b"\x90",
    b"\x80",
    b"\xcb\x7f\xf8\0\0\0\0\0\0",
    b"\xa1\xff",
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\xc9\xff\xff\xff\xff\x01",
    b"\xd6\xff\0\0\0\0",
    b"\xd4\x01\x80",
    b"\xc7\x00\x01",
    b"\xd6\x03\0\0\0\0",
    b"\xc7\x0c\x02" + b"\xff" * 12,
    b"\xc7\x14\x02" + struct.pack(">HBBBBBBIq", 1, 1, 1, 0, 0, 0, 0, 0, 10**17),
]


@thorough
@given(st.data())
def test_hostile_payloads_raise_only_what_is_documented(data: st.DataObject) -> None:
    typed = data.draw(TYPES)

    def command(*args: Any, **kwargs: Any) -> Any: ...

    command.__annotations__ = {"args": typed.hint, "kwargs": typed.hint, "return": typed.hint}
    codec = CommandCodec("Test.command", schema_of(command, method=False))
    good = codec.pack_arguments(data.draw(typed.values), key=data.draw(typed.values))
    body, segments = good if isinstance(good, Segmented) else (good, [])
    for _ in range(5):
        bad = data.draw(st.one_of(mutated(bytes(body)), st.binary(max_size=40)))
        attack(codec, bad)
        attack(codec, Segmented(bad, [*segments, b"one more"] if data.draw(st.booleans()) else segments))


PLAIN = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.floats(), st.text(max_size=2), st.binary(max_size=2)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=2), inner, max_size=3)),
    max_leaves=12,
)


@thorough
@given(st.data())
def test_good_msgpack_of_wrong_shapes_raises_only_what_is_documented(data: st.DataObject) -> None:
    function, _ = data.draw(functions(TYPES))
    codec = CommandCodec("Test.command", schema_of(function, method=False))
    total = len(inspect.signature(function).parameters)
    shape = st.one_of(
        PLAIN,
        st.lists(PLAIN, min_size=total, max_size=total),
        st.dictionaries(st.integers(-1, total), PLAIN, max_size=total),
    )
    for value in data.draw(st.lists(shape, max_size=5)):
        attack(codec, msgpack.packb(value))
