"""Models and dataclasses of pydantic: records of their fields.

The types of the fields are checked here, as everywhere, on both sides and without converting anything; so are the
constraints that ``Field`` is given, where they are about a whole field. Arriving values then go through the
constructor: the model's own validators run, and what they raise refuses the value.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
import types
from collections import ChainMap
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import AliasChoices, BaseModel
from pydantic.dataclasses import rebuild_dataclass
from pydantic.fields import FieldInfo

from typedrpc.schema.conversions import Record, RecordField, Refused
from typedrpc.schema.local import LocalNames
from typedrpc.schema.records import check_constructor, generic_parts, record_name, substitute


def find(hint: Any, names: LocalNames | None) -> Record:
    """The record of a model or of a pydantic dataclass, or of one with its arguments in brackets.

    Args:
        hint: The class, or its alias.
        names: The names of the functions that the class may be local to.

    Raises:
        TypeError: Instances cannot be made from their fields; the text says why.
        NameError: A string annotation names something that is not defined (yet).
    """
    cls, arguments = generic_parts(hint)
    if cls is BaseModel:
        raise Refused("it says nothing of what travels; name the model, or a union of the models")
    config: Mapping[str, Any] = getattr(cls, "model_config", None) or getattr(cls, "__pydantic_config__", None) or {}
    if config.get("extra") == "allow":
        raise Refused(
            'it keeps fields that it does not declare (extra="allow"), which have no types; declare a dict for them'
        )
    if not cls.__pydantic_complete__:
        _complete(cls, names)
    binding = dict(zip(getattr(cls, "__parameters__", ()), arguments, strict=False))
    fields = []
    for name, field in _taken(cls):
        if field.exclude is True:
            if field.is_required():
                raise Refused(f"its field {name!r} is excluded from what is sent, and has no default")
            continue
        argument = _argument(name, field, config)
        fields.append(RecordField(name, substitute(_hint(field), binding), field.is_required(), argument))
    _check_constructor(cls, fields)
    return Record(cls, record_name(cls, arguments), tuple(fields))


def _check_constructor(cls: Any, fields: Iterable[RecordField]) -> None:
    if not issubclass(cls, BaseModel):
        parameters = inspect.signature(cls).parameters  # where the alias is no identifier, the name stands
        given = {field.name: str(field.argument) for field in fields}
        check_constructor(cls, [alias if alias in parameters else name for name, alias in given.items()])
    elif not cls.__init__.__module__.startswith("pydantic."):
        check_constructor(types.MethodType(cls.__init__, cls), [str(field.argument) for field in fields])


def _complete(cls: Any, names: LocalNames | None) -> None:
    """Have a class evaluate the annotations that it could not evaluate when it was made."""
    module = sys.modules.get(cls.__module__)
    local = [] if names is None else names.of(cls)
    namespace = dict(ChainMap(*[dict(part) for part in local], vars(module) if module else {}))
    rebuild = cls.model_rebuild if issubclass(cls, BaseModel) else lambda **options: rebuild_dataclass(cls, **options)
    rebuild(raise_errors=False, _types_namespace=namespace)
    if not cls.__pydantic_complete__:
        raise NameError(f"an annotation of {cls.__name__} names something that is not defined (yet)")


def _taken(cls: Any) -> Iterator[tuple[str, FieldInfo]]:
    """The fields that the constructor takes, by name."""
    fields: Mapping[str, FieldInfo] = cls.__pydantic_fields__
    if issubclass(cls, BaseModel):
        yield from fields.items()
        return
    for field in dataclasses.fields(cls):
        if field.init and fields[field.name].init is not False:
            yield field.name, fields[field.name]


def _hint(field: FieldInfo) -> Any:
    """The type of a field with what ``Field`` asks of its values, which in ``int | None`` is asked of the int."""
    if not field.metadata:
        return field.annotation
    is_union = get_origin(field.annotation) in (Union, types.UnionType)
    members = get_args(field.annotation) if is_union else (field.annotation,)
    solid = [member for member in members if member is not type(None)]
    if len(solid) > 1:
        return field.annotation  # the model alone knows for which of them it is meant
    # What is no constraint of annotated-types, a pattern say, the model alone checks.
    asked = [item for item in field.metadata if type(item).__module__.partition(".")[0] == "annotated_types"]
    if not asked:
        return field.annotation
    constrained: Any = Annotated[solid[0], *asked]
    return constrained if len(members) == 1 else constrained | None


def _argument(name: str, field: FieldInfo, config: Mapping[str, Any]) -> str:
    """The name under which the constructor takes a field."""
    alias = field.validation_alias
    by_name = (
        config.get("populate_by_name") or config.get("validate_by_name") or not config.get("validate_by_alias", True)
    )
    if alias is None or by_name:
        return name
    choices = alias.choices if isinstance(alias, AliasChoices) else [alias]
    for choice in choices:
        if isinstance(choice, str):
            return choice
    raise Refused(f"its field {name!r} is looked for in a path alone; set validate_by_name, or give it an alias too")
