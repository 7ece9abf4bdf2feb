"""What a coder is: how one kind of node travels.

There is one class for each kind of node, registered with `coder_for`, and all about how the kind travels is in it:

- the walk, `pack` and `unpack`, defines what is accepted, what it becomes and what the fault is otherwise;
- the source, `emit` and `emit_column`, does the same for the usual values, fast, and raises `Misfit` for all others,
  which are then left to the walk. So generated code knows no paths, no subclasses and no error texts.

What the source accepts, the walk accepts with the same outcome; a test compares them. Where the source gives up half
way, code of the user's own that a value has run (a property, ``__post_init__``) runs once more in the walk.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeVar

from typedrpc.codec.body import Packing, SegmentReader
from typedrpc.codec.faults import Fault, type_name
from typedrpc.codec.source import Source, Way
from typedrpc.schema import Node

NO_TYPES: frozenset[type] = frozenset()


class Coder(ABC):
    """How the values of one node travel.

    Attributes:
        node: The node.
        sends: The exact Python types that the source packs.
        wire: The Python types that its data may have after msgpack has unpacked it. Members of a union need no tag
            where theirs are disjoint.
        also_sends, also_wire: Types that are accepted where no other member of a union claims them.
        uses_segments: Whether a value may travel beside the body; then the source has a variable ``segments`` at hand.
        map_key: Whether the data can be the key of a msgpack map.
        bounded: Whether its data takes a few bytes only, give or take a huge int.
        bare: Whether the usual data needs no options to be unpacked: neither extensions nor maps with keys of any kind.
        decides: Whether a value of its type that does not fit is a fault even where another member of a union takes it.
        lenient: Whether the source accepts more than the types of `exact`, by converting.
    """

    sends: frozenset[type] = NO_TYPES
    wire: frozenset[type] = NO_TYPES
    also_sends: frozenset[type] = NO_TYPES
    also_wire: frozenset[type] = NO_TYPES
    uses_segments = False
    map_key = False
    bounded = False
    bare = False
    decides = False
    lenient = False

    def __init__(self, node: Node, coders: Coders) -> None:
        self.node = node

    def exact(self, way: Way) -> frozenset[type]:
        """The types whose values travel, or arrive, just as they are. Empty where the type alone does not settle it."""
        return NO_TYPES

    def as_key(self) -> Coder:
        """The coder for this node as the key of a msgpack map."""
        return self

    # The walk.

    def accepts(self, kind: type) -> int | None:
        """How near a value of this Python type is: 0 for the type itself, more the further off, None if not at all.

        A union picks the nearest member. Ranks: the number of steps to the base for a subclass, 1000 for a promotion
        (int to float), 2000 for an abstract type.
        """
        return min((kind.__mro__.index(base) for base in self.sends if base in kind.__mro__), default=None)

    @abstractmethod
    def pack(self, value: object, packing: Packing) -> object:
        """What msgpack is given for `value`. Raises Fault where it does not fit."""
        ...

    @abstractmethod
    def unpack(self, data: object, segments: SegmentReader) -> object:
        """The value of what msgpack has unpacked. Raises Fault where it does not fit."""
        ...

    def misfit(self, value: object) -> Fault:
        """The fault of a value that has the wrong type."""
        return Fault(self.node, type_name(value))

    # The source.

    @abstractmethod
    def emit(self, out: Source, way: Way, var: str, *, typed: bool = False) -> str:
        """Writes the code for the value in the variable `var`. Returns the variable with the outcome.

        With `typed`, the code before has found that the value has one of the types of `sends`, or of `wire`.
        """
        ...

    def emit_column(self, out: Source, way: Way, var: str) -> str:
        """Writes the code for many values at once.

        `var` can be iterated over more than once: a list, a tuple, a view of a dict. The outcome is `var` itself where
        nothing has to be converted, otherwise a list.
        """
        exact = self.exact(way)
        if not exact:
            return self.emit_loop(out, way, var)
        test = f"if not {{*map(type, {var})}} <= {out.types(exact)}:"
        if not self.lenient:
            with out.block(test):
                out.line("raise misfit")
            return var
        result = out.assign(var)
        with out.block(test):
            out.line(f"{result} = {self.emit_loop(out, way, var)}")
        return result

    def emit_loop(self, out: Source, way: Way, var: str) -> str:
        """Writes `emit` in a loop over `var`. The outcome is `var` where no item is converted, otherwise a list."""
        result, item, before = out.fresh(), out.fresh(), out.mark()
        with out.block(f"for {item} in {var}:"):
            outcome = self.emit(out, way, item)
            if outcome == item:
                return var
            out.line(f"{result}.append({outcome})")
        out.insert(before, f"{result} = []")
        return result


class Coders:
    """Makes coders, one for each node: dataclasses within dataclasses share theirs."""

    def __init__(self) -> None:
        self._made: dict[int, tuple[Node, Coder]] = {}

    def of(self, node: Node) -> Coder:
        """The coder of `node`."""
        # By identity, as equal nodes may stand for different classes; the entry keeps the node alive.
        made = self._made.get(id(node))
        if made is None:
            made = self._made[id(node)] = (node, _registry[type(node)](node, self))
        return made[1]


MakerT = TypeVar("MakerT", bound=Callable[..., Coder])

_registry: dict[type[Node], Callable[[Node, Coders], Coder]] = {}


def coder_for(kind: type[Node]) -> Callable[[MakerT], MakerT]:
    """Registers a class of coders, or a function that makes them, for a kind of node."""

    def register(maker: MakerT) -> MakerT:
        assert kind not in _registry, f"{kind.__name__} has a coder already"
        _registry[kind] = maker
        return maker

    return register
