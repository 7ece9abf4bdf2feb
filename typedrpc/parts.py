"""Several bodies in one payload: the calls of a batch, what they came to, the items of a stream.

The payload, big-endian, with nothing behind the last body::

    +-------+--------------+--------+--------+---
    | count | count x size | body 1 | body 2 | ...
    | u32   | u32 each     |        |        |
    +-------+--------------+--------+--------+---

Where bodies are outcomes, the highest bit of a size marks an error's. Splitting trusts nothing and never raises: what
is wrong with a payload comes back as a sentence.

The calls of a batch, and what they came to where all are results without segments, are values of msgpack. They travel
as one array of it, without a table, so that they can be packed and unpacked all together. An array begins with a byte
from 0x90 on, and a table with a zero.
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from struct import Struct, pack, unpack_from
from typing import Final, TypeAlias

from typedrpc.codec.body import ends_of_values
from typedrpc.wire import Buffer

PART_OVERHEAD: Final = 4
"""Bytes that a body takes beside its own; the table begins with as many."""

ARRAY_OVERHEAD: Final = 5
"""Bytes that an array takes beside its values."""

MAX_PART_SIZE: Final = 0x7FFF_FFFF
"""The largest body, in bytes: that of a whole frame."""

_ERROR: Final = 0x8000_0000
_COUNT: Final = Struct(">I")
_ARRAY: Final = Struct(">BI")
_ARRAY_4: Final = 0x90
_ARRAY_16: Final = 0xDC
_ARRAY_32: Final = 0xDD
"""The first byte of an array of msgpack with a count of 32 bits."""


Part: TypeAlias = tuple[bool, Buffer]
"""What a call came to: whether it is an error, and the body."""


def pack_parts(bodies: Sequence[Buffer]) -> bytes:
    """The payload that holds these bodies, each of ``MAX_PART_SIZE`` bytes at most."""
    count = len(bodies)
    return b"".join((pack(f">{count + 1}I", count, *map(len, bodies)), *bodies))


class Values:
    """The values in an array of msgpack, which are looked for when they are asked for.

    What is malformed is not noticed before: the first value that cannot be cut is all the rest then, and those after it
    are empty.
    """

    __slots__ = ("_count", "_ends", "array")

    def __init__(self, array: Buffer, count: int) -> None:
        """
        Args:
            array: Where they are.
            count: How many it says there are, at least 1.
        """
        self.array: Final = array
        self._count = count
        self._ends: list[int] | None = None

    def __len__(self) -> int:
        return self._count

    def _found(self) -> list[int]:
        """Where the first one begins, and each ends."""
        ends = self._ends
        if ends is None:  # two threads may find them both
            ends = self._ends = ends_of_values(self.array, self._count)
        return ends

    def __getitem__(self, index: int) -> Buffer:
        ends = self._found()
        return self.array[ends[index] : ends[index + 1]]

    def size(self, start: int, stop: int) -> int:
        """Bytes of these values."""
        ends = self._found()
        return ends[stop] - ends[start]

    def as_array(self, start: int, stop: int) -> bytes:
        """These values as an array of their own."""
        ends = self._found()
        with memoryview(self.array) as view:
            return b"".join((_ARRAY.pack(_ARRAY_32, stop - start), view[ends[start] : ends[stop]]))


def pack_array(values: Sequence[Buffer]) -> bytes:
    """The array of msgpack that holds these packed values."""
    return b"".join((_ARRAY.pack(_ARRAY_32, len(values)), *values))


def open_array(payload: Buffer) -> Values | str:
    """The values in a payload; a sentence where it is no array of at least one, or too short for it."""
    count = count_parts(payload) if is_array(payload) else -1
    if count <= 0:
        return "a batch of no calls" if count == 0 else f"no array of calls in {len(payload)} bytes"
    return Values(payload, count)


def split_parts(payload: Buffer) -> list[Buffer] | str:
    """The bodies in a payload, each a slice of it; a sentence where it is malformed."""
    sizes = _sizes_of(payload)
    return sizes if isinstance(sizes, str) else _cut(payload, sizes)


def pack_outcomes(outcomes: Sequence[Part]) -> bytes:
    """The payload that holds these outcomes."""
    count = len(outcomes)
    sizes = [len(body) | _ERROR if is_error else len(body) for is_error, body in outcomes]
    return b"".join((pack(f">{count + 1}I", count, *sizes), *[body for _, body in outcomes]))


def split_outcomes(payload: Buffer) -> list[Part] | str:
    """The outcomes in a payload, each body a slice of it; a sentence where it is malformed."""
    if is_array(payload):
        results = open_array(payload)
        return results if isinstance(results, str) else [(False, results[index]) for index in range(len(results))]
    marked = _sizes_of(payload)
    if isinstance(marked, str):
        return marked
    sizes = marked
    if marked and max(marked) >= _ERROR:
        sizes = tuple([size & MAX_PART_SIZE for size in marked])
    bodies = _cut(payload, sizes)
    if isinstance(bodies, str):
        return bodies
    if sizes is marked:
        return [(False, body) for body in bodies]
    return [(size >= _ERROR, body) for size, body in zip(marked, bodies, strict=True)]


def count_parts(payload: Buffer) -> int:
    """How many bodies a payload says it holds; -1 where it is too short to say."""
    if is_array(payload):
        return _open_array(payload)[0]
    if len(payload) < _COUNT.size:
        return -1
    count: int = _COUNT.unpack_from(payload)[0]
    return count


def is_array(payload: Buffer) -> bool:
    """Whether a payload is an array of msgpack, and no table: one that began so would be far too long."""
    return len(payload) > 0 and (payload[0] in (_ARRAY_16, _ARRAY_32) or payload[0] & 0xF0 == _ARRAY_4)


def _open_array(payload: Buffer) -> tuple[int, int]:
    """How many values an array says it holds, -1 where it is too short to say; and where the first one begins."""
    head, start = payload[0], 1
    if head & 0xF0 == _ARRAY_4:
        count = head & 0x0F
    else:
        start = 3 if head == _ARRAY_16 else 5
        count = int.from_bytes(payload[1:start], "big")
    return (count if len(payload) >= start + count else -1), start


def _sizes_of(payload: Buffer) -> tuple[int, ...] | str:
    count = count_parts(payload)
    if count < 0:
        return f"a table of parts in {len(payload)} bytes"
    if count > (len(payload) - _COUNT.size) // PART_OVERHEAD:
        return f"a table of {count} parts in {len(payload)} bytes"
    return unpack_from(f">{count}I", payload, _COUNT.size)


def _ends_of(payload: Buffer, sizes: tuple[int, ...]) -> list[int] | str:
    """Where the first body begins, and each ends."""
    ends = list(accumulate(sizes, initial=_COUNT.size + PART_OVERHEAD * len(sizes)))
    if ends[-1] != len(payload):
        return f"{len(sizes)} parts that end at {ends[-1]} of {len(payload)} bytes"
    return ends


def _cut(payload: Buffer, sizes: tuple[int, ...]) -> list[Buffer] | str:
    ends = _ends_of(payload, sizes)
    return ends if isinstance(ends, str) else [payload[start:end] for start, end in pairwise(ends)]
