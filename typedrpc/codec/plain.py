"""Plain data, with no schema behind it: what the protocol's own messages are made of."""

from __future__ import annotations

from functools import partial
from typing import cast

import msgpack  # type: ignore[import-untyped]  # it ships no types

from typedrpc.codec.body import CodecError, Payload, Segmented, pack_hook, unpack_hook
from typedrpc.codec.faults import Misfit, cut

MAX_DEPTH = 32
"""How deep plain data of a peer may nest, by default."""

WHERE = "plain data"
_LEAVES = (type(None), bool, int, float, str, bytes)


def pack_plain(value: object) -> bytes:
    """The bytes of plain data: None, bools, ints of any size, floats, text, bytes, and lists and dicts of these.

    Raises:
        CodecError: The value is not plain data.
    """
    try:
        return cast(bytes, msgpack.packb(value, default=_pack_hook))
    except Exception as error:
        raise CodecError("", WHERE, "plain data", cut(f"{type(error).__name__}: {error}")) from error


def unpack_plain(payload: Payload, *, max_depth: int = MAX_DEPTH) -> object:
    """The plain data in the bytes of a peer, no deeper than `max_depth` lists and dicts within each other.

    Raises:
        CodecError: The bytes are not those of one msgpack value, or it is not plain data, or it is too deep.
    """
    if isinstance(payload, Segmented):
        raise CodecError("", WHERE, "plain data", "segments")
    try:
        data = msgpack.unpackb(payload, strict_map_key=False, ext_hook=partial(unpack_hook, {}))
    except Exception as error:
        raise CodecError("", WHERE, "one msgpack value", cut(f"{type(error).__name__}: {error}")) from error
    level: list[object] = [data]
    for _ in range(max_depth + 1):
        below: list[object] = []
        for value in level:
            if type(value) is list:
                below += value
            elif type(value) is dict:
                below += value
                below += value.values()
            elif type(value) not in _LEAVES:
                raise CodecError("", WHERE, "plain data", type(value).__name__)
        if not below:
            return data
        level = below
    raise CodecError("", WHERE, f"at most {max_depth} levels", "more")


def _pack_hook(value: object) -> object:
    if type(value) is not int:
        raise Misfit(f"{type(value).__name__} is not plain")
    return pack_hook(value)
