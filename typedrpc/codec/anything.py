"""The coder of ``Any``: plain data, whatever it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from typedrpc.codec.base import ANYTHING, Coder
from typedrpc.codec.body import Packing, SegmentReader
from typedrpc.codec.faults import Fault, Misfit, index_step, type_name
from typedrpc.codec.scalars import SCALAR_CODERS
from typedrpc.codec.source import Source, Way

PLAIN_TYPES = frozenset({type(None), bool, int, float, str, bytes, list, dict})
PLAIN_KEYS = frozenset({type(None), bool, int, float, str, bytes})
_HOLDING = frozenset({list, dict})
PLAIN_DEPTH = 200
"""How deep plain data may nest in a value annotated with ``Any``."""


def check_plain(value: object) -> object:
    """`value`, if it is plain data: None, bools, ints, floats, text, bytes, and lists and dicts of these, exactly.

    Raises:
        Fault: It is not; with the path.
    """
    # Depth first, one iterator a level: a value that holds itself often, or a peer's long one, costs no more for it.
    path: list[tuple[type, Any]] = []
    above: list[tuple[type, Iterator[tuple[Any, Any]]]] = [(object, iter([("", value)]))]
    while above:
        holder, parts = above[-1]
        key, item = next(parts, _NO_MORE)
        if key is _END:
            above.pop()
            if path:
                path.pop()
            continue
        kind = type(item)
        if kind is list or kind is dict:
            if len(above) > PLAIN_DEPTH:
                raise Fault(f"plain data of at most {PLAIN_DEPTH} levels", "more", is_type=False)
            path.append((holder, key))
            if kind is dict:
                _check_keys(item, path)
            above.append((kind, iter(item.items() if kind is dict else enumerate(item))))
        elif kind is str and not item.isascii():
            _check_text(item, [*path, (holder, key)])
        elif kind not in PLAIN_TYPES:
            raise Fault("plain data", type_name(item)).within(_plain_path([*path, (holder, key)]))
    return value


_NO_MORE: Any = (object(), None)
_END = _NO_MORE[0]


def _plain_path(path: list[tuple[type, Any]]) -> str:
    steps: dict[type, Callable[[Any], str]] = {object: str, list: "[{}]".format, dict: index_step}
    return "".join(steps[holder](key) for holder, key in path)


def _check_keys(keys: Iterable[object], path: list[tuple[type, Any]]) -> None:
    for key in keys:
        if type(key) not in PLAIN_KEYS:
            raise Fault("a plain key", type_name(key)).within(_plain_path(path))
        if type(key) is str and not key.isascii():
            _check_text(key, [*path, (dict, key)])


def _check_text(text: str, path: list[tuple[type, Any]]) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Fault("str", f"a lone surrogate at index {error.start}", is_type=False).within(
            _plain_path(path)
        ) from None


def is_plain(value: object) -> object:
    """`value`, if it is plain data, for generated code: like `check_plain` without paths."""
    level: list[Any] = [value]
    seen = 0
    for _ in range(PLAIN_DEPTH + 1):
        kinds = {*map(type, level)}
        if not kinds <= PLAIN_TYPES:
            raise Misfit
        if kinds.isdisjoint(_HOLDING):
            return value
        below: list[Any] = []
        for item in level:
            if type(item) is list:
                below += item
            elif type(item) is dict:
                if not {*map(type, item)} <= PLAIN_KEYS:
                    raise Misfit
                below += item.values()
        seen += len(below)
        if seen > MANY:
            return _is_plain_depth_first(value)
        level = below
    raise Misfit


MANY = 1_000_000
"""Values after which it is asked whether there are so many, or one that holds itself often."""


def _is_plain_depth_first(value: object) -> object:
    """As `is_plain`, depth first: slower, but what holds itself many times does not grow."""
    if type(value) not in PLAIN_TYPES:
        raise Misfit
    left: list[tuple[int, Any]] = [(1, value)]
    while left:
        depth, item = left.pop()
        parts: Any = ()
        if type(item) is list:
            parts = item
        elif type(item) is dict:
            if not {*map(type, item)} <= PLAIN_KEYS:
                raise Misfit
            parts = item.values()
        kinds = {*map(type, parts)}
        if not kinds <= PLAIN_TYPES or depth > PLAIN_DEPTH:
            raise Misfit
        if not _HOLDING.isdisjoint(kinds):
            left += [(depth + 1, part) for part in parts if type(part) in _HOLDING]
    return value


class AnyCoder(Coder):
    """Plain data travels as it is, whatever it is."""

    wire = PLAIN_TYPES
    also_sends = PLAIN_TYPES

    def accepts(self, kind: type) -> int | None:
        return ANYTHING

    def pack(self, value: object, packing: Packing) -> object:
        return check_plain(value)

    def unpack(self, data: object, segments: SegmentReader) -> object:
        return check_plain(data)

    def emit(self, out: Source, way: Way, var: str, *, typed: bool = False) -> str:
        out.line(f"{out.constant(is_plain)}({var})")
        return var


SCALAR_CODERS["Any"] = AnyCoder
