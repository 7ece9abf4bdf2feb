"""TLS at an event loop's server: what a client begins with is looked at before the loop's own TLS has it."""

import asyncio
import errno
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, final

from typedrpc.tls import HANDSHAKE, NoTls
from typedrpc.wire import MAGIC, RECEIVE_SIZE

if TYPE_CHECKING:  # imported when used
    import ssl


@final
class Secure:
    """How a server's connections get TLS."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, context: "ssl.SSLContext", farewell: bytes, time: float
    ) -> None:
        """
        Args:
            loop: Where to.
            context: Certificates and rules.
            farewell: What is said to a client that speaks typedrpc without TLS.
            time: Seconds that a handshake may take.
        """
        self._loop = loop
        self._context = context
        self._farewell = farewell
        self._time = time

    async def shake(self, make: Callable[[], asyncio.BaseProtocol], sock: socket.socket) -> None:
        """Shake hands with a client that was accepted, and give it its protocol.

        Raises:
            OSError: It came to nothing: see :func:`typedrpc.tls.failure`.
            TimeoutError: It took too long.
        """
        async with asyncio.timeout(self._time):
            await self._look_at_first(sock)
            await self._loop.connect_accepted_socket(
                make, sock, ssl=self._context, ssl_handshake_timeout=self._time + 1.0
            )

    async def _look_at_first(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        try:
            await self._readable(sock)
        except NotImplementedError:  # the loop of Windows: OpenSSL says what it makes of it
            return
        first = sock.recv(1, socket.MSG_PEEK)
        if not first:
            raise ConnectionResetError(errno.ECONNRESET, "the client has left without a word")
        if first[0] != HANDSHAKE:
            ours = first[0] == MAGIC[0]
            if ours:
                with suppress(OSError):
                    sock.recv(RECEIVE_SIZE)  # what is not read when it is closed would take back what is sent
                    sock.send(self._farewell)
            what = "speaks typedrpc without TLS: its URL is to begin with tls://" if ours else "does not speak TLS"
            raise NoTls(errno.EPROTO, f"the client {what}")

    async def _readable(self, sock: socket.socket) -> None:
        readable: asyncio.Future[None] = self._loop.create_future()

        def tell() -> None:
            if not readable.done():
                readable.set_result(None)

        self._loop.add_reader(sock, tell)
        try:
            await readable
        finally:
            self._loop.remove_reader(sock)
