"""Coders of collections, tuples and mappings."""

from __future__ import annotations

import collections
import collections.abc
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from typedrpc.codec.base import ABSTRACT, MAX_NESTING, Coder, Coders, coder_for, lazily
from typedrpc.codec.body import Packing, SegmentReader, pack_body
from typedrpc.codec.faults import Fault, Misfit, index_step, short, told, type_name
from typedrpc.codec.source import Source, Way
from typedrpc.schema import CollectionNode, MappingNode, TupleNode


class _Collection(NamedTuple):
    sends: tuple[type, ...]
    accepts: type
    makes: type


COLLECTION_TYPES: Mapping[str, _Collection] = {
    "list": _Collection((list,), list, list),
    "tuple": _Collection((tuple,), tuple, tuple),
    "set": _Collection((set,), set, set),
    "frozenset": _Collection((frozenset,), frozenset, frozenset),
    "deque": _Collection((collections.deque,), collections.deque, collections.deque),
    "Sequence": _Collection((list, tuple), collections.abc.Sequence, list),
    "MutableSequence": _Collection((list,), collections.abc.MutableSequence, list),
    "Collection": _Collection((list, tuple), collections.abc.Collection, list),
    "Iterable": _Collection((list, tuple), collections.abc.Iterable, list),
    "AbstractSet": _Collection((set, frozenset), collections.abc.Set, set),
    "MutableSet": _Collection((set,), collections.abc.MutableSet, set),
}


class _Mapping(NamedTuple):
    accepts: type
    makes: Callable[..., Any] = dict


MAPPING_TYPES: Mapping[str, _Mapping] = {
    "dict": _Mapping(dict),
    "OrderedDict": _Mapping(collections.OrderedDict, collections.OrderedDict),
    "defaultdict": _Mapping(collections.defaultdict, partial(collections.defaultdict, None)),
    "Counter": _Mapping(collections.Counter, collections.Counter),
    "Mapping": _Mapping(collections.abc.Mapping),
    "MutableMapping": _Mapping(collections.abc.MutableMapping),
}


def listed(value: object) -> object:
    """The items of an iterable that may be gone after one look, in a list; any other value as it is.

    Generated code calls it on the arguments for ``Iterable``, so that the walk finds what the source has seen.
    """
    if isinstance(value, collections.abc.Iterable) and not isinstance(value, collections.abc.Sized):
        return list(value)
    return value


def distinct(packed: Iterable[object]) -> bool:
    """Whether no two of the values that the walk has packed are the same.

    Instances of a subclass may differ where their bases do not.
    """
    bodies = [pack_body(value) for value in packed]
    return len(set(bodies)) == len(bodies)


MAX_SAME_HASH = 128
"""Elements or keys of one collection that may have the same hash. A set of n such takes n * n comparisons to make."""


def spread(items: Iterable[object]) -> None:
    """Raises ValueError where so many of `items` have the same hash that a peer has chosen them for it."""
    hashes = [*map(hash, items)]
    if len(hashes) - len(set(hashes)) >= MAX_SAME_HASH and max(collections.Counter(hashes).values()) > MAX_SAME_HASH:
        raise ValueError(f"more than {MAX_SAME_HASH} of one hash")


def make_dict(pairs: Sequence[tuple[object, object]]) -> dict[object, object]:
    """The dict of pairs of a peer, for generated code."""
    spread(key for key, _ in pairs)
    made = dict(pairs)
    if len(made) != len(pairs):
        raise Misfit
    return made


def emit_type_test(out: Source, var: str, types: Iterable[type]) -> None:
    """Writes the code that leaves a value of none of these exact types to the walk."""
    tests = (f"type({var}) is not {out.constant(kind)}" for kind in sorted(types, key=lambda kind: kind.__name__))
    with out.block(f"if {' and '.join(tests)}:"):
        out.line("raise misfit")


