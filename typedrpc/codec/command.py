"""The codec of one command: four functions, each generated when it is first used."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, Final, NamedTuple, TypeAlias

from typedrpc.codec.arguments import AdaptedArgumentsCoder, ArgumentsCoder
from typedrpc.codec.base import Coders
from typedrpc.codec.body import Buffer, CallbackReader, CodecError, Payload
from typedrpc.codec.result import ResultCoder
from typedrpc.codec.streams import StreamCodec
from typedrpc.errors import ArgumentValueError
from typedrpc.schema import (
    NONE,
    Adaptation,
    CollectionNode,
    Companion,
    Parameter,
    ParameterKind,
    Schema,
    StreamNode,
    adapt_result,
)


class CallbackCodec(NamedTuple):
    """What a callback of a command is called with, for both sides: one for each parameter that takes one.

    Attributes:
        name: For error texts: ``"Chat.train: callback 'progress'"``.
        codec: Packs and unpacks its arguments and its result. The arguments go by position only.
        is_async: The function gives an awaitable, and so does what the handler calls.
    """

    name: str
    codec: CommandCodec
    is_async: bool


CompanionCodec: TypeAlias = CallbackCodec | StreamCodec
Make: TypeAlias = Callable[[int, CompanionCodec], Any]
Bound: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]

_KEPT: Final[frozenset[type]] = frozenset((bool, int, float, str))


class CommandCodec:
    """Turns the arguments and the result of one command into payloads and back.

    Making one compiles nothing. The four functions may be called from any thread, and from within each other.

    Args:
        command: The command's name for error texts, ``"Store.put"``.
        schema: Its schema; the classes behind its nodes have to be there, so not one that came from a peer.
    """

    def __init__(self, command: str, schema: Schema) -> None:
        self.command = command
        self.schema = schema

    # Each has coders of its own: those that one thread is making are not ready to be used by another.

    @cached_property
    def _arguments(self) -> ArgumentsCoder:
        return ArgumentsCoder(self.command, self.schema, Coders(), self._companion if self.has_callbacks else None)

    @cached_property
    def _callbacks(self) -> dict[str, CallbackCodec]:
        return {}

    def _companion(self, parameter: str, node: Companion) -> CompanionCodec:
        """The codec of the callback that a parameter takes, always the same; or of the stream."""
        if isinstance(node, StreamNode):
            return StreamCodec(f"{self.command}: argument {parameter!r}", node)
        name = f"{self.command}: callback {parameter!r}"
        parameters = tuple(
            Parameter(f"arg{number}", ParameterKind.POSITIONAL_ONLY, taken, True)
            for number, taken in enumerate(node.parameters, 1)
        )
        codec = CommandCodec(name, Schema(parameters, node.result))
        return self._callbacks.setdefault(parameter, CallbackCodec(name, codec, node.is_async))

    @property
    def has_callbacks(self) -> bool:
        """Whether a parameter takes what goes with a call: a function that the handler can call, or a stream."""
        return self.schema.has_callbacks

    @cached_property
    def _result(self) -> ResultCoder:
        # What ends a stream is an empty result.
        schema = self.schema if self.result_stream is None else Schema((), NONE)
        return ResultCoder(self.command, schema, Coders())

    @cached_property
    def result_stream(self) -> StreamCodec | None:
        """The codec of the items that the command gives, None where its result is a value."""
        node = self.schema.result
        return StreamCodec(f"{self.command}: result", node) if isinstance(node, StreamNode) else None

    def unpack_arguments_of(self, caller: Schema) -> Callable[[Payload], Bound]:
        """``unpack_arguments`` for a caller that has another version of the command.

        Args:
            caller: The caller's schema; nothing in it may break, see `typedrpc.schema.compatible`. Where it has
                callbacks, use `unpack_with_callbacks_of`.

        Raises:
            ArgumentValueError: It nests too deep.
        """
        unpack = self._unpack_of(caller)
        return (lambda payload: unpack(payload, CallbackReader())) if caller.has_callbacks else unpack

    def unpack_with_callbacks_of(self, caller: Schema) -> Callable[[Payload, Make, Callable[[int], object]], Bound]:
        """``unpack_with_callbacks`` for a caller that has another version of the command.

        What is returned is called with a third argument, ``drop(index)``, which is told of each callback or stream that
        the command has not here: nobody will call it, or take its items. Neither is asked for anything where the caller
        has none.

        Args:
            caller: The caller's schema; nothing in it may break, see `typedrpc.schema.compatible`.

        Raises:
            ArgumentValueError: It nests too deep.
        """
        unpack = self._unpack_of(caller)
        if caller.has_callbacks:
            return lambda payload, make, drop: unpack(payload, CallbackReader(make, drop))
        return lambda payload, make, drop: unpack(payload)

    def _unpack_of(self, caller: Schema) -> Callable[..., Bound]:
        adaptation = Adaptation(caller, self.schema)
        # It was safe when it was admitted; here there may be less of the stack left to compare and to compile on.
        if all(difference.safe for difference in adaptation.differences):
            with suppress(RecursionError, SyntaxError, MemoryError):
                companion = self._companion if caller.has_callbacks else None
                own = self.schema.parameters
                return AdaptedArgumentsCoder(self.command, adaptation, own, Coders(), companion).compile_unpack()
        raise ArgumentValueError(f"{self.command}: the types of the caller nest too deep to be read here")

    def unpack_result_of(self, callee: Schema) -> Callable[[Payload], Any]:
        """``unpack_result`` for a callee that has another version of the command; of a stream, its ``unpack_item``.

        Args:
            callee: The callee's schema; nothing in it may break, see `typedrpc.schema.compatible`.

        Raises:
            CodecError: It nests too deep.
        """
        node, differences = adapt_result(callee.result, self.schema.result)
        if all(difference.safe for difference in differences):
            with suppress(RecursionError, SyntaxError, MemoryError):
                if isinstance(node, StreamNode):
                    return StreamCodec(f"{self.command}: result", node).unpack_item
                return ResultCoder(self.command, Schema((), node), Coders()).compile_unpack()
        raise CodecError(self.command, "result", str(self.schema.result), "types that nest too deep to be read here")

    @cached_property
    def pack_arguments(self) -> Callable[..., Payload]:
        """Call it as the command is called: ``pack_arguments(*args, **kwargs)``.

        Raises:
            ArgumentTypeError, ArgumentValueError, ArgumentMissing: The arguments do not fit; all faults in one error.
        """
        return self._pack_without_callbacks if self.has_callbacks else self._arguments.compile_pack()

    @cached_property
    def unpack_arguments(self) -> Callable[[Payload], Bound]:
        """``unpack_arguments(payload)`` gives ``args, kwargs`` for the handler.

        Raises:
            ArgumentError: The payload holds no arguments of this command, or a callback. Nothing else is raised,
                whatever it holds.
        """
        if not self.has_callbacks:
            return self._arguments.compile_unpack()
        unpack = self._unpack
        return lambda payload: unpack(payload, CallbackReader())

    def pack_each(self, inputs: Iterator[tuple[Any, ...]], count: int) -> Iterator[Payload]:
        """The payloads of calls, one for each of the inputs, which are packed as they are asked for.

        Args:
            inputs: Give the arguments of each, by position.
            count: How many these are each time.

        Raises, when a payload is asked for:
            ArgumentTypeError, ArgumentValueError, ArgumentMissing: As `pack_arguments`. Then this gives no more; begin
                anew with the rest of the inputs.
        """
        if self._pack_each is None or count != len(self.schema.parameters):
            pack = self.pack_arguments
            return (pack(*args) for args in inputs)
        return self._pack_each(inputs)

    @cached_property
    def _pack_each(self) -> Callable[[Iterator[tuple[Any, ...]]], Iterator[Payload]] | None:
        return self._arguments.compile_pack_each()

    @cached_property
    def unpack_many(self) -> Callable[[Buffer], list[Sequence[Any]] | None] | None:
        """``unpack_many(payload)``: of an array of the arguments of several calls, ``args`` for each.

        It gives what `unpack_arguments` gives for each, or None: then ask that. None is here where it has to be asked
        for each anyway.
        """
        return self._arguments.compile_unpack_many()

    def pack_with_callbacks(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Payload, list[tuple[CompanionCodec, Any]]]:
        """Packs the arguments of a call of a command that has callbacks, or streams among its parameters.

        Returns:
            The payload; and the functions and iterators by their index in it, each with the codec for the calls or the
            items of it. An iterator has not been looked into.

        Raises:
            ArgumentTypeError, ArgumentValueError, ArgumentMissing: As `pack_arguments`.
        """
        callbacks: list[tuple[CompanionCodec, Any]] = []
        return self._pack(callbacks, *args, **kwargs), callbacks

    def unpack_with_callbacks(self, payload: Payload, make: Make) -> Bound:
        """``args, kwargs`` for the handler of a command that has callbacks, or streams among its parameters.

        Args:
            payload: The arguments.
            make: ``make(index, codec)`` gives what the handler gets for a callback or a stream. It is asked at most
                once for an index, in no order that counts, and also for those of a payload that is refused in the end.

        Raises:
            ArgumentError: The payload holds no arguments of this command, or one callback twice. Nothing else is
                raised, whatever it holds, but what `make` raises.
        """
        return self._unpack(payload, CallbackReader(make))

    def _pack_without_callbacks(self, *args: Any, **kwargs: Any) -> Payload:
        payload, callbacks = self.pack_with_callbacks(args, kwargs)
        assert not callbacks, f"{self.command} was given functions or streams, which pack_with_callbacks has to be told"
        return payload

    # Of a command with callbacks.

    @cached_property
    def _pack(self) -> Callable[..., Payload]:
        return self._arguments.compile_pack()

    @cached_property
    def _unpack(self) -> Callable[..., Bound]:
        return self._arguments.compile_unpack()

    @cached_property
    def pack_result(self) -> Callable[[Any], Payload]:
        """``pack_result(value)``.

        Raises:
            CodecError: The value does not fit the annotation of the result. Of a stream it is None, which ends it.
        """
        return self._result.compile_pack()

    @cached_property
    def unpack_result(self) -> Callable[[Payload], Any]:
        """``unpack_result(payload)``.

        Raises:
            CodecError: The payload holds no result of this command. Nothing else is raised, whatever it holds.
        """
        return self._result.compile_unpack()

    @cached_property
    def kept_type(self) -> type | None:
        """The type of results that nobody can change, to be packed later, together; None if there is none.

        None itself is packed at once, which is quick.
        """
        if self.result_stream is not None or len(self._result.exact) != 1 or self.pack_results is None:
            return None
        (only,) = self._result.exact
        return only if only in _KEPT else None

    @cached_property
    def pack_results(self) -> Callable[[list[Any]], Payload] | None:
        """``pack_results(values)``: an array of results; None where they are to be packed one by one.

        Raises:
            CodecError: One does not fit.
        """
        with suppress(RecursionError, SyntaxError, MemoryError):
            return self._coder_of_results().compile_pack()
        return None

    @cached_property
    def unpack_results(self) -> Callable[[Payload], list[Any]] | None:
        """``unpack_results(payload)``: of an array of results, each; None where they are to be unpacked one by one.

        Raises:
            CodecError: As `unpack_result`, for one of them.
        """
        with suppress(RecursionError, SyntaxError, MemoryError):  # a list of them nests deeper than one
            if Coders().of(self.schema.result).width is not None:
                return None  # a list of them has no array around each
            return self._coder_of_results().compile_unpack()
        return None

    def _coder_of_results(self) -> ResultCoder:
        return ResultCoder(self.command, Schema((), CollectionNode("list", self.schema.result)), Coders())
