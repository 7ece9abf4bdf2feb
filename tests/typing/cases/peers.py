"""Hooks, and services that are made for each client: what the checkers must say of them."""

from typing import assert_type, reveal_type

from typedrpc import Call, CallOutcome, ConnectionLost, FunctionService, Peer, RpcError, Server, Service, connect, rpc
from typedrpc.sync import serve

URL = "tcp://127.0.0.1:0"


class Plain(Service):
    @rpc
    def add(self, a: int) -> int:
        return a


class Session(Service):
    def __init__(self, peer: Peer) -> None: ...

    @rpc
    def count(self) -> int:
        return 1


class Demanding(Service):
    def __init__(self, size: int, depth: int) -> None: ...


def make() -> Session:
    raise NotImplementedError


def make_for(peer: Peer) -> Plain:
    return Plain()


def make_number() -> int:
    return 5


def make_of_number(number: int) -> Plain:
    return Plain()


def came(peer: Peer) -> None: ...
def left(peer: Peer, cause: ConnectionLost) -> int:
    return 1


def failed(error: RpcError) -> None: ...
def called(call: Call) -> None: ...
def ended(call: Call, outcome: CallOutcome) -> None:
    assert_type(outcome.error, BaseException | None)
    assert_type(outcome.seconds, float)


def wrong(peer: int) -> None: ...


def try_services() -> None:
    Server(Plain(), Plain, Session, make, make_for, FunctionService("x"), url=URL)
    serve(Plain, make, url=URL, max_clients=1, when_full="wait", max_concurrent=1, on_connect=came)
    Server(make_number, url=URL)  # E: arg-type | reportArgumentType
    Server(make_of_number, url=URL)  # E: arg-type | reportArgumentType
    Server(Demanding, url=URL)  # E: arg-type | reportArgumentType
    Server(5, url=URL)  # E: arg-type | reportArgumentType
    Server(Plain(), url=URL, when_full="perhaps")  # E: arg-type | reportArgumentType


def try_hooks(peer: Peer, call: Call) -> None:
    server = Server(
        Plain(),
        url=URL,
        on_connect=came,
        on_disconnect=left,
        on_connect_failed=failed,
        on_call=called,
        on_result=ended,
    )
    connect(Plain, URL, on_connect=came, on_disconnect=left, on_connect_failed=failed, on_call=called, on_result=ended)
    Server(Plain(), url=URL, on_connect=wrong)  # E: arg-type | reportArgumentType
    Server(Plain(), url=URL, on_disconnect=came)  # E: arg-type | reportArgumentType
    connect(Plain, URL, on_disconnect=came)  # E: arg-type | reportArgumentType
    reveal_type(server.on_connect(came))  # R: def (peer: Peer) | (peer: Peer) -> None
    assert_type(server.on_disconnect(left)(peer, ConnectionLost()), int)
    server.on_connect(left)  # E: type-var | reportArgumentType
    server.on_result(called)  # E: type-var | reportArgumentType

    @server.on_call
    def note(call: Call) -> None: ...

    assert_type(note(call), None)
    client = connect(URL)
    client.on_disconnect(left)
    client.on_disconnect(came)  # E: type-var | reportArgumentType