@coder_for(CollectionNode)
class CollectionCoder(Coder):
    """A collection travels as an array. What iterates but is none of the builtins is made a list first.

    The fields of records stand in that array themselves, those of one record after those of another: an array around
    each is an object more to make, to look at and to drop, on both sides.
    """

    wire = frozenset({list})

    def __init__(self, node: CollectionNode, coders: Coders) -> None:
        super().__init__(node, coders)
        self._item = coders.of(node.item)
        self._collection = COLLECTION_TYPES[node.kind]
        self._is_set = issubclass(self._collection.makes, set | frozenset)
        self.parts = (self._item,)
        self.sends = frozenset(self._collection.sends)
        self.one_shot = node.kind == "Iterable"

    def accepts(self, kind: type) -> int | None:
        if self._collection.accepts is self._collection.makes:
            return super().accepts(kind)
        return ABSTRACT if issubclass(kind, self._collection.accepts) else None

    def _step(self, index: int, value: object) -> str:
        return f"{{{short(value)[:60]}}}" if self._is_set else f"[{index}]"

    def pack(self, value: Any, packing: Packing) -> object:
        if self.accepts(type(value)) is None:
            raise self.misfit(value)
        packing.adapted += type(value) not in self.sends
        packed: list[Any] = []
        for index, item in enumerate(packing.items(value)):
            try:
                packed.append(self._item.pack(item, packing))
            except Fault as fault:
                raise fault.within(self._step(index, item)) from None
        if self._is_set and not distinct(packed):
            raise Fault(self.node, "two elements that become one", is_type=False)
        return packed if self._item.width is None else [*itertools.chain.from_iterable(packed)]

    def rows(self, data: list[object]) -> list[Any]:
        """The data of each item. Raises Fault where some is left over."""
        width = self._item.width
        if width is None:
            return data
        if len(data) % width:
            raise Fault(self.node, f"{type_name(data)} of {len(data)} items for records of {width} fields")
        return [data[start : start + width] for start in range(0, len(data), width)]

    def unpack(self, data: object, segments: SegmentReader) -> object:
        if type(data) is not list:
            raise self.misfit(data)
        items = []
        for index, item in enumerate(self.rows(data)):
            try:
                items.append(self._item.unpack(item, segments))
            except Fault as fault:
                raise fault.within(self._step(index, item)) from None
        if self._collection.makes is list:
            return items
        value = self._make(items)
        if self._is_set and len(value) != len(items):
            raise Fault(self.node, "two elements that become one", is_type=False)
        return value

    def _make(self, items: list[object]) -> Any:
        try:
            if self._is_set:
                spread(items)
            return self._collection.makes(items)
        except Exception as error:  # hashing and comparing may be anybody's code
            raise Fault(self.node, told(error), is_type=False) from error

    def emit(self, out: Source, way: Way, var: str, *, typed: bool = False) -> str:
        if way == "pack":
            if not typed:
                emit_type_test(out, var, self.sends)
            if self._is_set or self._collection.makes is collections.deque:
                var = out.assign(f"[*{var}]")  # nothing that msgpack packs
            return self._item.emit_column(out, way, var)
        if not typed:
            emit_type_test(out, var, self.wire)
        items = self._item.emit_column(out, way, var)
        if self._collection.makes is list:
            return items
        if self._is_set and self._item.crowds:
            out.line(f"{out.constant(spread)}({items})")
        value = out.assign(f"{out.constant(self._collection.makes)}({items})")
        if self._is_set:
            with out.block(f"if len({value}) != len({items}):"):
                out.line("raise misfit")
        return value


@coder_for(TupleNode)
class TupleCoder(Coder):
    """A tuple of fixed length travels as an array of that length."""

    sends = frozenset({tuple})
    wire = frozenset({list})
    small = plain = True

    def __init__(self, node: TupleNode, coders: Coders) -> None:
        super().__init__(node, coders)
        self._items = [coders.of(item) for item in node.items]
        self.parts = tuple(self._items)

    def _check(self, value: object, kind: type) -> Any:
        if not issubclass(type(value), kind):
            raise self.misfit(value)
        assert isinstance(value, tuple | list)
        if len(value) != len(self._items):
            raise Fault(self.node, f"{type_name(value)} of {len(value)} items")
        return value

    def pack(self, value: object, packing: Packing) -> object:
        return walk_row(self._items, self._check(value, tuple), lambda coder, item: coder.pack(item, packing))

    def unpack(self, data: object, segments: SegmentReader) -> object:
        return tuple(walk_row(self._items, self._check(data, list), lambda coder, item: coder.unpack(item, segments)))

    def emit(self, out: Source, way: Way, var: str, *, typed: bool = False) -> str:
        if not typed:
            emit_type_test(out, var, self.sends if way == "pack" else self.wire)
        with out.block(f"if len({var}) != {len(self._items)}:"):
            out.line("raise misfit")
        if not self._items:
            return out.assign("()")
        before = [out.fresh() for _ in self._items]
        out.line(f"{', '.join(before)}, = {var}")
        after = [coder.emit(out, way, item) for coder, item in zip(self._items, before, strict=True)]
        if way == "pack" and before == after:
            return var
        return out.assign(f"({', '.join(after)},)")


def walk_row(coders: Sequence[Coder], row: Sequence[object], step: Callable[[Coder, Any], object]) -> list[object]:
    """The walk over a tuple: one coder for each place."""
    walked = []
    for index, (coder, item) in enumerate(zip(coders, row, strict=True)):
        try:
            walked.append(step(coder, item))
        except Fault as fault:
            raise fault.within(f"[{index}]") from None
    return walked


