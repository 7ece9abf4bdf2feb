"""Classes with typed fields: dataclasses, NamedTuples and TypedDicts, generic or not, taken apart into their fields."""

from __future__ import annotations

import dataclasses
import inspect
import sys
import typing
from collections import ChainMap
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from types import CellType, FunctionType
from typing import Any, Generic, NamedTuple, Protocol, get_args, get_origin

import typing_extensions

from typedrpc.schema.conversions import Record, RecordField, Refused
from typedrpc.schema.local import LocalNames

Binding = dict[Any, Any]


class Scope:
    """Where string annotations find their names."""

    def __init__(self, globals: dict[str, Any], local: Mapping[str, Any], module: str = "") -> None:
        self._globals = globals
        self._local = local
        self._module = module

    @classmethod
    def of_function(cls, function: Any, names: LocalNames | None = None, owner: type[Any] | None = None) -> Scope:
        """The scope of a function's annotations.

        Args:
            function: The function.
            names: The names of the functions that it is local to.
            owner: The class in whose body it stands.
        """
        inner = inspect.unwrap(function)
        scopes: list[Any] = [_type_parameters(function)]
        if owner is not None:
            scopes.append(_BodyNames(owner))
        if names is not None:
            scopes += names.of(inner)
        if closure := getattr(inner, "__closure__", None):
            # Filled in as the functions around it go on, and kept when they have returned.
            scopes.append(_contents(inner.__code__.co_freevars, closure))
        return cls(getattr(inner, "__globals__", {}), ChainMap(*scopes), inner.__module__)

    @classmethod
    def of_class(cls, owner: type[Any], names: LocalNames | None = None) -> Scope:
        """The scope of a class's annotations, with `names` of the functions that it may be local to."""
        module = vars(sys.modules[owner.__module__]) if owner.__module__ in sys.modules else {}
        local: list[Any] = [] if names is None else names.of(owner)
        body: Any = _BodyNames(owner)
        return cls(module, ChainMap(_type_parameters(owner), body, *local), owner.__module__)

    def of_alias(self, alias: Any) -> Scope:
        """The scope of an alias that was met here: its module, or, where that is the same, all the names of here."""
        module = sys.modules.get(alias.__module__)
        return self if module is None or alias.__module__ == self._module else Scope(vars(module), {}, alias.__module__)

    def binding(self, arguments: Binding) -> Scope:
        """The same scope in which type parameters, by their names, stand for `arguments`."""
        if not arguments:
            return self
        local: Any = self._local
        bound = {parameter.__name__: argument for parameter, argument in arguments.items()}
        return Scope(self._globals, ChainMap(bound, local), self._module)

    def evaluate(self, hint: Any) -> Any:
        """What an annotation stands for. Strings within brackets stay: they may refer to what they are part of.

        Raises:
            NameError: It names something that is not defined (yet), in a module or outside.
        """
        if isinstance(hint, typing.ForwardRef):
            hint = hint.__forward_arg__
        if not isinstance(hint, str):
            return hint
        try:
            return eval(hint, self._globals, self._local)
        except AttributeError as error:  # of a module that is being imported, as a rule
            raise NameError(str(error)) from error


class _BodyNames(Mapping[str, Any]):
    """What annotations in a class body see of it.

    A method may be called ``list`` and still give a ``list``; a field may be called as its type is: ``date: date``.
    """

    def __init__(self, owner: type[Any]) -> None:
        self._names = vars(owner)
        self._fields = self._names.get("__annotations__", {})

    def __getitem__(self, name: str) -> Any:
        value = self._names[name]
        is_method = isinstance(value, FunctionType) or (not isinstance(value, type) and hasattr(value, "__wrapped__"))
        if is_method or name in self._fields:
            raise KeyError(name)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _type_parameters(owner: Any) -> dict[str, Any]:
    return {parameter.__name__: parameter for parameter in getattr(owner, "__type_params__", ())}


def _contents(names: tuple[str, ...], cells: tuple[CellType, ...]) -> dict[str, Any]:
    found = {}
    for name, cell in zip(names, cells, strict=True):
        with suppress(ValueError):  # it is empty still
            found[name] = cell.cell_contents
    return found


_TYPE_VARS = (typing.TypeVar, typing_extensions.TypeVar)
# Older versions of typing_extensions do not know it.
_NO_EXTRA: Any = getattr(typing_extensions, "NoExtraItems", None)
_QUALIFIERS = (typing.Required, typing.NotRequired, typing_extensions.ReadOnly, typing.Final, typing.ClassVar)


def is_record(cls: type[Any]) -> bool:
    """Whether a class is of one of the kinds that `record_of` reads."""
    if "__pydantic_fields__" in vars(cls):  # a dataclass of pydantic is read by its adapter
        return False
    return dataclasses.is_dataclass(cls) or typing_extensions.is_typeddict(cls) or is_namedtuple(cls)


def is_namedtuple(cls: type[Any]) -> bool:
    """Whether a class is a named tuple, with or without types."""
    return issubclass(cls, tuple) and isinstance(getattr(cls, "_fields", None), tuple)


