"""Classes with typed fields: dataclasses, NamedTuples and TypedDicts, generic or not, taken apart into their fields."""

from __future__ import annotations

import dataclasses
import inspect
import sys
import typing
from collections import ChainMap
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Generic, Protocol, get_args, get_origin

import typing_extensions

from typedrpc.schema.conversions import Record, RecordField, Refused

Names = Mapping[str, Any]
Binding = dict[Any, Any]


class Scope:
    """Where string annotations find their names."""

    def __init__(self, globals: dict[str, Any], local: Names) -> None:
        self._globals = globals
        self._local = local

    @classmethod
    def of_function(cls, function: Any, names: Names) -> Scope:
        """The scope of a function's annotations, with `names` besides those of its module."""
        parameters = {parameter.__name__: parameter for parameter in getattr(function, "__type_params__", ())}
        return cls(getattr(inspect.unwrap(function), "__globals__", {}), {**names, **parameters})

    @classmethod
    def of_class(cls, owner: type[Any], names: Names) -> Scope:
        """The scope of a class's annotations, with `names` besides those of its module."""
        parameters = {parameter.__name__: parameter for parameter in getattr(owner, "__type_params__", ())}
        module = vars(sys.modules[owner.__module__]) if owner.__module__ in sys.modules else {}
        # A field's default is in the class under the field's name, which may be that of its type: `date: date = ...`.
        return cls(dict(vars(owner)), ChainMap(parameters, dict(names), module))

    def evaluate(self, hint: Any) -> Any:
        """What an annotation stands for. Strings within brackets stay: they may refer to what they are part of.

        Raises:
            NameError: It names something that is not defined (yet).
        """
        if isinstance(hint, typing.ForwardRef):
            hint = hint.__forward_arg__
        return eval(hint, self._globals, self._local) if isinstance(hint, str) else hint


_QUALIFIERS = (typing.Required, typing.NotRequired, typing_extensions.ReadOnly, typing.Final, typing.ClassVar)


def is_record(cls: type[Any]) -> bool:
    """Whether a class is of one of the kinds that `record_of` reads."""
    if "__pydantic_fields__" in vars(cls):  # a dataclass of pydantic is read by its adapter
        return False
    return dataclasses.is_dataclass(cls) or typing_extensions.is_typeddict(cls) or is_namedtuple(cls)


def is_namedtuple(cls: type[Any]) -> bool:
    """Whether a class is a named tuple, with or without types."""
    return issubclass(cls, tuple) and isinstance(getattr(cls, "_fields", None), tuple)


def record_of(cls: type[Any], arguments: tuple[Any, ...], names: Names) -> Record:
    """The fields of a class that `is_record` knows.

    Args:
        cls: The class.
        arguments: What stands in brackets behind it, one for each of its type parameters.
        names: What string annotations may use besides the names of the class's module: the names of the function that
            the class is local to.

    Raises:
        Refused: Instances cannot be made from their fields; the text says why.
        NameError: A string annotation names something that is not defined (yet).
    """
    hints = class_hints(cls, arguments, names)
    if typing_extensions.is_typeddict(cls):
        fields = _keys(cls, hints)
    elif dataclasses.is_dataclass(cls):
        fields = _dataclass_fields(cls, hints)
    else:
        fields = _tuple_fields(cls, hints)
    return Record(cls, record_name(cls, arguments), tuple(fields))


def record_name(cls: type[Any], arguments: tuple[Any, ...]) -> str:
    """The name of a class with its arguments, ``"Box[int]"``."""
    return f"{cls.__name__}[{', '.join(map(shown, arguments))}]" if arguments else cls.__name__


def shown(hint: object) -> str:
    """A hint as the programmer wrote it, cut to a sane length."""
    if isinstance(hint, type) and get_origin(hint) is None:
        text = hint.__name__
    elif isinstance(origin := get_origin(hint), type) and origin.__module__ not in _TYPING:
        inner = ", ".join("..." if arg is Ellipsis else shown(arg) for arg in get_args(hint))
        text = f"{origin.__name__}[{inner}]"
    else:
        text = repr(hint)
    for module in _TYPING:
        text = text.replace(f"{module}.", "")
    return text if len(text) <= 120 else text[:117] + "..."


_TYPING = ("typing_extensions", "typing", "types", "collections.abc")


def substitute(hint: Any, binding: Binding) -> Any:
    """`hint` with its type parameters replaced. One that is not bound stays."""
    if not binding:
        return hint
    if isinstance(hint, typing.TypeVar | typing_extensions.TypeVar):
        return binding.get(hint, hint)
    parameters = getattr(hint, "__parameters__", ())
    if parameters and not isinstance(hint, type):
        return hint[tuple(binding.get(parameter, parameter) for parameter in parameters)]
    return hint


def class_hints(cls: type[Any], arguments: tuple[Any, ...], names: Names) -> dict[str, Any]:
    """The evaluated annotations of a class and its bases, each with the type parameters of its own class replaced."""
    if typing_extensions.is_typeddict(cls):
        return _typeddict_hints(cls, arguments, names)
    bindings = dict(_bindings(cls, arguments))
    hints: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        scope = Scope.of_class(base, names)
        for name, hint in inspect.get_annotations(base).items():
            hints[name] = substitute(scope.evaluate(hint), bindings.get(base, {}))
    return hints


