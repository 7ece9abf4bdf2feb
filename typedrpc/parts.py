"""Several bodies in one payload: the calls of a batch, what they came to, the items of a stream.

The payload, big-endian, with nothing behind the last body::

    +-------+--------------+--------+--------+---
    | count | count x size | body 1 | body 2 | ...
    | u32   | u32 each     |        |        |
    +-------+--------------+--------+--------+---

Where bodies are outcomes, the highest bit of a size marks an error's. Splitting trusts nothing and never raises: what
is wrong with a payload comes back as a sentence.
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from struct import Struct, pack, unpack_from
from typing import Final, TypeAlias

from typedrpc.wire import Buffer

PART_OVERHEAD: Final = 4
"""Bytes that a body takes beside its own; the table begins with as many."""

MAX_PART_SIZE: Final = 0x7FFF_FFFF
"""The largest body, in bytes: that of a whole frame."""

_ERROR: Final = 0x8000_0000
_COUNT: Final = Struct(">I")
_ARRAY: Final = Struct(">BI")
_ARRAY_32: Final = 0xDD
"""The first byte of an array of msgpack with a count of 32 bits."""


Part: TypeAlias = tuple[bool, Buffer]
"""What a call came to: whether it is an error, and the body."""


def pack_parts(bodies: Sequence[Buffer]) -> bytes:
    """The payload that holds these bodies, each of ``MAX_PART_SIZE`` bytes at most."""
    count = len(bodies)
    return b"".join((pack(f">{count + 1}I", count, *map(len, bodies)), *bodies))


class Parts:
    """The bodies in a payload, cut when they are asked for."""

    __slots__ = ("_ends", "_payload")

    def __init__(self, payload: Buffer, ends: list[int]) -> None:
        """
        Args:
            payload: Where they are.
            ends: Where the first one begins, and each ends.
        """
        self._payload = payload
        self._ends = ends

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> Buffer:
        return self._payload[self._ends[index] : self._ends[index + 1]]

    def size(self, start: int, stop: int) -> int:
        """Bytes of these bodies."""
        return self._ends[stop] - self._ends[start]

    def as_array(self, start: int, stop: int) -> bytes:
        """These bodies as one array of msgpack, if each of them is a value of it."""
        with memoryview(self._payload) as view:
            return b"".join((_ARRAY.pack(_ARRAY_32, stop - start), view[self._ends[start] : self._ends[stop]]))


def open_parts(payload: Buffer) -> Parts | str:
    """The bodies in a payload; a sentence where it is malformed."""
    sizes = _sizes_of(payload)
    ends = sizes if isinstance(sizes, str) else _ends_of(payload, sizes)
    return ends if isinstance(ends, str) else Parts(payload, ends)


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


def results_as_array(payload: Buffer) -> bytes | None:
    """The outcomes in a payload as one array of msgpack, if each of them is a result, and a value of it.

    None where one is an error, or the payload is malformed.
    """
    sizes = _sizes_of(payload)
    if isinstance(sizes, str) or not sizes or max(sizes) >= _ERROR:
        return None
    start = _COUNT.size + PART_OVERHEAD * len(sizes)
    if start + sum(sizes) != len(payload):
        return None
    with memoryview(payload) as view:
        return b"".join((_ARRAY.pack(_ARRAY_32, len(sizes)), view[start:]))


def count_parts(payload: Buffer) -> int:
    """How many bodies a payload says it holds; -1 where it is too short to say."""
    if len(payload) < _COUNT.size:
        return -1
    count: int = _COUNT.unpack_from(payload)[0]
    return count


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
