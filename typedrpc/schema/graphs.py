"""Walks over nodes: what stands behind one, what can be hashed, unions in their canonical order.

None of them recurses, or visits a node twice: a peer's types may be graphs of any shape.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from typedrpc.schema.nodes import (
    NONE,
    AliasNode,
    CallbackNode,
    CollectionNode,
    ConstrainedNode,
    ConvertedNode,
    EnumNode,
    LiteralNode,
    LiteralValue,
    MappingNode,
    Node,
    RecordNode,
    ScalarNode,
    StreamNode,
    UnionNode,
    children,
)

Companion: TypeAlias = CallbackNode | StreamNode
"""What goes with a call by a number instead of in it: a function that stays with the caller, a stream."""


def bare(node: Node) -> Node:
    """`node` without what stands around it and is no type of its own: constraints and aliases.

    An alias that is being read stays.
    """
    while True:
        if isinstance(node, ConstrainedNode):
            node = node.base
        elif isinstance(node, AliasNode) and node._target is not None:
            node = node._target
        else:
            return node


def stands_within(target: Node, alias: AliasNode) -> bool:
    """Whether a value of `target` could be one of `alias` with nothing in between: then it is no type."""
    seen: set[int] = set()
    left = [target]
    while left:
        node = left.pop()
        if node is alias:
            return True
        if id(node) in seen:  # an alias may be referred to many times
            continue
        seen.add(id(node))
        if isinstance(node, AliasNode):
            left += () if node._target is None else (node._target,)
        elif isinstance(node, UnionNode | ConstrainedNode):
            left += children(node)
    return False


_UNHASHABLE = frozenset({"bytearray", "memoryview", "Any"})


def hashable(node: Node) -> bool:
    """Whether what arrives for `node` can be a dict key or an element of a set.

    A record or an alias that is being read counts as far as it is known.
    """
    left = [node]
    met: set[int] = set()
    while left:
        node = left.pop()
        if isinstance(node, RecordNode | AliasNode):
            # What makes a type unhashable that is part of itself is found at its other parts.
            if id(node) in met:
                continue
            met.add(id(node))
        if not _may_be_hashed(node):
            return False
        if not isinstance(node, ConvertedNode) and not (isinstance(node, RecordNode) and not _is_tuple(node)):
            left.extend(children(node))  # other classes answer for what they hold
    return True


def _may_be_hashed(node: Node) -> bool:
    """Whether nothing but what `node` holds can make it unhashable."""
    match node:
        case ScalarNode():
            return node.name not in _UNHASHABLE
        case CollectionNode():
            return node.kind in ("tuple", "frozenset")
        case MappingNode() | CallbackNode() | StreamNode():
            return False
        case RecordNode():
            return not node.keyed and (node.cls is None or node.cls.__hash__ is not None)
        case ConvertedNode():
            return node.conversion is None or node.conversion.cls.__hash__ is not None
        case _:
            return True


def companion_of(node: Node) -> Companion | None:
    """What goes with a call for a parameter of this type: the type itself, or a member of the union that it is."""
    members = node.members if isinstance(node, UnionNode) else (node,)
    return next((member for member in members if isinstance(member, CallbackNode | StreamNode)), None)


def misplaced_companion(
    node: Node, *, parameter: bool = False, result: bool = False, seen: set[int] | None = None
) -> Companion | None:
    """A function or a stream that stands where none may, somewhere in `node`; None where all stand right.

    Args:
        node: A type that has been read whole.
        parameter: It is that of a parameter, which may be a function or a stream, or a union with one.
        result: It is that of a result, which may be a stream.
        seen: The ids of nodes that hold none; those that are found to are added. All of them have to be kept.
    """
    seen = set() if seen is None else seen
    taken = companion_of(node) if parameter else node if result and isinstance(node, StreamNode) else None
    left = [*node.members] if isinstance(node, UnionNode) else [node]
    if taken is not None:
        left = [*children(taken), *(member for member in left if member is not taken)]
    while left:
        node = left.pop()
        if isinstance(node, CallbackNode | StreamNode):
            return node
        if id(node) not in seen:
            seen.add(id(node))
            left += children(node)
    return None


def _is_tuple(node: RecordNode) -> bool:
    """Whether the values are tuples, which are as hashable as what they hold."""
    return node.cls is not None and issubclass(node.cls, tuple)


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
    """Tells classes of one name apart. One level deep, for the reason that `RecordNode.__hash__` has."""
    match node:
        case RecordNode():
            return ", ".join(f"{field.name}: {field.node}" for field in node._fields or ())
        case EnumNode():
            return ", ".join(node.members)
        case ConvertedNode():
            return str(node.wire)
        case _:
            return ""


def _literal_order(item: tuple[str, LiteralValue]) -> tuple[str, int, str]:
    name, value = item
    return (name, value, "") if isinstance(value, int) else (name, 0, ascii(value))
