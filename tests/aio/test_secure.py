"""TLS at an event loop's server, by itself: how handshakes begin, fail and are given up."""

import asyncio
import socket
import ssl
from collections.abc import Callable, Coroutine
from contextlib import suppress
from time import monotonic
from typing import Any

import pytest

from tests.certificates import certificates, contexts
from tests.loops import ON_UVLOOP, uvloop
from tests.support import PATIENCE
from typedrpc import Tls
from typedrpc.aio.runtime import CLOSING_TURNS
from typedrpc.aio.secure import Crowded, Secure, _TellingObject
from typedrpc.common.arrivals import Arrivals
from typedrpc.tls import NoTls, server_context

FAREWELL = b"\xd4goodbye"


@pytest.fixture(params=["asyncio", ON_UVLOOP])
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, None]], None]:
    """Runs a coroutine on a loop of either kind."""
    make = asyncio.new_event_loop if request.param == "asyncio" else uvloop.new_event_loop

    def run(coroutine: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=make) as runner:
            runner.run(asyncio.wait_for(coroutine, PATIENCE))

    return run


class Stand:
    """A handshake between a socket and an event loop."""

    def __init__(self, context: ssl.SSLContext | None = None, time: float = PATIENCE) -> None:
        self.ours, self.other = socket.socketpair()
        self.other.setblocking(False)
        self.loop = asyncio.get_running_loop()
        self.secure = Secure(self.loop, context or contexts()[1], FAREWELL, time)
        self.made: list[Any] = []  # transports, which are of no common class
        place = Arrivals(None).admit("")
        assert place is not None
        self.place = place
        self.shaking = self.loop.create_task(self.secure.shake(self.make, self.ours, self.place))

    def make(self) -> asyncio.Protocol:
        stand = self

        class Made(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                stand.made.append(transport)

        return Made()

    async def say(self, data: bytes) -> None:
        await self.loop.sock_sendall(self.other, data)

    async def close(self) -> None:
        for made in self.made:
            made.abort()
        self.other.close()
        self.ours.close()
        for _ in range(CLOSING_TURNS):
            await asyncio.sleep(0)


def test_a_client_shakes_hands(run: Any) -> None:
    async def shake() -> None:
        stand = Stand()
        _, writer = await asyncio.open_connection(sock=stand.other, ssl=contexts()[0], server_hostname="localhost")
        await stand.shaking
        assert len(stand.made) == 1
        assert isinstance(stand.made[0].get_extra_info("ssl_object"), ssl.SSLObject)
        writer.transport.abort()
        await stand.close()

    run(shake())


@pytest.mark.parametrize(("first", "told"), [(b"\xd4tRPC\r\n\x01hello", FAREWELL), (b"GET /", b"")])
def test_who_speaks_something_else_is_told_where_he_understands_it(run: Any, first: bytes, told: bytes) -> None:
    async def shake() -> None:
        stand = Stand()
        await stand.say(first)
        with pytest.raises(NoTls):
            await stand.shaking
        stand.ours.close()
        got = b""
        with suppress(ConnectionResetError):  # as not all was read
            got = await stand.loop.sock_recv(stand.other, 100)
        assert got == told
        assert not stand.made
        await stand.close()

    run(shake())


def test_who_has_to_make_way(run: Any) -> None:
    async def shake() -> None:
        stand = Stand()
        left: list[Any] = []
        stand.secure._enter = lambda place: place.cut()
        stand.secure._leave = left.append
        with pytest.raises(Crowded, match="too many connections"):
            await stand.shaking
        assert left == [stand.place]
        await stand.close()

    run(shake())


def test_the_time_began_when_it_was_accepted(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def shake() -> None:
        monkeypatch.setattr("typedrpc.aio.secure.monotonic", lambda: monotonic() + PATIENCE)
        stand = Stand()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(stand.shaking), PATIENCE / 2)
        assert stand.shaking.done()
        await stand.close()

    run(shake())


def test_who_leaves_without_a_word_has_just_left(run: Any) -> None:
    async def shake() -> None:
        stand = Stand()
        stand.other.close()
        with pytest.raises(ConnectionResetError):
            await stand.shaking
        await stand.close()

    run(shake())


def test_who_leaves_within_the_handshake_is_an_error_of_tls(run: Any) -> None:
    async def shake() -> None:
        stand = Stand()
        await stand.say(b"\x16\x03\x01")
        stand.other.close()
        with pytest.raises(ssl.SSLEOFError):
            await stand.shaking
        await stand.close()

    run(shake())


@pytest.mark.parametrize("first", [b"", b"\x16\x03\x01"])
def test_who_takes_too_long_is_given_up(run: Any, first: bytes) -> None:
    async def shake() -> None:
        stand = Stand(time=0.05)
        if first:
            await stand.say(first)
        with pytest.raises(TimeoutError):
            await stand.shaking
        await stand.close()

    run(shake())


def test_who_is_refused_is_told_why(run: Any) -> None:
    """Loops close the socket at once where a handshake fails, and the alert is lost."""

    async def shake() -> None:
        made = certificates()
        stand = Stand(server_context(Tls(certificate=made.server, ca=made.ca)))
        reader, writer = await asyncio.open_connection(sock=stand.other, ssl=contexts()[0], server_hostname="localhost")
        with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
            await stand.shaking
        with pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED"):
            await reader.read()
        writer.transport.abort()
        await stand.close()

    run(shake())


def test_a_context_goes_on_as_before_for_its_other_users(run: Any) -> None:
    """It is told nothing that they would see, and a class of objects that somebody has chosen stays."""

    async def shake() -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        Secure(asyncio.get_running_loop(), context, FAREWELL, PATIENCE)
        assert context.sslobject_class is _TellingObject
        incoming = ssl.MemoryBIO()
        incoming.write(b"GET / HTTP/1.1\r\n\r\n")
        with pytest.raises(ssl.SSLError, match="HTTP_REQUEST"):
            context.wrap_bio(incoming, ssl.MemoryBIO(), server_side=True).do_handshake()

        class Own(ssl.SSLObject):
            pass

        context.sslobject_class = Own
        Secure(asyncio.get_running_loop(), context, FAREWELL, PATIENCE)
        assert context.sslobject_class is Own

    run(shake())
