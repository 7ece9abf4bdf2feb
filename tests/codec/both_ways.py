"""Values there and back, by the generated source and by the walk: both have to say the same."""

from __future__ import annotations

import collections
import dataclasses
import enum
import math
from collections.abc import Callable
from datetime import datetime, time
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from typedrpc.codec import CodecError, CommandCodec, Payload, Segmented
from typedrpc.codec.arguments import ArgumentsCoder
from typedrpc.codec.base import Coders
from typedrpc.codec.result import ResultCoder
from typedrpc.errors import ArgumentError
from typedrpc.schema import Node, Parameter, ParameterKind, Schema, node_of

NOT_TAKEN = object()
"""The outcome of source that leaves a value to the walk."""


def same(a: Any, b: Any) -> bool:
    """Equal in value and in type, all the way down; NaN is itself, and -0.0 is not 0.0."""
    if type(a) is not type(b):
        return False
    match a:
        case float():
            return bool(a == b and math.copysign(1, a) == math.copysign(1, b)) or (math.isnan(a) and math.isnan(b))
        case complex():
            return same(a.real, b.real) and same(a.imag, b.imag)
        case enum.Enum() | None:
            return id(a) == id(b)
        case datetime() | time():
            return (a.replace(tzinfo=None), a.fold) == (b.replace(tzinfo=None), b.fold) and _same_zone(a, b)
        case Fraction():
            return (a.numerator, a.denominator) == (b.numerator, b.denominator)
        case range():
            return (a.start, a.stop, a.step) == (b.start, b.stop, b.step)
        case memoryview():
            return bool(a.tobytes() == b.tobytes())
        case list() | tuple() | collections.deque():
            return len(a) == len(b) and all(map(same, a, b))
        case dict():
            if len(a) != len(b) or (isinstance(a, collections.OrderedDict) and not all(map(same, a, b))):
                return False
            known = {key: key for key in b}
            pairs = [(key, _counterpart(key, known)) for key in a]
            return all(theirs is not NOT_TAKEN and same(a[ours], b[theirs]) for ours, theirs in pairs)
        case set() | frozenset():
            known = {item: item for item in b}
            return len(a) == len(b) and all(_counterpart(item, known) is not NOT_TAKEN for item in a)
        case Decimal():
            return str(a) == str(b)
    if dataclasses.is_dataclass(a):
        return all(same(getattr(a, field.name), getattr(b, field.name)) for field in dataclasses.fields(a))
    return bool(a == b) and str(a) == str(b)


def _counterpart(key: Any, keys: dict[Any, Any]) -> Any:
    """The key among `keys` that `key` is the same as, itself where it is there."""
    if (found := keys.get(key, NOT_TAKEN)) is not NOT_TAKEN and same(key, found):
        return found
    return next((other for other in keys if same(key, other)), NOT_TAKEN)


def _same_zone(a: datetime | time, b: datetime | time) -> bool:
    ours, theirs = (getattr(value.tzinfo, "key", None) for value in (a, b))
    return (ours, a.utcoffset()) == (theirs, b.utcoffset())


def schema_for(node: Node) -> Schema:
    """The schema of a command that takes and returns values of one type."""
    return Schema((Parameter("value", ParameterKind.POSITIONAL_OR_KEYWORD, node, True),), node)


class BothWays:
    """The codec of a command that takes and returns values of one type, with its source and its walk apart."""

    def __init__(self, hint: Any) -> None:
        self.node = hint if isinstance(hint, Node) else node_of(hint)
        schema = schema_for(self.node)
        self.codec = CommandCodec("Test.command", schema)
        self._coders = Coders()
        self.arguments = ArgumentsCoder("Test.command", schema, self._coders)
        self.result = ResultCoder("Test.command", schema, self._coders)
        self.pack_walk: Callable[[Any], Payload] = self.result._pack_slowly
        self.unpack_walk: Callable[[Payload], Any] = self.result._unpack_slowly
        self.pack_source = self._without_walk("compile_pack", "_pack_slowly")
        self.unpack_source = self._without_walk("compile_unpack", "_unpack_slowly")

    def _without_walk(self, compile: str, walk: str) -> Callable[[Any], Any]:
        coder: Any = ResultCoder("Test.command", schema_for(self.node), self._coders)
        setattr(coder, walk, lambda value: NOT_TAKEN)
        return getattr(coder, compile)()  # type: ignore[no-any-return]  # chosen by name

    def arrives(self, value: object) -> Any:
        """What a value arrives as; fails where source and walk, or argument and result, do not agree on it."""
        payload = self.codec.pack_result(value)
        assert _same_payload(self.pack_walk(value), payload)
        by_source = self.pack_source(value)
        assert by_source is NOT_TAKEN or _same_payload(by_source, payload)
        arrived = self.received(payload)
        (argument,), named = self.codec.unpack_arguments(self.codec.pack_arguments(value))
        assert named == {}
        assert same(argument, arrived)
        (argument,), _ = self.arguments._unpack_slowly(self.arguments._pack_slowly([value], (), {}))
        assert same(argument, arrived)
        return arrived

    def received(self, payload: Payload) -> Any:
        """What a payload holds; fails where source and walk do not agree on it."""
        arrived = self.codec.unpack_result(payload)
        assert same(self.unpack_walk(payload), arrived)
        by_source = self.unpack_source(payload)
        assert by_source is NOT_TAKEN or same(by_source, arrived)
        return arrived

    def taken(self, value: object) -> bool:
        """Whether the source takes the value, and what it packs, without the walk."""
        packed = self.pack_source(value)
        return packed is not NOT_TAKEN and self.unpack_source(packed) is not NOT_TAKEN

    def refuses(self, value: object) -> str:
        """Why a value is refused, from its place on; fails where source and walk, or argument and result, differ."""
        assert self.pack_source(value) is NOT_TAKEN
        text = _text(self.codec.pack_result, value)
        with pytest.raises(ArgumentError) as caught:
            self.codec.pack_arguments(value)
        assert str(caught.value).removeprefix("Test.command: argument 'value'") == text
        return text

    def refuses_payload(self, payload: Payload) -> str:
        """The same of what a peer sent."""
        assert self.unpack_source(payload) is NOT_TAKEN
        return _text(self.codec.unpack_result, payload)


def _text(function: Callable[[Any], Any], value: object) -> str:
    with pytest.raises(CodecError) as caught:
        function(value)
    return str(caught.value).removeprefix("Test.command: result")


def _same_payload(a: Payload, b: Payload) -> bool:
    if isinstance(a, Segmented) and isinstance(b, Segmented):
        return a.body == b.body and [bytes(one) for one in a.segments] == [bytes(one) for one in b.segments]
    return type(a) is type(b) and a == b
