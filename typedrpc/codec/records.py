"""The coder of dataclasses."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from typedrpc.codec.base import Coder, Coders, coder_for
from typedrpc.codec.body import Packing, SegmentReader
from typedrpc.codec.faults import Fault, type_name
from typedrpc.codec.source import Source, Way
from typedrpc.schema import DataclassNode


@coder_for(DataclassNode)
class DataclassCoder(Coder):
    """A dataclass travels as an array of its fields in declaration order, and arrives by calling the class.

    An instance of a subclass travels as the annotated class. Each dataclass has one helper function in the source for a
    value and one for a column, however often it occurs.
    """

    wire = frozenset({list})
    decides = True

    def __init__(self, node: DataclassNode, coders: Coders) -> None:
        super().__init__(node, coders)
        if node.cls is None:
            raise TypeError(f"the dataclass {node.name} came from a peer; it has no class here")
        self._cls: Any = node.cls
        self._names = [field.name for field in node.fields]
        self._coders = [coders.of(field.node) for field in node.fields]
        keywords = {field.name for field in dataclasses.fields(self._cls) if field.kw_only}
        self._keywords = [name in keywords for name in self._names]
        self.sends = frozenset({self._cls})
        self.bounded = all(coder.bounded for coder in self._coders)
        self.bare = all(coder.bare for coder in self._coders)
        self.uses_segments = any(coder.uses_segments for coder in self._coders)

    def pack(self, value: object, packing: Packing) -> object:
        if not issubclass(type(value), self._cls):
            raise self.misfit(value)
        packed = []
        for name, coder in zip(self._names, self._coders, strict=True):
            try:
                packed.append(coder.pack(self._attribute(value, name), packing))
            except Fault as fault:
                raise fault.within(f".{name}") from None
        return packed

    def _attribute(self, value: object, name: str) -> object:
        try:
            return getattr(value, name)
        except Exception as error:  # a property, or an attribute that was deleted
            raise Fault("a value", f"{type(error).__name__}: {error}", is_type=False) from error

    def unpack(self, data: object, segments: SegmentReader) -> object:
        if type(data) is not list:
            raise self.misfit(data)
        if len(data) != len(self._coders):
            raise Fault(self.node, f"{type_name(data)} of {len(data)} items for {len(self._coders)} fields")
        positional: list[object] = []
        named: dict[str, object] = {}
        for name, keyword, coder, item in zip(self._names, self._keywords, self._coders, data, strict=True):
            try:
                value = coder.unpack(item, segments)
            except Fault as fault:
                raise fault.within(f".{name}") from None
            if keyword:
                named[name] = value
            else:
                positional.append(value)
        try:
            return self._cls(*positional, **named)
        except Exception as error:  # __post_init__ is anybody's code, and data of a peer must not raise anything else
            raise Fault(self.node, f"fields it refuses: {type(error).__name__}: {error}", is_type=False) from error

    def emit(self, out: Source, way: Way, var: str, *, typed: bool = False) -> str:
        def emit_helper() -> None:
            out.line(f"return {self._emit_fields(out, way, 'value')}")

        return self._emit_call(out, var, (self._cls, way), f"{way}_value", emit_helper)

    def emit_column(self, out: Source, way: Way, var: str) -> str:
        def emit_helper() -> None:
            out.line("result = []")
            item = out.fresh()
            with out.block(f"for {item} in value:"):
                out.line(f"result.append({self._emit_fields(out, way, item)})")
            out.line("return result")

        return self._emit_call(out, var, (self._cls, way, "column"), f"{way}_column", emit_helper)

    def _emit_call(self, out: Source, var: str, key: object, like: str, emit_helper: Callable[[], None]) -> str:
        segments = ", segments" if self.uses_segments else ""
        helper = out.helper(key, like, f"value{segments}", emit_helper)
        return out.assign(f"{helper}({var}{segments})")

    def _emit_fields(self, out: Source, way: Way, var: str) -> str:
        """Writes the code for one value, its fields inline. Returns an expression for the outcome."""
        with out.block(f"if type({var}) is not {out.constant(self._cls) if way == 'pack' else 'list'}:"):
            out.line("raise misfit")
        before = [out.fresh(name) for name in self._names]
        if way == "pack":
            for name, item in zip(self._names, before, strict=True):
                out.line(f"{item} = {var}.{name}")
        elif before:
            out.line(f"{', '.join(before)}, = {var}")
        else:
            with out.block(f"if {var}:"):
                out.line("raise misfit")
        after = [coder.emit(out, way, item) for coder, item in zip(self._coders, before, strict=True)]
        if way == "pack":
            return f"({', '.join(after)}{',' if after else ''})"
        fields = list(zip(self._names, after, self._keywords, strict=True))
        arguments = [item for _, item, keyword in fields if not keyword]
        arguments += [f"{name}={item}" for name, item, keyword in fields if keyword]
        return f"{out.constant(self._cls)}({', '.join(arguments)})"
