"""The coder of callbacks: a function stays where it is, and its number in the call travels."""

from __future__ import annotations

import collections.abc
import functools
import inspect
import types
from contextlib import suppress
from typing import Any, cast

from typedrpc.codec.base import ABSTRACT, Coder, Coders, coder_for
from typedrpc.codec.body import MAX_CALLBACKS, CallbackIndex, Packing, SegmentReader, callback_mark
from typedrpc.codec.faults import Fault, cut
from typedrpc.codec.source import Source, Way
from typedrpc.schema import CallbackNode

_CALLABLE: type[Any] = cast("type[Any]", collections.abc.Callable)


@coder_for(CallbackNode)
class CallbackCoder(Coder):
    """A callback travels as its number in the call. The functions go to who packs, and what calls them comes from who
    unpacks: as ``callbacks`` in the source, and beside the segments in the walk."""

    sends = frozenset({types.FunctionType, types.MethodType, types.BuiltinFunctionType, functools.partial})
    wire = frozenset({CallbackIndex})
    small = True

    def __init__(self, node: CallbackNode, coders: Coders) -> None:
        super().__init__(node, coders)
        assert coders.companion is not None, f"{node} is no part of an argument"
        self._callback = coders.companion(node)
        self._count = len(node.parameters)
        self._awaited = None if node.is_async else CallbackNode(node.parameters, node.result, is_async=True)

    def accepts(self, kind: type) -> int | None:
        if kind in self.sends:
            return 0
        return ABSTRACT if issubclass(kind, _CALLABLE) else None

    def pack(self, value: object, packing: Packing) -> object:
        return self._give(value, packing.callbacks)

    def unpack(self, data: object, segments: SegmentReader) -> object:
        if type(data) is not CallbackIndex:
            raise self.misfit(data)
        return segments.callbacks.take(data, self._callback)

    def emit(self, out: Source, way: Way, var: str, *, typed: bool = False) -> str:
        if way == "pack":
            return out.assign(f"{out.constant(self._give, 'give')}({var}, callbacks)")
        if not typed:
            with out.block(f"if type({var}) is not {out.constant(CallbackIndex)}:"):
                out.line("raise misfit")
        return out.assign(f"callbacks.take({var}, {out.constant(self._callback, 'callback')})")

    def _give(self, value: object, callbacks: list[tuple[Any, Any]]) -> object:
        """Adds a function to those of the call. Returns what stands for it in the body."""
        self._check(value)
        if len(callbacks) >= MAX_CALLBACKS:
            raise Fault(f"at most {MAX_CALLBACKS} callbacks and streams in a call", "more", is_type=False)
        callbacks.append((self._callback, value))
        return callback_mark(len(callbacks) - 1)

    def _check(self, value: object) -> None:
        """Raises Fault where a function cannot be called so, for all that its code says.

        Looks at a few numbers only, 0.3 us: `inspect.signature` takes 10 us and more, for every call that passes the
        function. What is no plain function or method of one is found out when it is called.
        """
        function, count = value, self._count
        if type(value) is types.MethodType:
            function, count = value.__func__, count + 1
        if type(function) is not types.FunctionType:
            self._check_object(value)
            return
        code = function.__code__
        flags = code.co_flags
        if flags & inspect.CO_COROUTINE and self._awaited is not None:
            raise self._not_async(function.__name__)
        most = code.co_argcount
        if (count > most and not flags & inspect.CO_VARARGS) or count < most - len(function.__defaults__ or ()):
            plural = "" if self._count == 1 else "s"
            text = f"{cut(function.__name__)}, which cannot be called with {self._count} positional argument{plural}"
            raise Fault(self.node, text)
        if code.co_kwonlyargcount > len(function.__kwdefaults__ or ()):
            raise Fault(self.node, f"{cut(function.__name__)}, which has to be given an argument by name")

    def _check_object(self, value: object) -> None:
        if not callable(value):
            raise self.misfit(value)
        if self._awaited is None:
            return
        is_async = False
        with suppress(Exception):  # attributes may be anybody's code
            is_async = inspect.iscoroutinefunction(value) or inspect.iscoroutinefunction(type(value).__call__)
        if is_async:
            raise self._not_async(type(value).__name__)

    def _not_async(self, name: str) -> Fault:
        return Fault(self.node, f"{cut(name)}, which is async; annotate {self._awaited}")
