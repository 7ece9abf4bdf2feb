"""Coders of the values that hold no others: scalars, literals and enums."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from typedrpc.codec import body
from typedrpc.codec.base import NO_TYPES, Coder, Coders, coder_for
from typedrpc.codec.body import SEGMENT_THRESHOLD, Packing, Segment, SegmentReader
from typedrpc.codec.faults import Fault, Misfit, short, type_name
from typedrpc.codec.source import Source, Way
from typedrpc.schema import EnumNode, LiteralNode, Node, ScalarNode

if TYPE_CHECKING:
    import enum


class ExactCoder(Coder):
    """A scalar that msgpack, with the hooks, packs and unpacks as it is.

    A value of a subclass becomes one of the type itself, by `base`.
    """

    exact_type: type
    base: Callable[[Any], object]

    def __init__(self, node: Node, coders: Coders) -> None:
        super().__init__(node, coders)
        self.sends = self.wire = frozenset({self.exact_type})

    def exact(self, way: Way) -> frozenset[type]:
        return self.sends

    def pack(self, value: object, packing: Packing) -> object:
        if type(value) is self.exact_type:
            return value
        if not issubclass(type(value), self.exact_type):
            raise self.misfit(value)
        return self.base(value)

    def unpack(self, data: object, segments: SegmentReader) -> object:
        if type(data) is not self.exact_type:
            raise self.misfit(data)
        return data

    def emit(self, out: Source, way: Way, var: str, *, typed: bool = False) -> str:
        if not typed:
            with out.block(f"if type({var}) is not {out.constant(self.exact_type)}:"):
                out.line("raise misfit")
        return var


class NoneCoder(ExactCoder):
    """None travels as nil."""

    exact_type = type(None)
    map_key = bounded = bare = True

    def emit(self, out: Source, way: Way, var: str, *, typed: bool = False) -> str:
        if not typed:
            with out.block(f"if {var} is not None:"):
                out.line("raise misfit")
        return var


class BoolCoder(ExactCoder):
    """A bool travels as true or false."""

    exact_type = bool
    map_key = bounded = bare = True


class IntCoder(ExactCoder):
    """An int travels as an integer, or as an extension where 64 bits do not hold it."""

    exact_type = int
    base = staticmethod(int.__int__)
    map_key = bounded = bare = True


class StrCoder(ExactCoder):
    """A str travels as str, in UTF-8."""

    exact_type = str
    base = staticmethod(str.__str__)
    map_key = bare = True

    def pack(self, value: object, packing: Packing) -> object:
        text = super().pack(value, packing)
        assert isinstance(text, str)
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise Fault("str", f"a lone surrogate at index {error.start}", is_type=False) from None
        return text


class DatetimeCoder(ExactCoder):
    """A datetime travels as an extension, and arrives naive or with a fixed offset."""

    exact_type = datetime
    bounded = True

    def pack(self, value: object, packing: Packing) -> object:
        if not isinstance(value, datetime):
            raise self.misfit(value)
        try:
            return body.pack_datetime(value)
        except Exception as error:  # the tzinfo may be anybody's code
            raise Fault(
                "datetime", f"one that cannot be read: {type(error).__name__}: {error}", is_type=False
            ) from error


def to_float(value: object) -> float:
    """The float of an int that has one, for generated code."""
    if type(value) is not int or (number := float(value)) != value:
        raise Misfit
    return number


class FloatCoder(ExactCoder):
    """A float travels as a 64-bit float; an int that equals one is accepted and becomes it, on either side."""

    exact_type = float
    base = staticmethod(float.__float__)
    map_key = bounded = bare = lenient = True
    also_sends = also_wire = frozenset({int})

    def accepts(self, kind: type) -> int | None:
        return 1000 if issubclass(kind, int) else super().accepts(kind)

    def pack(self, value: object, packing: Packing) -> object:
        return self._float(value) if issubclass(type(value), int) else super().pack(value, packing)

    def unpack(self, data: object, segments: SegmentReader) -> object:
        return self._float(data) if type(data) is int else super().unpack(data, segments)

    def _float(self, value: Any) -> float:
        whole = int.__int__(value)
        try:
            number = float(whole)
        except OverflowError:
            raise Fault("float", f"{short(whole)}, too big for one", is_type=False) from None
        if number != whole:
            raise Fault("float", f"{short(whole)}, which no float is equal to", is_type=False)
        return number

    def emit(self, out: Source, way: Way, var: str, *, typed: bool = False) -> str:
        return out.assign(f"{var} if type({var}) is float else {out.constant(to_float)}({var})")


def _exact_bytes(value: bytes) -> bytes:
    return memoryview(value).tobytes()  # bytes(value) would ask a subclass first


class BytesCoder(ExactCoder):
    """Bytes travel as bin, or from `SEGMENT_THRESHOLD` bytes on beside the body; as keys of maps always as bin."""

    exact_type = bytes
    base = staticmethod(_exact_bytes)
    map_key = bare = lenient = uses_segments = True

    def __init__(self, node: Node, coders: Coders, *, inline: bool = False) -> None:
        super().__init__(node, coders)
        self._coders = coders
        self._inline = inline
        if inline:
            self.uses_segments = self.lenient = False
        else:
            self.wire = frozenset({bytes, Segment})

    def as_key(self) -> Coder:
        return BytesCoder(self.node, self._coders, inline=True)

    def exact(self, way: Way) -> frozenset[type]:
        return self.sends if self._inline or way == "unpack" else NO_TYPES

    def pack(self, value: object, packing: Packing) -> object:
        data = super().pack(value, packing)
        assert isinstance(data, bytes)
        return data if self._inline or len(data) < SEGMENT_THRESHOLD else body.segment(data, packing.segments)

    def unpack(self, data: object, segments: SegmentReader) -> object:
        if type(data) is Segment and not self._inline:
            return segments.take(data)
        return super().unpack(data, segments)

    def emit(self, out: Source, way: Way, var: str, *, typed: bool = False) -> str:
        if self._inline:
            return super().emit(out, way, var, typed=typed)
        if way == "unpack":
            return out.assign(f"{var} if type({var}) is bytes else segments.take({var})")
        super().emit(out, way, var, typed=typed)
        return out.assign(f"{var} if len({var}) < {SEGMENT_THRESHOLD} else segment({var}, segments)")


SCALAR_CODERS: dict[str, Callable[[Node, Coders], Coder]] = {
    "None": NoneCoder,
    "bool": BoolCoder,
    "int": IntCoder,
    "float": FloatCoder,
    "str": StrCoder,
    "bytes": BytesCoder,
    "datetime": DatetimeCoder,
}


@coder_for(ScalarNode)
def scalar_coder(node: ScalarNode, coders: Coders) -> Coder:
    """The coder of a scalar, by its name."""
    return SCALAR_CODERS[node.name](node, coders)


@coder_for(LiteralNode)
class LiteralCoder(Coder):
    """A literal travels as its value. Type and value have to be exactly those of the annotation."""

    map_key = bounded = bare = True

    def __init__(self, node: LiteralNode, coders: Coders) -> None:
        super().__init__(node, coders)
        self._values: dict[type, frozenset[object]] = {
            kind: frozenset(value for value in node.values if type(value) is kind) for kind in map(type, node.values)
        }
        self.sends = self.wire = frozenset(self._values)

    def accepts(self, kind: type) -> int | None:
        return 0 if kind in self._values else None

    def _check(self, value: object) -> object:
        # The type is looked up first: a value that has it can be hashed and compared without running anybody's code.
        if value not in self._values.get(type(value), ()):
            raise Fault(self.node, short(value))
        return value

    def pack(self, value: object, packing: Packing) -> object:
        return self._check(value)

    def unpack(self, data: object, segments: SegmentReader) -> object:
        return self._check(data)

    def emit(self, out: Source, way: Way, var: str, *, typed: bool = False) -> str:
        with out.block(f"if {var} not in {out.constant(self._values, 'values')}.get(type({var}), ()):"):
            out.line("raise misfit")
        return var


@coder_for(EnumNode)
class EnumCoder(Coder):
    """A member of an enum travels as its name."""

    map_key = bounded = bare = True

    def __init__(self, node: EnumNode, coders: Coders) -> None:
        super().__init__(node, coders)
        if node.cls is None:
            raise TypeError(f"the enum {node.name} came from a peer; it has no class here")
        cls: type[enum.Enum] = node.cls
        self._cls = cls
        self._members = {name: cls[name] for name in node.members}
        self.sends, self.wire = frozenset({self._cls}), frozenset({str})

    def pack(self, value: object, packing: Packing) -> object:
        if type(value) is not self._cls:
            raise self.misfit(value)
        name = getattr(value, "_name_", None)
        if name not in self._members:
            raise Fault(self.node, f"{type_name(value)}.{name}")
        return name

    def unpack(self, data: object, segments: SegmentReader) -> object:
        if type(data) is not str:
            raise self.misfit(data)
        if data not in self._members:
            raise Fault(self.node, short(data), is_type=False)
        return self._members[data]

    def emit(self, out: Source, way: Way, var: str, *, typed: bool = False) -> str:
        members = out.constant(self._members, "members")
        if way == "unpack":
            return out.assign(f"{members}[{var}]")
        if not typed:
            with out.block(f"if type({var}) is not {out.constant(self._cls)}:"):
                out.line("raise misfit")
        name = out.assign(f"{var}._name_")
        if len(self._members) < len(self._cls):
            with out.block(f"if {name} not in {members}:"):
                out.line("raise misfit")
        return name
