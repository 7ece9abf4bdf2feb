"""An exception as data, and back: the payload of an error frame.

An error frame carries ``[code, text, details]``: a :class:`Code`, a sentence, and a list that depends on the code.
A code stands for one class known to both sides; a class named by the peer is never looked up. What the peer calls a
"builtin" is looked up in a fixed table of exceptions that handlers raise to tell their callers something.
"""

import errno
from collections.abc import Callable, Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import Any, Final, final

from typedrpc.codec import CodecError, Payload, pack_plain, unpack_plain
from typedrpc.errors import (
    ArgumentError,
    ArgumentMissing,
    ArgumentTypeError,
    ArgumentValueError,
    CallCancelled,
    ConnectionLost,
    DeadlineExceeded,
    MessageTooLarge,
    NestedTooDeep,
    OutcomeUnknown,
    PermissionDenied,
    ProtocolError,
    RemoteError,
    ServerBusy,
    UnknownCommand,
)

MAX_TEXT: Final = 4096
"""Characters of an error's text, and of each of its arguments, that travel; the rest is cut."""

MAX_TRACE: Final = 32 * 1024
"""Characters of a traceback that travel: the last ones, which say what happened."""

MAX_ARGUMENTS: Final = 16
"""Arguments of an exception, and items of one of them, that travel."""

PUBLIC_BUILTINS: Final[Mapping[str, type[Exception]]] = MappingProxyType(
    {
        cls.__name__: cls
        for cls in (
            ArithmeticError,
            EOFError,
            FileExistsError,
            FileNotFoundError,
            FloatingPointError,
            IndexError,
            IsADirectoryError,
            KeyError,
            LookupError,
            NotADirectoryError,
            NotImplementedError,
            OSError,
            OverflowError,
            PermissionError,
            TypeError,
            ValueError,
            ZeroDivisionError,
        )
    }
)
"""Builtins that a handler raises for its caller: they arrive as themselves, text included.

Left out are those that a caller would take for something of his own: ``TimeoutError``, ``ConnectionError``,
``StopIteration`` and their like arrive as :class:`~typedrpc.errors.RemoteError`.
"""


class Code(IntEnum):
    """What went wrong. The codes of typedrpc's own errors are those of the side that sends the frame."""

    UNKNOWN_COMMAND = 1
    ARGUMENT = 2
    ARGUMENT_TYPE = 3
    ARGUMENT_VALUE = 4
    ARGUMENT_MISSING = 5
    BUSY = 6
    TOO_LARGE = 7
    DEADLINE = 8
    CANCELLED = 9
    BUILTIN = 10
    REMOTE = 11
    DECLARED = 12
    TOO_DEEP = 13
    OUTCOME_UNKNOWN = 14
    NOT_ACCEPTED = 15
    DENIED = 16


_ARGUMENT_CODES: Final[Mapping[type[ArgumentError], Code]] = MappingProxyType(
    {
        ArgumentError: Code.ARGUMENT,
        ArgumentTypeError: Code.ARGUMENT_TYPE,
        ArgumentValueError: Code.ARGUMENT_VALUE,
        ArgumentMissing: Code.ARGUMENT_MISSING,
    }
)
_TEXT_ERRORS: Final[Mapping[int, Callable[[str], Exception]]] = MappingProxyType(
    {
        **{int(code): cls for cls, code in _ARGUMENT_CODES.items()},
        Code.BUSY: ServerBusy,
        Code.DEADLINE: DeadlineExceeded,
        Code.CANCELLED: CallCancelled,
        Code.TOO_DEEP: NestedTooDeep,
        Code.OUTCOME_UNKNOWN: OutcomeUnknown,
        Code.NOT_ACCEPTED: ConnectionLost,
        Code.DENIED: PermissionDenied,
    }
)


