"""From a type hint to its node, or to sentences that say what cannot travel, where, and what to use instead."""

from __future__ import annotations

import collections
import collections.abc
import dataclasses
import enum
import inspect
import io
import types
import typing
from collections.abc import Hashable, Mapping, Sequence
from typing import Annotated, Any, Literal, NewType, TypeVar, Union, cast, get_args, get_origin

import typing_extensions

from typedrpc.schema.nodes import (
    NONE,
    SCALARS,
    CollectionNode,
    DataclassNode,
    EnumNode,
    Field,
    LiteralValue,
    MappingNode,
    Node,
    ScalarNode,
    TupleNode,
    children,
    hashable,
    literal_of,
    union_of,
)

MAX_DEPTH = 64
"""How deep annotations may nest. Walks over nodes recurse, and msgpack itself stops at 511."""

MAX_PLACE = 300
"""Characters of a place after which it does not become more precise."""

_COLLECTIONS: Mapping[object, str] = {
    list: "list",
    set: "set",
    frozenset: "frozenset",
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
    collections.abc.Mapping: "Mapping",
    collections.abc.MutableMapping: "MutableMapping",
}
_STREAMS = (
    collections.abc.Iterator,
    collections.abc.Generator,
    collections.abc.AsyncIterable,
    collections.abc.AsyncIterator,
    collections.abc.AsyncGenerator,
)
_ALIASES: tuple[type, ...] = tuple(
    {typing_extensions.TypeAliasType, getattr(typing, "TypeAliasType", typing_extensions.TypeAliasType)}
)
# Generics of typing without their arguments: List, Tuple, ... but not Tuple[()].
_BARE = frozenset(value for value in vars(typing).values() if get_origin(value) is not None and not get_args(value))
_GENERIC = "generic dataclasses cannot travel yet; write one dataclass for each type"
_RECURSIVE = "recursive types cannot travel yet; send the parts as a flat list that refers by index"
_UNKNOWN = f"no type of this kind is known; use one of {', '.join(SCALARS.values())}, a collection or a dataclass"
_UNTYPED = "it says nothing of what travels; name the type, or a union of the types"


class SignatureFaults(Exception):
    """A signature or a type hint cannot be part of a contract.

    Attributes:
        faults: One sentence per fault, each with its place.
    """

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = list(faults)
        super().__init__(self.faults)

    def __str__(self) -> str:
        return "; ".join(self.faults)


def node_of(hint: object, where: str = "the type") -> Node:
    """The node of one type hint.

    Args:
        hint: What an annotation evaluates to; string annotations have to be resolved already.
        where: Names the place in the text of a fault.

    Raises:
        SignatureFaults: The hint, or something within it, cannot travel.
        NameError: A string annotation of a dataclass field names something that is not defined (yet).
    """
    reader = HintReader()
    node = reader.read(hint, where)
    if reader.faults:
        raise SignatureFaults(reader.faults)
    return node


def shown(hint: object) -> str:
    """A hint as the programmer wrote it, cut to a sane length."""
    if isinstance(hint, type) and get_origin(hint) is None:
        text = hint.__name__
    else:
        text = repr(hint).replace("typing_extensions.", "").replace("typing.", "").replace("collections.abc.", "")
    return text if len(text) <= 120 else text[:117] + "..."


