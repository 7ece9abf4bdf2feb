"""Contracts that change: how two versions of a schema differ, and how one side reads what the other writes.

Who reads adapts. From the writer's type and its own it makes a node in the **form** of the writer's, whose values are
of its own **classes**; the ordinary coders do the rest. So an adapted node has, everywhere, just the wire form of the
writer's node: members of a union in the writer's order, fields of a record in the writer's order, those that nobody
here knows ignored.

A change is safe where the reader can read everything that the writer may write. All others are breaking.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from typedrpc.schema.conversions import Conversion
from typedrpc.schema.nodes import (
    IGNORED,
    AliasNode,
    CollectionNode,
    ConstrainedNode,
    Constraint,
    ConvertedNode,
    EnumNode,
    Field,
    FlagNode,
    LiteralNode,
    MappingNode,
    Node,
    RecordNode,
    ScalarNode,
    TupleNode,
    UnionNode,
)
from typedrpc.schema.signature import Parameter, ParameterKind, Schema

MAX_STEPS: Final = 20_000
"""Pairs of types that one comparison looks at. More is taken for a peer that wants to be expensive."""


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


def compatible(writer: Schema, reader: Schema) -> list[Difference]:
    """What is different when a caller with one version of a command calls a callee with another.

    Both directions are looked at: the caller writes the arguments and the callee reads them, the callee writes the
    result and the caller reads it.

    Args:
        writer: The schema of the caller, who writes the call.
        reader: The schema of the callee, who reads it.

    Returns:
        The differences, in the order of the callee's signature; none where the two agree. The call works if all of them
        are safe.
    """
    return Adaptation(writer, reader).differences + adapt_result(reader.result, writer.result)[1]


class Adaptation:
    """How the callee reads the arguments of a caller with another version of the command.

    Attributes:
        parameters: Those of the caller, in the caller's order, each with the type that reads its argument.
        places: For each of these the index of the callee's parameter that it is for; None where there is none.
        differences: What is different; with a breaking one among them the rest must not be used.
    """

    def __init__(self, caller: Schema, callee: Schema) -> None:
        resolution = _Resolution()
        self.parameters: list[Parameter] = []
        self.places: list[int | None] = []
        for parameter, place in _pairs(caller.parameters, callee.parameters):
            self.places.append(place)
            if place is None:
                node: Node = IGNORED
                where = f"parameter '{_stars(parameter)}{parameter.name}'"
                if parameter.required or _stars(parameter):
                    resolution.break_(where, "the callee does not take it")
                else:
                    resolution.note(where, "the callee does not take it, and ignores it where it is given")
            else:
                own = callee.parameters[place]
                where = f"parameter '{_stars(own)}{own.name}'"
                node = resolution.read(parameter.node, own.node, where)
                if own.required and not parameter.required:
                    resolution.break_(where, "it has no default any more, and the caller may leave it out")
                elif parameter.required and not own.required:
                    resolution.note(where, "it has a default")
                if parameter.kind is not own.kind:
                    resolution.note(where, "it is given in another way")
            self.parameters.append(parameter._replace(node=node))
        for place, own in enumerate(callee.parameters):
            if place not in self.places:
                where = f"parameter '{_stars(own)}{own.name}'"
                if own.required:
                    resolution.break_(where, "it is required, and the caller does not give it")
                else:
                    resolution.note(where, "the caller does not give it, and its default counts")
        if not resolution.differences and caller.parameters != callee.parameters:
            resolution.note("the parameters", "they stand in another order")
        self.differences = resolution.differences


def adapt_result(writer: Node, reader: Node) -> tuple[Node, list[Difference]]:
    """The node that reads, as `reader`, a result written as `writer`; and what is different."""
    resolution = _Resolution()
    return resolution.read(writer, reader, "the result"), resolution.differences


def _pairs(callers: Sequence[Parameter], callees: Sequence[Parameter]) -> list[tuple[Parameter, int | None]]:
    """The caller's parameters, each with the index of the callee's that its argument is for.

    By name; those with stars, which have no name for callers, by their kind.
    """
    variadic = (ParameterKind.VAR_POSITIONAL, ParameterKind.VAR_KEYWORD)
    by_name = {own.name: index for index, own in enumerate(callees) if own.kind not in variadic}
    by_kind = {own.kind: index for index, own in enumerate(callees) if own.kind in variadic}
    return [
        (parameter, by_kind.get(parameter.kind) if parameter.kind in variadic else by_name.get(parameter.name))
        for parameter in callers
    ]


def _stars(parameter: Parameter) -> str:
    return {ParameterKind.VAR_POSITIONAL: "*", ParameterKind.VAR_KEYWORD: "**"}.get(parameter.kind, "")


# What a value of a type is, too, as type checkers see it; the type itself first.
_PROMOTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "bool": ("bool", "int", "float", "complex"),
    "int": ("int", "float", "complex"),
    "float": ("float", "complex"),
}
_WIDER: Final[Mapping[str, frozenset[str]]] = {
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
_PLAIN: Final = frozenset({"None", "bool", "int", "float", "str", "bytes"})


class _Resolution:
    """One comparison of two types, and all that is found on the way."""

    def __init__(self, parent: _Resolution | None = None) -> None:
        self.differences: list[Difference] = []
        self.broken = False
        # Pairs of named nodes that are, or were, compared: those of recursive types refer to themselves.
        self._made: dict[tuple[int, int], Node] = dict(parent._made) if parent else {}
        self._steps: list[int] = parent._steps if parent else [0]

    def note(self, where: str, text: str) -> None:
        self.differences.append(Difference(where, True, text))

    def break_(self, where: str, text: str) -> Node:
        self.differences.append(Difference(where, False, text))
        self.broken = True
        return IGNORED

    def read(self, writer: Node, reader: Node, where: str) -> Node:
        """The node with the form of `writer` and the values of `reader`."""
        self._steps[0] += 1
        if self._steps[0] > MAX_STEPS:
            return self.break_(where, "the two are too large to be compared")
        if writer is reader or writer == reader:
            return reader
        if isinstance(writer, AliasNode) or isinstance(reader, AliasNode):
            return self._alias(writer, reader, where)
        if isinstance(reader, ConstrainedNode) or isinstance(writer, ConstrainedNode):
            return self._constrained(writer, reader, where)
        if isinstance(writer, UnionNode):
            return self._members(writer, reader, where)
        if isinstance(reader, UnionNode):
            node = self._member(writer, reader, where)
            if not self.differences or self.differences[-1].where != where:
                self.note(where, f"{writer} is now {reader}")
            return node
        plain = self._plain(writer, reader, where)
        return plain if plain is not None else self.break_(where, f"{writer} cannot be read as {reader}")

    def _alias(self, writer: Node, reader: Node, where: str) -> Node:
        key = (id(writer), id(reader))
        if key not in self._made:
            node = AliasNode(reader.name if isinstance(reader, AliasNode) else str(writer))
            self._made[key] = node
            target = self.read(
                writer.target if isinstance(writer, AliasNode) else writer,
                reader.target if isinstance(reader, AliasNode) else reader,
                where,
            )
            node.complete(target)
        return self._made[key]

    def _constrained(self, writer: Node, reader: Node, where: str) -> Node:
        promised = writer.constraints if isinstance(writer, ConstrainedNode) else ()
        asked = reader.constraints if isinstance(reader, ConstrainedNode) else ()
        for constraint in asked:
            if not any(_implies(other, constraint) for other in promised):
                self.break_(where, f"it has to fit {constraint}, which the writer does not see to")
        if promised and set(promised) != set(asked):
            self.note(where, f"the writer sees to {', '.join(map(str, promised))}")
        base = self.read(
            writer.base if isinstance(writer, ConstrainedNode) else writer,
            reader.base if isinstance(reader, ConstrainedNode) else reader,
            where,
        )
        return ConstrainedNode(base, asked) if asked else base

    def _members(self, writer: UnionNode, reader: Node, where: str) -> Node:
        before = len(self.differences)
        node = UnionNode(tuple(self.read(member, reader, where) for member in writer.members))
        if len(self.differences) == before:
            self.note(where, f"{writer} is now {reader}")
        return node

    def _member(self, writer: Node, reader: UnionNode, where: str) -> Node:
        """The union's member that reads the writer's type: the one that is nearest to it."""
        for member in sorted(reader.members, key=lambda member: _distance(writer, member)):
            trial = _Resolution(self)
            node = trial.read(writer, member, where)
            if not trial.broken:
                self._made = trial._made
                self.differences += trial.differences
                return node
        return self.break_(where, f"{writer} cannot be read as {reader}")

    def _plain(self, writer: Node, reader: Node, where: str) -> Node | None:
        """As `read`, for types that are neither aliases nor unions nor constrained. None where they do not fit."""
        match writer, reader:
            case _, ScalarNode(name="Any"):
                return self._noted(writer, reader, where, writer if _is_plain(writer) else None)
            case ScalarNode(), (ScalarNode() | ConvertedNode()):
                return self._noted(writer, reader, where, _promoted(writer, reader, (writer.name,)))
            case LiteralNode(), LiteralNode():
                fits = set(writer.items) <= set(reader.items)
                return self._noted(writer, reader, where, writer if fits else None)
            case LiteralNode(), (ScalarNode() | ConvertedNode()):
                kinds = tuple({name for name, _ in writer.items})
                return self._noted(writer, reader, where, _promoted(writer, reader, kinds))
            case EnumNode(), EnumNode():
                return self._enum(writer, reader, where)
            case FlagNode(), FlagNode():
                fits = set(writer.members) <= set(reader.members)
                return self._noted(writer, reader, where, reader if fits else None)
            case CollectionNode(), CollectionNode() if reader.kind in _WIDER[writer.kind]:
                return self._noted_kind(
                    writer,
                    reader,
                    where,
                    CollectionNode(reader.kind, self.read(writer.item, reader.item, f"{where}[...]")),
                )
            case TupleNode(), TupleNode() if len(writer.items) == len(reader.items):
                pairs = enumerate(zip(writer.items, reader.items, strict=True))
                return TupleNode(tuple(self.read(a, b, f"{where}[{index}]") for index, (a, b) in pairs))
            case TupleNode(), CollectionNode() if reader.kind in _WIDER["tuple"]:
                return self._tuple(writer, reader, where)
            case MappingNode(), MappingNode() if reader.kind in _WIDER[writer.kind]:
                key = self.read(writer.key, reader.key, f"{where}[key]")
                value = self.read(writer.value, reader.value, f"{where}[...]")
                return self._noted_kind(writer, reader, where, MappingNode(reader.kind, key, value))
            case ConvertedNode(), ConvertedNode() if writer.name == reader.name:
                return ConvertedNode(reader.name, self.read(writer.wire, reader.wire, where), reader.conversion)
            case RecordNode(), RecordNode() if writer.keyed == reader.keyed:
                return self._record(writer, reader, where)
        return None

    def _noted(self, writer: Node, reader: Node, where: str, node: Node | None) -> Node | None:
        if node is not None:
            self.note(where, f"{writer} is now {reader}")
        return node

    def _noted_kind(
        self, writer: CollectionNode | MappingNode, reader: CollectionNode | MappingNode, where: str, node: Node
    ) -> Node:
        if writer.kind != reader.kind:
            self.note(where, f"{writer.kind} is now {reader.kind}")
        return node

    def _enum(self, writer: EnumNode, reader: EnumNode, where: str) -> Node | None:
        unknown = [name for name in writer.members if name not in reader.members]
        if unknown:
            return self.break_(where, f"the reader's {reader.name} has no {', '.join(unknown[:5])}")
        self.note(where, f"{reader} has other members or another name")
        return EnumNode(reader.name, writer.members, reader.literal or writer.literal, reader.cls)

    def _tuple(self, writer: TupleNode, reader: CollectionNode, where: str) -> Node:
        node = TupleNode(
            tuple(self.read(item, reader.item, f"{where}[{index}]") for index, item in enumerate(writer.items))
        )
        self.note(where, f"{writer} is now {reader}")
        if reader.kind == "tuple":
            return node
        return ConvertedNode(str(reader), node, Conversion(list, str(reader), None, list, list))

    def _record(self, writer: RecordNode, reader: RecordNode, where: str) -> Node:
        key = (id(writer), id(reader))
        if key in self._made:
            return self._made[key]
        node = RecordNode(reader.name, keyed=reader.keyed, cls=reader.cls)
        self._made[key] = node
        own = {field.name: field for field in reader.fields}
        fields = [self._field(field, own.pop(field.name, None), writer, where) for field in writer.fields]
        for field in own.values():
            if field.required:
                self.break_(f"{where}.{field.name}", "it is required, and the writer does not have it")
            else:
                missing = "it may be missing" if reader.keyed else "its default counts"
                self.note(f"{where}.{field.name}", f"the writer does not have it, and {missing}")
        if [field.name for field in writer.fields] != [field.name for field in reader.fields] and not own:
            self.note(where, f"the fields of {reader.name} stand in another order")
        elif writer.name != reader.name:
            self.note(where, f"{writer.name} is {reader.name} here")
        node.complete(tuple(fields))
        return node

    def _field(self, field: Field, own: Field | None, writer: RecordNode, where: str) -> Field:
        where = f"{where}.{field.name}"
        if own is None:
            self.note(where, "the reader does not have it, and ignores it")
            return Field(field.name, IGNORED, field.required)
        if writer.keyed and own.required and not field.required:
            self.break_(where, "it has to be there, and the writer may leave it out")
        elif field.required is not own.required:
            self.note(where, "it is required on one side only")
        # By name, as the order may be another one and fields may be missing.
        return Field(field.name, self.read(field.node, own.node, where), field.required, own.argument or own.name)


def _distance(writer: Node, member: Node) -> tuple[bool, bool, int]:
    """How far a member of a union is from the writer's type: the nearest comes first."""
    promotions = _PROMOTIONS.get(getattr(writer, "name", ""), ()) if isinstance(writer, ScalarNode) else ()
    name = getattr(member, "name", "")
    steps = promotions.index(name) if name in promotions else len(promotions)
    named = (getattr(writer, "name", None), getattr(writer, "kind", None))
    same = named == (getattr(member, "name", None), getattr(member, "kind", None))
    return writer != member, type(writer) is not type(member) or not same, steps


def _promoted(writer: Node, reader: ScalarNode | ConvertedNode, kinds: Sequence[str]) -> Node | None:
    """The node that reads scalars of the named types, which have the form of `writer`, as a wider type."""
    if all(kind == reader.name for kind in kinds):
        return writer
    if all(reader.name in _PROMOTIONS.get(kind, ()) for kind in kinds):
        cls, promote = _PROMOTE[reader.name]
        return ConvertedNode(reader.name, writer, Conversion(cls, reader.name, None, promote, promote))
    return None


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


def _is_plain(node: Node) -> bool:
    """Whether what arrives for a node is plain data, as ``Any`` promises it."""
    match node:
        case ScalarNode():
            return node.name in _PLAIN
        case LiteralNode():
            return True
        case CollectionNode():
            return node.kind == "list" and _is_plain(node.item)
        case MappingNode():
            return node.kind == "dict" and isinstance(node.key, ScalarNode | LiteralNode) and _is_plain(node.value)
        case UnionNode():
            return all(map(_is_plain, node.members))
        case _:
            return False


def _implies(promised: Constraint, asked: Constraint) -> bool:
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
