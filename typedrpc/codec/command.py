"""The codec of one command: four functions, each generated when it is first used."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from typing import Any

from typedrpc.codec.arguments import AdaptedArgumentsCoder, ArgumentsCoder
from typedrpc.codec.base import Coders
from typedrpc.codec.body import CodecError, Payload
from typedrpc.codec.result import ResultCoder
from typedrpc.errors import ArgumentValueError
from typedrpc.schema import Adaptation, Schema, adapt_result


class CommandCodec:
    """Turns the arguments and the result of one command into payloads and back.

    Making one compiles nothing. The four functions may be called from any thread, and from within each other.

    Args:
        command: The command's name for error texts, ``"Store.put"``.
        schema: Its schema; the classes behind its nodes have to be there, so not one that came from a peer.
    """

    has_callbacks = False

    def __init__(self, command: str, schema: Schema) -> None:
        self.command = command
        self.schema = schema

    @cached_property
    def _coders(self) -> Coders:
        return Coders()

    @cached_property
    def _arguments(self) -> ArgumentsCoder:
        return ArgumentsCoder(self.command, self.schema, self._coders)

    @cached_property
    def _result(self) -> ResultCoder:
        return ResultCoder(self.command, self.schema, self._coders)

    def unpack_arguments_of(self, caller: Schema) -> Callable[[Payload], tuple[tuple[Any, ...], dict[str, Any]]]:
        """``unpack_arguments`` for a caller that has another version of the command.

        Args:
            caller: The caller's schema; nothing in it may break, see `typedrpc.schema.compatible`.

        Raises:
            ArgumentValueError: It nests too deep.
        """
        adaptation = Adaptation(caller, self.schema)
        # It was safe when it was admitted; here there may be less of the stack left to compare and to compile on.
        if all(difference.safe for difference in adaptation.differences):
            with suppress(RecursionError, SyntaxError, MemoryError):
                own = self.schema.parameters
                return AdaptedArgumentsCoder(self.command, adaptation, own, Coders()).compile_unpack()
        raise ArgumentValueError(f"{self.command}: the types of the caller nest too deep to be read here")

    def unpack_result_of(self, callee: Schema) -> Callable[[Payload], Any]:
        """``unpack_result`` for a callee that has another version of the command.

        Args:
            callee: The callee's schema; nothing in it may break, see `typedrpc.schema.compatible`.

        Raises:
            CodecError: It nests too deep.
        """
        node, differences = adapt_result(callee.result, self.schema.result)
        if all(difference.safe for difference in differences):
            with suppress(RecursionError, SyntaxError, MemoryError):
                return ResultCoder(self.command, Schema((), node), Coders()).compile_unpack()
        raise CodecError(self.command, "result", str(self.schema.result), "types that nest too deep to be read here")

    @cached_property
    def pack_arguments(self) -> Callable[..., Payload]:
        """Call it as the command is called: ``pack_arguments(*args, **kwargs)``.

        Raises:
            ArgumentTypeError, ArgumentValueError, ArgumentMissing: The arguments do not fit; all faults in one error.
        """
        return self._arguments.compile_pack()

    @cached_property
    def unpack_arguments(self) -> Callable[[Payload], tuple[tuple[Any, ...], dict[str, Any]]]:
        """``unpack_arguments(payload)`` gives ``args, kwargs`` for the handler.

        Raises:
            ArgumentError: The payload holds no arguments of this command. Nothing else is raised, whatever it holds.
        """
        return self._arguments.compile_unpack()

    @cached_property
    def pack_result(self) -> Callable[[Any], Payload]:
        """``pack_result(value)``.

        Raises:
            CodecError: The value does not fit the annotation of the result.
        """
        return self._result.compile_pack()

    @cached_property
    def unpack_result(self) -> Callable[[Payload], Any]:
        """``unpack_result(payload)``.

        Raises:
            CodecError: The payload holds no result of this command. Nothing else is raised, whatever it holds.
        """
        return self._result.compile_unpack()
