"""Coders of the values that hold no others: scalars, literals and enums."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

from typedrpc.codec import body
from typedrpc.codec.base import NO_TYPES, Coder, Coders, choose_coder, coder_for
from typedrpc.codec.body import SEGMENT_THRESHOLD, Packing, Segment, SegmentReader, UnknownZone
from typedrpc.codec.faults import Fault, Misfit, index_step, short, type_name
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
        return 1000 if issubclass(kind, int) else super().accepts(kind)

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


def _exact_bytes(value: bytes) -> bytes:
    return memoryview(value).tobytes()  # bytes(value) would ask a subclass first


class BytesCoder(ExactCoder):
    """Bytes travel as bin, or from `SEGMENT_THRESHOLD` bytes on beside the body; as keys of maps always as bin.

    Large ones are sent without a copy and arrive with one: Python cannot read into ``bytes``, only into buffers that
    can be changed. Who minds takes a ``bytearray`` or a ``memoryview``.
    """

    exact_type = bytes
    base = staticmethod(_exact_bytes)
    crowds = False
    map_key = plain = lenient = large = True

    def __init__(self, node: Node, coders: Coders, *, inline: bool = False) -> None:
        super().__init__(node, coders)
        self._coders = coders
        self._inline = inline
        if inline:
            self.large = self.lenient = False
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
            return bytes(segments.take(data))
        return super().unpack(data, segments)

    def emit(self, out: Source, way: Way, var: str, *, typed: bool = False) -> str:
        if self._inline:
            return super().emit(out, way, var, typed=typed)
        if way == "unpack":
            return out.assign(f"{var} if type({var}) is bytes else bytes(segments.take({var}))")
        super().emit(out, way, var, typed=typed)
        return out.assign(f"{var} if len({var}) < {SEGMENT_THRESHOLD} else segment({var}, segments)")


class BufferCoder(Coder):
    """A bytearray or a memoryview travels as bytes do, and a large one arrives in the buffer that it was read into.

    A small one is copied into the body. A large one is not copied: whoever sends it sees to it that it is written, or
    copied, before its owner may change it.
    """

    plain = large = True
    wire = frozenset({bytes, Segment})
    made: Callable[[Any], object]

    def pack(self, value: object, packing: Packing) -> object:
        if not self._fits(value):
            raise self.misfit(value)
        try:
            view = memoryview(cast(bytes, value))
        except ValueError as error:  # it was released
            raise Fault(self.node, str(error), is_type=False) from None
        if not view.c_contiguous or view.ndim != 1 or view.format != "B":
            raise Fault(self.node, f"a memoryview of format {view.format!r}, not of contiguous bytes", is_type=False)
        return view if len(view) < SEGMENT_THRESHOLD else body.segment(view, packing.segments)

    def _fits(self, value: object) -> bool:
        return self.accepts(type(value)) is not None

    def unpack(self, data: object, segments: SegmentReader) -> object:
        if type(data) is bytes:
            return self.made(data)
        if type(data) is Segment:
            return self.made(segments.take(data))
        raise self.misfit(data)

    def emit(self, out: Source, way: Way, var: str, *, typed: bool = False) -> str:
        made = out.constant(self.made)
        if way == "unpack":
            return out.assign(f"{made}({var} if type({var}) is bytes else segments.take({var}))")
        (kind,) = self.sends
        if not typed:
            with out.block(f"if type({var}) is not {out.constant(kind)}:"):
                out.line("raise misfit")
        # What may be changed while it waits to be sent is looked at through a view: changes show, its size cannot.
        view = out.assign(f"{out.constant(byte_view)}({var})")
        return out.assign(f"{view} if len({view}) < {SEGMENT_THRESHOLD} else segment({view}, segments)")


def byte_view(value: bytearray | memoryview) -> memoryview:
    """A view of the bytes of a buffer, for generated code."""
    view = memoryview(value)
    if not view.c_contiguous or view.ndim != 1 or view.format != "B":
        raise Misfit
    return view


def _own_bytearray(data: object) -> bytearray:
    return data if type(data) is bytearray else bytearray(cast(bytes, data))


def _read_only(data: object) -> memoryview:
    view = memoryview(cast(bytes, data))
    return view if view.readonly else view.toreadonly()


class BytearrayCoder(BufferCoder):
    """A large bytearray arrives as the very one that it was read into."""

    sends = frozenset({bytearray})
    made = staticmethod(_own_bytearray)


class MemoryviewCoder(BufferCoder):
    """A memoryview of bytes arrives as a read-only one."""

    sends = frozenset({memoryview})
    made = staticmethod(_read_only)


PLAIN_TYPES = frozenset({type(None), bool, int, float, str, bytes, list, dict})
PLAIN_KEYS = frozenset({type(None), bool, int, float, str, bytes})
_HOLDING = frozenset({list, dict})
PLAIN_DEPTH = 200
"""How deep plain data may nest in a value annotated with ``Any``."""


def check_plain(value: object) -> object:
    """`value`, if it is plain data: None, bools, ints, floats, text, bytes, and lists and dicts of these, exactly.

    Raises:
        Fault: It is not; with the path.
    """
    # Depth first, one iterator a level: a value that holds itself often, or a peer's long one, costs no more for it.
    path: list[tuple[type, Any]] = []
    above: list[tuple[type, Iterator[tuple[Any, Any]]]] = [(object, iter([("", value)]))]
    while above:
        holder, parts = above[-1]
        key, item = next(parts, _NO_MORE)
        if key is _END:
            above.pop()
            if path:
                path.pop()
            continue
        kind = type(item)
        if kind is list or kind is dict:
            if len(above) > PLAIN_DEPTH:
                raise Fault(f"plain data of at most {PLAIN_DEPTH} levels", "more", is_type=False)
            path.append((holder, key))
            if kind is dict:
                _check_keys(item, path)
            above.append((kind, iter(item.items() if kind is dict else enumerate(item))))
        elif kind is str and not item.isascii():
            _check_text(item, [*path, (holder, key)])
        elif kind not in PLAIN_TYPES:
            raise Fault("plain data", type_name(item)).within(_plain_path([*path, (holder, key)]))
    return value


_NO_MORE: Any = (object(), None)
_END = _NO_MORE[0]


def _plain_path(path: list[tuple[type, Any]]) -> str:
    steps: dict[type, Callable[[Any], str]] = {object: str, list: "[{}]".format, dict: index_step}
    return "".join(steps[holder](key) for holder, key in path)


def _check_keys(keys: Iterable[object], path: list[tuple[type, Any]]) -> None:
    for key in keys:
        if type(key) not in PLAIN_KEYS:
            raise Fault("a plain key", type_name(key)).within(_plain_path(path))
        if type(key) is str and not key.isascii():
            _check_text(key, [*path, (dict, key)])


def _check_text(text: str, path: list[tuple[type, Any]]) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Fault("str", f"a lone surrogate at index {error.start}", is_type=False).within(
            _plain_path(path)
        ) from None


def is_plain(value: object) -> object:
    """`value`, if it is plain data, for generated code: like `check_plain` without paths."""
    level: list[Any] = [value]
    seen = 0
    for _ in range(PLAIN_DEPTH + 1):
        kinds = {*map(type, level)}
        if not kinds <= PLAIN_TYPES:
            raise Misfit
        if kinds.isdisjoint(_HOLDING):
            return value
        below: list[Any] = []
        for item in level:
            if type(item) is list:
                below += item
            elif type(item) is dict:
                if not {*map(type, item)} <= PLAIN_KEYS:
                    raise Misfit
                below += item.values()
        seen += len(below)
        if seen > MANY:
            return _is_plain_depth_first(value)
        level = below
    raise Misfit


MANY = 1_000_000
"""Values after which it is asked whether there are so many, or one that holds itself often."""


def _is_plain_depth_first(value: object) -> object:
    """The same level by level downwards: slower, but one that holds itself twice does not grow."""
    if type(value) not in PLAIN_TYPES:
        raise Misfit
    left: list[tuple[int, Any]] = [(1, value)]
    while left:
        depth, item = left.pop()
        parts: Any = ()
        if type(item) is list:
            parts = item
        elif type(item) is dict:
            if not {*map(type, item)} <= PLAIN_KEYS:
                raise Misfit
            parts = item.values()
        kinds = {*map(type, parts)}
        if not kinds <= PLAIN_TYPES or depth > PLAIN_DEPTH:
            raise Misfit
        if not _HOLDING.isdisjoint(kinds):
            left += [(depth + 1, part) for part in parts if type(part) in _HOLDING]
    return value


class AnyCoder(Coder):
    """Plain data travels as it is, whatever it is."""

    wire = PLAIN_TYPES
    also_sends = PLAIN_TYPES

    def accepts(self, kind: type) -> int | None:
        return 3000

    def pack(self, value: object, packing: Packing) -> object:
        return check_plain(value)

    def unpack(self, data: object, segments: SegmentReader) -> object:
        return check_plain(data)

    def emit(self, out: Source, way: Way, var: str, *, typed: bool = False) -> str:
        out.line(f"{out.constant(is_plain)}({var})")
        return var


SCALAR_CODERS: dict[str, type[Coder]] = {
    "None": NoneCoder,
    "bool": BoolCoder,
    "int": IntCoder,
    "float": FloatCoder,
    "str": StrCoder,
    "bytes": BytesCoder,
    "bytearray": BytearrayCoder,
    "memoryview": MemoryviewCoder,
    "datetime": DatetimeCoder,
    "Any": AnyCoder,
}
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


@coder_for(FlagNode)
class FlagCoder(Coder):
    """A combination of flags travels as the sum of its bits."""

    map_key = small = plain = True
    wire = frozenset({int})

    def __init__(self, node: FlagNode, coders: Coders) -> None:
        super().__init__(node, coders)
        if node.cls is None:
            raise TypeError(f"the flag {node.name} came from a peer; it has no class here")
        self._cls: Any = node.cls
        self.sends = frozenset({node.cls})

    def pack(self, value: Any, packing: Packing) -> object:
        if type(value) is not self._cls:
            raise self.misfit(value)
        return value._value_

    def unpack(self, data: object, segments: SegmentReader) -> object:
        if type(data) is not int:
            raise self.misfit(data)
        try:
            return self.made(data)
        except Exception as error:  # which bits are refused, and how, is the class's affair
            raise Fault(self.node, f"{short(data)}: {type(error).__name__}", is_type=False) from error

    def made(self, bits: int) -> object:
        """The combination with these bits. Raises Misfit where the class has no such, or would drop some."""
        value = self._cls(bits)
        if type(value) is not self._cls or value._value_ != bits:
            raise Misfit
        return value

    def emit(self, out: Source, way: Way, var: str, *, typed: bool = False) -> str:
        (kind,) = self.sends if way == "pack" else self.wire
        if not typed:
            with out.block(f"if type({var}) is not {out.constant(kind)}:"):
                out.line("raise misfit")
        return out.assign(f"{var}._value_" if way == "pack" else f"{out.constant(self.made)}({var})")
