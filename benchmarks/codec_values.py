"""The values that `codec.py` measures: types as users write them, and how many of each.

No type here is recursive, so that every library that knows unions can take part.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias


@dataclass
class Item:
    """A record as most of them are."""

    id: int
    name: str
    price: float
    available: bool


@dataclass
class Line:
    """A record in a record."""

    item: Item
    count: int


@dataclass
class Order:
    """Records in records in a record."""

    number: int
    customer: str
    lines: list[Line]


# Some libraries know a member of a union by the names of its fields alone, and some try the members in turn and take
# whatever is left for an int: so no name occurs twice where that matters, and dataclasses stand first.
@dataclass
class Leaf:
    """The smallest dataclass of the tree."""

    label: str
    weight: float


@dataclass
class Twig:
    """Holds leaves and data that is no dataclass."""

    bud: str
    parts: list[Leaf | list[int] | int | str]


@dataclass
class Branch:
    """Holds twigs and leaves."""

    bark: str
    limbs: list[Twig | Leaf | str | int | None]


Tree: TypeAlias = list[Branch | Leaf | str | int]


class Subject(NamedTuple):
    """A value to encode and decode.

    Attributes:
        title: What the row is called.
        hint: The type, as an annotation says it.
        value: The value.
        plain: The same of what msgpack knows itself: a dataclass is a list of its fields.
        has_unions: A dataclass in it is a member of a union.
    """

    title: str
    hint: Any
    value: object
    plain: object
    has_unions: bool = False


def _items(count: int) -> list[Item]:
    return [Item(index, f"item {index}", index * 1.25, index % 3 == 0) for index in range(count)]


def _orders(count: int) -> list[Order]:
    return [
        Order(number, f"customer {number}", [Line(item, number + place) for place, item in enumerate(_items(4))])
        for number in range(count)
    ]


def _tree(count: int) -> Tree:
    def twig(number: int) -> Twig:
        return Twig(f"twig {number}", [number, f"part {number}", Leaf("leaf", number / 2), [number, 1, 2], number + 1])

    def branch(number: int) -> Branch:
        return Branch(f"branch {number}", [twig(number), Leaf("leaf", 0.5), None, "bud", number, twig(number + 1)])

    tree: Tree = []
    for number in range(count):
        tree += [branch(number), Leaf(f"leaf {number}", 1.5), f"root {number}", number]
    return tree


def _plain(value: Any) -> object:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if hasattr(value, "__dataclass_fields__"):
        return [_plain(field) for field in vars(value).values()]
    return value


def _subject(title: str, hint: Any, value: object, *, has_unions: bool = False) -> Subject:
    return Subject(title, hint, value, _plain(value), has_unions)


def _small_int(quick: bool) -> Subject:
    return _subject("a small int", int, 7)


def _records(quick: bool) -> Subject:
    return _subject("100 dataclasses", list[Item], _items(100))


def _nested(quick: bool) -> Subject:
    return _subject("20 nested dataclasses", list[Order], _orders(20))


def _ints(quick: bool) -> Subject:
    count = 1000 if quick else 100_000
    return _subject(f"{count:,} ints", list[int], list(range(count)))


def _floats(quick: bool) -> Subject:
    count = 1000 if quick else 10_000
    numbers = random.Random(1)
    return _subject(f"{count:,} str to float", dict[str, float], {f"key {n}": numbers.random() for n in range(count)})


def _unions(quick: bool) -> Subject:
    return _subject("tree of unions", Tree, _tree(20), has_unions=True)


def _bytes(quick: bool) -> Subject:
    size = 1 if quick else 16
    return _subject(f"{size} MiB of bytes", bytes, random.Random(1).randbytes(size << 20))


SUBJECTS: dict[str, Callable[[bool], Subject]] = {
    "int": _small_int,
    "records": _records,
    "nested": _nested,
    "ints": _ints,
    "floats": _floats,
    "tree": _unions,
    "bytes": _bytes,
}
"""By the name that ``--only`` takes. Each is given whether small counts will do."""
