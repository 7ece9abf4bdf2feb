"""Classes of attrs: records of the attributes that their constructor takes.

Arriving values go through the constructor: converters, validators and ``__attrs_post_init__`` run, and what they raise
refuses the value. So a converter has to accept what it makes itself.
"""

from __future__ import annotations

import inspect
from typing import Any

import attr

from typedrpc.schema.conversions import Record, RecordField, Refused
from typedrpc.schema.local import LocalNames
from typedrpc.schema.records import check_constructor, class_hints, declared, generic_parts, record_name


def find(hint: Any, names: LocalNames | None) -> Record:
    """The record of an attrs class, or of one with its arguments in brackets.

    Args:
        hint: The class, or its alias.
        names: The names of the functions that the class may be local to.

    Raises:
        TypeError: Instances cannot be made from their attributes; the text says why.
        NameError: A string annotation names something that is not defined (yet).
    """
    cls, arguments = generic_parts(hint)
    taken = [attribute for attribute in attr.fields(cls) if attribute.init]
    check_constructor(cls, [attribute.alias for attribute in taken])
    hints = class_hints(cls, arguments, names)
    fields = []
    # An __init__ of one's own may take them in another order.
    order = [name for name in inspect.signature(cls).parameters if name in {attribute.alias for attribute in taken}]
    plain = [attribute.alias for attribute in taken if not attribute.kw_only]
    by_name = order[: len(plain)] != plain
    for attribute in taken:
        by_name = by_name or attribute.alias != attribute.name  # and so all behind it
        annotation = hints.get(attribute.name)
        if annotation is None and attribute.type is None:
            raise Refused(f"its field {attribute.name!r} has no type; annotate it")
        fields.append(
            RecordField(
                attribute.name,
                # One that was made without an annotation may have been told its type in another way.
                declared(attribute.name, attribute.type if annotation is None else annotation.hint),
                required=attribute.default is attr.NOTHING,
                argument=attribute.alias if by_name or attribute.kw_only else None,
                scope=None if annotation is None else annotation.scope,
            )
        )
    return Record(cls, record_name(cls, arguments), tuple(fields))
