"""Every error that typedrpc raises, in one tree::

    RpcError
    |- DefinitionError (TypeError)          a contract that cannot be carried, all its faults together
    |- ArgumentError                        a call whose arguments do not fit the contract
    |  |- ArgumentTypeError (TypeError)         wrong type, unknown or surplus argument
    |  |- ArgumentValueError (ValueError)       right type, but a value that cannot travel
    |  `- ArgumentMissing (TypeError)           a required argument was not given
    |- UnknownCommand                       the peer has no such command
    |- ContractMismatch                     both have the command, with signatures that do not agree
    |- ConnectFailed (ConnectionError)      no connection could be made
    |  |- ConnectTimeout (TimeoutError)         in the time that was given
    |  |- TlsFailed                             no agreement on TLS: a certificate, a host name, a side without TLS
    |  `- AuthenticationFailed                  one side did not prove who it is
    |- ListenFailed (OSError)               a server could not open its socket
    |- ConnectionLost (ConnectionError)     the connection ended while it was needed
    |  `- OutcomeUnknown                        and nobody knows whether the call ran
    |- DeadlineExceeded (TimeoutError)      the deadline of a call passed
    |- CallCancelled (futures.CancelledError)   the call was cancelled
    |- NestedTooDeep (RecursionError)       a call within calls within calls, past the limit
    |- BlockingCall (RuntimeError)          a call that would block the event loop that it waits for
    |- PermissionDenied (PermissionError)   the caller may not call this command
    |- ServerBusy                           the peer has no room for this
    |- MessageTooLarge                      an argument list or a result above the limit
    |- ProtocolError                        the peer broke the protocol
    `- RemoteError                          the handler failed with something undeclared

What a program may want to know of an error is an attribute of it; nobody has to parse its text.
An error that has a builtin counterpart is also that builtin.
"""

from concurrent.futures import CancelledError


class RpcError(Exception):
    """The root of everything that typedrpc raises."""


class DefinitionError(RpcError, TypeError):
    """A service, a command or a type annotation cannot be part of a contract.

    Attributes:
        faults: One sentence per fault; a definition with five faults reports five.
    """

    def __init__(self, subject: str, faults: "list[str] | tuple[str, ...]") -> None:
        self.subject = subject
        self.faults = tuple(faults)
        super().__init__(subject, self.faults)

    def __str__(self) -> str:
        if len(self.faults) == 1:
            return f"{self.subject}: {self.faults[0]}"
        return "\n".join([f"{self.subject}: {len(self.faults)} faults", *(f"- {fault}" for fault in self.faults)])


class ArgumentError(RpcError):
    """The arguments of a call do not fit the contract. Raised at the caller before a byte is sent, or by a handler."""

    # Whether it came out of a call, which either side refused; set on the instance. A handler that lets one through did
    # not mean its own caller, who must not take it for something about the arguments that he gave.
    _from_call = False


class ArgumentTypeError(ArgumentError, TypeError):
    """An argument has the wrong type, or is not in the contract at all."""


class ArgumentValueError(ArgumentError, ValueError):
    """An argument has the right type and a value that the contract or the wire cannot carry."""


class ArgumentMissing(ArgumentError, TypeError):
    """A required argument was not given."""


class UnknownCommand(RpcError):
    """The peer has no such command.

    Attributes:
        command: The name, ``"Service.command"``, or ``""`` when only the id is known.
        id: The 16-bit command id that was called.
    """

    def __init__(self, command: str, id: int) -> None:
        self.command = command
        self.id = id
        super().__init__(command, id)

    def __str__(self) -> str:
        if self.command:
            return f"the peer has no command {self.command!r} (id {self.id:#06x})"
        return f"no command has the id {self.id:#06x}"


