"""Round trips and hostile payloads over types, signatures and calls that hypothesis invents."""

import inspect
from contextlib import suppress
from typing import Any

import msgpack  # type: ignore[import-untyped]  # it ships no types
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.codec.both_ways import BothWays, same
from tests.codec.invented import SCALARS, TYPES, functions, mutated, thorough
from typedrpc.codec import CodecError, CommandCodec, Segmented
from typedrpc.errors import ArgumentError
from typedrpc.schema import schema_of


@thorough(75)
@given(st.data())
def test_every_value_of_every_type_arrives_as_it_was(data: st.DataObject) -> None:
    """As argument and as result, by source and by walk."""
    typed = data.draw(TYPES)
    both = BothWays(typed.hint)
    for value in data.draw(st.lists(typed.values, min_size=1, max_size=6)):
        assert same(both.arrives(value), value)


@thorough(40)
@given(st.data())
def test_the_source_and_the_walk_agree_on_any_value(data: st.DataObject) -> None:
    typed, others = data.draw(TYPES), data.draw(st.lists(TYPES, min_size=1, max_size=4))
    both = BothWays(typed.hint)
    for value in data.draw(st.lists(st.one_of([other.values for other in others]), min_size=1, max_size=4)):
        try:
            both.pack_walk(value)
        except CodecError:
            both.refuses(value)
        else:
            both.arrives(value)


@thorough(50)
@given(st.data())
def test_calls_bind_as_python_binds_them(data: st.DataObject) -> None:
    function, types = data.draw(functions(st.sampled_from(SCALARS[:5])))
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


@thorough(50)
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


@thorough(100)
@given(st.data())
def test_hostile_payloads_raise_only_what_is_documented(data: st.DataObject) -> None:
    """And where the source takes one, the walk takes it for the same value."""
    typed = data.draw(TYPES)
    both = BothWays(typed.hint)
    good = both.codec.pack_result(data.draw(typed.values))
    body, segments = good if isinstance(good, Segmented) else (good, [])
    for _ in range(6):
        bad = data.draw(st.one_of(mutated(bytes(body)), st.binary(max_size=40)))
        for payload in (bad, Segmented(bad, [*segments, b"one more"] if data.draw(st.booleans()) else segments)):
            with suppress(CodecError):
                both.received(payload)
            attack(both.codec, payload)
        attack(both.codec, b"\x91" + bad)


@thorough(30)
@given(st.data())
def test_hostile_arguments_raise_only_what_is_documented(data: st.DataObject) -> None:
    typed = data.draw(TYPES)

    def command(*args: Any, **kwargs: Any) -> Any: ...

    command.__annotations__ = {"args": typed.hint, "kwargs": typed.hint, "return": typed.hint}
    codec = CommandCodec("Test.command", schema_of(command, method=False))
    good = codec.pack_arguments(data.draw(typed.values), key=data.draw(typed.values))
    body = good.body if isinstance(good, Segmented) else good
    for _ in range(5):
        attack(codec, data.draw(mutated(bytes(body))))


PLAIN = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.floats(), st.text(max_size=2), st.binary(max_size=2)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=2), inner, max_size=3)),
    max_leaves=12,
)


@thorough(30)
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


@thorough(50)
@given(st.data())
def test_many_at_once_are_as_one_by_one(data: st.DataObject) -> None:
    """The arguments of calls, and results; what does not fit is never taken."""
    function, types = data.draw(functions(TYPES))
    codec = CommandCodec("Test.command", schema_of(function, method=False))
    parameters = list(inspect.signature(function).parameters.values())
    calls = [
        tuple(data.draw(types[p.name].values) for p in parameters if p.kind < inspect.Parameter.KEYWORD_ONLY)
        for _ in range(3)
    ]
    if codec.has_callbacks:
        return
    alone: list[Any] = []
    for args in calls:
        try:
            alone.append(codec.pack_arguments(*args))
        except ArgumentError:
            with pytest.raises(ArgumentError):
                list(codec.pack_each(iter([args]), len(args)))
            return
    if calls[0]:
        assert list(codec.pack_each(iter(calls), len(calls[0]))) == alone
    if codec.unpack_many is None or not all(isinstance(payload, bytes) for payload in alone):
        return
    found = codec.unpack_many(b"\xdd\x00\x00\x00\x03" + b"".join(alone))
    if found is not None:
        expected = [codec.unpack_arguments(payload)[0] for payload in alone]
        assert same([tuple(args) for args in found], expected)
    bad = data.draw(mutated(alone[0])) if alone[0] else b""
    found = codec.unpack_many(b"\xdd\x00\x00\x00\x02" + alone[1] + bad)
    if found is not None and isinstance(bad, bytes):
        assert same(tuple(found[1]), codec.unpack_arguments(bad)[0])


@thorough(50)
@given(st.data())
def test_many_results_at_once_are_as_one_by_one(data: st.DataObject) -> None:
    typed = data.draw(TYPES)

    def function() -> Any: ...

    function.__annotations__["return"] = typed.hint
    codec = CommandCodec("Test.command", schema_of(function, method=False))
    packed: list[Any] = [
        codec.pack_result(value) for value in data.draw(st.lists(typed.values, min_size=1, max_size=5))
    ]
    if codec.unpack_results is None or not all(isinstance(payload, bytes) for payload in packed):
        return
    array = b"\xdd" + len(packed).to_bytes(4, "big") + b"".join(packed)
    assert same(codec.unpack_results(array), [codec.unpack_result(payload) for payload in packed])
