"""The coder of records: classes with typed fields, and dicts with typed keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from keyword import iskeyword
from types import FunctionType
from typing import Any, Final

from typedrpc.codec.base import Coder, Coders, choose_coder, lazily
from typedrpc.codec.body import Packing, SegmentReader
from typedrpc.codec.faults import Fault, index_step, told, type_name
from typedrpc.codec.source import Source, Way
from typedrpc.schema import Field, IgnoredNode, RecordNode

MAX_INLINE: Final = 8
"""Fields of a record without further parts up to which its code is written out wherever it occurs."""


class RecordCoder(Coder):
    """A record travels as an array of its fields in declaration order, and arrives by calling the class, or as if.

    An instance of a subclass travels as the annotated class. In the source each record has one helper function for a
    value and one for a column, however often it occurs; only the value of a small one is written out in its place.
    """

    wire = frozenset({list})
    decides = small = plain = True

    def __init__(self, node: RecordNode, coders: Coders) -> None:
        super().__init__(node, coders)
        if node.cls is None:
            raise TypeError(f"the record {node.name} came from a peer; it has no class here")
        self._cls: Any = node.cls
        self._fields = node.fields
        self._coders = [coders.of(field.node) for field in node.fields]
        self.parts = tuple(self._coders)
        self.sends = frozenset({self._cls})
        # Of records without fields an array could not tell how many there are.
        self.width = len(self._fields) or None

    def pack(self, value: object, packing: Packing) -> object:
        if not issubclass(type(value), self._cls):
            raise self.misfit(value)
        packing.adapted += type(value) is not self._cls
        packed = []
        for field, coder in zip(self._fields, self._coders, strict=True):
            try:
                packed.append(coder.pack(self._attribute(value, field.name), packing))
            except Fault as fault:
                raise fault.within(f".{field.name}") from None
        return packed

    def _attribute(self, value: object, name: str) -> object:
        try:
            return getattr(value, name)
        except Exception as error:  # a property, or an attribute that was deleted
            raise Fault("a value", told(error), is_type=False) from error

    def unpack(self, data: object, segments: SegmentReader) -> object:
        if type(data) is not list:
            raise self.misfit(data)
        if len(data) != len(self._coders):
            raise Fault(self.node, f"{type_name(data)} of {len(data)} items for {len(self._coders)} fields")
        positional: list[object] = []
        named: dict[str, object] = {}
        for field, coder, item in zip(self._fields, self._coders, data, strict=True):
            try:
                value = coder.unpack(item, segments)
            except Fault as fault:
                raise fault.within(f".{field.name}") from None
            if isinstance(field.node, IgnoredNode):
                continue
            if field.argument is None:
                positional.append(value)
            else:
                named[field.argument] = value
        try:
            return self._cls(*positional, **named)
        except Exception as error:  # __post_init__ is anybody's code, and data of a peer must not raise anything else
            raise Fault(self.node, f"fields it refuses: {told(error)}", is_type=False) from error

    def emit(self, out: Source, way: Way, var: str, *, typed: bool = False) -> str:
        if not typed:
            self._emit_test(out, way, var)
        if len(self._coders) <= MAX_INLINE and not any(coder.parts for coder in self._coders):
            return out.assign(self._emit_fields(out, way, var))

        return self.emit_apart(out, way, var, "value", lambda inner: self._emit_fields(out, way, inner))

    def emit_column(self, out: Source, way: Way, var: str) -> str:
        def emit(inner: str) -> str:
            out.line("result = []")
            if way == "unpack" and self.width is not None:
                before = [_variable(out, field) for field in self._fields]
                with out.block(f"for {', '.join(before)}, in {self.emit_rows(out, inner)}:"):
                    out.line(f"result.append({self._emit_made(out, before)})")
                return "result"
            item = out.fresh()
            add = out.assign(f"result.{'append' if self.width is None else 'extend'}", "add")
            with out.block(f"for {item} in {inner}:"):
                self._emit_test(out, way, item)
                out.line(f"{add}({self._emit_fields(out, way, item)})")
            return "result"

        # A function with defaults that calls itself does not notice on CPython 3.13 when it runs out of stack.
        return self.emit_apart(out, way, var, "column", emit, loops=not self.reached[1])

    def _emit_test(self, out: Source, way: Way, var: str) -> None:
        """Writes the code that leaves a value of another type to the walk."""
        with out.block(f"if type({var}) is not {out.constant(self._cls if way == 'pack' else list)}:"):
            out.line("raise misfit")

    def _emit_fields(self, out: Source, way: Way, var: str) -> str:
        """Writes the code for the fields of one value. Returns an expression for the outcome."""
        before = [_variable(out, field) for field in self._fields]
        if way == "pack":
            for field, item in zip(self._fields, before, strict=True):
                out.line(f"{item} = {_attribute(var, field.name)}")
            after = [coder.emit_field(out, way, item) for coder, item in zip(self._coders, before, strict=True)]
            return f"({', '.join(after)}{',' if after else ''})"
        if before:
            out.line(f"{', '.join(before)}, = {var}")
        else:
            with out.block(f"if {var}:"):
                out.line("raise misfit")
        return self._emit_made(out, before)

    def _emit_made(self, out: Source, before: list[str]) -> str:
        """Writes the code for the data of the fields, in these variables. Returns an expression for the instance."""
        after = [coder.emit_field(out, "unpack", item) for coder, item in zip(self._coders, before, strict=True)]
        taken = [pair for pair in zip(self._fields, after, strict=True) if not isinstance(pair[0].node, IgnoredNode)]
        arguments = [item for field, item in taken if field.argument is None]
        arguments += [_keyword(field.argument, item) for field, item in taken if field.argument is not None]
        cls = out.constant(self._cls)
        if not self._only_assigns([field for field, _ in taken]):
            return f"{cls}({', '.join(arguments)})"
        made = out.assign(f"{out.constant(object.__new__, 'new')}({cls})")
        for field, item in taken:
            out.line(f"{made}.{field.name} = {item}")
        return made

    def _only_assigns(self, fields: list[Field]) -> bool:
        """Whether to call the class with these fields only assigns them. Then instances are made without the call."""
        assigned = self._assigned
        positional = tuple(field.name for field in fields if field.argument is None)
        return (
            assigned != ()
            and {field.argument or field.name for field in fields} == set(assigned)
            and all(field.argument in (None, field.name) for field in fields)
            and positional == assigned[: len(positional)]
        )

    @lazily
    def _assigned(self) -> tuple[str, ...]:
        return assigned_by(self._cls)


def assigned_by(cls: Any) -> tuple[str, ...]:
    """The parameters of a class whose constructor does nothing but assign each to the attribute of its name.

    The ``__init__`` that ``dataclass`` generates is of this kind, unless there is ``__post_init__``, a default factory,
    or the class is frozen. Found by its bytecode, so that it is known for certain, whoever wrote it.

    Returns:
        Their names in order; none where the constructor does anything else.
    """
    init = cls.__init__
    if type(init) is not FunctionType or cls.__new__ is not object.__new__ or type(cls).__call__ is not type.__call__:
        return ()
    code = init.__code__
    parameters = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    if len(parameters) < 2 or not all(name.isidentifier() and not iskeyword(name) for name in parameters):
        return ()
    instance, *names = parameters
    namespace: dict[str, Any] = {}
    body = "; ".join(f"{instance}.{name} = {name}" for name in names)
    exec(f"def init({', '.join(parameters)}): {body}", namespace)
    plain = namespace["init"].__code__
    alike = all(getattr(code, part) == getattr(plain, part) for part in ("co_code", "co_names", "co_varnames"))
    return tuple(names) if alike else ()


class KeyedCoder(Coder):
    """A ``TypedDict`` travels as a map, in which fields that are not required may be missing."""

    sends = wire = frozenset({dict})
    plain = True

    def __init__(self, node: RecordNode, coders: Coders) -> None:
        super().__init__(node, coders)
        self._fields = {field.name: (field, coders.of(field.node)) for field in node.fields}
        self.parts = tuple(coder for _, coder in self._fields.values())

    def pack(self, value: Any, packing: Packing) -> object:
        if not issubclass(type(value), dict):
            raise self.misfit(value)
        return self._walk(value, lambda coder, item: coder.pack(item, packing))

    def unpack(self, data: Any, segments: SegmentReader) -> object:
        if type(data) is not dict:
            raise self.misfit(data)
        return self._walk(data, lambda coder, item: coder.unpack(item, segments))

    def _walk(self, value: Mapping[Any, Any], step: Callable[[Coder, Any], object]) -> dict[str, object]:
        walked: dict[str, object] = {}
        for key in value:
            if key not in self._fields:
                raise Fault(f"a key of {self.node}", short_key(key))
        for name, (field, coder) in self._fields.items():
            if name in value:
                try:
                    outcome = step(coder, value[name])
                except Fault as fault:
                    raise fault.within(index_step(name)) from None
                if not isinstance(field.node, IgnoredNode):
                    walked[name] = outcome
            elif field.required:
                raise Fault(self.node, f"no key {name!r}")
        return walked

    def emit(self, out: Source, way: Way, var: str, *, typed: bool = False) -> str:
        return self.emit_apart(out, way, var, "value", lambda inner: self._emit_keys(out, way, inner))

    def _emit_keys(self, out: Source, way: Way, var: str) -> str:
        with out.block(f"if type({var}) is not dict:"):
            out.line("raise misfit")
        out.line("result = {}")
        out.line(f"count = len({var})")
        for name, (field, coder) in self._fields.items():
            head = "if True:" if field.required else f"if {name!r} in {var}:"
            with out.block(head):
                item = out.assign(f"{var}[{name!r}]")
                outcome = coder.emit(out, way, item)
                out.line("count -= 1" if isinstance(field.node, IgnoredNode) else f"result[{name!r}] = {outcome}")
        # A key that is none of the fields is a fault.
        with out.block("if len(result) != count:"):
            out.line("raise misfit")
        return "result"


def short_key(key: object) -> str:
    """A key that should not be there, in words."""
    return f"the key {index_step(key)[1:-1]}"


def _keyword(name: str, item: str) -> str:
    return f"{name}={item}" if name.isidentifier() and not iskeyword(name) else f"**{{{name!r}: {item}}}"


def _attribute(var: str, name: str) -> str:
    return f"{var}.{name}" if name.isidentifier() and not iskeyword(name) else f"getattr({var}, {name!r})"


def _variable(out: Source, field: Field) -> str:
    return out.fresh(field.name if field.name.isidentifier() else "v")


choose_coder(RecordNode, lambda node: KeyedCoder if node.keyed else RecordCoder)
