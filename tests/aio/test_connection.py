"""What a connection on an event loop weighs, and how it reads."""

import asyncio
import gc
import weakref
from contextlib import ExitStack
from contextvars import Context
from typing import Any, cast

import pytest

from tests.ends import Colours, alike, for_servers, loop_server
from tests.support import PATIENCE, RawPeer, until
from typedrpc import Peer, Service, connect, current_call, rpc
from typedrpc.codec import pack_plain
from typedrpc.wire import Kind, pack_header

pytestmark = pytest.mark.usefixtures("no_leaks", "kept_loop")
colours = alike

IDLE = 200


class Echo(Service):
    @rpc(id=1)
    async def echo(self, text: str) -> str:
        return text


def request(call: int, text: str) -> bytes:
    payload = pack_plain([text])
    return pack_header(len(payload), Kind.REQUEST, 0, 1, call) + payload


def buffers_of(server: Any) -> set[int]:
    """The buffers into which the connections of a server read, by their identity."""
    return {id(connection.core.reader.buffer) for connection in server._connections}


def test_connections_that_are_idle_have_no_buffers_of_their_own() -> None:
    with loop_server(Echo()) as server, ExitStack() as stack:
        shared = cast(Any, server)._runtime.buffer
        peers = [stack.enter_context(RawPeer.dial(server.url)).shake_hands() for _ in range(IDLE)]
        for number, peer in enumerate(peers):
            peer.send(request(1, str(number)))
            assert peer.read_frame().payload == pack_plain(str(number))
        assert len(cast(Any, server)._connections) == IDLE
        assert buffers_of(server) == {id(shared)}


def test_a_part_of_a_frame_is_safe_from_what_others_read() -> None:
    with loop_server(Echo()) as server, RawPeer.dial(server.url) as one, RawPeer.dial(server.url) as other:
        shared = cast(Any, server)._runtime.buffer
        one.shake_hands()
        other.shake_hands()
        data = request(3, "second")
        one.send(request(1, "first") + data[:15])  # its answer tells that the part has come too
        assert one.read_frame().payload == pack_plain("first")
        assert len(buffers_of(server)) == 2
        other.send(request(1, "x" * 100))
        assert other.read_frame().payload == pack_plain("x" * 100)
        one.send(data[15:])
        assert one.read_frame().payload == pack_plain("second")
        assert buffers_of(server) == {id(shared)}


class Listener(Service):
    @rpc
    def ready(self) -> bool:
        return True

    @rpc
    def visit(self) -> bool:
        return current_call().peer.proxy(Asker).rest.with_options(timeout=PATIENCE * 100).call()


class Asker(Service):
    def __init__(self) -> None:
        self.callers: list[weakref.ref[Peer]] = []

    @rpc
    async def ask(self) -> bool:
        self.note()
        return await current_call().peer.proxy(Listener).ready.with_options(timeout=PATIENCE * 100).aio()

    @rpc
    async def rest(self) -> bool:
        self.note()
        await asyncio.sleep(0)
        return True

    @rpc
    def be_visited(self) -> bool:
        return current_call().peer.proxy(Listener).visit()

    def note(self) -> None:
        self.callers.append(weakref.ref(current_call().peer))
        # Of what was cancelled, asyncio only forgets what would be the next at once.
        asyncio.get_running_loop().call_later(PATIENCE, bool, context=Context())


@for_servers
@pytest.mark.parametrize("whose", ["of a call", "of the handler", "of a handler that another one waits for"])
def test_the_timer_of_a_deadline_keeps_nobody_who_has_left(colours: Colours, whose: str) -> None:
    """asyncio keeps a timer that was cancelled until it would be due, and with it the context that it was made in."""
    asker = Asker()
    with colours.serve(asker) as server:
        with connect(Asker, server.url, expose=[Listener()]) as proxy:
            if whose == "of a call":
                assert proxy.ask.call()
            elif whose == "of a handler that another one waits for":
                assert proxy.be_visited()
            else:
                assert proxy.rest.with_options(timeout=PATIENCE * 100).call()

        def is_forgotten() -> bool:
            gc.collect()
            return asker.callers[0]() is None

        until(is_forgotten)
