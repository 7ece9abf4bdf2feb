"""Source text that is being generated: one emitter with an indent, names that cannot collide, constants, linecache.

Only fixed text, `repr` and checked identifiers enter the source. Every variable has a number of its own at the end of
its name, so no name that a user chooses (of a parameter, a class) can collide with another or with the generator's.
"""

from __future__ import annotations

import builtins
import itertools
import linecache
import types
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, Literal, TypeAlias

from typedrpc.codec import body
from typedrpc.codec.faults import Misfit

Way: TypeAlias = Literal["pack", "unpack"]

_FIXED: dict[str, object] = {
    "misfit": Misfit,
    "segment": body.segment,
    "Segmented": body.Segmented,
    "SegmentReader": body.SegmentReader,
    "BesideReader": body.BesideReader,
    "NO_SEGMENTS": body.NO_SEGMENTS,
    "take_packer": body.take_packer,
    "give_packer": body.give_packer,
    "new_packer": body.new_packer,
    "unpackb": body.unpackb,
    "partial": partial,
    "unpack_hook": body.unpack_hook,
}
_serial = itertools.count(1)


def _called(value: object) -> str:
    name = getattr(value, "__name__", "")
    return name if isinstance(name, str) and name.isidentifier() else "constant"


class Source:
    """The source of one function and of the helpers that it calls."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._finished: list[str] = []
        self._lines: list[str] = []
        self._depth = 0
        self._fresh = itertools.count()
        self._namespace: dict[str, object] = {"__name__": "typedrpc.codec.generated", **_FIXED}
        self._constants: dict[int, str] = {}
        self._helpers: dict[object, str] = {}
        self._used: dict[str, None] = {}  # the constants of the function that is being written

    def line(self, text: str) -> None:
        """Adds a line at the current indent."""
        self._lines.append("    " * self._depth + text)

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """Adds `head` and indents what the body of the ``with`` adds."""
        self.line(head)
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1

    @property
    def depth(self) -> int:
        """Levels of indent at this place."""
        return self._depth

    def mark(self) -> int:
        """This place, for `insert`."""
        return len(self._lines)

    def insert(self, mark: int, text: str) -> None:
        """Adds a line at a marked place, at the current indent."""
        self._lines.insert(mark, "    " * self._depth + text)

    def fresh(self, like: str = "v") -> str:
        """A name that nothing else in this source has: the identifier `like` and a number."""
        assert like.isidentifier(), like
        return f"{like}_{next(self._fresh)}"

    def assign(self, expression: str, like: str = "v") -> str:
        """Assigns to a fresh name and returns it."""
        name = self.fresh(like)
        self.line(f"{name} = {expression}")
        return name

    def constant(self, value: object, like: str = "") -> str:
        """A name under which the source finds `value`: `like`, or what it is called itself, and a number."""
        name = self._constants.get(id(value))
        called = _called(value)
        if name is None and called in vars(builtins) and vars(builtins)[called] is value:
            name = called  # every other name ends in a number, so this one means the builtin
        elif name is None:
            # The namespace keeps `value` alive, so its id stays its own.
            name = self._constants[id(value)] = self.fresh(like or called)
            self._namespace[name] = value
        self._used[name] = None
        return name

    def types(self, types: frozenset[type]) -> str:
        """A name for a set of types; equal sets share one."""
        name = self._helpers.get(types)
        if name is None:
            name = self._helpers[types] = self.constant(types, f"only_{'_or_'.join(sorted(map(_called, types)))}")
        return name

    def differ_from(self, types: frozenset[type], values: str, count: str) -> str:
        """An expression for whether some of `count` values, which can be iterated over, are of none of these types."""
        if len(types) > 1:
            return f"not {{*map(type, {values})}} <= {self.types(types)}"
        # Takes half the time of a set.
        (only,) = types
        return f"[*map(type, {values})].count({self.constant(only)}) != {count}"

    def helper(self, key: object, like: str, parameters: str, emit: Callable[[], None], *, loops: bool = False) -> str:
        """The name of a function of its own, which `emit` writes when it is first asked for.

        The name is known before the body is written, so that helpers may call themselves.

        Args:
            key: What the function is for.
            like: The beginning of its name.
            parameters: Its parameters.
            emit: Writes its body.
            loops: The constants are made local names of it: a loop is 5 to 10 % faster so.
        """
        name = self._helpers.get(key)
        if name is None:
            name = self._helpers[key] = self.fresh(like)
            outer, self._lines, depth, self._depth = self._lines, [], self._depth, 1
            used, self._used = self._used, {"type": None}
            emit()
            local = "".join(f", {constant}={constant}" for constant in self._used) if loops else ""
            self._finished += [f"def {name}({parameters}{local}):", *self._lines, ""]
            self._lines, self._depth, self._used = outer, depth, used
        return name

    def build(self, name: str) -> Callable[..., Any]:
        """Compiles everything and returns the function `name`. Tracebacks find the source in linecache."""
        text = "\n".join([*self._finished, *self._lines, ""])
        filename = f"<typedrpc {next(_serial)}: {self._title}>"
        exec(compile(text, filename, "exec"), self._namespace)
        function = self._namespace[name]
        assert isinstance(function, types.FunctionType)
        # An entry without a modification time is never dropped by linecache.checkcache; it goes with the function.
        linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
        weakref.finalize(function, linecache.cache.pop, filename, None).atexit = False
        return function


def emit_packed(out: Source, value: str, *, bounded: bool, segments: bool) -> None:
    """Writes the end of a function that packs: it returns the payload of the data that the expression `value` gives."""
    packer, packed = out.fresh(), out.fresh()
    with out.block("try:"):
        out.line(f"{packer} = take_packer()")
    with out.block("except IndexError:"):
        out.line(f"{packer} = new_packer()")
    out.line(f"{packed} = {packer}({value})")
    # A packer keeps the buffer that its largest value needed: one that grew is not put back.
    with nullcontext() if bounded else out.block(f"if len({packed}) < {body.SEGMENT_THRESHOLD}:"):
        out.line(f"give_packer({packer})")
    out.line(f"return Segmented({packed}, segments) if segments else {packed}" if segments else f"return {packed}")


def emit_unpacked(out: Source, *, bare: bool, any_key: bool = False, segments: bool, callbacks: bool = False) -> str:
    """Writes the beginning of a function that unpacks ``payload``. Returns the variable with the data.

    Options of msgpack cost time. Data that needs one which is left out, a huge int say, is left to the walk.

    Args:
        out: Where to.
        bare: Whether the usual data needs none.
        any_key: Whether it needs that for maps whose keys are not strings even so.
        segments: Whether there may be segments.
        callbacks: Whether there may be callbacks; then the function has a parameter ``callbacks``.
    """
    options = "strict_map_key=False, ext_hook=partial(unpack_hook, {})"
    usual = f"unpackb(payload, {options})"
    if bare:
        usual = "unpackb(payload, strict_map_key=False)" if any_key else "unpackb(payload)"
    if not segments:
        return out.assign(usual)
    data = out.fresh()
    reader = "BesideReader(payload.segments, callbacks)" if callbacks else "SegmentReader(payload.segments)"
    with out.block("if type(payload) is Segmented:"):
        out.line(f"segments = {reader}")
        out.line(f"{data} = unpackb(payload.body, {options})")
    with out.block("else:"):
        out.line(f"segments = {'BesideReader((), callbacks)' if callbacks else 'NO_SEGMENTS'}")
        out.line(f"{data} = {usual}")
    return data