def pack_protocol_failure(error: Exception) -> bytes:
    """The payload for an error of typedrpc's own making at this side: nothing was run, or its result cannot travel."""
    if isinstance(error, UnknownCommand):
        return pack_plain([Code.UNKNOWN_COMMAND, cut(str(error)), [cut(error.command), error.id]])
    if isinstance(error, MessageTooLarge):
        return pack_plain([Code.TOO_LARGE, cut(str(error)), [cut(error.what), error.size, error.limit]])
    code = Code.REMOTE
    if isinstance(error, ArgumentError):
        code = _ARGUMENT_CODES[type(error)]
    elif isinstance(error, ServerBusy):
        code = Code.BUSY
    elif isinstance(error, DeadlineExceeded):
        code = Code.DEADLINE
    elif isinstance(error, CallCancelled):
        code = Code.CANCELLED
    elif isinstance(error, NestedTooDeep):
        code = Code.TOO_DEEP
    elif isinstance(error, OutcomeUnknown):
        code = Code.OUTCOME_UNKNOWN
    elif isinstance(error, ConnectionLost):
        code = Code.NOT_ACCEPTED
    elif isinstance(error, PermissionDenied):
        code = Code.DENIED
    details = [type(error).__name__, ""] if code is Code.REMOTE else []
    return pack_plain([code, cut(str(error)), details])


def is_public(error: BaseException) -> bool:
    """Whether an exception of a handler arrives at the caller as itself, declared or not."""
    if isinstance(error, ArgumentError):
        return type(error) in _ARGUMENT_CODES and not error._from_call
    return PUBLIC_BUILTINS.get(type(error).__name__) is type(error) or type(error) is NestedTooDeep


def pack_handler_failure(error: BaseException, *, error_id: str, trace: str = "") -> bytes:
    """The payload for an exception that a handler raised.

    Args:
        error: What it raised.
        error_id: What the log of this side calls it; empty for a public one, which is not logged.
        trace: The traceback, for servers that run with ``debug=True``.
    """
    if isinstance(error, NestedTooDeep):
        return pack_protocol_failure(error)
    if is_public(error):
        if isinstance(error, ArgumentError):
            return pack_plain([_ARGUMENT_CODES[type(error)], text_of(error), []])
        filenames = []
        if isinstance(error, OSError):
            filenames = [_plain(name) for name in (error.filename, error.filename2)]
        arguments = [_plain(argument) for argument in error.args[:MAX_ARGUMENTS]]
        return pack_plain([Code.BUILTIN, type(error).__name__, [arguments, filenames]])
    return pack_plain([Code.REMOTE, _escape(trace)[-MAX_TRACE:], [cut(type(error).__name__), error_id]])


def pack_declared_failure(error: Exception, type_name: str, fields: bytes) -> bytes:
    """The payload for an exception of a handler that its command declares.

    Args:
        error: What it raised.
        type_name: The name under which it is declared.
        fields: Its fields as :class:`~typedrpc.codec.ErrorCodec` packs them.
    """
    return pack_plain([Code.DECLARED, text_of(error), [cut(type_name), fields]])


@final
class DeclaredFailure(RemoteError):
    """An exception that the command declares at the peer, as it came: whoever knows the command makes it one again.

    Attributes:
        fields: Its fields, packed.
    """

    def __init__(self, command: str, type_name: str, text: str, fields: bytes) -> None:
        super().__init__(_told(command, type_name, "", text), command=command, type_name=type_name)
        self.fields = fields

    def plain(self, hint: str) -> RemoteError:
        """The same as an error that users see, with a hint why it is no more than that."""
        return RemoteError(f"{self} ({hint})", command=self.command, type_name=self.type_name)

    def origin(self) -> RemoteError:
        """What says where the exception came from, once it is one again."""
        return _remote_error(self.command, self.type_name)


def unpack_failure(payload: Payload, command: str) -> Exception:
    """The exception that an error frame stands for, to be raised at the caller of ``command``.

    Never raises: a payload that says nothing sensible is a :class:`~typedrpc.errors.ProtocolError`.
    """
    try:
        match unpack_plain(payload):
            case [int(code), str(text), list(details)]:
                return _rebuild(code, text[:MAX_TRACE], details, command)
    except CodecError:
        pass
    return ProtocolError(f"{command}: the peer answered with an error that cannot be read")


