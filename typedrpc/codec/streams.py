"""How the items of a stream travel; and the coder of streams among the arguments: of these a number travels."""

from __future__ import annotations

import collections.abc
import types
from collections.abc import Callable
from functools import cached_property
from typing import Any

from typedrpc.codec.base import ABSTRACT, Coder, Coders, coder_for
from typedrpc.codec.body import MAX_CALLBACKS, CallbackIndex, Packing, Payload, SegmentReader, callback_mark
from typedrpc.codec.faults import Fault, type_name
from typedrpc.codec.result import ResultCoder
from typedrpc.codec.source import Source, Way
from typedrpc.schema import Node, Schema, StreamNode


class StreamCodec:
    """Turns the items of one stream of a command into payloads and back, each as a result is.

    Making one compiles nothing. Its two functions may be called from any thread. That of a caller with another version
    of the command is for unpacking only.

    Attributes:
        name: For error texts: ``"Store.rows: result"``, ``"Store.put: argument 'rows'"``.
        is_async: Whether it is declared as one that is iterated over with ``async for``, on this side.
    """

    def __init__(self, name: str, node: StreamNode) -> None:
        self.name = name
        self.is_async = node.is_async
        self._item = node.item

    def __repr__(self) -> str:
        return f"<StreamCodec {self.name}>"

    @cached_property
    def pack_item(self) -> Callable[[Any], Payload]:
        """``pack_item(value)``.

        Raises:
            CodecError: The value does not fit the type of the items.
        """
        return self._coder(self._item).compile_pack()

    @cached_property
    def unpack_item(self) -> Callable[[Payload], Any]:
        """``unpack_item(payload)``.

        Raises:
            CodecError: The payload holds no item of this stream. Nothing else is raised, whatever it holds.
        """
        return self._coder(self._item).compile_unpack()

    def _coder(self, item: Node) -> ResultCoder:
        return ResultCoder(self.name, Schema((), item), Coders(), what="item")


@coder_for(StreamNode)
class StreamCoder(Coder):
    """A stream among the arguments travels as its number in the call, which is one of those that callbacks have. The
    iterators go to who packs, and what the handler iterates over comes from who unpacks, as with callbacks."""

    wire = frozenset({CallbackIndex})
    small = True

    def __init__(self, node: StreamNode, coders: Coders) -> None:
        super().__init__(node, coders)
        assert coders.companion is not None, f"{node} is no part of an argument"
        self._codec = coders.companion(node)
        self._is_async = node.is_async
        self._kind: type[Any] = collections.abc.AsyncIterator if node.is_async else collections.abc.Iterator
        self.sends = frozenset({types.AsyncGeneratorType if node.is_async else types.GeneratorType})

    def accepts(self, kind: type) -> int | None:
        if kind in self.sends:
            return 0
        return ABSTRACT if issubclass(kind, self._kind) else None

    def pack(self, value: object, packing: Packing) -> object:
        return self._give(value, packing.callbacks)

    def unpack(self, data: object, segments: SegmentReader) -> object:
        if type(data) is not CallbackIndex:
            raise self.misfit(data)
        return segments.callbacks.take(data, self._codec)

    def emit(self, out: Source, way: Way, var: str, *, typed: bool = False) -> str:
        if way == "pack":
            return out.assign(f"{out.constant(self._give, 'give')}({var}, callbacks)")
        if not typed:
            with out.block(f"if type({var}) is not {out.constant(CallbackIndex)}:"):
                out.line("raise misfit")
        return out.assign(f"callbacks.take({var}, {out.constant(self._codec, 'stream')})")

    def _give(self, value: object, callbacks: list[tuple[Any, Any]]) -> object:
        """Adds an iterator to what goes with the call. Returns what stands for it in the body."""
        if not issubclass(type(value), self._kind):
            raise Fault(self.node, self._instead(value))
        if len(callbacks) >= MAX_CALLBACKS:
            raise Fault(f"at most {MAX_CALLBACKS} callbacks and streams in a call", "more", is_type=False)
        callbacks.append((self._codec, value))
        return callback_mark(len(callbacks) - 1)

    def _instead(self, value: object) -> str:
        """What is no iterator of this kind, in words, with the way to make one of it."""
        name = type_name(value)
        if issubclass(type(value), collections.abc.AsyncIterable):
            return f"{name}; give aiter(...) of it" if self._is_async else f"{name}, which is async"
        if issubclass(type(value), collections.abc.Iterable):
            return f"{name}, which is not async" if self._is_async else f"{name}; give iter(...) of it"
        return name
