"""Which types take the values of which others: what type checkers let pass, and constraints that imply others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from typedrpc.schema.conversions import Conversion
from typedrpc.schema.graphs import bare
from typedrpc.schema.nodes import (
    CollectionNode,
    Constraint,
    ConvertedNode,
    LiteralNode,
    MappingNode,
    Node,
    ScalarNode,
    TupleNode,
    UnionNode,
)

# What a value of a type is, too, as type checkers see it; the type itself first.
PROMOTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "bool": ("bool", "int", "float", "complex"),
    "int": ("int", "float", "complex"),
    "float": ("float", "complex"),
}
WIDER: Final[Mapping[str, frozenset[str]]] = {
    kind: frozenset(names.split())
    for kind, names in {
        "list": "list MutableSequence Sequence Collection Iterable",
        "tuple": "tuple Sequence Collection Iterable",
        "set": "set MutableSet AbstractSet Collection Iterable",
        "frozenset": "frozenset AbstractSet Collection Iterable",
        "deque": "deque MutableSequence Sequence Collection Iterable",
        "MutableSequence": "MutableSequence Sequence Collection Iterable",
        "Sequence": "Sequence Collection Iterable",
        "MutableSet": "MutableSet AbstractSet Collection Iterable",
        "AbstractSet": "AbstractSet Collection Iterable",
        "Collection": "Collection Iterable",
        "Iterable": "Iterable",
        "dict": "dict MutableMapping Mapping",
        "OrderedDict": "OrderedDict dict MutableMapping Mapping",
        "defaultdict": "defaultdict dict MutableMapping Mapping",
        "Counter": "Counter dict MutableMapping Mapping",
        "MutableMapping": "MutableMapping Mapping",
        "Mapping": "Mapping",
    }.items()
}
DISTINCT: Final = frozenset({"key", "set", "frozenset", "AbstractSet", "MutableSet"})
"""Where no two values may be the same."""

PLAIN: Final = frozenset({"None", "bool", "int", "float", "str", "bytes"})


def distance(writer: Node, member: Node) -> tuple[bool, bool, int]:
    """How far a member of a union is from the writer's type: the nearest comes first."""
    writer, member = bare(writer), bare(member)
    name = getattr(member, "name", "")
    promotions = PROMOTIONS.get(writer.name, ()) if isinstance(writer, ScalarNode) else ()
    steps = promotions.index(name) if name in promotions else len(promotions)
    named = (getattr(writer, "name", None), getattr(writer, "kind", None))
    same = named == (name or None, getattr(member, "kind", None))
    return type(writer) is not type(member), not same, steps


def promoted(writer: Node, reader: ScalarNode | ConvertedNode, kinds: Sequence[str]) -> Node | None:
    """The node that reads scalars of the named types, which have the form of `writer`, as a wider type."""
    if isinstance(reader, ScalarNode) and all(kind == reader.name for kind in kinds):
        return writer
    # A class of the user's own may have the name of any type.
    if isinstance(reader, ConvertedNode) and (reader.name != "complex" or reader.wire != _COMPLEX_WIRE):
        return None
    if all(reader.name in PROMOTIONS.get(kind, ()) for kind in kinds):
        cls, promote = _PROMOTE[reader.name]
        return ConvertedNode(reader.name, writer, Conversion(cls, reader.name, None, promote, promote))
    return None


_COMPLEX_WIRE: Final = TupleNode((ScalarNode("float"), ScalarNode("float")))


def _to_float(value: float) -> float:
    number = float(value)
    if number != value and value == value:
        raise ValueError("no float is equal to it")
    return number


_PROMOTE: Final[Mapping[str, tuple[type[Any], Callable[[Any], Any]]]] = {
    "int": (int, int),
    "float": (float, _to_float),
    "complex": (complex, lambda value: complex(_to_float(value))),
}


def carries_plain_data(node: Node) -> bool:
    """Whether what arrives for a node is plain data, as ``Any`` promises it."""
    match node:
        case ScalarNode():
            return node.name in PLAIN
        case LiteralNode():
            return True
        case CollectionNode():
            return node.kind == "list" and carries_plain_data(node.item)
        case MappingNode():
            keys = isinstance(node.key, ScalarNode | LiteralNode) and carries_plain_data(node.key)
            return keys and node.kind == "dict" and carries_plain_data(node.value)
        case UnionNode():
            return all(map(carries_plain_data, node.members))
        case _:
            return False


def implies(promised: Constraint, asked: Constraint) -> bool:
    """Whether what fits one constraint fits the other."""
    if promised == asked:
        return True
    ours, theirs = _number(asked), _number(promised)
    if ours is None or theirs is None:
        return False
    match promised.kind, asked.kind:
        case ("gt", "gt") | ("ge", "ge") | ("gt", "ge") | ("min_length", "min_length"):
            return theirs >= ours
        case "ge", "gt":
            return theirs > ours
        case ("lt", "lt") | ("le", "le") | ("lt", "le") | ("max_length", "max_length"):
            return theirs <= ours
        case "le", "lt":
            return theirs < ours
        case "multiple_of", "multiple_of":
            return ours != 0 and theirs % ours == 0
    return False


def _number(constraint: Constraint) -> float | None:
    for read in (int, float):
        try:
            return read(constraint.text)
        except (ValueError, OverflowError):
            continue
    return None
