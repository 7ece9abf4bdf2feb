"""From a type hint to its node, or to sentences that say what cannot travel, where, and what to use instead."""

from __future__ import annotations

import collections
import collections.abc
import enum
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal, NewType, Union, cast, get_args, get_origin

import typing_extensions

from typedrpc.schema.constraints import check_fits, constrained
from typedrpc.schema.conversions import Conversion, Record, Refused, conversion_of, find
from typedrpc.schema.graphs import (
    bare,
    companion_of,
    hashable,
    literal_of,
    misplaced_companion,
    stands_within,
    union_of,
)
from typedrpc.schema.local import LocalNames
from typedrpc.schema.nodes import (
    IGNORED,
    NONE,
    SCALARS,
    AliasNode,
    CallbackNode,
    CollectionNode,
    ConstrainedNode,
    ConvertedNode,
    EnumNode,
    Field,
    FlagNode,
    IgnoredNode,
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
from typedrpc.schema.records import Scope, is_record, record_name, record_of, shown, substitute
from typedrpc.schema.refusals import refusal

MAX_DEPTH = 64
"""How deep annotations may nest. Walks over nodes recurse, and msgpack itself stops at 511."""

MAX_PLACE = 300
"""Characters of a place after which it does not become more precise."""

UNREADABLE = object()
"""Stands for the value of an annotation that cannot be evaluated."""

_COLLECTIONS: Mapping[object, str] = {
    list: "list",
    set: "set",
    frozenset: "frozenset",
    collections.deque: "deque",
    collections.abc.Sequence: "Sequence",
    collections.abc.MutableSequence: "MutableSequence",
    collections.abc.Collection: "Collection",
    collections.abc.Iterable: "Iterable",
    collections.abc.Set: "AbstractSet",
    collections.abc.MutableSet: "MutableSet",
}
_SETS = frozenset({"set", "frozenset", "AbstractSet", "MutableSet"})
_MAPPINGS: Mapping[object, str] = {
    dict: "dict",
    collections.OrderedDict: "OrderedDict",
    collections.defaultdict: "defaultdict",
    collections.Counter: "Counter",
    collections.abc.Mapping: "Mapping",
    collections.abc.MutableMapping: "MutableMapping",
}
_STREAMS: Mapping[object, bool] = {collections.abc.Iterator: False, collections.abc.AsyncIterator: True}
KINDS: Mapping[object, str] = {**_COLLECTIONS, **_MAPPINGS, tuple: "tuple"}
"""Every collection and mapping that can travel, with the name that it has in a schema."""

_ALIASES: tuple[type, ...] = tuple(
    {typing_extensions.TypeAliasType, getattr(typing, "TypeAliasType", typing_extensions.TypeAliasType)}
)
# Generics of typing without their arguments: List, Tuple, ... but not Tuple[()].
_BARE = frozenset(value for value in vars(typing).values() if get_origin(value) is not None and not get_args(value))


class SignatureFaults(Exception):
    """A signature or a type hint cannot be part of a contract.

    Attributes:
        faults: One sentence per fault, each with its place.
        unresolved: One sentence per name that is not defined (yet).
    """

    def __init__(self, faults: Sequence[str], unresolved: Sequence[str] = ()) -> None:
        self.faults = list(faults)
        self.unresolved = list(unresolved)
        super().__init__(self.faults)

    def __str__(self) -> str:
        return "; ".join(self.faults)


class UnresolvedNames(NameError):
    """Names in annotations are not defined (yet). Nothing else is wrong.

    Attributes:
        unresolved: One sentence per name.
    """

    def __init__(self, unresolved: Sequence[str]) -> None:
        self.unresolved = list(unresolved)
        super().__init__("; ".join(self.unresolved))


def node_of(hint: object, where: str = "the type") -> Node:
    """The node of one type hint.

    Args:
        hint: What an annotation evaluates to; string annotations have to be resolved already.
        where: Names the place in the text of a fault.

    Raises:
        SignatureFaults: The hint, or something within it, cannot travel.
        UnresolvedNames: A string annotation within a class names something that is not defined (yet).
    """
    reader = HintReader()
    node = reader.read(hint, where)
    reader.check()
    return node


class HintReader:
    """Reads hints and collects every fault. The nodes that it returns are good only if `check` raises nothing.

    Args:
        names: The names of the functions that classes may be local to.
        scope: Where the first hints find theirs.
    """

    def __init__(self, names: LocalNames | None = None, scope: Scope | None = None) -> None:
        self.faults: list[str] = []
        self._unresolved: dict[str, None] = {}
        self._names = names
        self._scope = scope or Scope({}, {})
        self._converting: frozenset[type[Any]] = frozenset()
        self._late: list[Callable[[], object]] = []
        self._records: dict[object, Node] = {}
        self._aliases: dict[object, Node] = {}
        self._recursive: set[object] = set()
        self._has_companions = False
        self._depth = 0

    def read(self, hint: object, where: str, *, parameter: bool = False, result: bool = False) -> Node:
        """The node of `hint`. A fault goes to `faults`, with `where` as its place.

        Args:
            hint: What an annotation evaluates to.
            where: The place.
            parameter: It is the whole type of a parameter, which may be a callback or a stream.
            result: It is the whole type of a command's result, which may be a stream.
        """
        if self._depth >= MAX_DEPTH:
            return self._fault(where, hint, f"types nest deeper than {MAX_DEPTH} here; make a part of it a class")
        self._depth += 1
        try:
            node = self._node(hint, where)
        finally:
            self._depth -= 1
        # When all has been read, since an alias may be right at one place and wrong at another.
        if self._depth == 0 and self._has_companions:
            self._check_companions(node, where, parameter=parameter, result=result)
        return node

    def read_class(self, cls: type[Any], record: Callable[[], Record], where: str) -> Node:
        """The node of a class that no hint stands for, by its fields, which `record` finds as `record_of` does."""
        return self._fields(cls, (cls, where), cls.__name__, record, where)

    def evaluate(self, hint: object, where: str = "") -> object:
        """What an annotation stands for; `UNREADABLE` where that cannot be told, which is noted."""
        return self._value(lambda: self._scope.evaluate(hint), where)

    def check(self) -> None:
        """Raises what is wrong with all that has been read.

        Raises:
            SignatureFaults: Something cannot travel.
            UnresolvedNames: Something is not defined (yet), and that is all.
        """
        late, self._late = self._late, []
        for check in late:
            check()
        if self.faults:
            raise SignatureFaults(self.faults, list(self._unresolved))
        if self._unresolved:
            raise UnresolvedNames(list(self._unresolved))

    def _value(self, evaluate: Callable[[], object], where: str) -> object:
        place = f"{where}: " if where else ""
        try:
            return evaluate()
        except (NameError, AttributeError) as error:
            self._missing(place, error)
        except Exception as error:
            self.faults.append(f"{place}an annotation cannot be evaluated: {type(error).__name__}: {error}")
        return UNREADABLE

    def _missing(self, place: str, error: Exception) -> Node:
        self._unresolved[f"{place}an annotation does not resolve: {error}"] = None
        return IGNORED

    def _fault(self, where: str, hint: object, reason: str) -> Node:
        self.faults.append(f"{where}: {shown(hint)} cannot travel: {reason}")
        return IGNORED

    def _node(self, hint: object, where: str) -> Node:
        if hint is None:
            return NONE
        if hint is UNREADABLE:
            return IGNORED
        if isinstance(hint, type) and hint in SCALARS:
            return ScalarNode(SCALARS[hint])
        origin = get_origin(hint)
        args = get_args(hint)
        if origin is not None and (args or hint not in _BARE):
            return self._generic(hint, origin, args, where)
        if isinstance(hint, NewType):
            return self.read(hint.__supertype__, where)
        if isinstance(hint, _ALIASES):
            return self._alias(hint, (), where)
        if isinstance(hint, str | typing.ForwardRef):
            return self._name(hint if isinstance(hint, str) else hint.__forward_arg__, where)
        if isinstance(hint, type) and origin is None:
            return self._class(hint, where)
        return self._fault(where, hint, refusal(hint, KINDS))

    def _class(self, cls: type[Any], where: str) -> Node:
        if (conversion := conversion_of(cls)) is not None:
            return self._converted(conversion, where)
        if issubclass(cls, enum.Enum):
            return self._enum(cls, where)
        if is_record(cls) and not getattr(cls, "__parameters__", ()):
            return self._record(cls, (), where)
        return self._found(cls, cls, where)

    def _found(self, hint: object, origin: object, where: str) -> Node:
        """The node of what a finder or the adapter of a library may know."""
        try:
            found = find(hint, self._names)
        except TypeError as error:
            return self._fault(where, hint, str(error))
        except (NameError, AttributeError) as error:
            return self._missing(f"{where}, in {shown(hint)}: ", error)
        except Exception as error:
            return self._fault(where, hint, f"it cannot be read: {type(error).__name__}: {error}")
        if isinstance(found, Conversion):
            return self._converted(found, where)
        if isinstance(found, Record):
            args = get_args(hint)
            is_plain = found.name == record_name(found.cls, args)
            name = self._generic_name(found.cls, args, where) if is_plain else found.name
            return IGNORED if name is None else self._fields(found.cls, (found.cls, name), name, lambda: found, where)
        return self._fault(where, hint, refusal(origin, KINDS))

    def _generic(self, hint: object, origin: Any, args: tuple[Any, ...], where: str) -> Node:
        inside = f"{where}, in {shown(hint)}" if len(where) < MAX_PLACE else where
        if origin is Union or origin is types.UnionType:
            return self._union(hint, [self.read(arg, inside) for arg in args], where)
        if origin is Literal:
            return self._literal(hint, args, where)
        if origin is Annotated:
            return self._annotated(hint, args, where)
        if any(map(_is_unpacked, args)):
            return self._fault(where, hint, "an unpacked tuple has no place of its own; write its types out")
        if origin is tuple:
            return self._tuple(args, inside)
        if origin is collections.abc.Callable:
            return self._callback(hint, args, where)
        if origin in _STREAMS:
            self._has_companions = True
            return StreamNode(self.read(args[0], inside), _STREAMS[origin])
        if origin in _COLLECTIONS:
            kind = _COLLECTIONS[origin]
            item = self.read(args[0], inside)
            if kind in _SETS:
                self._late.append(partial(self._check_hashable, hint, item, where))
            return CollectionNode(kind, item)
        if origin in _MAPPINGS:
            key = self.read(args[0], inside)
            self._late.append(partial(self._check_hashable, hint, key, where, "the key "))
            return MappingNode(_MAPPINGS[origin], key, self.read(args[1] if len(args) > 1 else int, inside))
        if isinstance(origin, _ALIASES):
            return self._alias(origin, args, where)
        if isinstance(origin, type) and (conversion := conversion_of(origin)) is not None:
            return self._converted(conversion, where)
        if isinstance(origin, type) and is_record(origin):
            return self._record(origin, args, where)
        return self._found(hint, origin, where)

    def _check_hashable(self, hint: object, node: Node, where: str, what: str = "") -> None:
        if not hashable(node):
            self._fault(where, hint, f"{what}{node} cannot be hashed; use a type that can, a tuple say")

    def _union(self, hint: object, members: list[Node], where: str) -> Node:
        seen: dict[Node, Node] = {}
        for member in members:
            if not _same_classes(seen.setdefault(member, member), member):
                return self._fault(where, hint, f"{member} stands for two classes that look the same; rename one")
        union = union_of(members)
        rivals = _rivals(union) if self._has_companions else ""
        return self._fault(where, hint, f"{rivals}; give each a parameter of its own") if rivals else union

    def _callback(self, hint: object, args: tuple[Any, ...], where: str) -> Node:
        taken, given = args
        if not isinstance(taken, list):
            reason = "it does not say what it takes; write the types in brackets, as in Callable[[int], None]"
            return self._fault(where, hint, reason)
        inside = f"{where}, in {shown(hint)}" if len(where) < MAX_PLACE else where
        if any(map(_is_unpacked, taken)):
            return self._fault(where, hint, "an unpacked tuple has no place of its own; write its types out")
        parameters = tuple(self.read(arg, inside) for arg in taken)
        if isinstance(given, str | typing.ForwardRef):
            given = self.evaluate(given if isinstance(given, str) else given.__forward_arg__, where)
        last = get_args(given)[-1:]
        is_async = bool(last) and get_origin(given) in (collections.abc.Awaitable, collections.abc.Coroutine)
        self._has_companions = True
        return CallbackNode(parameters, self.read(last[0] if is_async else given, inside), is_async)

    def _check_companions(self, node: Node, where: str, *, parameter: bool, result: bool) -> None:
        wrong = misplaced_companion(node, parameter=parameter, result=result)
        if wrong is None:
            return
        what = "a stream" if isinstance(wrong, StreamNode) else "a function"
        taken = companion_of(node)
        may_be = parameter or (result and isinstance(taken, StreamNode))
        if taken and may_be and any(map(misplaced_companion, children(taken))):
            whose = "what a stream gives" if isinstance(taken, StreamNode) else "what a function takes and gives"
            reason = f"{whose} is plain data; use the types of values"
        elif parameter:
            reason = f"{what} has to be the whole of an argument; give it a parameter of its own, or *args"
        elif isinstance(wrong, CallbackNode):
            reason = "a function goes with a call; make it a parameter of a command"
        elif result:
            reason = "a stream has to be the whole of a result; use list[...] or Iterable[...], which travel whole"
        else:
            reason = "a stream goes with a call; make it the result of a command, or a parameter"
        self.faults.append(f"{where}: {wrong} cannot travel: {reason}")

    def _annotated(self, hint: object, args: tuple[Any, ...], where: str) -> Node:
        faults = len(self.faults)
        base = self.read(args[0], where)
        if len(self.faults) > faults:
            return base
        try:
            node = constrained(base, args[1:])
        except ValueError as error:
            return self._fault(where, hint, str(error))
        if isinstance(node, ConstrainedNode) and (taken := companion_of(base)):
            reason = "nothing is asked of a function; leave the constraints out"
            if isinstance(taken, StreamNode):
                reason = "nothing is asked of a stream as a whole; put the constraints at the type within it"
            return self._fault(where, hint, reason)
        if isinstance(node, ConstrainedNode):
            self._late.append(partial(self._check_fits, hint, node, where))
        return node

    def _check_fits(self, hint: object, node: ConstrainedNode, where: str) -> None:
        base = bare(node)
        if isinstance(base, IgnoredNode) or (isinstance(base, UnionNode) and IGNORED in base.members):
            return
        try:
            check_fits(node)
        except ValueError as error:
            self._fault(where, hint, str(error))

    def _tuple(self, args: tuple[Any, ...], inside: str) -> Node:
        if len(args) == 2 and args[1] is Ellipsis:
            return CollectionNode("tuple", self.read(args[0], inside))
        return TupleNode(tuple(self.read(arg, inside) for arg in args))

    def _alias(self, alias: Any, args: tuple[Any, ...], where: str) -> Node:
        # A name among the arguments is one of here, not of the alias's module.
        args = tuple(self.evaluate(arg, where) for arg in args)
        if UNREADABLE in args:
            return IGNORED
        binding = dict(zip(alias.__type_params__, args, strict=False))
        outer = self._scope
        scope = self._scope = outer.of_alias(alias)
        try:
            name = self._generic_name(alias, args, where)
            if name is None:
                return IGNORED
            return self._named(
                (alias, _key(args)), name, lambda: substitute(scope.evaluate(alias.__value__), binding), where
            )
        finally:
            self._scope = outer

    def _name(self, text: str, where: str) -> Node:
        """The node of a name in brackets, which may stand within its own definition: ``Json = dict[str, "Json"]``."""
        scope = self._scope
        return self._named((text, scope), text, lambda: scope.evaluate(text), where)

    def _named(self, key: object, name: str, value: Callable[[], object], where: str) -> Node:
        """The node of an alias: what it stands for, or a node of its own where that refers to the alias again."""
        if key in self._aliases:
            self._recursive.add(key)
            return self._aliases[key]
        node = self._aliases[key] = AliasNode(name)
        converting, self._converting = self._converting, frozenset()
        target = self.read(self._value(value, where), where)
        self._converting = converting
        if key not in self._recursive:
            self._aliases[key] = target
            return target
        if stands_within(target, node):
            target = self._fault(where, name, "it stands for itself; put a collection between")
        node.complete(target)
        return node

    def _converted(self, conversion: Conversion, where: str) -> Node:
        if conversion.cls in self._converting:
            return self._fault(where, conversion.cls, "what it travels as holds it again; put a dataclass between")
        inside = f"{where}, in what {conversion.name} travels as" if len(where) < MAX_PLACE else where
        converting, scope = self._converting, self._scope
        self._converting = converting | {conversion.cls}
        self._scope = Scope.of_class(conversion.cls, self._names)
        node = ConvertedNode(conversion.name, self.read(conversion.wire, inside), conversion)
        self._converting, self._scope = converting, scope
        return node

    def _literal(self, hint: object, values: tuple[Any, ...], where: str) -> Node:
        plain: list[LiteralValue] = []
        enums: dict[type[enum.Enum], set[str]] = {}
        members: list[Node] = []
        for value in values:
            if value is None:
                members.append(NONE)
            elif isinstance(value, enum.Flag):
                return self._fault(where, hint, "the members of a flag combine; name the whole flag")
            elif isinstance(value, enum.Enum):
                enums.setdefault(type(value), set()).add(value.name)
            elif type(value) is str and not _encodable(value):
                return self._fault(where, hint, "a lone surrogate is not text")
            elif type(value) in (str, int, bool, bytes):
                plain.append(value)
            else:
                return self._fault(where, hint, f"{value!r} is none of str, int, bool, bytes, None, enum member")
        if plain:
            members.append(literal_of(plain))
        for cls, names in enums.items():
            whole = self.read(cls, where)
            if isinstance(whole, EnumNode):
                chosen = tuple(name for name in whole.members if name in names)
                members.append(EnumNode(whole.name, chosen, literal=True, cls=cls))
        return union_of(members or [NONE])

    def _enum(self, cls: type[enum.Enum], where: str) -> Node:
        names = tuple(member.name for member in cls)
        if not names:
            return self._fault(where, cls, "the enum has no members; name an enum that has some")
        if issubclass(cls, enum.Flag):
            return FlagNode(cls.__name__, tuple((cast(str, bit.name), int(bit.value)) for bit in cls), cls=cls)
        return EnumNode(cls.__name__, names, cls=cls)

    def _record(self, cls: type[Any], args: tuple[Any, ...], where: str) -> Node:
        # A name among the arguments is one of here, not of the class's module.
        args = tuple(self.evaluate(arg, where) for arg in args)
        name = self._generic_name(cls, args, where)
        if name is None or UNREADABLE in args:
            return IGNORED
        return self._fields(cls, (cls, _key(args)), name, lambda: record_of(cls, args, self._names), where)

    def _generic_name(self, generic: Any, args: tuple[Any, ...], where: str) -> str | None:
        """The name of a class or an alias with its arguments; None where one of these cannot travel.

        Both sides have to come to the same one, however each writes its hints: ``Box[Optional[int]]`` is
        ``Box[int | None]``.
        """
        known = len(self.faults) + len(self._unresolved)
        inside = f"{where}, in {record_name(generic, args)}" if len(where) < MAX_PLACE else where
        nodes = [self.read(arg, inside) for arg in args]
        if len(self.faults) + len(self._unresolved) != known:
            return None
        return f"{generic.__name__}[{', '.join(map(str, nodes))}]"[:MAX_PLACE] if nodes else str(generic.__name__)

    def _fields(self, cls: type[Any], key: object, name: str, record: Callable[[], Record], where: str) -> Node:
        """The node of a class with fields. Within them the node itself stands for the class."""
        if key in self._records:
            return self._records[key]
        node = RecordNode(name, keyed=typing_extensions.is_typeddict(cls), cls=cls)
        self._records[key] = node
        inside = where if len(where) > MAX_PLACE else f"{where}, in {name}"
        try:
            fields = record().fields
        except Refused as error:
            return self._fault(where, cls, str(error))
        except NameError as error:
            return self._missing(f"{inside}: ", error)
        except Exception as error:
            return self._fault(where, cls, f"an annotation in it cannot be evaluated: {type(error).__name__}: {error}")
        outer = self._scope, self._converting
        own = Scope.of_class(cls, self._names)
        self._converting = frozenset()
        read = []
        for field in fields:
            self._scope = field.scope if isinstance(field.scope, Scope) else own
            child = self.read(field.hint, f"{inside}.{field.name}")
            read.append(Field(field.name, child, field.required, field.argument))
        self._scope, self._converting = outer
        node.complete(tuple(read))
        return node


def _same_classes(first: Node, second: Node, seen: frozenset[int] = frozenset()) -> bool:
    """Whether two equal nodes stand for the same Python classes too."""
    if first is second or id(first) in seen:
        return True
    if isinstance(first, ConvertedNode) and isinstance(second, ConvertedNode):
        ours, theirs = first.conversion, second.conversion
        return ours is not None and theirs is not None and ours.cls is theirs.cls
    if isinstance(first, RecordNode | EnumNode | FlagNode) and isinstance(second, RecordNode | EnumNode | FlagNode):
        return first.cls is second.cls
    seen |= {id(first)}
    return all(_same_classes(a, b, seen) for a, b in zip(children(first), children(second), strict=True))


def _rivals(union: Node) -> str:
    """Which members of a union nobody could tell apart, in words, since one goes with a call; "" if there are none."""
    members = union.members if isinstance(union, UnionNode) else ()
    streams = [member for member in members if isinstance(member, StreamNode)]
    functions = sum(isinstance(member, CallbackNode) for member in members)
    if functions + len(streams) > 1:
        sorts = ["functions"] * bool(functions) + ["streams"] * bool(streams)
        return f"{' and '.join(sorts)} cannot be told apart"
    for member in members:
        core = bare(member)
        if isinstance(core, CollectionNode) and core.kind == "Iterable" and any(not node.is_async for node in streams):
            return f"{streams[0]} cannot be told from {member}"
    return ""


def _key(args: tuple[Any, ...]) -> object:
    """Something that can be hashed for what stands in brackets: what ``Annotated`` is given need not be."""
    try:
        hash(args)
    except TypeError:
        return repr(args)
    return args


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_unpacked(arg: object) -> bool:
    is_star = isinstance(arg, types.GenericAlias) and bool(getattr(arg, "__unpacked__", False))
    return is_star or get_origin(arg) is typing_extensions.Unpack
