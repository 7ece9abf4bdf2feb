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


Part: TypeAlias = tuple[bool, Buffer]
"""What a call came to: whether it is an error, and the body."""


def pack_parts(bodies: Sequence[Buffer]) -> bytes:
    """The payload that holds these bodies, each of ``MAX_PART_SIZE`` bytes at most."""
    count = len(bodies)
    return b"".join((pack(f">{count + 1}I", count, *map(len, bodies)), *bodies))


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


def _cut(payload: Buffer, sizes: tuple[int, ...]) -> list[Buffer] | str:
    ends = list(accumulate(sizes, initial=_COUNT.size + PART_OVERHEAD * len(sizes)))
    if ends[-1] != len(payload):
        return f"{len(sizes)} parts that end at {ends[-1]} of {len(payload)} bytes"
    return [payload[start:end] for start, end in pairwise(ends)]
