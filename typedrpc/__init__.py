"""Typed calls between Python processes: a function's own type hints are the whole contract.

::

    from typedrpc import Server, Service, connect, rpc

    class Greeter(Service):
        @rpc
        def hello(self, name: str) -> str:
            return f"hello {name}"

    with Server(Greeter(), url="tcp://127.0.0.1:0") as server:
        with connect(Greeter, server.url) as greeter:
            print(greeter.hello("Robert"))
"""

from typedrpc import codec
from typedrpc.call import Call, Cancellation, current_call
from typedrpc.command import BoundCommand, Command, remote, rpc
from typedrpc.deadlines import deadline
from typedrpc.errors import (
    ArgumentError,
    ArgumentMissing,
    ArgumentTypeError,
    ArgumentValueError,
    AuthenticationFailed,
    BlockingCall,
    CallCancelled,
    ConnectFailed,
    ConnectionLost,
    ConnectTimeout,
    ContractMismatch,
    DeadlineExceeded,
    DefinitionError,
    ListenFailed,
    MessageTooLarge,
    NestedTooDeep,
    OutcomeUnknown,
    PermissionDenied,
    ProtocolError,
    RemoteError,
    RpcError,
    ServerBusy,
    TlsFailed,
    UnknownCommand,
)
from typedrpc.hooks import CallOutcome
from typedrpc.identity import Identity
from typedrpc.peer import Peer, PeerServer
from typedrpc.retry import Retry
from typedrpc.schema import Difference, Schema, compatible
from typedrpc.service import FunctionService, Service
from typedrpc.stream import AsyncStream, Stream
from typedrpc.sync import Client, Server, connect, serve
from typedrpc.tls import Tls

__version__ = "0.1.0"

__all__ = [
    "ArgumentError",
    "ArgumentMissing",
    "ArgumentTypeError",
    "ArgumentValueError",
    "AsyncStream",
    "AuthenticationFailed",
    "BlockingCall",
    "BoundCommand",
    "Call",
    "CallCancelled",
    "CallOutcome",
    "Cancellation",
    "Client",
    "Command",
    "ConnectFailed",
    "ConnectTimeout",
    "ConnectionLost",
    "ContractMismatch",
    "DeadlineExceeded",
    "DefinitionError",
    "Difference",
    "FunctionService",
    "Identity",
    "ListenFailed",
    "MessageTooLarge",
    "NestedTooDeep",
    "OutcomeUnknown",
    "Peer",
    "PeerServer",
    "PermissionDenied",
    "ProtocolError",
    "RemoteError",
    "Retry",
    "RpcError",
    "Schema",
    "Server",
    "ServerBusy",
    "Service",
    "Stream",
    "Tls",
    "TlsFailed",
    "UnknownCommand",
    "codec",
    "compatible",
    "connect",
    "current_call",
    "deadline",
    "remote",
    "rpc",
    "serve",
]
