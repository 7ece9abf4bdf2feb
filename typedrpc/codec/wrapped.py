"""Coders of the types that stand around another: constraints, conversions, aliases that refer to themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sized
from typing import Any, cast

from typedrpc.codec.base import CONVERTED, Coder, Coders, coder_for, lazily
from typedrpc.codec.body import CallbackIndex, Packing, Segment, SegmentReader
from typedrpc.codec.faults import Fault, Misfit, short, told
from typedrpc.codec.source import Source, Way
from typedrpc.schema import AliasNode, ConstrainedNode, ConvertedNode, IgnoredNode, Node


class AroundCoder(Coder):
    """A coder around another, whose values travel in the same form."""

    small = plain = True

    def __init__(self, node: Node, coders: Coders, inner: Coder) -> None:
        super().__init__(node, coders)
        self._coders = coders
        self._inner = inner
        self.parts = (inner,)

    @lazily
    def wire(self) -> frozenset[type]:
        return self._inner.wire

    @lazily
    def also_wire(self) -> frozenset[type]:
        return self._inner.also_wire

    @lazily
    def sends(self) -> frozenset[type]:
        return self._inner.sends

    @lazily
    def also_sends(self) -> frozenset[type]:
        return self._inner.also_sends

    @lazily
    def map_key(self) -> bool:
        return self._inner.map_key

    @lazily
    def width(self) -> int | None:
        return self._inner.width

    @lazily
    def one_shot(self) -> bool:
        return self._inner.one_shot

    def accepts(self, kind: type) -> int | None:
        return self._inner.accepts(kind)

    def pack(self, value: object, packing: Packing) -> object:
        return self._inner.pack(value, packing)

    def unpack(self, data: object, segments: SegmentReader) -> object:
        return self._inner.unpack(data, segments)


@coder_for(AliasNode)
class AliasCoder(AroundCoder):
    """An alias that refers to itself travels as what it stands for, by a function of its own in the source."""

    def __init__(self, node: AliasNode, coders: Coders) -> None:
        super().__init__(node, coders, coders.of(node.target))

    def emit(self, out: Source, way: Way, var: str, *, typed: bool = False) -> str:
        return self.emit_apart(out, way, var, "value", lambda inner: self._inner.emit(out, way, inner))


def _is_multiple(value: Any, of: Any) -> bool:
    return bool(value % of == 0)


CHECKS: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "gt": (lambda value, limit: value > limit, "{value} > {argument}"),
    "ge": (lambda value, limit: value >= limit, "{value} >= {argument}"),
    "lt": (lambda value, limit: value < limit, "{value} < {argument}"),
    "le": (lambda value, limit: value <= limit, "{value} <= {argument}"),
    "multiple_of": (_is_multiple, "{value} % {argument} == 0"),
    "min_length": (lambda value, least: len(value) >= least, "len({value}) >= {argument}"),
    "max_length": (lambda value, most: len(value) <= most, "len({value}) <= {argument}"),
    "predicate": (lambda value, holds: holds(value), "{argument}({value})"),
    "shape": (lambda value, shape: shape.allows(value.shape), "{argument}.allows({value}.shape)"),
}
"""How each constraint is checked, and the same as source."""


@coder_for(ConstrainedNode)
class ConstrainedCoder(AroundCoder):
    """A constrained value travels as one of its type. The constraints are checked before it leaves and on arrival."""

    # Another member of a union may take the value without the constraint.
    def __init__(self, node: ConstrainedNode, coders: Coders, inner: Coder | None = None) -> None:
        super().__init__(node, coders, inner or coders.of(node.base))
        self._constraints = node.constraints

    def as_key(self) -> Coder:
        assert isinstance(self.node, ConstrainedNode)
        return ConstrainedCoder(self.node, self._coders, self._inner.as_key())

    def pack(self, value: object, packing: Packing) -> object:
        packed = super().pack(value, packing)
        self._check(packing.items(cast("Iterable[object]", value)) if self.one_shot else value)
        return packed

    def unpack(self, data: object, segments: SegmentReader) -> object:
        value = super().unpack(data, segments)
        self._check(value)
        return value

    def _check(self, value: object) -> None:
        for constraint in self._constraints:
            check, _ = CHECKS[constraint.kind]
            try:
                holds = check(value, constraint.argument)
            except Exception as error:  # comparisons and predicates may be anybody's code
                raise Fault(self.node, f"{short(value)}: {told(error)}", is_type=False) from error
            if not holds:
                length = f" of length {len(value)}" if "length" in constraint.kind and isinstance(value, Sized) else ""
                raise Fault(self.node, f"{short(value)}{length}", is_type=False)

    def emit(self, out: Source, way: Way, var: str, *, typed: bool = False) -> str:
        outcome = self._inner.emit(out, way, var, typed=typed)
        value = var if way == "pack" else outcome
        tests = [
            CHECKS[constraint.kind][1].format(value=value, argument=out.constant(constraint.argument, "asked"))
            for constraint in self._constraints
        ]
        with out.block(f"if not ({' and '.join(tests)}):"):
            out.line("raise misfit")
        return outcome


@coder_for(ConvertedNode)
class ConvertedCoder(AroundCoder):
    """A converted value travels as what its class is turned into."""

    decides = True

    def __init__(self, node: ConvertedNode, coders: Coders, inner: Coder | None = None) -> None:
        super().__init__(node, coders, inner or coders.of(node.wire))
        if node.conversion is None:
            raise TypeError(f"the type {node.name} came from a peer; it has no class here")
        self._conversion = node.conversion
        self._cls: type[Any] = node.conversion.cls

    @lazily
    def sends(self) -> frozenset[type]:
        instances: frozenset[type] = self._conversion.instances
        return instances

    also_sends = Coder.also_sends
    one_shot = False

    def accepts(self, kind: type) -> int | None:
        if self._cls in kind.__mro__:
            return kind.__mro__.index(self._cls)
        ranks = enumerate(self._conversion.promoted, CONVERTED)
        return next((rank for rank, base in ranks if issubclass(kind, base)), None)

    def as_key(self) -> Coder:
        assert isinstance(self.node, ConvertedNode)
        return ConvertedCoder(self.node, self._coders, self._inner.as_key())

    def pack(self, value: object, packing: Packing) -> object:
        if self.accepts(type(value)) is None:
            raise self.misfit(value)
        packing.adapted += type(value) not in self.sends
        try:
            encoded = self._conversion.encode(value)
        except Exception as error:  # anybody's code
            raise Fault(self.node, f"one that cannot be encoded: {told(error)}", is_type=False) from error
        return super().pack(encoded, packing)

    def unpack(self, data: object, segments: SegmentReader) -> object:
        wire = super().unpack(data, segments)
        try:
            value = self._conversion.decode(wire)
        except Exception as error:  # anybody's code
            raise Fault(self.node, f"{short(wire)}: {told(error)}", is_type=False) from error
        if not isinstance(value, self._cls):
            raise Fault(self.node, f"{type(value).__name__} from its decode function", is_type=False)
        return value

    def emit(self, out: Source, way: Way, var: str, *, typed: bool = False) -> str:
        if way == "pack":
            if not typed:
                tests = (f"type({var}) is not {out.constant(kind)}" for kind in self.sends)
                with out.block(f"if {' and '.join(tests)}:"):
                    out.line("raise misfit")
            encoded = out.assign(f"{out.constant(self._conversion.encode, 'encode')}({var})")
            return self._inner.emit(out, way, encoded)
        wire = self._inner.emit(out, way, var, typed=typed)
        value = out.assign(f"{out.constant(self._conversion.decode, 'decode')}({wire})")
        with out.block(f"if not isinstance({value}, {out.constant(self._cls)}):"):
            out.line("raise misfit")
        return value


@coder_for(IgnoredNode)
class IgnoredCoder(Coder):
    """What a peer sends and nobody here takes: any data at all."""

    large = True

    def pack(self, value: object, packing: Packing) -> object:
        raise Misfit

    def unpack(self, data: object, segments: SegmentReader) -> object:
        discard(data, segments)
        return None

    def emit(self, out: Source, way: Way, var: str, *, typed: bool = False) -> str:
        out.line(f"{out.constant(discard)}({var}, segments)")
        return "None"


def discard(data: object, segments: SegmentReader) -> None:
    """Takes the segments that `data` refers to, as each has to be used, and lets go of callbacks."""
    level: list[Any] = [data]
    while level:
        below: list[Any] = []
        for item in level:
            if type(item) is Segment:
                segments.take(item)
            elif type(item) is list:
                below += item
            elif type(item) is dict:
                below += item.values()
            elif type(item) is CallbackIndex:
                segments.callbacks.drop(item)
        level = below
