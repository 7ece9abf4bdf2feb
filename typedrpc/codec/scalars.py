"""Coders of the values that hold no others: scalars, literals and enums."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from typedrpc.codec import body
from typedrpc.codec.base import PROMOTED, Coder, Coders, choose_coder, coder_for
from typedrpc.codec.body import Packing, SegmentReader, UnknownZone
from typedrpc.codec.faults import Fault, Misfit, short, type_name
from typedrpc.codec.source import Source, Way
from typedrpc.schema import EnumNode, FlagNode, LiteralNode, Node, ScalarNode

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
        packing.adapted += 1
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
    crowds = False
    map_key = small = plain = True

    def emit(self, out: Source, way: Way, var: str, *, typed: bool = False) -> str:
        if not typed:
            with out.block(f"if {var} is not None:"):
                out.line("raise misfit")
        return var


class BoolCoder(ExactCoder):
    """A bool travels as true or false."""

    exact_type = bool
    crowds = False
    map_key = small = plain = True


class IntCoder(ExactCoder):
    """An int travels as an integer, or as an extension where 64 bits do not hold it."""

    exact_type = int
    base = staticmethod(int.__int__)
    map_key = small = plain = True


class StrCoder(ExactCoder):
    """A str travels as str, in UTF-8."""

    exact_type = str
    base = staticmethod(str.__str__)
    crowds = False
    map_key = plain = True

    def pack(self, value: object, packing: Packing) -> object:
        text = super().pack(value, packing)
        assert isinstance(text, str)
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise Fault("str", f"a lone surrogate at index {error.start}", is_type=False) from None
        return text


class DatetimeCoder(ExactCoder):
    """A datetime travels as an extension, and arrives naive, with its ``zoneinfo`` zone, or with a fixed offset."""

    exact_type = datetime

    def pack(self, value: object, packing: Packing) -> object:
        if not isinstance(value, datetime):
            raise self.misfit(value)
        packing.adapted += type(value) is not datetime
        try:
            return body.pack_datetime(value)
        except Exception as error:  # the tzinfo may be anybody's code
            raise Fault(
                "datetime", f"one that cannot be read: {type(error).__name__}: {error}", is_type=False
            ) from error

    def unpack(self, data: object, segments: SegmentReader) -> object:
        if type(data) is UnknownZone:
            raise Fault("datetime", f"one in {data.reason}", is_type=False)
        return super().unpack(data, segments)


def to_float(value: object) -> float:
    """The float of an int that has one, for generated code."""
    if type(value) is not int or (number := float(value)) != value:
        raise Misfit
    return number


class FloatCoder(ExactCoder):
    """A float travels as a 64-bit float; an int that equals one is accepted and becomes it, on either side."""

    exact_type = float
    base = staticmethod(float.__float__)
    map_key = small = plain = lenient = True
    also_sends = also_wire = frozenset({int})

    def accepts(self, kind: type) -> int | None:
        return PROMOTED if issubclass(kind, int) else super().accepts(kind)

    def pack(self, value: object, packing: Packing) -> object:
        if not issubclass(type(value), int):
            return super().pack(value, packing)
        packing.adapted += 1
        return self._float(value)

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
        exact = out.constant(float)
        return out.assign(f"{var} if type({var}) is {exact} else {out.constant(to_float)}({var})")

    def emit_field(self, out: Source, way: Way, var: str) -> str:
        with out.block(f"if type({var}) is not {out.constant(float)}:"):
            out.line(f"{var} = {out.constant(to_float)}({var})")
        return var


SCALAR_CODERS: dict[str, type[Coder]] = {
    "None": NoneCoder,
    "bool": BoolCoder,
    "int": IntCoder,
    "float": FloatCoder,
    "str": StrCoder,
    "datetime": DatetimeCoder,
}
"""By the name of the scalar. Those with a module of their own are added there."""
choose_coder(ScalarNode, lambda node: SCALAR_CODERS[node.name])


@coder_for(LiteralNode)
class LiteralCoder(Coder):
    """A literal travels as its value. Type and value have to be exactly those of the annotation."""

    crowds = False
    map_key = small = plain = True

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

    crowds = False
    map_key = small = plain = True

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


MAX_COMBINATIONS: Final = 65_536
"""Combinations of one class of flags that may be made of what peers send."""


@coder_for(FlagNode)
class FlagCoder(Coder):
    """A combination of flags travels as the sum of its bits, none of them beyond those of the members.

    Python keeps each combination that was ever made in the class for good, so a peer may not make any number of them.
    """

    map_key = small = plain = True
    wire = frozenset({int})

    def __init__(self, node: FlagNode, coders: Coders) -> None:
        super().__init__(node, coders)
        if node.cls is None:
            raise TypeError(f"the flag {node.name} came from a peer; it has no class here")
        self._cls: Any = node.cls
        # Those in between are of no member, but in the complement of one, if the class keeps them at all.
        highest = max(int(member.value) for member in self._cls.__members__.values())
        self._known = (1 << highest.bit_length()) - 1
        self.sends = frozenset({node.cls})

    def pack(self, value: Any, packing: Packing) -> object:
        if type(value) is not self._cls:
            raise self.misfit(value)
        bits = value._value_
        if bits & self._known != bits:
            raise Fault(self.node, f"{short(bits)}, which has bits beyond those of the members", is_type=False)
        return bits

    def unpack(self, data: object, segments: SegmentReader) -> object:
        if type(data) is not int:
            raise self.misfit(data)
        try:
            return self.made(data)
        except Exception as error:  # which bits are refused, and how, is the class's affair
            reason = str(error) if isinstance(error, Misfit) else type(error).__name__
            raise Fault(self.node, f"{short(data)}: {reason}", is_type=False) from error

    def made(self, bits: int) -> object:
        """The combination with these bits. Raises Misfit where it cannot be made, or would be one too many."""
        if bits & self._known != bits:
            raise Misfit("bits beyond those of the members")
        made = self._cls._value2member_map_
        if bits not in made and len(made) >= MAX_COMBINATIONS:
            raise Misfit(f"more than {MAX_COMBINATIONS} different combinations")
        value = self._cls(bits)
        if type(value) is not self._cls or value._value_ != bits:
            raise Misfit("no combination")
        return value

    def emit(self, out: Source, way: Way, var: str, *, typed: bool = False) -> str:
        (kind,) = self.sends if way == "pack" else self.wire
        if not typed:
            with out.block(f"if type({var}) is not {out.constant(kind)}:"):
                out.line("raise misfit")
        if way == "unpack":
            return out.assign(f"{out.constant(self.made)}({var})")
        bits = out.assign(f"{var}._value_")
        with out.block(f"if {bits} & {self._known} != {bits}:"):
            out.line("raise misfit")
        return bits