def _bindings(cls: type[Any], arguments: tuple[Any, ...]) -> Iterator[tuple[type[Any], Binding]]:
    """For a class and each of its bases what its type parameters stand for."""
    binding = dict(zip(getattr(cls, "__parameters__", ()), arguments, strict=False))
    yield cls, binding
    for base in vars(cls).get("__orig_bases__", cls.__bases__):
        origin = get_origin(base) or base
        if isinstance(origin, type) and origin not in (Generic, Protocol, object):
            yield from _bindings(origin, tuple(substitute(argument, binding) for argument in get_args(base)))


def _typeddict_hints(cls: type[Any], arguments: tuple[Any, ...], names: Names) -> dict[str, Any]:
    # A TypedDict keeps neither its bases nor, apart from its own, the annotations as they were.
    binding = dict(zip(getattr(cls, "__parameters__", ()), arguments, strict=False))
    hints: dict[str, Any] = {}
    inherited: dict[str, list[Any]] = {}
    for base in vars(cls).get("__orig_bases__", ()):
        origin = get_origin(base) or base
        if typing_extensions.is_typeddict(origin):
            bound = tuple(substitute(argument, binding) for argument in get_args(base))
            hints.update(_typeddict_hints(origin, bound, names))
            for name, hint in origin.__annotations__.items():
                inherited.setdefault(name, []).append(hint)
    own = {
        name: hint
        for name, hint in cls.__annotations__.items()
        if not any(hint is other for other in inherited.get(name, ()))
    }
    scope = Scope.of_class(cls, names)
    for name, hint in own.items():
        hints[name] = substitute(scope.evaluate(hint), binding)
    return {name: hints[name] for name in cls.__annotations__}


def _unqualified(hint: Any) -> tuple[Any, set[Any]]:
    """A hint without Required, Final and the like around it, and which there were."""
    found = set()
    while (origin := get_origin(hint)) in _QUALIFIERS or origin is typing_extensions.ReadOnly:
        found.add(origin)
        hint = get_args(hint)[0]
    return hint, found


def _keys(cls: Any, hints: Mapping[str, Any]) -> Iterator[RecordField]:
    for name, hint in hints.items():
        hint, qualifiers = _unqualified(hint)
        # Required and NotRequired in string annotations are unknown to the class.
        required = name in cls.__required_keys__
        if typing.Required in qualifiers:
            required = True
        elif typing.NotRequired in qualifiers:
            required = False
        yield RecordField(name, hint, required)


def _tuple_fields(cls: Any, hints: Mapping[str, Any]) -> Iterator[RecordField]:
    missing = [name for name in cls._fields if name not in hints]
    if missing:
        raise Refused(f"its field {missing[0]!r} has no type; make it a NamedTuple with annotations")
    if cls.__new__ is not _plain_new(cls) or "__init__" in vars(cls):
        raise Refused("its __new__ is its own; send a NamedTuple or a dataclass that holds what it takes")
    for name in cls._fields:
        yield RecordField(name, hints[name], name not in cls._field_defaults)


def _plain_new(cls: Any) -> Any:
    """The ``__new__`` that the NamedTuple behind a class was made with."""
    base = next(base for base in reversed(cls.__mro__) if "_fields" in vars(base))
    return base.__new__


def _dataclass_fields(cls: type[Any], hints: Mapping[str, Any]) -> Iterator[RecordField]:
    """The fields that the constructor takes, in the order of declaration."""
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    arguments: dict[str, str | None] = {}
    by_position = True
    for parameter in list(inspect.signature(cls.__init__).parameters.values())[1:]:
        name, optional = parameter.name, parameter.default is not parameter.empty
        field = fields.get(name)
        if field is not None and optional == _has_default(field) and parameter.kind in _NAMED:
            by_name = parameter.kind is parameter.KEYWORD_ONLY or not by_position
            arguments[name] = name if by_name else None
        elif field is not None or not isinstance(hints.get(name), dataclasses.InitVar):
            raise Refused(_OWN_INIT)
        elif optional:
            by_position = False
        else:
            raise Refused(
                f"its constructor takes {name!r}, an InitVar, which instances do not keep; give it a default, or make "
                "it a field"
            )
    if arguments.keys() != fields.keys():
        raise Refused(_OWN_INIT)
    for name, field in fields.items():
        yield RecordField(name, declared(name, hints[name]), not _has_default(field), arguments[name])


def declared(name: str, hint: Any) -> Any:
    """The type of a field by its annotation. Raises Refused where that says no type."""
    hint, _ = _unqualified(hint)
    if hint is typing.Final:
        raise Refused(f"its field {name!r} is Final and says no type; write the type in brackets behind Final")
    return hint


def generic_parts(hint: Any) -> tuple[type[Any], tuple[Any, ...]]:
    """The class of a hint, and what stands in brackets behind it.

    Raises:
        Refused: There are no brackets, and the class has type parameters.
    """
    cls, arguments = get_origin(hint) or hint, get_args(hint)
    if getattr(cls, "__parameters__", ()) and not arguments:
        raise Refused(f"it does not say what it holds; give the types in brackets, as in {cls.__name__}[int]")
    return cls, arguments


def check_constructor(constructor: Callable[..., Any], arguments: Collection[str]) -> None:
    """Raises Refused unless a constructor takes these arguments by name, and needs no others."""
    parameters = inspect.signature(constructor).parameters
    needed = {
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty and parameter.kind in (parameter.POSITIONAL_ONLY, *_NAMED)
    }
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    if not needed <= {*arguments} or not (takes_any or {*arguments} <= parameters.keys()):
        raise Refused(_OWN_INIT)


_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_OWN_INIT = "its __init__ does not take its fields one by one; send a dataclass that holds what it takes"


def _has_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
