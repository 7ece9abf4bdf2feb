"""The exceptions that a command declares: classes of exceptions, taken apart into the fields that travel."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable, Iterator
from functools import partial
from types import FunctionType
from typing import Any

from typedrpc.schema.conversions import Record, RecordField, Refused
from typedrpc.schema.hints import HintReader
from typedrpc.schema.local import LocalNames
from typedrpc.schema.nodes import RecordNode
from typedrpc.schema.records import Scope, record_of
from typedrpc.schema.signature import ParameterKind

_EXAMPLE = "give it an __init__ with annotated parameters, or make it a @dataclass"


def errors_of(classes: Iterable[type[Exception]], names: LocalNames | None) -> tuple[RecordNode, ...]:
    """The nodes of classes of exceptions: a field for each parameter of the constructor.

    Args:
        classes: The classes.
        names: The names of the functions that they may be local to.

    Raises:
        SignatureFaults: Some cannot travel; all the faults together.
        UnresolvedNames: An annotation names something that is not defined (yet), and nothing else is wrong.
    """
    reader = HintReader(names)
    nodes = [reader.read_class(cls, partial(_record_of, cls, names), "raises") for cls in classes]
    reader.check()
    return tuple(node for node in nodes if isinstance(node, RecordNode))


def _record_of(cls: type[Exception], names: LocalNames | None) -> Record:
    """The fields of a class of exceptions. Raises Refused and NameError as `record_of` does."""
    owner = next(base for base in cls.__mro__ if "__init__" in vars(base))
    constructor = inspect.unwrap(vars(owner)["__init__"])
    if getattr(cls, "__parameters__", ()):
        raise Refused("it is generic, and one class of exceptions stands for one set of types; derive one without")
    if not isinstance(constructor, FunctionType):
        raise Refused(f"its constructor takes any arguments; {_EXAMPLE}")
    if any(isinstance(vars(base).get("__new__"), staticmethod) for base in cls.__mro__):
        raise Refused(f"its __new__ is its own; {_EXAMPLE}")
    if dataclasses.is_dataclass(owner) and "__dataclass_fields__" in vars(owner):
        record = record_of(owner, (), names)._replace(cls=cls, name=cls.__name__)
    else:
        record = Record(cls, cls.__name__, tuple(_parameters(owner, constructor, names)))
    for field in record.fields:
        if field.name in vars(BaseException):
            raise Refused(f"its field {field.name!r} has the name of something that every exception has; rename it")
    return record


def _parameters(owner: type[Any], constructor: FunctionType, names: LocalNames | None) -> Iterator[RecordField]:
    parameters = list(inspect.signature(constructor).parameters.values())[1:]
    if stars := [f"{kind.stars}{one.name}" for one in parameters if (kind := ParameterKind(one.kind)).variadic]:
        raise Refused(f"its constructor takes {' and '.join(stars)}, and what travels needs a name; {_EXAMPLE}")
    hints = inspect.get_annotations(constructor)
    if bare := [repr(one.name) for one in parameters if one.name not in hints]:
        raise Refused(f"no annotation says the type of its constructor's {' and '.join(bare)}; write the types")
    scope = Scope.of_function(constructor, names, owner)
    for one in parameters:
        argument = one.name if one.kind is one.KEYWORD_ONLY else None
        hint = scope.evaluate(hints[one.name])
        yield RecordField(one.name, hint, one.default is one.empty, argument, scope)
