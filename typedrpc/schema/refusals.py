"""Why a type hint cannot travel, and what to use instead, in words."""

from __future__ import annotations

import collections.abc
import io
import types
import typing
from collections.abc import Hashable, Mapping
from typing import Any, TypeVar, get_origin

import typing_extensions

from typedrpc.schema.nodes import COLLECTIONS, MAPPINGS, SCALARS
from typedrpc.schema.records import is_record

_STREAMS: Mapping[Any, str] = {
    collections.abc.Iterator: "Iterator",
    collections.abc.Generator: "Iterator",
    collections.abc.AsyncIterator: "AsyncIterator",
    collections.abc.AsyncIterable: "AsyncIterator",
    collections.abc.AsyncGenerator: "AsyncIterator",
}
"""What somebody may write for a stream, with the name by which it is declared."""
_UNKNOWN = (
    f"no type of this kind is known; use one of {', '.join(SCALARS.values())}, a collection, a dataclass, or "
    "codec.register a class of your own"
)
_SCALAR_CLASSES: tuple[type, ...] = tuple(kind for kind in SCALARS if kind is not Any)
_PLAIN_MODULES = frozenset({"builtins", "abc", "datetime", "collections", "re", "zoneinfo", "io", "typing"})


def refusal(hint: object, kinds: Mapping[Any, str]) -> str:
    """Why `hint` cannot travel and what to use instead.

    Args:
        hint: The hint, or the class before its brackets.
        kinds: The collections and mappings that can travel, with the name of each.
    """
    origin = get_origin(hint) or hint
    if hint is object:
        return "it says nothing of what travels; name the type, or a union of the types, or Any for plain data"
    if not isinstance(origin, Hashable):
        return _UNKNOWN
    if origin in kinds:
        return f"it does not say what it holds; give the types in brackets, as in {_example(kinds[origin])}"
    if origin is collections.abc.Callable:
        return "it does not say what it takes; write the types in brackets, as in Callable[[int], None]"
    if isinstance(hint, types.FunctionType | types.BuiltinFunctionType):
        return "a function is no type; write the type of one, as in Callable[[int], None]"
    if origin in _STREAMS:
        name = _STREAMS[origin]
        if origin is collections.abc.Iterator or origin is collections.abc.AsyncIterator:
            return f"it does not say what it gives; give the type in brackets, as in {name}[int]"
        return f"a stream is declared by what it gives alone; write {name}[...] of that"
    if isinstance(hint, TypeVar | typing.ParamSpec | typing.TypeVarTuple | typing_extensions.TypeVar):
        return "the type has to be known; write a concrete type"
    if isinstance(hint, str | typing.ForwardRef):
        return "the name was not resolved; write the type itself"
    if isinstance(hint, type):
        return _of_class(hint)
    return _UNKNOWN


def _of_class(cls: type) -> str:
    if is_record(cls) and bool(getattr(cls, "__parameters__", None)):
        return f"it does not say what it holds; give the types in brackets, as in {cls.__name__}[int]"
    if issubclass(cls, io.IOBase | typing.IO):
        return "an open file belongs to its process; send its content as bytes, or its path as Path"
    if issubclass(cls, BaseException):
        return "raise it, or send its text as str"
    if issubclass(cls, _SCALAR_CLASSES):
        base = next(SCALARS[kind] for kind in _SCALAR_CLASSES if issubclass(cls, kind))
        return f"use {base}, or a NewType of it, or codec.register the class"
    if issubclass(cls, list | tuple | set | frozenset | dict):
        return "use the builtin collection with its types in brackets, or codec.register the class"
    if cls.__module__.partition(".")[0] in _PLAIN_MODULES:
        return "this type is not supported; send it as str, int, float or a dataclass, or codec.register it"
    if getattr(cls, "_is_protocol", False):
        return "a Protocol says what an object can do, not what it holds; use a dataclass"
    return "its attributes have no declared types; make it a @dataclass, or codec.register it"


def _example(kind: str) -> str:
    if kind == "Counter":
        return "Counter[str]"
    if kind in MAPPINGS:
        return f"{kind}[str, int]"
    assert kind in COLLECTIONS
    return "tuple[int, str]" if kind == "tuple" else f"{kind}[int]"
