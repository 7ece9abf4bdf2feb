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
from functools import cached_property
from typing import Any, Final, TypeVar, cast

from typedrpc.codec.body import Packing, SegmentReader
from typedrpc.codec.faults import Fault, type_name
from typedrpc.codec.source import Source, Way
from typedrpc.schema import Companion, Node

NO_TYPES: frozenset[type] = frozenset()

MAX_NESTING = 12
"""Levels of indent from which on a loop gets a function of its own: Python takes 20 loops within each other."""

PROMOTED = 1000  # an int for a float
CONVERTED = 1001  # a float, and then an int, for a complex
ABSTRACT = 2000  # a list for a Sequence
ANYTHING = 3000  # for Any

ValueT = TypeVar("ValueT")


def lazily(compute: Callable[[Any], ValueT]) -> ValueT:
    """An attribute that is computed when it is first read."""
    return cast(ValueT, cached_property(compute))


class Coder(ABC):
    """How the values of one node travel.

    Coders of recursive types refer to each other in circles. So a coder asks others for nothing while it is made; what
    depends on them is computed when first read (`lazily`).

    Attributes:
        node: The node.
        parts: The coders of what its values hold.
        sends: The exact Python types that the source packs.
        wire: The Python types that its data may have after msgpack has unpacked it. Members of a union need no tag
            where theirs are disjoint.
        also_sends, also_wire: Types that are accepted where no other member of a union claims them.
        large: Whether a value may itself travel beside the body.
        map_key: Whether the data can be the key of a msgpack map.
        small: Whether the data takes a few bytes only, give or take a huge int, besides that of its parts.
        plain: Whether the usual data needs no options to be unpacked, neither extensions nor maps with keys of any
            kind, besides that of its parts.
        crowds: Whether a peer can choose many values that have the same hash.
        one_shot: Whether values may be gone after one look: generators.
        decides: Whether a value of its type that does not fit is a fault even where another member of a union takes it.
        lenient: Whether the source accepts more than the types of `exact`, by converting.
        width: How many elements a value has in the array of a collection, where it has no array of its own there. None
            where it is one element.
    """

    sends: frozenset[type] = NO_TYPES
    wire: frozenset[type] = NO_TYPES
    also_sends: frozenset[type] = NO_TYPES
    also_wire: frozenset[type] = NO_TYPES
    parts: tuple[Coder, ...] = ()
    large = False
    map_key = False
    small = False
    plain = False
    one_shot = False
    crowds = True
    decides = False
    lenient = False
    width: int | None = None

    def __init__(self, node: Node, coders: Coders) -> None:
        self.node = node

    @lazily
    def reached(self) -> tuple[frozenset[Coder], bool]:
        """The coder itself with all that its values may hold, and whether one of them may hold itself."""
        seen: set[Coder] = set()
        circular = False
        path: list[tuple[Coder, list[Coder]]] = [(self, [*self.parts])]
        above: set[Coder] = {self}
        while path:
            coder, left = path[-1]
            if not left:
                path.pop()
                above.discard(coder)
                seen.add(coder)
                continue
            part = left.pop()
            if part in above:
                circular = True
            elif part not in seen:
                path.append((part, [*part.parts]))
                above.add(part)
        return frozenset(seen), circular

    @lazily
    def uses_segments(self) -> bool:
        """Whether anything in a value may travel beside the body; then the source has a variable ``segments``."""
        return any(coder.large for coder in self.reached[0])

    @lazily
    def bounded(self) -> bool:
        """Whether the data of a value takes a few bytes only, give or take a huge int."""
        coders, circular = self.reached
        return not circular and all(coder.small for coder in coders)

    @lazily
    def bare(self) -> bool:
        """Whether the usual data needs no options to be unpacked."""
        return all(coder.plain for coder in self.reached[0])

    def exact(self, way: Way) -> frozenset[type]:
        """The types whose values travel, or arrive, just as they are. Empty where the type alone does not settle it."""
        return NO_TYPES

    def as_key(self) -> Coder:
        """The coder for this node as the key of a msgpack map."""
        return self

    # The walk.

    def accepts(self, kind: type) -> int | None:
        """How near a value of this Python type is: 0 for the type itself, more the further off, None if not at all.

        A union picks the nearest member. Ranks: the number of steps to the base for a subclass, then `PROMOTED` and
        what follows it.
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

    def emit_field(self, out: Source, way: Way, var: str) -> str:
        """As `emit`, for a variable that nothing else reads: it may get the outcome."""
        return self.emit(out, way, var)

    def emit_column(self, out: Source, way: Way, var: str) -> str:
        """Writes the code for many values at once.

        `var` can be iterated over more than once: a list, a tuple, a view of a dict. The outcome is `var` itself where
        nothing has to be converted, otherwise a list. Where values have a `width`, the elements of all of them travel
        in one list.
        """
        exact = self.exact(way)
        if not exact:
            return self.emit_loop(out, way, var)
        test = f"if {out.differ_from(exact, var, f'len({var})')}:"
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
        if out.depth >= MAX_NESTING:
            return self.emit_apart(out, way, var, "loop", lambda inner: self.emit_loop(out, way, inner))
        result, item, before = out.fresh(), out.fresh(), out.mark()
        add, items = "append", var
        if self.width is not None:
            add, items = ("extend", var) if way == "pack" else ("append", f"map(list, {self.emit_rows(out, var)})")
        with out.block(f"for {item} in {items}:"):
            outcome = self.emit(out, way, item)
            if outcome == item:
                return var
            out.line(f"{result}.{add}({outcome})")
        out.insert(before, f"{result} = []")
        return result

    def emit_rows(self, out: Source, var: str) -> str:
        """Writes the code that has the elements of many values taken apart. Returns what gives those of each."""
        assert self.width is not None
        with out.block(f"if len({var}) % {self.width}:"):
            out.line("raise misfit")
        each = out.assign(f"{out.constant(iter)}({var})")
        # With strict=True, or a star, it would take twice the time to make.
        return f"{out.constant(zip)}({', '.join([each] * self.width)})"

    def emit_apart(
        self, out: Source, way: Way, var: str, what: str, emit: Callable[[str], str], *, loops: bool = False
    ) -> str:
        """Writes what `emit` does with a variable into a function of its own, and calls that.

        The function is written once, however often it is called, from within itself too. `loops` is that of
        `Source.helper`.
        """
        segments = ", segments" if self.uses_segments else ""

        def emit_body() -> None:
            out.line(f"return {emit('value')}")

        helper = out.helper((self, way, what), f"{way}_{what}", f"value{segments}", emit_body, loops=loops)
        return out.assign(f"{helper}({var}{segments})")


class Coders:
    """Makes coders, one for each node: a record that occurs twice has one.

    Attributes:
        companion: Gives what the coder of a callback or a stream hands out with each function or iterator; None where
            none may stand.
    """

    def __init__(self, companion: Callable[[Companion], Any] | None = None) -> None:
        self.companion: Final = companion
        self._made: dict[int, tuple[Node, Coder]] = {}

    def of(self, node: Node) -> Coder:
        """The coder of `node`."""
        # By identity, as equal nodes may stand for different classes; the entry keeps the node alive.
        made = self._made.get(id(node))
        if made is None:
            # In its place before it is made, as its parts may refer to it.
            kind = _registry[type(node)](node)
            coder = kind.__new__(kind)
            made = self._made[id(node)] = (node, coder)
            coder.__init__(node, self)  # type: ignore[misc]  # the half of the call that was left
        return made[1]


CoderT = TypeVar("CoderT", bound=type[Coder])

_registry: dict[type[Node], Callable[[Any], type[Coder]]] = {}


def coder_for(kind: type[Node]) -> Callable[[CoderT], CoderT]:
    """Registers a class of coders for a kind of node."""

    def register(cls: CoderT) -> CoderT:
        choose_coder(kind, lambda node: cls)
        return cls

    return register


def choose_coder(kind: type[Node], choose: Callable[[Any], type[Coder]]) -> None:
    """Registers the choice of a class of coders for each node of a kind."""
    assert kind not in _registry, f"{kind.__name__} has a coder already"
    _registry[kind] = choose
