"""Structs of msgspec: records of their fields, in the order in which they are declared.

What a struct says of its own encoding (``tag``, ``rename``, ``array_like``, ``omit_defaults``) is not looked at. As a
struct checks nothing itself when it is made, the constraints of ``Meta`` are checked here, on both sides.
"""

from __future__ import annotations

from typing import Any

import msgspec

from typedrpc.schema.conversions import Record, RecordField, Refused
from typedrpc.schema.local import LocalNames
from typedrpc.schema.records import class_hints, declared, generic_parts, record_name


def find(hint: Any, names: LocalNames | None) -> Record:
    """The record of a Struct, or of one with its arguments in brackets.

    Args:
        hint: The class, or its alias.
        names: The names of the functions that the class may be local to.

    Raises:
        TypeError: It is no type to send; the text says why.
        NameError: A string annotation names something that is not defined (yet).
    """
    cls, arguments = generic_parts(hint)
    if cls is msgspec.Struct:
        raise Refused("it says nothing of what travels; name the Struct, or a union of the Structs")
    names_of_all, defaults = cls.__struct_fields__, cls.__struct_defaults__
    # The defaults are those of the last fields.
    defaults = (msgspec.NODEFAULT,) * (len(names_of_all) - len(defaults)) + defaults
    required = {name: default is msgspec.NODEFAULT for name, default in zip(names_of_all, defaults, strict=True)}
    fields = [
        RecordField(name, declared(name, annotation.hint), required[name], name, annotation.scope)
        for name, annotation in class_hints(cls, arguments, names).items()
        if name in required
    ]
    return Record(cls, record_name(cls, arguments), tuple(fields))
