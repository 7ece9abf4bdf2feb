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
    ProtocolError,
    RemoteError,
    RpcError,
    ServerBusy,
    UnknownCommand,
)
from typedrpc.hooks import CallOutcome
from typedrpc.peer import Peer, PeerServer
from typedrpc.schema import Difference, Schema, compatible
from typedrpc.service import FunctionService, Service
from typedrpc.stream import AsyncStream, Stream
from typedrpc.sync import Client, Server, connect, serve

__version__ = "0.1.0"

__all__ = [
    "ArgumentError",
    "ArgumentMissing",
    "ArgumentTypeError",
    "ArgumentValueError",
    "AsyncStream",
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
    "ListenFailed",
    "MessageTooLarge",
    "NestedTooDeep",
    "Peer",
    "PeerServer",
    "ProtocolError",
    "RemoteError",
    "RpcError",
    "Schema",
    "Server",
    "ServerBusy",
    "Service",
    "Stream",
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