class HintReader:
    """Reads hints and collects every fault. The nodes that it returns are good only while `faults` is empty."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self._dataclasses: dict[type, Node | None] = {}  # None: being read
        self._aliases: list[object] = []
        self._depth = 0

    def read(self, hint: object, where: str) -> Node:
        """The node of `hint`. A fault goes to `faults`, with `where` as its place."""
        if self._depth >= MAX_DEPTH:
            return self._fault(where, hint, f"types nest deeper than {MAX_DEPTH} here; {_RECURSIVE}")
        self._depth += 1
        try:
            return self._node(hint, where)
        finally:
            self._depth -= 1

    def _fault(self, where: str, hint: object, reason: str) -> Node:
        self.faults.append(f"{where}: {shown(hint)} cannot travel: {reason}")
        return NONE

    def _node(self, hint: object, where: str) -> Node:
        if hint is None:
            return NONE
        if isinstance(hint, type) and hint in SCALARS:
            return ScalarNode(SCALARS[hint])
        origin = get_origin(hint)
        args = get_args(hint)
        if origin is not None and (args or hint not in _BARE):
            return self._generic(hint, origin, args, where)
        if isinstance(hint, NewType):
            return self.read(hint.__supertype__, where)
        if isinstance(hint, _ALIASES):
            return self._alias(hint, where)
        if isinstance(hint, type) and origin is None:
            if issubclass(hint, enum.Enum):
                return self._enum(hint, where)
            if dataclasses.is_dataclass(hint):
                return self._dataclass(hint, where)
        return self._fault(where, hint, refusal(hint))

    def _alias(self, alias: Any, where: str) -> Node:
        if alias in self._aliases:
            return self._fault(where, alias, _RECURSIVE)
        self._aliases.append(alias)
        try:
            return self.read(alias.__value__, where)
        finally:
            self._aliases.pop()

    def _generic(self, hint: object, origin: object, args: tuple[Any, ...], where: str) -> Node:
        inside = f"{where}, in {shown(hint)}" if len(where) < MAX_PLACE else where
        if origin is Union or origin is types.UnionType:
            return self._union(hint, [self.read(arg, inside) for arg in args], where)
        if origin is Literal:
            return self._literal(hint, args, where)
        if origin is Annotated:
            if _constrains(hint):
                return self._fault(where, hint, "constraints are not checked yet; leave them out of the annotation")
            return self.read(args[0], where)
        if any(get_origin(arg) is typing_extensions.Unpack or _is_star(arg) for arg in args):
            return self._fault(where, hint, "an unpacked tuple has no place of its own; write its types out")
        if origin is tuple:
            return self._tuple(args, inside)
        if origin in _COLLECTIONS:
            kind = _COLLECTIONS[origin]
            item = self.read(args[0], inside)
            if kind in _SETS and not hashable(item):
                return self._fault(where, hint, f"{item} cannot be hashed; use a type that can, a tuple say")
            return CollectionNode(kind, item)
        if origin in _MAPPINGS:
            key, value = self.read(args[0], inside), self.read(args[1], inside)
            if not hashable(key):
                return self._fault(where, hint, f"the key {key} cannot be hashed; use a type that can, a tuple say")
            return MappingNode(_MAPPINGS[origin], key, value)
        return self._fault(where, hint, refusal(origin))

    def _union(self, hint: object, members: list[Node], where: str) -> Node:
        seen: dict[Node, Node] = {}
        for member in members:
            if not _same_classes(seen.setdefault(member, member), member):
                return self._fault(where, hint, f"{member} stands for two classes that look the same; rename one")
        return union_of(members)

    def _tuple(self, args: tuple[Any, ...], inside: str) -> Node:
        if len(args) == 2 and args[1] is Ellipsis:
            return CollectionNode("tuple", self.read(args[0], inside))
        return TupleNode(tuple(self.read(arg, inside) for arg in args))

    def _literal(self, hint: object, values: tuple[Any, ...], where: str) -> Node:
        plain: list[LiteralValue] = []
        enums: dict[type[enum.Enum], set[str]] = {}
        members: list[Node] = []
        for value in values:
            if value is None:
                members.append(NONE)
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
        if issubclass(cls, enum.Flag):
            return self._fault(where, cls, "flags combine; use a frozenset of a plain Enum, or an int")
        names = tuple(member.name for member in cls)
        if not names:
            return self._fault(where, cls, "the enum has no members; name an enum that has some")
        return EnumNode(cls.__name__, names, cls=cls)

    def _dataclass(self, cls: type, where: str) -> Node:
        if cls in self._dataclasses:
            return self._dataclasses[cls] or self._fault(where, cls, _RECURSIVE)
        if getattr(cls, "__parameters__", ()):
            return self._fault(where, cls, _GENERIC)
        self._dataclasses[cls] = None
        hints: dict[str, Any] = {}
        try:
            hints = typing.get_type_hints(cls, include_extras=True)
        except NameError:
            raise
        except Exception as error:
            reason: str | None = f"an annotation in it cannot be evaluated: {type(error).__name__}: {error}"
        else:
            reason = _constructor_fault(cls, hints)
        if reason:
            node = self._fault(where, cls, reason)
        else:
            fields = [
                Field(field.name, self.read(hints[field.name], f"{where}, in {cls.__name__}.{field.name}"), required)
                for field, required in dataclass_fields(cls)
            ]
            node = DataclassNode(cls.__name__, tuple(fields), cls=cls)
        self._dataclasses[cls] = node
        return node


def dataclass_fields(cls: type) -> list[tuple[dataclasses.Field[Any], bool]]:
    """The fields that the constructor takes, each with whether it has to be given."""
    missing = dataclasses.MISSING
    return [
        (field, field.default is missing and field.default_factory is missing)
        for field in dataclasses.fields(cast(Any, cls))
        if field.init
    ]


def _constructor_fault(cls: type, hints: Mapping[str, object]) -> str | None:
    """Why instances of the dataclass `cls` cannot be made from their fields, or None."""
    for name, hint in hints.items():
        if isinstance(hint, dataclasses.InitVar):
            return f"its constructor takes {name!r}, an InitVar, which instances do not keep"
    parameters = list(inspect.signature(cast(Any, cls).__init__).parameters.values())[1:]
    taken = [parameter.name for parameter in parameters if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    named = {parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}
    fields = [field for field, _ in dataclass_fields(cls)]
    if (
        len(taken) + len(named) != len(parameters)
        or taken != [field.name for field in fields if not field.kw_only]
        or named != {field.name for field in fields if field.kw_only}
    ):
        return "its __init__ does not take its fields one by one; send a dataclass that holds what it takes"
    return None


def _same_classes(first: Node, second: Node) -> bool:
    """Whether two equal nodes stand for the same Python classes too."""
    if isinstance(first, DataclassNode | EnumNode) and isinstance(second, DataclassNode | EnumNode):
        return first.cls is second.cls
    return all(map(_same_classes, children(first), children(second)))


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_star(arg: object) -> bool:
    return isinstance(arg, types.GenericAlias) and bool(getattr(arg, "__unpacked__", False))


def _constrains(hint: object) -> bool:
    """Whether the metadata of an ``Annotated`` holds what could be a constraint: anything but documentation."""
    return any(not isinstance(item, str | typing_extensions.Doc) for item in cast(Any, hint).__metadata__)


def refusal(hint: object) -> str:
    """Why `hint` cannot travel and what to use instead."""
    origin = get_origin(hint) or hint
    if hint is Any or hint is object:
        return _UNTYPED
    if not isinstance(origin, Hashable):
        return _UNKNOWN
    if origin in _COLLECTIONS or origin in _MAPPINGS or origin is tuple:
        return f"it does not say what it holds; give the types in brackets, as in {_example(origin)}"
    if origin is collections.abc.Callable or isinstance(hint, types.FunctionType):
        return "a function stays in its process; offer it as a command of a service instead"
    if origin in _STREAMS:
        return "streams cannot travel yet; use list[...] or Iterable[...], which travel whole"
    if isinstance(hint, TypeVar | typing.ParamSpec | typing.TypeVarTuple):
        return "the type has to be known; write a concrete type"
    if isinstance(hint, str | typing.ForwardRef):
        return "the name was not resolved; write the type itself"
    if hint is bytearray or hint is memoryview:
        return "use bytes"
    if isinstance(origin, type) and dataclasses.is_dataclass(origin):
        return _GENERIC
    if isinstance(hint, type):
        return _class_refusal(hint)
    return _UNKNOWN


def _class_refusal(cls: type) -> str:
    if typing_extensions.is_typeddict(cls) or (issubclass(cls, tuple) and hasattr(cls, "_fields")):
        return "use a dataclass"
    if issubclass(cls, io.IOBase | typing.IO):
        return "an open file belongs to its process; send its content as bytes, or its path as str"
    if issubclass(cls, tuple(SCALARS)):
        return f"use {next(name for base, name in SCALARS.items() if issubclass(cls, base))}, or a NewType of it"
    if issubclass(cls, list | tuple | set | frozenset | dict):
        return "use the builtin collection with its types in brackets"
    if issubclass(cls, BaseException):
        return "raise it, or send its text as str"
    if cls.__module__ in ("builtins", "abc") or cls.__module__.partition(".")[0] in _PLAIN_MODULES:
        return "this type is not supported; send it as str, int, float or a dataclass"
    return "its attributes have no declared types; make it a @dataclass"


_PLAIN_MODULES = frozenset({"datetime", "decimal", "uuid", "pathlib", "fractions", "ipaddress", "collections", "re"})


def _example(origin: object) -> str:
    if origin is tuple:
        return "tuple[int, str]"
    if origin in _MAPPINGS:
        return f"{_MAPPINGS[origin]}[str, int]"
    return f"{_COLLECTIONS[origin]}[int]"
