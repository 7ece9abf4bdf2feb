"""One command to many peers: what the checkers say of the arguments, of what comes back, and of what is refused."""

from collections.abc import Callable
from typing import assert_type, reveal_type

from typedrpc import aio
from typedrpc.command import rpc
from typedrpc.peer import Peer, PeerServer
from typedrpc.service import FunctionService, Service
from typedrpc.sync.server import Server


class Listener(Service):
    @rpc
    def on_text(self, text: str, loud: bool = False) -> None: ...

    @rpc
    async def on_later(self, text: str) -> None: ...

    @rpc
    def ask(self, question: str, *, limit: int = 0) -> bool:
        return True

    @rpc
    async def later(self, question: str) -> list[int]:
        return []

    @rpc
    def maybe(self) -> int | None:
        return 1

    @rpc
    def watch(self, report: Callable[[int], None]) -> None: ...


functions = FunctionService("functions")


@functions.rpc
def tick(number: int) -> None: ...


@functions.rpc
def double(number: int) -> int:
    return 2 * number


def broadcasts(server: Server, inside: PeerServer, peers: list[Peer]) -> None:
    on_text = server.broadcast(Listener.on_text)
    reveal_type(on_text)  # R: def (text: str, loud: bool =) -> int | (text: str, loud: bool = False) -> int
    assert_type(server.broadcast(Listener.on_text)("hi"), int)
    server.broadcast(Listener.on_text)("hi", loud=True)
    server.broadcast(Listener.on_text, to=peers)("hi")
    server.broadcast(Listener.on_text, to=(peer for peer in peers))("hi")
    assert_type(server.broadcast(Listener.on_later)("hi"), int)
    assert_type(server.broadcast(tick)(1), int)
    assert_type(inside.broadcast(Listener.on_text)("hi"), int)
    inside.broadcast(Listener.on_later, to=inside.peers)("hi")

    server.broadcast(Listener.on_text)(1)  # E: arg-type | reportArgumentType
    server.broadcast(Listener.on_text)()  # E: call-arg | reportCallIssue
    server.broadcast(Listener.on_text)("hi", 1)  # E: arg-type | reportArgumentType
    server.broadcast(Listener.on_later)(1)  # E: arg-type | reportArgumentType
    inside.broadcast(Listener.on_text)(1)  # E: arg-type | reportArgumentType
    server.broadcast(Listener.on_text, to=peers[0])  # E: call-overload, arg-type | reportArgumentType, reportCallIssue
    server.broadcast(Listener.on_text, to=[""])  # E: list-item, call-overload | reportArgumentType, reportCallIssue

    # Commands with a result
    server.broadcast(Listener.ask)("?")  # E: arg-type, call-overload | reportArgumentType, reportCallIssue
    server.broadcast(Listener.later)("?")  # E: arg-type, call-overload | reportArgumentType, reportCallIssue
    server.broadcast(Listener.maybe)()  # E: arg-type, call-overload | reportArgumentType, reportCallIssue
    server.broadcast(double)(1)  # E: arg-type, call-overload | reportArgumentType, reportCallIssue
    inside.broadcast(Listener.ask)("?")  # E: arg-type, call-overload | reportArgumentType, reportCallIssue

    # What is no command
    server.broadcast(Listener().on_text)("hi")  # E: arg-type, call-overload | reportArgumentType, reportCallIssue
    server.broadcast(Listener)("hi")  # E: arg-type, call-overload | reportArgumentType, reportCallIssue


def gathers(server: Server, inside: PeerServer, peers: list[Peer]) -> None:
    assert_type(server.gather(Listener.ask)("ready?"), dict[Peer, bool | Exception])
    assert_type(server.gather(Listener.ask, timeout=1.0)("ready?", limit=3), dict[Peer, bool | Exception])
    assert_type(server.gather(Listener.later, timeout=1)("ready?"), dict[Peer, list[int] | Exception])
    assert_type(server.gather(Listener.maybe, to=peers)(), dict[Peer, int | Exception | None])
    assert_type(server.gather(Listener.on_text)("hi"), dict[Peer, Exception | None])
    assert_type(server.gather(double)(1), dict[Peer, int | Exception])
    assert_type(inside.gather(Listener.ask)("ready?"), dict[Peer, bool | Exception])
    assert_type(inside.gather(Listener.later)("ready?"), dict[Peer, list[int] | Exception])
    for outcome in server.gather(Listener.ask)("ready?").values():
        if isinstance(outcome, Exception):
            raise outcome
        assert_type(outcome, bool)

    server.gather(Listener.ask)(1)  # E: arg-type | reportArgumentType
    server.gather(Listener.ask)("?", 3)  # E: call-arg | reportCallIssue
    server.gather(Listener.later)()  # E: call-arg | reportCallIssue
    server.gather(Listener.ask, timeout="1")("?")  # E: call-overload, arg-type | reportArgumentType, reportCallIssue
    server.gather(Listener)("?")  # E: arg-type, call-overload | reportArgumentType, reportCallIssue


async def gathers_on_a_loop(server: Server, other: aio.Server, inside: PeerServer, peers: list[Peer]) -> None:
    ask = other.gather(Listener.ask, timeout=1.0)
    assert_type(await ask.aio("ready?", limit=3), dict[Peer, bool | Exception])
    assert_type(ask("ready?"), dict[Peer, bool | Exception])
    assert_type(await other.gather(Listener.later).aio("ready?"), dict[Peer, list[int] | Exception])
    assert_type(await other.gather(Listener.maybe, to=peers).aio(), dict[Peer, int | Exception | None])
    assert_type(await other.gather(double).aio(1), dict[Peer, int | Exception])
    assert_type(await server.gather(Listener.ask).aio("ready?"), dict[Peer, bool | Exception])
    assert_type(await inside.gather(Listener.ask).aio("ready?"), dict[Peer, bool | Exception])
    assert_type(await inside.gather(Listener.later).aio("ready?"), dict[Peer, list[int] | Exception])
    seen: PeerServer = other
    assert_type(await seen.gather(Listener.ask).aio("ready?"), dict[Peer, bool | Exception])

    await other.gather(Listener.ask).aio(1)  # E: arg-type | reportArgumentType
    await other.gather(Listener.ask).aio("?", 3)  # E: call-arg | reportCallIssue
    await other.gather(Listener.later).aio()  # E: call-arg | reportCallIssue
    await other.gather(Listener.ask)("?")  # E: misc | reportGeneralTypeIssues
    await inside.gather(Listener).aio("?")  # E: arg-type, call-overload | reportArgumentType, reportCallIssue
