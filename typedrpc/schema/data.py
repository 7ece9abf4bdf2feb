"""Nodes as plain data that any peer can read, and back.

A node is a string (a scalar, by name) or a list whose first item says what it is::

    ["Literal", [["str", "a"], ["int", "1"], ["bool", "True"], ["bytes", "00ff"]]]      numbers in decimal, bytes in hex
    [collection, item]           collection: list, tuple (variadic), set, frozenset, deque, Sequence, ... Iterable
    ["fixed", [item, ...]]       a tuple of fixed length
    [mapping, key, value]        mapping: dict, OrderedDict, ... Mapping, MutableMapping
    ["Union", [member, ...]]     in canonical order
    ["Annotated", node, [[constraint, argument as text], ...]]      constraint: gt, ge, lt, ... predicate, shape
    ["as", name, node]           a type by its name and what its values travel as
    ["callback", [node, ...], node, is_async]     what it takes, what it gives; only as the type of a parameter
    ["stream", node, is_async]   what it gives one by one; only as a result or as the type of a parameter
    ["ref", index]               the definition with that index

and definitions, which are named and may be referred to many times and from within themselves, are ::

    ["enum", name, [member, ...], literal]
    ["flag", name, [[member, bit], ...]]
    ["record", name, [[field, node, required], ...], keyed]         keyed: a TypedDict
    ["alias", name, node]                                           of an alias that refers to itself
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from typedrpc.schema.constraints import MAX_TEXT
from typedrpc.schema.nodes import (
    COLLECTIONS,
    CONSTRAINTS,
    LITERAL_TYPES,
    MAPPINGS,
    SCALARS,
    AliasNode,
    CallbackNode,
    CollectionNode,
    ConstrainedNode,
    Constraint,
    ConvertedNode,
    EnumNode,
    Field,
    FlagNode,
    LiteralNode,
    LiteralValue,
    MappingNode,
    Node,
    RecordNode,
    ScalarNode,
    StreamNode,
    TupleNode,
    UnionNode,
    children,
)

Data: TypeAlias = "str | int | bool | list[Data]"
_Defined: TypeAlias = EnumNode | FlagNode | RecordNode | AliasNode

MAX_DEPTH = 128
"""How deep data of a peer may nest before it is refused."""

_SCALAR_NAMES = frozenset(SCALARS.values())


class NodeWriter:
    """Turns nodes into data; `definitions` collects what they refer to."""

    def __init__(self) -> None:
        self.definitions: list[Data] = []
        self._index: dict[Node, int] = {}
        self._left: list[_Defined] = []

    def write(self, node: Node) -> Data:
        """The data of `node`."""
        data = self._write(node)
        while self._left:  # not by recursion: a graph may be deeper than Python recurses
            defined = self._left.pop()
            self.definitions[self._index[defined]] = self._definition(defined)
        return data

    def _write(self, node: Node) -> Data:
        match node:
            case ScalarNode():
                return node.name
            case LiteralNode():
                return ["Literal", [[name, _literal_text(value)] for name, value in node.items]]
            case CollectionNode():
                return [node.kind, self._write(node.item)]
            case TupleNode():
                return ["fixed", [self._write(item) for item in node.items]]
            case MappingNode():
                return [node.kind, self._write(node.key), self._write(node.value)]
            case UnionNode():
                return ["Union", [self._write(member) for member in node.members]]
            case ConstrainedNode():
                asked: list[Data] = [[constraint.kind, constraint.text] for constraint in node.constraints]
                return ["Annotated", self._write(node.base), asked]
            case ConvertedNode():
                return ["as", node.name, self._write(node.wire)]
            case CallbackNode():
                taken: list[Data] = [self._write(parameter) for parameter in node.parameters]
                return ["callback", taken, self._write(node.result), node.is_async]
            case StreamNode():
                return ["stream", self._write(node.item), node.is_async]
            case EnumNode() | FlagNode() | RecordNode() | AliasNode():
                return ["ref", self._define(node)]
            case _:
                raise TypeError(f"{type(node).__name__} has no form as data")

    def _define(self, node: _Defined) -> int:
        index = self._index.get(node)
        if index is None:
            index = self._index[node] = len(self.definitions)
            self.definitions.append([])
            self._left.append(node)
        return index

    def _definition(self, node: _Defined) -> list[Data]:
        match node:
            case EnumNode():
                return ["enum", node.name, [*node.members], node.literal]
            case FlagNode():
                return ["flag", node.name, [[name, bit] for name, bit in node.members]]
            case AliasNode():
                return ["alias", node.name, self._write(node.target)]
        fields: list[Data] = [[field.name, self._write(field.node), field.required] for field in node.fields]
        return ["record", node.name, fields, node.keyed]


class NodeReader:
    """Turns data of a peer into nodes. Trusts nothing; ValueError is all that it raises.

    Attributes:
        has_companions: Some node that was read is a callback or a stream.
    """

    def __init__(self, definitions: object) -> None:
        self.has_companions = False
        self._definitions = as_list(definitions, "definitions")
        self._nodes: dict[int, Node] = {}
        self._depth = 0

    def read(self, data: object) -> Node:
        """The node of `data`.

        Raises:
            ValueError: The data is not that of a node.
        """
        if self._depth >= MAX_DEPTH:
            raise ValueError(f"a type nests deeper than {MAX_DEPTH}")
        self._depth += 1
        try:
            return self._read(data)
        finally:
            self._depth -= 1

    def _read(self, data: object) -> Node:
        if isinstance(data, str):
            if data not in _SCALAR_NAMES:
                raise ValueError(f"no type is named {data[:80]!r}")
            return ScalarNode(data)
        match data:
            case ["ref", int(index)]:
                return self._definition(index)
            case ["Literal", [_, *_] as items]:
                return LiteralNode(tuple(_literal_item(item) for item in items))
            case ["fixed", list(items)]:
                return TupleNode(tuple(self.read(item) for item in items))
            case ["Union", [_, _, *_] as members]:
                union = UnionNode(tuple(self.read(member) for member in members))
                if any(isinstance(member, UnionNode) for member in union.members):
                    raise ValueError("a union stands directly within a union")
                return union
            case ["Annotated", node, [_, *_] as constraints]:
                return ConstrainedNode(self.read(node), tuple(map(_constraint, constraints)))
            case ["as", str(name), node]:
                return ConvertedNode(as_text(name, "a type"), self.read(node))
            case ["callback", list(parameters), result, bool(is_async)]:
                self.has_companions = True
                return CallbackNode(tuple(map(self.read, parameters)), self.read(result), is_async)
            case ["stream", item, bool(is_async)]:
                self.has_companions = True
                return StreamNode(self.read(item), is_async)
            case [str(kind), item] if kind in COLLECTIONS:
                return CollectionNode(kind, self.read(item))
            case [str(kind), key, value] if kind in MAPPINGS:
                return MappingNode(kind, self.read(key), self.read(value))
            case _:
                raise ValueError("a type is described in no known form")

    def _definition(self, index: int) -> Node:
        if isinstance(index, bool) or not 0 <= index < len(self._definitions):
            raise ValueError(f"there is no definition {index}")
        if index in self._nodes:
            return self._nodes[index]
        match self._definitions[index]:
            case ["enum", str(name), [_, *_] as members, bool(literal)]:
                names = tuple(as_text(member, "an enum member") for member in members)
                self._nodes[index] = EnumNode(as_text(name, "an enum"), names, literal)
            case ["flag", str(name), [_, *_] as members]:
                self._nodes[index] = FlagNode(as_text(name, "a flag"), tuple(map(_bit, members)))
            case ["record", str(name), list(fields), bool(keyed)]:
                # In its place before its parts are read, as they may refer to it.
                record = self._nodes[index] = RecordNode(as_text(name, "a record"), keyed=keyed)
                read = tuple(self._field(field) for field in fields)
                if len({field.name for field in read}) != len(read):
                    raise ValueError("a record has two fields of one name")
                record.complete(read)
            case ["alias", str(name), node]:
                alias = self._nodes[index] = AliasNode(as_text(name, "an alias"))
                alias.complete(self.read(node))
            case _:
                raise ValueError("a definition is in no known form")
        return self._nodes[index]

    def check(self) -> None:
        """Looks at what shows only when all has been read: that no alias stands for itself.

        Raises:
            ValueError: One does.
        """
        settled: set[int] = set()
        for node in self._nodes.values():
            if isinstance(node, AliasNode):
                _check_alias(node, settled)

    def _field(self, data: object) -> Field:
        match data:
            case [str(name), node, bool(required)]:
                return Field(as_text(name, "a field"), self.read(node), required)
            case _:
                raise ValueError("a field is in no known form")


def _check_alias(alias: AliasNode, settled: set[int]) -> None:
    """Raises ValueError if an alias stands for itself with nothing in between. Looks at each alias once."""
    open_aliases: set[int] = set()
    left: list[tuple[Node, bool]] = [(alias, False)]
    while left:
        node, is_done = left.pop()
        if isinstance(node, AliasNode):
            if is_done:
                open_aliases.remove(id(node))
                settled.add(id(node))
                continue
            if id(node) in settled:
                continue
            if id(node) in open_aliases:
                raise ValueError("an alias stands for itself")
            open_aliases.add(id(node))
            left.append((node, True))
        if isinstance(node, AliasNode | UnionNode | ConstrainedNode):
            left.extend((child, False) for child in children(node))


def as_list(data: object, what: str) -> list[object]:
    """`data`, if it is a list."""
    if not isinstance(data, list):
        raise ValueError(f"{what} are not in a list")
    return data


MAX_NAME = 1000
"""Characters of a name in the data of a peer."""


def as_text(data: object, what: str) -> str:
    """`data`, if it is text of a sane length."""
    if not isinstance(data, str) or not 0 < len(data) <= MAX_NAME:
        raise ValueError(f"{what} has no usable name")
    return data


def _constraint(data: object) -> Constraint:
    match data:
        case [str(kind), str(text)] if kind in CONSTRAINTS and len(text) <= MAX_TEXT:
            return Constraint(kind, text)
        case _:
            raise ValueError("a constraint is in no known form")


def _bit(data: object) -> tuple[str, int]:
    match data:
        case [str(name), int(bit)] if not isinstance(bit, bool):
            return as_text(name, "a member of a flag"), bit
        case _:
            raise ValueError("a member of a flag is in no known form")


def _literal_text(value: LiteralValue) -> str:
    return value if isinstance(value, str) else value.hex() if isinstance(value, bytes) else str(value)


_LITERAL_READERS: dict[str, Callable[[str], LiteralValue]] = {
    "str": str,
    "int": int,
    "bool": lambda text: {"True": True, "False": False}[text],
    "bytes": bytes.fromhex,
}
assert _LITERAL_READERS.keys() == LITERAL_TYPES


def _literal_item(data: object) -> tuple[str, LiteralValue]:
    match data:
        case [str(name), str(text)] if name in _LITERAL_READERS:
            try:
                return (name, _LITERAL_READERS[name](text))
            except (ValueError, KeyError):
                raise ValueError(f"a literal {name} is not in its form") from None
        case _:
            raise ValueError("a literal is in no known form")