def _rebuild(code: int, text: str, details: list[Any], command: str) -> Exception:
    if code in _TEXT_ERRORS:
        error = _TEXT_ERRORS[code](text)
        if isinstance(error, ArgumentError):
            error._from_call = True
            error.__cause__ = _remote_error(command, type(error).__name__)
        return error
    match code, details:
        case Code.UNKNOWN_COMMAND, [str(name), int(id)] if 0 <= id <= 0xFFFF:
            return UnknownCommand(name or command, id)
        case Code.TOO_LARGE, [str(what), int(size), int(limit)] if 0 <= limit < size < 2**63:
            return MessageTooLarge(what, size, limit)
        case Code.BUILTIN, [list(arguments), list(filenames)] if text in PUBLIC_BUILTINS:
            return _rebuild_builtin(PUBLIC_BUILTINS[text], arguments, filenames, command)
        case Code.REMOTE, [str(type_name), str(error_id)]:
            return _remote_error(command, type_name, error_id, text)
        case Code.DECLARED, [str(type_name), bytes(fields)]:
            return DeclaredFailure(command, type_name, text, fields)
        case _ if not 0 <= code < 2**31:
            return ProtocolError(f"{command}: the peer answered with an error code out of range")
        case _:
            return ProtocolError(f"{command}: the peer answered with an unknown error, code {code}: {text}")


def _remote_error(command: str, type_name: str, error_id: str = "", text: str = "") -> RemoteError:
    return RemoteError(
        _told(command, type_name, error_id, text), command=command, type_name=type_name, error_id=error_id
    )


def _told(command: str, type_name: str, error_id: str, text: str) -> str:
    message = f"{command} failed at the peer with {type_name}"
    if error_id:
        message += f" (error id {error_id}, see the peer's log)"
    if text:
        message += f": {text}"
    return message


def _rebuild_builtin(cls: type[Exception], arguments: list[Any], filenames: list[Any], command: str) -> Exception:
    arguments = [_argument(argument) for argument in arguments]
    error = cls(*arguments)
    if type(error) is not cls:
        # OSError chooses its subclass by errno: one that the table leaves out must not come in through it.
        error = cls(f"[{errno.errorcode.get(arguments[0], arguments[0])}] {arguments[1]}")
    if isinstance(error, OSError):
        for name, value in zip(("filename", "filename2"), filenames, strict=False):
            if value is not None:  # a name that is None, once set, would be printed
                setattr(error, name, _argument(value))
    error.__cause__ = _remote_error(command, cls.__name__)
    return error


def _plain(value: object) -> Any:
    """An argument of an exception as plain data; what is none travels as its repr."""
    if value is None or type(value) in (bool, float):
        return value
    if type(value) is int:
        return value if _is_64_bits(value) else _repr(value)
    if type(value) is str:
        return cut(value)
    if type(value) is bytes:
        return value[:MAX_TEXT]
    if isinstance(value, tuple | list) and type(value) in (tuple, list) and len(value) <= MAX_ARGUMENTS:
        return [_plain(item) if type(item) not in (tuple, list) else _repr(item) for item in value]
    return _repr(value)


def text_of(error: BaseException) -> str:
    """The text of an exception as it may travel."""
    try:
        return cut(str(error))
    except Exception:  # it is anybody's code
        return f"<{cut(type(error).__name__)}>"


def _is_64_bits(value: int) -> bool:
    return -(2**63) <= value < 2**64


def _repr(value: object) -> str:
    try:
        return cut(repr(value))
    except Exception:  # it is anybody's code; an int too long to be written raises as well
        return f"<{cut(type(value).__name__)}>"


def _argument(value: object) -> object:
    """An argument of an exception as it came: hashable, and such that printing it does not raise."""
    if isinstance(value, list):
        return tuple(map(_argument, value))
    if isinstance(value, dict) or (isinstance(value, int) and not _is_64_bits(value)):
        return f"<{type(value).__name__}>"
    return value


def cut(text: str, size: int = MAX_TEXT) -> str:
    """The text as it may travel: at most ``size`` characters, surrogates escaped."""
    text = _escape(text[: size + 1])
    return text if len(text) <= size else text[: size - 3] + "..."


def _escape(text: str) -> str:
    """The text with its surrogates escaped, which UTF-8 has no place for."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")
