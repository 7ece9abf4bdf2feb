"""A type as data: small frozen nodes that compare, hash and print as the annotation Python writes.

A node says what a type is, never how it travels. Two contracts agree on a type where the nodes are equal. Named nodes
(enums and dataclasses) compare by name, members and fields; the Python class behind them is not compared, and is None
in a node that came from a peer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeAlias

LiteralValue: TypeAlias = "str | int | bool | bytes"

SCALARS: dict[type, str] = {
    type(None): "None",
    bool: "bool",
    int: "int",
    float: "float",
    str: "str",
    bytes: "bytes",
    datetime: "datetime",
}
"""The types that hold nothing else, with the name each has in a schema."""

COLLECTIONS = frozenset(
    {"list", "tuple", "set", "frozenset"}
    | {"Sequence", "MutableSequence", "Collection", "Iterable", "AbstractSet", "MutableSet"}
)
MAPPINGS = frozenset({"dict", "Mapping", "MutableMapping"})
LITERAL_TYPES = frozenset({"str", "int", "bool", "bytes"})


class Node:
    """The root of all nodes. ``str(node)`` is the annotation as Python writes it."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class ScalarNode(Node):
    """A type that holds no other: one of `SCALARS`, by name."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class LiteralNode(Node):
    """``Literal`` of plain values. Each value stands beside the name of its type, so that ``1`` and ``True`` differ."""

    items: tuple[tuple[str, LiteralValue], ...]

    @property
    def values(self) -> tuple[LiteralValue, ...]:
        """The values alone, in canonical order."""
        return tuple(value for _, value in self.items)

    def __str__(self) -> str:
        return f"Literal[{', '.join(repr(value) for value in self.values)}]"


@dataclass(frozen=True, slots=True)
class CollectionNode(Node):
    """Any number of values of one type: one of `COLLECTIONS`; ``tuple`` is the variadic one."""

    kind: str
    item: Node

    def __str__(self) -> str:
        return f"{self.kind}[{self.item}, ...]" if self.kind == "tuple" else f"{self.kind}[{self.item}]"


@dataclass(frozen=True, slots=True)
class TupleNode(Node):
    """A tuple of fixed length, a type for each place."""

    items: tuple[Node, ...]

    def __str__(self) -> str:
        return f"tuple[{', '.join(map(str, self.items)) or '()'}]"


@dataclass(frozen=True, slots=True)
class MappingNode(Node):
    """Keys to values: one of `MAPPINGS`."""

    kind: str
    key: Node
    value: Node

    def __str__(self) -> str:
        return f"{self.kind}[{self.key}, {self.value}]"


@dataclass(frozen=True, slots=True)
class UnionNode(Node):
    """One of several types.

    The members stand in canonical order (by text, None last), not in the order of the annotation: ``typing`` caches
    ``list[int | str]`` and ``list[str | int]`` as one object, so the written order cannot be relied upon.
    """

    members: tuple[Node, ...]

    def __str__(self) -> str:
        return " | ".join(map(str, self.members))


@dataclass(frozen=True, slots=True)
class EnumNode(Node):
    """An enum by the names of its members, or (``literal``) some members of one."""

    name: str
    members: tuple[str, ...]
    literal: bool = False
    cls: type | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        if self.literal:
            return f"Literal[{', '.join(f'{self.name}.{member}' for member in self.members)}]"
        return self.name


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a dataclass; ``required`` where it has no default."""

    name: str
    node: Node
    required: bool


@dataclass(frozen=True, slots=True)
class DataclassNode(Node):
    """A dataclass by its name and the fields that its constructor takes."""

    name: str
    fields: tuple[Field, ...]
    cls: type | None = field(default=None, compare=False, repr=False)

    def __hash__(self) -> int:
        # Shallow on purpose: dataclasses within dataclasses share nodes, and a deep hash would visit each path.
        return hash((self.name, tuple(field.name for field in self.fields)))

    def __str__(self) -> str:
        return self.name


NONE = ScalarNode("None")


def children(node: Node) -> tuple[Node, ...]:
    """The nodes directly below `node`."""
    match node:
        case CollectionNode():
            return (node.item,)
        case TupleNode():
            return node.items
        case MappingNode():
            return (node.key, node.value)
        case UnionNode():
            return node.members
        case DataclassNode():
            return tuple(field.node for field in node.fields)
        case _:
            return ()


def hashable(node: Node) -> bool:
    """Whether what arrives for `node` can be a dict key or an element of a set."""
    match node:
        case CollectionNode():
            return node.kind in ("tuple", "frozenset") and hashable(node.item)
        case TupleNode() | UnionNode():
            return all(map(hashable, children(node)))
        case MappingNode():
            return False
        case DataclassNode():
            return node.cls is None or node.cls.__hash__ is not None
        case _:
            return True


def literal_of(values: Iterable[LiteralValue]) -> LiteralNode:
    """The literal node of these values, in canonical order and without repetitions."""
    return LiteralNode(tuple(sorted({(type(value).__name__, value) for value in values}, key=_literal_order)))


def union_of(members: Iterable[Node]) -> Node:
    """The union of `members`: flat, without repetitions, in canonical order; a single member stands for itself.

    Literals are merged into one, and a literal value whose whole type is a member too goes into that type.
    """
    plain: dict[Node, None] = {}
    literals: dict[tuple[str, LiteralValue], None] = {}
    for member in _flat(members):
        if isinstance(member, LiteralNode):
            literals.update(dict.fromkeys(member.items))
        else:
            plain[member] = None
    left = [value for name, value in literals if ScalarNode(name) not in plain]
    if left:
        plain[literal_of(left)] = None
    ordered = sorted(plain, key=lambda node: (node == NONE, str(node), _shape(node)))
    return ordered[0] if len(ordered) == 1 else UnionNode(tuple(ordered))


def _flat(members: Iterable[Node]) -> Iterable[Node]:
    for member in members:
        if isinstance(member, UnionNode):
            yield from _flat(member.members)
        else:
            yield member


def _shape(node: Node) -> str:
    """Tells classes of one name apart. One level deep, for the reason that `DataclassNode.__hash__` has."""
    match node:
        case DataclassNode():
            return ", ".join(f"{field.name}: {field.node}" for field in node.fields)
        case EnumNode():
            return ", ".join(node.members)
        case _:
            return ""


def _literal_order(item: tuple[str, LiteralValue]) -> tuple[str, int, str]:
    name, value = item
    return (name, value, "") if isinstance(value, int) else (name, 0, ascii(value))