@coder_for(MappingNode)
class MappingCoder(Coder):
    """A mapping travels as a map, or as an array of pairs where its keys cannot be those of a map."""

    def __init__(self, node: MappingNode, coders: Coders) -> None:
        super().__init__(node, coders)
        self._given_key = coders.of(node.key)
        self._value = coders.of(node.value)
        self.parts = (self._given_key, self._value)
        self._mapping = MAPPING_TYPES[node.kind]
        self._abstract = not issubclass(self._mapping.accepts, dict)
        self.sends = frozenset({dict if self._abstract else self._mapping.accepts})

    @lazily
    def _pairs(self) -> bool:
        return not self._given_key.map_key

    @lazily
    def _key(self) -> Coder:
        return self._given_key if self._pairs else self._given_key.as_key()

    @lazily
    def wire(self) -> frozenset[type]:
        return frozenset({list if self._pairs else dict})

    def accepts(self, kind: type) -> int | None:
        if self._abstract:
            return ABSTRACT if issubclass(kind, self._mapping.accepts) else None
        return super().accepts(kind)

    def pack(self, value: Any, packing: Packing) -> object:
        if self.accepts(type(value)) is None:
            raise self.misfit(value)
        packing.adapted += type(value) not in self.sends
        return self._collect(
            [self._pair(key, item, lambda coder, part: coder.pack(part, packing)) for key, item in value.items()],
            as_pairs=self._pairs,
        )

    def unpack(self, data: Any, segments: SegmentReader) -> object:
        if type(data) not in self.wire:
            raise self.misfit(data)
        pairs = data if self._pairs else data.items()
        if self._pairs and not all(type(pair) is list and len(pair) == 2 for pair in pairs):
            raise Fault(self.node, "an array of something else than pairs")
        return self._mapping.makes(
            self._collect(
                [self._pair(key, item, lambda coder, part: coder.unpack(part, segments)) for key, item in pairs],
                as_pairs=False,
            )
        )

    def _pair(self, key: object, item: object, step: Callable[[Coder, object], object]) -> tuple[object, object]:
        try:
            walked = step(self._key, key)
        except Fault as fault:
            raise fault.within(f"[key {short(key)[:60]}]") from None
        try:
            return walked, step(self._value, item)
        except Fault as fault:
            raise fault.within(index_step(key)) from None

    def _collect(self, pairs: list[tuple[object, object]], *, as_pairs: bool) -> object:
        if as_pairs:
            if not distinct([key for key, _ in pairs]):
                raise Fault(self.node, "two keys that become one", is_type=False)
            return pairs
        try:
            spread(key for key, _ in pairs)
            collected = dict(pairs)
        except Exception as error:  # hashing and comparing may be anybody's code
            raise Fault(self.node, told(error), is_type=False) from error
        if len(collected) != len(pairs):
            raise Fault(self.node, "two keys that become one", is_type=False)
        return collected

    def emit(self, out: Source, way: Way, var: str, *, typed: bool = False) -> str:
        if not typed:
            emit_type_test(out, var, self.sends if way == "pack" else self.wire)
        if out.depth >= MAX_NESTING:
            items = self.emit_apart(out, way, var, "items", lambda inner: self._emit_dict(out, way, inner))
        else:
            items = self._emit_dict(out, way, var)
        if way == "pack" or self._mapping.makes is dict:
            return items
        return out.assign(f"{out.constant(self._mapping.makes)}({items})")

    def _emit_dict(self, out: Source, way: Way, var: str) -> str:
        """Writes the code for the dict in `var`, and returns the variable with what travels, or a dict that arrives."""
        if self._pairs and way == "unpack":
            return self._emit_pairs(out, var)
        key_types, value_types = self._key.exact(way), self._value.exact(way)
        if self._pairs or not key_types or not value_types:
            return self._emit_items(out, way, var)
        lenient = self._key.lenient or self._value.lenient
        result = out.assign(var) if lenient else var
        tests = f"{out.differ_from(key_types, var, f'len({var})')}"
        tests += f" or {out.differ_from(value_types, f'{var}.values()', f'len({var})')}"
        with out.block(f"if {tests}:"):
            out.line(f"{result} = {self._emit_items(out, way, var)}" if lenient else "raise misfit")
        return result

    def _emit_items(self, out: Source, way: Way, var: str) -> str:
        """Writes a loop over the items of a dict. The outcome is `var` where none is converted."""
        result, key, item, before = out.fresh(), out.fresh(), out.fresh(), out.mark()
        with out.block(f"for {key}, {item} in {var}.items():"):
            outcome = (self._key.emit(out, way, key), self._value.emit(out, way, item))
            if outcome == (key, item) and not self._pairs:
                return var
            converted = outcome[0] != key
            if self._pairs or (converted and way == "unpack"):
                out.line(f"{result}.append(({', '.join(outcome)}))")
            else:
                out.line(f"{result}[{outcome[0]}] = {outcome[1]}")
        if converted and way == "unpack":
            out.insert(before, f"{result} = []")
            return out.assign(f"{out.constant(make_dict)}({result})")
        out.insert(before, f"{result} = {'[]' if self._pairs else '{}'}")
        if converted and not self._pairs:
            with out.block(f"if len({result}) != len({var}):"):
                out.line("raise misfit")
        return result

    def _emit_pairs(self, out: Source, var: str) -> str:
        """Writes a loop over pairs that have arrived."""
        result, pair, key, item = out.assign("[]"), out.fresh(), out.fresh(), out.fresh()
        with out.block(f"for {pair} in {var}:"):
            emit_type_test(out, pair, self.wire)
            out.line(f"{key}, {item} = {pair}")
            outcome = (self._key.emit(out, "unpack", key), self._value.emit(out, "unpack", item))
            out.line(f"{result}.append(({', '.join(outcome)}))")
        return out.assign(f"{out.constant(make_dict)}({result})")