def record_of(cls: type[Any], arguments: tuple[Any, ...], names: LocalNames | None) -> Record:
    """The fields of a class that `is_record` knows.

    Args:
        cls: The class.
        arguments: What stands in brackets behind it, one for each of its type parameters.
        names: What string annotations may use besides the names of the class's module: the names of the functions that
            the class is local to.

    Raises:
        Refused: Instances cannot be made from their fields; the text says why.
        NameError: A string annotation names something that is not defined (yet).
    """
    if not all(isinstance(one, _TYPE_VARS) for one in getattr(cls, "__parameters__", ())):
        raise Refused("its type parameters stand for more than one type each; write a class without them")
    if getattr(cls, "__extra_items__", _NO_EXTRA) not in (None, _NO_EXTRA, typing.Never):
        raise Refused("it may hold more than it declares; put what that is into a dict of its own")
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
    elif isinstance(hint, typing.ForwardRef):
        text = hint.__forward_arg__
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
    if isinstance(hint, _TYPE_VARS):
        return binding.get(hint, hint)
    parameters = getattr(hint, "__parameters__", ())
    if parameters and not isinstance(hint, type):
        return hint[tuple(binding.get(parameter, parameter) for parameter in parameters)]
    return hint


class Annotation(NamedTuple):
    """The evaluated annotation of a field, with type parameters replaced, and where strings within find their names.

    The hint of a field that is annotated with None is its type.
    """

    hint: Any
    scope: Scope


def class_hints(cls: type[Any], arguments: tuple[Any, ...], names: LocalNames | None) -> dict[str, Annotation]:
    """The annotations of a class and its bases, each as its own class means it."""
    if typing_extensions.is_typeddict(cls):
        return _typeddict_hints(cls, arguments, names)
    bindings = dict(_bindings(cls, arguments))
    hints: dict[str, Annotation] = {}
    for base in reversed(cls.__mro__):
        binding = bindings.get(base, {})
        hints.update(_annotations(base, inspect.get_annotations(base), binding, names))
    return hints


def _annotations(
    cls: type[Any], hints: Mapping[str, Any], binding: Binding, names: LocalNames | None
) -> Iterator[tuple[str, Annotation]]:
    scope = Scope.of_class(cls, names)
    bound = scope.binding(binding)
    for name, hint in hints.items():
        value = scope.evaluate(hint)
        yield name, Annotation(type(None) if value is None else substitute(value, binding), bound)


def _bindings(cls: type[Any], arguments: tuple[Any, ...]) -> Iterator[tuple[type[Any], Binding]]:
    """For a class and each of its bases what its type parameters stand for."""
    binding = dict(zip(getattr(cls, "__parameters__", ()), arguments, strict=False))
    yield cls, binding
    for base in vars(cls).get("__orig_bases__", cls.__bases__):
        origin = get_origin(base) or base
        if isinstance(origin, type) and origin not in (Generic, Protocol, object):
            yield from _bindings(origin, tuple(substitute(argument, binding) for argument in get_args(base)))


def _typeddict_hints(cls: type[Any], arguments: tuple[Any, ...], names: LocalNames | None) -> dict[str, Annotation]:
    # A TypedDict keeps neither its bases nor, apart from its own, the annotations as they were.
    binding = dict(zip(getattr(cls, "__parameters__", ()), arguments, strict=False))
    hints: dict[str, Annotation] = {}
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
    hints.update(_annotations(cls, own, binding, names))
    return {name: hints[name] for name in cls.__annotations__}


def _unqualified(hint: Any) -> tuple[Any, set[Any]]:
    """A hint without Required, Final and the like around it, and which there were."""
    found = set()
    while (origin := get_origin(hint)) in _QUALIFIERS or origin is typing_extensions.ReadOnly:
        found.add(origin)
        hint = get_args(hint)[0]
    return hint, found


def _keys(cls: Any, hints: Mapping[str, Annotation]) -> Iterator[RecordField]:
    for name, annotation in hints.items():
        hint, qualifiers = _unqualified(annotation.hint)
        # Required and NotRequired in string annotations are unknown to the class.
        required = name in cls.__required_keys__
        if typing.Required in qualifiers:
            required = True
        elif typing.NotRequired in qualifiers:
            required = False
        yield RecordField(name, hint, required, scope=annotation.scope)


def _tuple_fields(cls: Any, hints: Mapping[str, Annotation]) -> Iterator[RecordField]:
    missing = [name for name in cls._fields if name not in hints]
    if missing:
        raise Refused(f"its field {missing[0]!r} has no type; make it a NamedTuple with annotations")
    if cls.__new__ is not _plain_new(cls) or "__init__" in vars(cls):
        raise Refused("its __new__ is its own; send a NamedTuple or a dataclass that holds what it takes")
    for name in cls._fields:
        hint, scope = hints[name]
        yield RecordField(name, hint, name not in cls._field_defaults, scope=scope)


def _plain_new(cls: Any) -> Any:
    """The ``__new__`` that the NamedTuple behind a class was made with."""
    base = next(base for base in reversed(cls.__mro__) if "_fields" in vars(base))
    return base.__new__


def _dataclass_fields(cls: type[Any], hints: Mapping[str, Annotation]) -> Iterator[RecordField]:
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
        elif field is not None or name not in hints or not isinstance(hints[name].hint, dataclasses.InitVar):
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
    taken = [name for name, argument in arguments.items() if argument is None]
    # An __init__ of one's own may take the fields in another order.
    in_order = taken == [name for name in fields if arguments[name] is None]
    for name, field in fields.items():
        argument = arguments[name] if in_order else name
        hint = declared(name, hints[name].hint)
        yield RecordField(name, hint, not _has_default(field), argument, hints[name].scope)


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
