"""Classes of attrs: records of the attributes that their constructor takes.

Arriving values go through the constructor: converters, validators and ``__attrs_post_init__`` run, and what they raise
refuses the value. So a converter has to accept what it makes itself.
"""

from __future__ import annotations

from typing import Any

import attr

from typedrpc.schema.conversions import Record, RecordField, Refused
from typedrpc.schema.records import Names, check_constructor, class_hints, declared, generic_parts, record_name


def find(hint: Any, names: Names) -> Record:
    """The record of an attrs class, or of one with its arguments in brackets.

    Args:
        hint: The class, or its alias.
        names: What string annotations may use besides the names of the class's module.

    Raises:
        TypeError: Instances cannot be made from their attributes; the text says why.
        NameError: A string annotation names something that is not defined (yet).
    """
    cls, arguments = generic_parts(hint)
    taken = [attribute for attribute in attr.fields(cls) if attribute.init]
    check_constructor(cls, [attribute.alias for attribute in taken])
    hints = class_hints(cls, arguments, names)
    for attribute in taken:
        if attribute.name not in hints:
            # One without an annotation may have been told its type in another way.
            if attribute.type is None:
                raise Refused(f"its field {attribute.name!r} has no type; annotate it")
            hints[attribute.name] = attribute.type
    fields = []
    by_name = False
    for attribute in taken:
        by_name = by_name or attribute.alias != attribute.name  # and so all behind it
        fields.append(
            RecordField(
                attribute.name,
                declared(attribute.name, hints[attribute.name]),
                required=attribute.default is attr.NOTHING,
                argument=attribute.alias if by_name or attribute.kw_only else None,
            )
        )
    return Record(cls, record_name(cls, arguments), tuple(fields))
