"""What ``Annotated`` asks of a value besides its type: constraints of ``annotated-types``, and what reads like them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import typing_extensions

from typedrpc.schema.graphs import bare
from typedrpc.schema.nodes import (
    CollectionNode,
    ConstrainedNode,
    Constraint,
    ConvertedNode,
    MappingNode,
    Node,
    ScalarNode,
    TupleNode,
)

MAX_TEXT = 200
"""Characters of a constraint's argument that a schema keeps."""

# The class of annotated-types (read by name: whoever annotates with it has imported it) and its attribute.
_KNOWN = {
    "Gt": ("gt", "gt"),
    "Ge": ("ge", "ge"),
    "Lt": ("lt", "lt"),
    "Le": ("le", "le"),
    "MultipleOf": ("multiple_of", "multiple_of"),
    "MinLen": ("min_length", "min_length"),
    "MaxLen": ("max_length", "max_length"),
    "Predicate": ("predicate", "func"),
}


class Shape:
    """What stands behind a numpy array in an ``Annotated``, for its shape to be checked on both sides. ::

        Annotated[NDArray[np.uint8], Shape(480, 640, None)]

    Args:
        sizes: The size of each dimension; None where any will do.

    Raises:
        TypeError: A size is none.
    """

    __slots__ = ("sizes",)

    def __init__(self, *sizes: int | None) -> None:
        for size in sizes:
            if size is not None and not (type(size) is int and size >= 0):
                raise TypeError(f"Shape takes sizes, and None where any will do, got {size!r}")
        self.sizes: Final = sizes

    def allows(self, shape: tuple[int, ...]) -> bool:
        """Whether an array may have this shape."""
        return len(shape) == len(self.sizes) and all(
            wanted is None or wanted == size for wanted, size in zip(self.sizes, shape, strict=True)
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Shape) and self.sizes == other.sizes

    def __hash__(self) -> int:
        return hash(self.sizes)

    def __repr__(self) -> str:
        return f"Shape({', '.join(map(repr, self.sizes))})"


_WORDS_ONLY = frozenset({"DocInfo", "Unit"})
_META = ("gt", "ge", "lt", "le", "multiple_of", "min_length", "max_length")
# A value of each type that has an order, None where not every two values can be compared: dates with and without zone.
_ORDERED: dict[str, Any] = {"int": 0, "float": 0.0, "bool": False, "str": "", "bytes": b"", "datetime": None}
_NUMBERS = frozenset({"int", "float", "bool"})
_SIZED = frozenset({"str", "bytes", "bytearray", "memoryview"})


def constrained(base: Node, metadata: Iterable[object]) -> Node:
    """`base` with the constraints among what stands behind it in an ``Annotated``.

    Text, documentation and whatever is no constraint is meant for somebody else, and passed over.

    Raises:
        ValueError: A constraint cannot be checked; the text says why.
    """
    asked = tuple(constraint for item in metadata for constraint in _constraints(item))
    if isinstance(base, ConstrainedNode):
        return ConstrainedNode(base.base, base.constraints + asked)
    return ConstrainedNode(base, asked) if asked else base


def check_fits(node: ConstrainedNode) -> None:
    """Whether the constraints make sense for the type, which has been read to the end.

    Raises:
        ValueError: One does not; the text says why.
    """
    for constraint in node.constraints:
        _check_fits(bare(node), constraint)


def _constraints(item: object) -> Iterator[Constraint]:
    cls = type(item)
    module = cls.__module__.partition(".")[0]
    if isinstance(item, str | typing_extensions.Doc | type):
        return
    if isinstance(item, Shape):
        yield Constraint("shape", repr(item)[len("Shape(") : -1][:MAX_TEXT], item)
    elif module == "annotated_types":
        if cls.__name__ in _KNOWN:
            kind, attribute = _KNOWN[cls.__name__]
            yield _constraint(kind, getattr(item, attribute))
        elif isinstance(item, Iterable):  # Interval and Len stand for several
            for part in item:
                yield from _constraints(part)
        elif cls.__name__ not in _WORDS_ONLY:
            raise ValueError(f"nothing here checks {cls.__name__}; use a Predicate")
    elif module == "pydantic":  # Field(gt=0) keeps constraints of annotated-types
        for part in getattr(item, "metadata", ()):
            yield from _constraints(part)
        for name in ("pattern", "max_digits", "decimal_places"):
            if getattr(item, name, None) is not None:
                raise ValueError(f"nothing here checks the {name} of a Field; use a Predicate")
    elif module == "msgspec" and cls.__name__ == "Meta":
        if getattr(item, "pattern", None) is not None:
            raise ValueError("nothing here checks the pattern of a Meta; use a Predicate")
        if getattr(item, "tz", None) is not None:
            raise ValueError("nothing here checks the tz of a Meta; use a Predicate")
        for kind in _META:
            if (argument := getattr(item, kind, None)) is not None:
                yield _constraint(kind, argument)


def _constraint(kind: str, argument: Any) -> Constraint:
    if kind == "predicate":
        if not callable(argument):
            raise ValueError(f"the predicate {argument!r} cannot be called")
        text = getattr(argument, "__qualname__", None) or repr(argument)
    else:
        text = repr(argument)
    return Constraint(kind, text[:MAX_TEXT], argument)


def _check_fits(base: Node, constraint: Constraint) -> None:
    kind = constraint.kind
    if kind == "predicate":
        return
    name = base.name if isinstance(base, ScalarNode) else ""
    converted = isinstance(base, ConvertedNode)
    if kind == "shape":
        if not (isinstance(base, ConvertedNode) and hasattr(base.conversion.cls, "shape")):
            raise ValueError(f"{base} has no shape; only arrays have")
    elif kind in ("min_length", "max_length"):
        sized = isinstance(base, CollectionNode | MappingNode | TupleNode) or name in _SIZED
        if not (sized or converted):
            raise ValueError(f"{base} has no length for {constraint}")
        if not isinstance(constraint.argument, int):
            raise ValueError(f"the argument of {constraint} is no int")
    elif kind == "multiple_of":
        if not (converted or name in _NUMBERS):
            raise ValueError(f"{base} is no number for {constraint}")
        if not constraint.argument:
            raise ValueError("nothing is a multiple of 0")
        if not converted:
            _try(lambda: _ORDERED[name] % constraint.argument, base, constraint)
    elif not (converted or name in _ORDERED):
        raise ValueError(
            f"{base} cannot be compared with the argument of {constraint}; in a union, write it at the member that it "
            "is meant for"
        )
    elif not converted and (example := _ORDERED[name]) is not None:
        _try(lambda: example < constraint.argument, base, constraint)


def _try(check: Callable[[], object], base: Node, constraint: Constraint) -> None:
    try:
        check()
    except TypeError as error:
        raise ValueError(f"{base} does not go with the argument of {constraint}: {error}") from error