class ContractMismatch(RpcError):
    """Both sides have the command, but their signatures do not agree.

    Attributes:
        command: The name, ``"Service.command"``.
        ours: The signature on this side, as Python writes it.
        theirs: The signature on the peer's side, as Python writes it.
        reasons: What breaks, in words, if that is known.
    """

    def __init__(self, command: str, ours: str, theirs: str, reasons: tuple[str, ...] = ()) -> None:
        self.command = command
        self.ours = ours
        self.theirs = theirs
        self.reasons = reasons
        super().__init__(command, ours, theirs, reasons)

    def __str__(self) -> str:
        text = f"{self.command}: the contracts differ: here {self.ours}, at the peer {self.theirs}"
        return f"{text}: {'; '.join(self.reasons)}" if self.reasons else text


class ConnectFailed(RpcError, ConnectionError):
    """No connection could be made.

    Attributes:
        url: Where to.
        reason: Why not, in words.
    """

    def __init__(self, url: str, reason: str) -> None:
        self.url = url
        self.reason = reason
        super().__init__(url, reason)

    def __str__(self) -> str:
        return f"cannot connect to {self.url}: {self.reason}"


class ConnectTimeout(ConnectFailed, TimeoutError):
    """No connection could be made in the time that was given: nobody answered, or the server had no place so long."""


class TlsFailed(ConnectFailed):
    """The two sides did not agree on TLS. At a server, ``url`` is the address of the client."""

    def __str__(self) -> str:
        return f"no TLS with {self.url}: {self.reason}"


class AuthenticationFailed(ConnectFailed):
    """One side did not prove who it is. At a server, ``url`` is the address of the client."""

    def __str__(self) -> str:
        return f"no authentication with {self.url}: {self.reason}"


class ListenFailed(RpcError, OSError):
    """A server could not open its socket, or refused to.

    Attributes:
        url: Where it was to listen.
        reason: Why not, in words.
    """

    def __init__(self, url: str, reason: str) -> None:
        self.url = url
        self.reason = reason
        super().__init__(url, reason)

    def __str__(self) -> str:
        return f"cannot listen on {self.url}: {self.reason}"


class ConnectionLost(RpcError, ConnectionError):
    """The connection ended while a call waited or was about to be sent.

    ``__cause__`` is what ended it, where that is known.
    """


class OutcomeUnknown(ConnectionLost):
    """The connection ended while a call was on its way: it may have run, once, or not at all.

    A :class:`ConnectionLost` of a call that is none of these says that the call did not run.
    """


class DeadlineExceeded(RpcError, TimeoutError):
    """The deadline of a call passed before its outcome was known. The handler may have run."""


class CallCancelled(RpcError, CancelledError):
    """The call was cancelled."""


class BlockingCall(RpcError, RuntimeError):
    """A call that would block the thread of an event loop which it waits for. Nothing was sent; await it instead."""


class NestedTooDeep(RpcError, RecursionError):
    """A call was made from within a call, which was made from within a call, and so on past the limit.

    It arrives as itself at every caller on the way back.
    """


class PermissionDenied(RpcError, PermissionError):
    """The caller may not call this command. The handler did not run."""


class ServerBusy(RpcError):
    """The peer has no room for this call or this connection now."""


class MessageTooLarge(RpcError):
    """A message is larger than the receiver accepts; nothing of it was sent.

    Attributes:
        what: Which message: the arguments or the result of which command.
        size: Its size in bytes.
        limit: The receiver's limit in bytes.
    """

    def __init__(self, what: str, size: int, limit: int) -> None:
        self.what = what
        self.size = size
        self.limit = limit
        super().__init__(what, size, limit)

    def __str__(self) -> str:
        return f"{self.what}: {self.size} bytes, the limit is {self.limit} (raise max_message_size on both sides)"


class ProtocolError(RpcError):
    """The peer broke the protocol."""


class RemoteError(RpcError):
    """The handler failed with something that the contract does not declare.

    Attributes:
        command: The command whose handler failed, ``"Service.command"``.
        type_name: The name of the exception's class at the peer.
        error_id: Stands beside the traceback in the peer's log; empty where there is none.
    """

    def __init__(self, message: str, *, command: str = "", type_name: str = "", error_id: str = "") -> None:
        self.command = command
        self.type_name = type_name
        self.error_id = error_id
        super().__init__(message)
