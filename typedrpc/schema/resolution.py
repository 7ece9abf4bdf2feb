"""One comparison of two versions of a type: the node that reads what the other side writes, and what is different.

Who reads adapts. From the writer's type and its own it makes a node in the **form** of the writer's, whose values are
of its own **classes**; the ordinary coders do the rest. So an adapted node has, everywhere, just the wire form of the
writer's node: members of a union in the writer's order, fields of a record in the writer's order, those that nobody
here knows ignored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Final, NamedTuple

from typedrpc.schema.conversions import Conversion
from typedrpc.schema.graphs import bare
from typedrpc.schema.nodes import (
    IGNORED,
    AliasNode,
    CallbackNode,
    CollectionNode,
    ConstrainedNode,
    ConvertedNode,
    EnumNode,
    Field,
    FlagNode,
    LiteralNode,
    MappingNode,
    Node,
    RecordNode,
    ScalarNode,
    StreamNode,
    TupleNode,
    UnionNode,
    children,
)
from typedrpc.schema.widening import DISTINCT, WIDER, carries_plain_data, distance, implies, promoted

MAX_STEPS: Final = 20_000
"""Pairs of types that one comparison looks at. More is taken for a peer that wants to be expensive."""


MAX_TEXT: Final = 200
"""Characters of a type, or of a list of names, in the text of a difference."""


class Difference(NamedTuple):
    """One difference between two versions of a schema.

    Attributes:
        where: The place: ``"parameter 'item'.price"``, ``"the result[...]"``.
        safe: Whether calls work all the same.
        text: What is different, in words.
    """

    where: str
    safe: bool
    text: str

    def __str__(self) -> str:
        return f"{self.where}: {self.text} ({'safe' if self.safe else 'breaking'})"


def cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 3]}..."


def short(node: Node) -> str:
    return cut(str(node))


class _TooLarge(Exception):
    """The comparison has taken all its steps."""


class Resolution:
    """One comparison of two versions, and all that is found on the way.

    What it costs is bounded by its steps, whatever a peer sends: each pair of types that is looked at is one.
    """

    def __init__(self) -> None:
        self.differences: list[Difference] = []
        self._steps = 0
        self._breaks = 0
        # Pairs of named types of which the second reads the first, or is tried whether it does: those of recursive
        # types refer to themselves. Within keys and elements of sets there are other rules.
        self._made: dict[tuple[int, int, bool], Node] = {}
        self._in_key = False
        # Pairs of named types that were found to be the same or not, or are held to be while they are compared.
        self._same: dict[tuple[int, int], bool] = {}
        self._held: list[tuple[int, int]] = []

    @contextmanager
    def limited(self) -> Iterator[None]:
        """What takes too many steps in this block is a breaking difference."""
        try:
            yield
        except (_TooLarge, RecursionError):
            self.break_("the types", "they are too large, or nest too deep, to be compared")

    def note(self, where: str, text: str) -> None:
        self.differences.append(Difference(where, True, text))

    def break_(self, where: str, text: str) -> Node:
        self.differences.append(Difference(where, False, text))
        self._breaks += 1
        return IGNORED

    def read(self, writer: Node, reader: Node, where: str) -> Node:
        """The node with the form of `writer` and the values of `reader`."""
        if self._are_same(writer, reader):
            return reader
        if isinstance(writer, AliasNode):
            return self._alias(writer, reader, where)
        if isinstance(reader, AliasNode):
            # Only what the writer has as an alias is made one: it is the writer's that has to refer to itself.
            return self.read(writer, reader.target, where)
        if isinstance(reader, UnionNode) or isinstance(writer, UnionNode):
            return self._union(writer, reader, where)
        if isinstance(reader, ConstrainedNode) or isinstance(writer, ConstrainedNode):
            return self._constrained(writer, reader, where)
        plain = self._plain(writer, reader, where)
        if plain is None:
            return self.break_(where, f"{short(writer)} cannot be read as {short(reader)}")
        return plain

    def _step(self, count: int = 1) -> None:
        self._steps += count
        if self._steps > MAX_STEPS:
            raise _TooLarge

    def _are_same(self, first: Node, second: Node) -> bool:
        """Whether two nodes are equal. As ``==``, at a bounded cost."""
        if first is second:
            return True
        self._step()
        if type(first) is not type(second):
            return False
        if not isinstance(first, RecordNode | AliasNode):
            return self._are_parts_same(first, second)
        pair = id(first), id(second)
        if pair in self._same:
            return self._same[pair]
        outermost = not self._held
        self._same[pair] = True
        self._held.append(pair)
        if not self._are_parts_same(first, second):
            self._same[pair] = False
        same = self._same[pair]
        if outermost:
            # What was held to be the same within something that is not may have been found so for that reason only.
            for held in self._held if not same else ():
                if self._same[held]:
                    del self._same[held]
            self._held.clear()
        return same

    def _are_parts_same(self, first: Node, second: Node) -> bool:
        match first, second:
            case RecordNode(), RecordNode():
                heads = [
                    (node.name, node.keyed, [(field.name, field.required) for field in node.fields])
                    for node in (first, second)
                ]
                alike = heads[0] == heads[1]
            case AliasNode(), AliasNode():
                alike = first.name == second.name
            case CollectionNode(), CollectionNode():
                alike = first.kind == second.kind
            case MappingNode(), MappingNode():
                alike = first.kind == second.kind
            case ConstrainedNode(), ConstrainedNode():
                alike = first.constraints == second.constraints
            case ConvertedNode(), ConvertedNode():
                alike = first.name == second.name
            case CallbackNode(), CallbackNode():
                alike = first.is_async == second.is_async
            case StreamNode(), StreamNode():
                alike = first.is_async == second.is_async
            case (TupleNode(), TupleNode()) | (UnionNode(), UnionNode()):
                alike = True
            case _:
                return first == second
        parts = children(first), children(second)
        return alike and len(parts[0]) == len(parts[1]) and all(map(self._are_same, *parts))

    def _alias(self, writer: AliasNode, reader: Node, where: str) -> Node:
        key = id(writer), id(reader), self._in_key
        if key not in self._made:
            node = AliasNode(reader.name if isinstance(reader, AliasNode) else writer.name)
            self._made[key] = node
            if isinstance(reader, AliasNode) and reader.name != writer.name:
                self.note(where, f"{writer.name} is {reader.name} here")
            node.complete(self.read(writer.target, reader.target if isinstance(reader, AliasNode) else reader, where))
        return self._made[key]

    def _constrained(self, writer: Node, reader: Node, where: str) -> Node:
        promised = writer.constraints if isinstance(writer, ConstrainedNode) else ()
        asked = reader.constraints if isinstance(reader, ConstrainedNode) else ()
        self._step(len(promised) * len(asked))
        for constraint in asked:
            if not any(implies(other, constraint) for other in promised):
                self.break_(where, f"it has to fit {constraint}, which the writer does not see to")
        if promised and set(promised) != set(asked):
            self.note(where, f"the writer sees to {cut(', '.join(map(str, promised)))}")
        base = self.read(
            writer.base if isinstance(writer, ConstrainedNode) else writer,
            reader.base if isinstance(reader, ConstrainedNode) else reader,
            where,
        )
        return ConstrainedNode(base, asked) if asked else base

    def _union(self, writer: Node, reader: Node, where: str) -> Node:
        if not isinstance(writer, UnionNode) and isinstance(bare(writer), UnionNode):
            return self._constrained(writer, reader, where)  # constraints around a union concern all its members
        if isinstance(reader, ConstrainedNode):
            return self._constrained(writer, reader, where)
        writers = writer.members if isinstance(writer, UnionNode) else (writer,)
        readers = reader.members if isinstance(reader, UnionNode) else (reader,)
        before = len(self.differences)
        renamed = self._renamed(writers, readers)
        nodes = [self._member(member, reader, readers, renamed, where) for member in writers]
        if len(self.differences) == before:
            self.note(where, f"{short(writer)} is now {short(reader)}")
        return UnionNode(tuple(nodes)) if isinstance(writer, UnionNode) else nodes[0]

    def _renamed(self, writers: Sequence[Node], readers: Sequence[Node]) -> dict[type[Node], tuple[Node, Node]]:
        """The classes of a union, by kind, that have another name in the other: where each union has but one."""
        self._step(len(writers) + len(readers))
        renamed: dict[type[Node], tuple[Node, Node]] = {}
        for kind in (RecordNode, EnumNode, FlagNode):
            ours = {node.name: node for node in map(bare, readers) if isinstance(node, kind)}
            theirs = {node.name: node for node in map(bare, writers) if isinstance(node, kind)}
            # Of several, the one that is gone and the one that is new may have nothing to do with each other.
            if len(ours) == len(theirs) == 1:
                renamed[kind] = next(iter(theirs.values())), next(iter(ours.values()))
        return renamed

    def _member(
        self,
        writer: Node,
        reader: Node,
        readers: Sequence[Node],
        renamed: Mapping[type[Node], tuple[Node, Node]],
        where: str,
    ) -> Node:
        """Read a type as the nearest member of a union that can.

        Classes are told apart by their names, since one may look like another by chance.
        """
        self._step(len(readers))
        core = bare(writer)
        for member in readers:
            if self._are_same(writer, member):
                return member
        for member in sorted(readers, key=lambda member: distance(writer, member)):
            other = bare(member)
            if isinstance(core, RecordNode | EnumNode | FlagNode) and type(core) is type(other):
                assert isinstance(other, RecordNode | EnumNode | FlagNode)
                pair = renamed.get(type(core))
                if core.name != other.name and not (pair and pair[0] is core and pair[1] is other):
                    continue
            found, breaks, made = len(self.differences), self._breaks, len(self._made)
            node = self.read(writer, member, where)
            if self._breaks == breaks:
                return node
            del self.differences[found:]
            self._breaks = breaks
            for key in list(islice(reversed(self._made), len(self._made) - made)):
                del self._made[key]
        if isinstance(core, LiteralNode) and core is writer and self._holds(readers, core):
            return writer
        return self.break_(where, f"{short(writer)} cannot be read as {short(reader)}")

    def _holds(self, readers: Sequence[Node], literal: LiteralNode) -> bool:
        """Whether each value of a literal is of some member of a union, just as it is."""
        self._step(len(literal.items) * len(readers))
        return all(
            any(
                item in member.items if isinstance(member, LiteralNode) else member == ScalarNode(item[0])
                for member in readers
                if isinstance(member, LiteralNode | ScalarNode)
            )
            for item in literal.items
        )

    def _plain(self, writer: Node, reader: Node, where: str) -> Node | None:
        """As `read`, for types that are neither aliases nor unions nor constrained. None where they do not fit."""
        match writer, reader:
            case _, ScalarNode(name="Any"):
                return self._noted(writer, reader, where, writer if carries_plain_data(writer) else None)
            case ScalarNode(), (ScalarNode() | ConvertedNode()):
                return self._noted(writer, reader, where, promoted(writer, reader, (writer.name,)))
            case LiteralNode(), LiteralNode():
                self._step(len(writer.items))
                fits = set(writer.items) <= set(reader.items)
                return self._noted(writer, reader, where, writer if fits else None)
            case LiteralNode(), (ScalarNode() | ConvertedNode()):
                self._step(len(writer.items))
                kinds = tuple({name for name, _ in writer.items})
                return self._noted(writer, reader, where, promoted(writer, reader, kinds))
            case EnumNode(), EnumNode():
                return self._enum(writer, reader, where)
            case FlagNode(), FlagNode():
                self._step(len(writer.members))
                known = set(reader.members)
                unknown = [name for name, bit in writer.members if (name, bit) not in known]
                if unknown:
                    text = f"the reader's {reader.name} has no {', '.join(unknown[:5])}, or another bit for it"
                    return self.break_(where, cut(text))
                return self._noted(writer, reader, where, reader)
            case CollectionNode(), CollectionNode() if reader.kind in WIDER[writer.kind]:
                return self._noted_kind(
                    writer,
                    reader,
                    where,
                    CollectionNode(reader.kind, self._item(writer.item, reader.item, f"{where}[...]", reader.kind)),
                )
            case TupleNode(), TupleNode() if len(writer.items) == len(reader.items):
                pairs = enumerate(zip(writer.items, reader.items, strict=True))
                return TupleNode(tuple(self.read(a, b, f"{where}[{index}]") for index, (a, b) in pairs))
            case TupleNode(), CollectionNode() if reader.kind in WIDER["tuple"]:
                return self._tuple(writer, reader, where)
            case MappingNode(), MappingNode() if reader.kind in WIDER[writer.kind]:
                key = self._item(writer.key, reader.key, f"{where}[key]", "key")
                value = self.read(writer.value, reader.value, f"{where}[...]")
                return self._noted_kind(writer, reader, where, MappingNode(reader.kind, key, value))
            case ConvertedNode(), ConvertedNode() if writer.name == reader.name:
                return ConvertedNode(reader.name, self.read(writer.wire, reader.wire, where), reader.conversion)
            case RecordNode(), RecordNode():
                if writer.keyed != reader.keyed:
                    return self.break_(where, cut(f"{writer.name} is a TypedDict on one side only"))
                return self._record(writer, reader, where)
            case StreamNode(), StreamNode():
                # How it is iterated over is each side's own business.
                if writer.is_async != reader.is_async:
                    self.note(where, f"{short(writer)} is now {short(reader)}")
                return StreamNode(self.read(writer.item, reader.item, f"{where}[...]"), reader.is_async)
            case CallbackNode(), CallbackNode():
                # Who writes and who reads change sides with each call of it: one version would have to read the other
                # both ways.
                ours, theirs = short(reader), short(writer)
                text = f"{theirs} is {ours} here" if ours != theirs else f"the classes in {ours} differ"
                return self.break_(where, f"{text}, and callbacks have to be the same on both sides")
        return None

    def _noted(self, writer: Node, reader: Node, where: str, node: Node | None) -> Node | None:
        if node is not None:
            self.note(where, f"{short(writer)} is now {short(reader)}")
        return node

    def _item(self, writer: Node, reader: Node, where: str, kind: str) -> Node:
        before, self._in_key = self._in_key, self._in_key or kind in DISTINCT
        try:
            return self.read(writer, reader, where)
        finally:
            self._in_key = before

    def _noted_kind(
        self, writer: CollectionNode | MappingNode, reader: CollectionNode | MappingNode, where: str, node: Node
    ) -> Node:
        if writer.kind != reader.kind:
            self.note(where, f"{writer.kind} is now {reader.kind}")
        return node

    def _enum(self, writer: EnumNode, reader: EnumNode, where: str) -> Node | None:
        self._step(len(writer.members))
        known = set(reader.members)
        unknown = [name for name in writer.members if name not in known]
        if unknown:
            return self.break_(where, cut(f"the reader's {reader.name} has no {', '.join(unknown[:5])}"))
        self.note(where, f"{reader} has other members or another name")
        return EnumNode(reader.name, writer.members, reader.literal or writer.literal, reader.cls)

    def _tuple(self, writer: TupleNode, reader: CollectionNode, where: str) -> Node:
        node = TupleNode(
            tuple(self.read(item, reader.item, f"{where}[{index}]") for index, item in enumerate(writer.items))
        )
        self.note(where, f"{short(writer)} is now {short(reader)}")
        if reader.kind == "tuple":
            return node
        name = short(reader)
        return ConvertedNode(name, node, Conversion(list, name, None, list, list))

    def _record(self, writer: RecordNode, reader: RecordNode, where: str) -> Node:
        key = id(writer), id(reader), self._in_key
        if key in self._made:
            return self._made[key]
        node = RecordNode(reader.name, keyed=reader.keyed, cls=reader.cls)
        self._made[key] = node
        self._step(len(writer.fields) + len(reader.fields))
        own = {field.name: field for field in reader.fields}
        named = _has_to_be_named(writer, reader)
        node.complete(tuple(self._field(field, own.get(field.name), writer, named, where) for field in writer.fields))
        written = [field.name for field in writer.fields]
        if writer.name != reader.name and own.keys().isdisjoint(written):
            self.break_(where, cut(f"{writer.name} and {reader.name} have no field in common"))
        for field in reader.fields:
            if field.name in written:
                continue
            if field.required:
                self.break_(f"{where}.{field.name}", "it is required, and the writer does not have it")
            else:
                missing = "it may be missing" if reader.keyed else "its default counts"
                self.note(f"{where}.{field.name}", f"the writer does not have it, and {missing}")
        common = [name for name in written if name in own]
        if common != [field.name for field in reader.fields if field.name in written]:
            self.note(where, f"the fields of {reader.name} stand in another order")
        if writer.name != reader.name:
            self.note(where, f"{writer.name} is {reader.name} here")
        return node

    def _field(self, field: Field, own: Field | None, writer: RecordNode, named: bool, where: str) -> Field:
        where = f"{where}.{field.name}" if own else cut(f"{where}.{field.name}")
        if own is None:
            if self._in_key:
                self.break_(where, "the reader does not have it, and values that differ in it alone would become one")
            else:
                self.note(where, "the reader does not have it, and ignores it")
            return Field(field.name, IGNORED, field.required)
        if writer.keyed and own.required and not field.required:
            self.break_(where, "it has to be there, and the writer may leave it out")
        elif field.required is not own.required:
            self.note(where, "it is required on one side only")
        argument = own.argument or (own.name if named else None)
        return Field(field.name, self.read(field.node, own.node, where), field.required, argument)


def _has_to_be_named(writer: RecordNode, reader: RecordNode) -> bool:
    """Whether the fields that the constructor takes by position are not written in this order from the first on."""
    positional = [field.name for field in reader.fields if field.argument is None]
    known = set(positional)
    written = [field.name for field in writer.fields if field.name in known]
    return written != positional[: len(written)]
