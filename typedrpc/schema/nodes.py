"""A type as data: small immutable nodes that compare, hash and print as the annotation Python writes.

A node says what a type is, never how it travels. Two contracts agree on a type where the nodes are equal. Named nodes
(enums, flags, records, converted types) compare by name and parts; the Python side of them (a class, a conversion, a
predicate) is not compared, and is None in a node that came from a peer.

Recursive types are graphs with cycles. Every cycle passes through a `RecordNode` or an `AliasNode`, whose parts are
given after it was made; these two end all walks that follow a cycle. A graph that came from a peer may be deeper than
Python recurses, so walks that follow records and aliases keep a list of what is left to visit.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, ClassVar, Final, TypeAlias

LiteralValue: TypeAlias = "str | int | bool | bytes"

SCALARS: dict[Any, str] = {
    type(None): "None",
    bool: "bool",
    int: "int",
    float: "float",
    str: "str",
    bytes: "bytes",
    bytearray: "bytearray",
    memoryview: "memoryview",
    datetime: "datetime",
    Any: "Any",
}
"""The types that hold nothing else and that the wire knows, with the name each has in a schema."""

COLLECTIONS = frozenset(
    {"list", "tuple", "set", "frozenset", "deque"}
    | {"Sequence", "MutableSequence", "Collection", "Iterable", "AbstractSet", "MutableSet"}
)
MAPPINGS = frozenset({"dict", "OrderedDict", "defaultdict", "Counter", "Mapping", "MutableMapping"})
LITERAL_TYPES = frozenset({"str", "int", "bool", "bytes"})
CONSTRAINTS: Final[dict[str, str]] = {
    "gt": "Gt",
    "ge": "Ge",
    "lt": "Lt",
    "le": "Le",
    "multiple_of": "MultipleOf",
    "min_length": "MinLen",
    "max_length": "MaxLen",
    "predicate": "Predicate",
    "shape": "Shape",
}
"""What can be asked of a value besides its type, with the name that it is printed with."""


class Node:
    """The root of all nodes. ``str(node)`` is the annotation as Python writes it."""

    __slots__ = ()
    # Hand-written instead of dataclasses: making a dozen of those costs 8 ms of the import.
    _compared: ClassVar[tuple[str, ...]] = ()

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if type(self) is not type(other) or not isinstance(other, Node):
            return NotImplemented
        return same_graphs([(self, other)])

    def _own(self) -> object:
        """What is compared besides the children."""
        return None

    def __hash__(self) -> int:
        return hash((type(self), *(getattr(self, name) for name in self._compared)))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in self._compared)})"


class ScalarNode(Node):
    """A type that holds no other: one of `SCALARS`, by name."""

    __slots__ = _compared = ("name",)

    def __init__(self, name: str) -> None:
        self.name: Final = name

    def _own(self) -> object:
        return self.name

    def __str__(self) -> str:
        return self.name


class LiteralNode(Node):
    """``Literal`` of plain values. Each value stands beside the name of its type, so that ``1`` and ``True`` differ."""

    __slots__ = _compared = ("items",)

    def __init__(self, items: tuple[tuple[str, LiteralValue], ...]) -> None:
        self.items: Final = items

    @property
    def values(self) -> tuple[LiteralValue, ...]:
        """The values alone, in canonical order."""
        return tuple(value for _, value in self.items)

    def _own(self) -> object:
        return self.items

    def __str__(self) -> str:
        return f"Literal[{', '.join(repr(value) for value in self.values)}]"


class CollectionNode(Node):
    """Any number of values of one type: one of `COLLECTIONS`; ``tuple`` is the variadic one."""

    __slots__ = _compared = ("kind", "item")

    def __init__(self, kind: str, item: Node) -> None:
        self.kind: Final = kind
        self.item: Final = item

    def _own(self) -> object:
        return self.kind

    def __str__(self) -> str:
        return f"{self.kind}[{self.item}, ...]" if self.kind == "tuple" else f"{self.kind}[{self.item}]"


class TupleNode(Node):
    """A tuple of fixed length, a type for each place."""

    __slots__ = _compared = ("items",)

    def __init__(self, items: tuple[Node, ...]) -> None:
        self.items: Final = items

    def __str__(self) -> str:
        return f"tuple[{', '.join(map(str, self.items)) or '()'}]"


class MappingNode(Node):
    """Keys to values: one of `MAPPINGS`."""

    __slots__ = _compared = ("kind", "key", "value")

    def __init__(self, kind: str, key: Node, value: Node) -> None:
        self.kind: Final = kind
        self.key: Final = key
        self.value: Final = value

    def _own(self) -> object:
        return self.kind

    def __str__(self) -> str:
        return f"Counter[{self.key}]" if self.kind == "Counter" else f"{self.kind}[{self.key}, {self.value}]"


class UnionNode(Node):
    """One of several types.

    The members stand in canonical order (by text, None last), not in the order of the annotation: ``typing`` caches
    ``list[int | str]`` and ``list[str | int]`` as one object, so the written order cannot be relied upon.
    """

    __slots__ = _compared = ("members",)

    def __init__(self, members: tuple[Node, ...]) -> None:
        self.members: Final = members

    def __str__(self) -> str:
        return " | ".join(map(str, self.members))


class EnumNode(Node):
    """An enum by the names of its members, or (``literal``) some members of one."""

    __slots__ = ("cls", "literal", "members", "name")
    _compared = ("name", "members", "literal")

    def __init__(
        self, name: str, members: tuple[str, ...], literal: bool = False, cls: type[Any] | None = None
    ) -> None:
        self.name: Final = name
        self.members: Final = members
        self.literal: Final = literal
        self.cls: Final = cls

    def _own(self) -> object:
        return self.name, self.members, self.literal

    def __str__(self) -> str:
        if self.literal:
            return f"Literal[{', '.join(f'{self.name}.{member}' for member in self.members)}]"
        return self.name


class FlagNode(Node):
    """An enum whose members combine: each single-bit member by name, with its bit."""

    __slots__ = ("cls", "members", "name")
    _compared = ("name", "members")

    def __init__(self, name: str, members: tuple[tuple[str, int], ...], cls: type[Any] | None = None) -> None:
        self.name: Final = name
        self.members: Final = members
        self.cls: Final = cls

    def _own(self) -> object:
        return self.name, self.members

    def __str__(self) -> str:
        return self.name


class Constraint:
    """One thing that is asked of a value besides its type.

    Attributes:
        kind: One of `CONSTRAINTS`.
        text: Its argument as Python writes it: ``"0"`` of ``Gt(0)``, the name of a predicate.
        argument: The argument itself, None if this came from a peer. It is not compared.
    """

    __slots__ = ("argument", "kind", "text")

    def __init__(self, kind: str, text: str, argument: Any = None) -> None:
        self.kind: Final = kind
        self.text: Final = text
        self.argument: Final = argument

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Constraint) and (self.kind, self.text) == (other.kind, other.text)

    def __hash__(self) -> int:
        return hash((self.kind, self.text))

    def __str__(self) -> str:
        return f"{CONSTRAINTS[self.kind]}({self.text})"

    __repr__ = __str__


class ConstrainedNode(Node):
    """A type, ``Annotated`` with what else is asked of its values."""

    __slots__ = _compared = ("base", "constraints")

    def __init__(self, base: Node, constraints: tuple[Constraint, ...]) -> None:
        self.base: Final = base
        self.constraints: Final = constraints

    def _own(self) -> object:
        return self.constraints

    def __str__(self) -> str:
        return f"Annotated[{self.base}, {', '.join(map(str, self.constraints))}]"


class ConvertedNode(Node):
    """A type whose values travel as those of another: ``Decimal`` as ``str``, say.

    Attributes:
        name: Its name.
        wire: What its values travel as.
        conversion: How (a `typedrpc.schema.conversions.Conversion`), None if this came from a peer.
    """

    __slots__ = ("conversion", "name", "wire")
    _compared = ("name", "wire")

    def __init__(self, name: str, wire: Node, conversion: Any = None) -> None:
        self.name: Final = name
        self.wire: Final = wire
        self.conversion: Final = conversion

    def _own(self) -> object:
        return self.name

    def __str__(self) -> str:
        return self.name


class Field:
    """One field of a record.

    Attributes:
        name: Its name.
        node: Its type.
        required: It has no default, or (in a ``TypedDict``) has to be there.
        argument: The name under which the constructor takes it, None where it takes it by position. Not compared.
    """

    __slots__ = ("argument", "name", "node", "required")

    def __init__(self, name: str, node: Node, required: bool, argument: str | None = None) -> None:
        self.name: Final = name
        self.node: Final = node
        self.required: Final = required
        self.argument: Final = argument

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Field):
            return NotImplemented
        return self.name == other.name and self.required == other.required and self.node == other.node

    def __hash__(self) -> int:
        return hash((self.name, self.required))

    def __repr__(self) -> str:
        return f"Field({self.name!r}, {self.node}, required={self.required})"


class RecordNode(Node):
    """A class with typed fields (a dataclass, a TypedDict, an attrs class) by its name and the fields that make it.

    Attributes:
        name: Its name, with the arguments of a generic class: ``"Box[int]"``.
        keyed: It is a ``TypedDict``: a dict in which fields may be missing.
        cls: The class, None if this came from a peer.
    """

    __slots__ = ("_fields", "cls", "keyed", "name")

    def __init__(
        self, name: str, fields: tuple[Field, ...] | None = None, keyed: bool = False, cls: Any = None
    ) -> None:
        self.name: Final = name
        self.keyed: Final = keyed
        self.cls: Final = cls
        self._fields = fields

    @property
    def fields(self) -> tuple[Field, ...]:
        """The fields in the order of declaration."""
        assert self._fields is not None, f"{self.name} is being read"
        return self._fields

    def complete(self, fields: tuple[Field, ...]) -> None:
        """Gives a new node its fields, once."""
        assert self._fields is None
        self._fields = fields

    def _own(self) -> object:
        if self._fields is None:
            return self.name, self.keyed, None
        return self.name, self.keyed, tuple((field.name, field.required) for field in self._fields)

    def __hash__(self) -> int:
        # By name alone: a deep hash would visit each path through shared nodes, and fields come later than the node.
        return hash(self.name)

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"RecordNode({self.name!r}, {[field.name for field in self._fields or ()]})"


class AliasNode(Node):
    """A type alias that refers to itself, by its name and what it stands for. Other aliases are no nodes."""

    __slots__ = ("_target", "name")

    def __init__(self, name: str, target: Node | None = None) -> None:
        self.name: Final = name
        self._target = target

    @property
    def target(self) -> Node:
        """What it stands for."""
        assert self._target is not None, f"{self.name} is being read"
        return self._target

    def complete(self, target: Node) -> None:
        """Gives a new node its target, once."""
        assert self._target is None
        self._target = target

    def _own(self) -> object:
        return self.name, self._target is None

    def __hash__(self) -> int:
        return hash(self.name)

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"AliasNode({self.name!r})"


class CallbackNode(Node):
    """A function that stays with its caller, and that the handler calls there. Only a parameter may be one.

    Attributes:
        parameters: What it takes, by position.
        result: What it gives; of one that is async, what its awaitable gives.
        is_async: It gives an awaitable.
    """

    __slots__ = _compared = ("parameters", "result", "is_async")

    def __init__(self, parameters: tuple[Node, ...], result: Node, is_async: bool = False) -> None:
        self.parameters: Final = parameters
        self.result: Final = result
        self.is_async: Final = is_async

    def _own(self) -> object:
        return self.is_async

    def __str__(self) -> str:
        result = f"Awaitable[{self.result}]" if self.is_async else str(self.result)
        return f"Callable[[{', '.join(map(str, self.parameters))}], {result}]"


class StreamNode(Node):
    """Values of one type that travel one by one while the call lasts. Only a result or a parameter may be one.

    Attributes:
        item: The type of each.
        is_async: They are iterated over with ``async for``.
    """

    __slots__ = _compared = ("item", "is_async")

    def __init__(self, item: Node, is_async: bool = False) -> None:
        self.item: Final = item
        self.is_async: Final = is_async

    def _own(self) -> object:
        return self.is_async

    def __str__(self) -> str:
        return f"{'AsyncIterator' if self.is_async else 'Iterator'}[{self.item}]"


class IgnoredNode(Node):
    """What stands for a field or a parameter that a peer sends and nobody here takes."""

    __slots__ = ()

    def __str__(self) -> str:
        return "ignored"


NONE = ScalarNode("None")
ANY = ScalarNode("Any")
IGNORED = IgnoredNode()


def children(node: Node) -> tuple[Node, ...]:
    """The nodes directly below `node`; none yet where it is being read."""
    match node:
        case CollectionNode() | StreamNode():
            return (node.item,)
        case TupleNode():
            return node.items
        case MappingNode():
            return (node.key, node.value)
        case UnionNode():
            return node.members
        case RecordNode():
            return tuple(field.node for field in node._fields or ())
        case AliasNode():
            return () if node._target is None else (node._target,)
        case ConstrainedNode():
            return (node.base,)
        case ConvertedNode():
            return (node.wire,)
        case CallbackNode():
            return (*node.parameters, node.result)
        case _:
            return ()


def same_graphs(pairs: Iterable[tuple[Node, Node]]) -> bool:
    """Whether the two nodes of each pair, unrolled along all cycles, are the same tree."""
    left = list(pairs)
    leaders: dict[int, int] = {}
    while left:
        one, other = left.pop()
        if one is other:
            continue
        if type(one) is not type(other) or one._own() != other._own():
            return False
        # Nodes that have to be equal are put into classes, so that the work grows with the sum of the two graphs' sizes
        # and not with their product: Hopcroft and Karp's way to compare automata.
        if isinstance(one, RecordNode | AliasNode):
            ours, theirs = _leader(leaders, id(one)), _leader(leaders, id(other))
            if ours == theirs:
                continue
            leaders[ours] = theirs
        below, beyond = children(one), children(other)
        if len(below) != len(beyond):
            return False
        left.extend(zip(below, beyond, strict=True))
    return True


def _leader(leaders: dict[int, int], member: int) -> int:
    """Who stands for the class that `member` is in. The way there is shortened for who asks next."""
    while (leader := leaders.get(member)) is not None:
        leaders[member] = leaders.get(leader, leader)
        member = leader
    return member
