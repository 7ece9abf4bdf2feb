"""Coders of bytes-likes: small ones travel in the body, large ones beside it, without a copy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from typedrpc.codec import body
from typedrpc.codec.base import NO_TYPES, Coder, Coders
from typedrpc.codec.body import SEGMENT_THRESHOLD, Packing, Received, Segment, SegmentReader
from typedrpc.codec.faults import Fault, Misfit
from typedrpc.codec.scalars import SCALAR_CODERS, ExactCoder
from typedrpc.codec.source import Source, Way
from typedrpc.schema import Node


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
    """A bytearray or a memoryview travels as bytes do, and a large memoryview is of the buffer that it was read into.

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
    if type(data) is bytearray:
        return data
    return bytearray(data.view() if type(data) is Received else cast(bytes, data))


def _read_only(data: object) -> memoryview:
    view = data.view() if type(data) is Received else memoryview(cast(bytes, data))
    return view if view.readonly else view.toreadonly()


class BytearrayCoder(BufferCoder):
    """A large bytearray is a copy of what was read: it is written to memory that is resized, which only it can be."""

    sends = frozenset({bytearray})
    made = staticmethod(_own_bytearray)


class MemoryviewCoder(BufferCoder):
    """A memoryview of bytes arrives as a read-only one."""

    sends = frozenset({memoryview})
    made = staticmethod(_read_only)


SCALAR_CODERS |= {"bytes": BytesCoder, "bytearray": BytearrayCoder, "memoryview": MemoryviewCoder}
