"""TLS at an event loop's server: what a client begins with is looked at before the loop's own TLS has it."""

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from time import monotonic
from typing import Final, final

from typedrpc.common.arrivals import Place
from typedrpc.tls import HANDSHAKE, NoTls
from typedrpc.wire import MAGIC, RECEIVE_SIZE


class Crowded(OSError):
    """Too many shake hands at a time, and it had been at it the longest."""


ALERT_TIME: Final = 0.1
"""Seconds that a client has to take in why it is refused."""


@final
class _Attempt:
    """A handshake that goes on."""

    def __init__(self, limit: asyncio.Timeout) -> None:
        self._limit = limit
        self.error: ssl.SSLError | None = None
        self.crowded = False

    def cut(self) -> None:
        """It has to make way for others."""
        self.crowded = True
        with suppress(RuntimeError):  # it is over
            self._limit.reschedule(asyncio.get_running_loop().time())

    def fail(self, error: ssl.SSLError) -> None:
        self.error = error
        self._limit.reschedule(asyncio.get_running_loop().time() + ALERT_TIME)


_attempt: Final[ContextVar[_Attempt | None]] = ContextVar("typedrpc.tls", default=None)


class _TellingObject(ssl.SSLObject):
    """Has the client told why a handshake failed: loops that learn of a failure at once send nothing any more."""

    def do_handshake(self) -> None:
        attempt = _attempt.get()
        if attempt is None:  # of somebody else, who uses the context too
            return super().do_handshake()
        try:
            if attempt.error is None:
                super().do_handshake()
        except ssl.SSLWantReadError:
            raise
        except ssl.SSLError as error:
            attempt.fail(error)
        if attempt.error is not None:
            raise ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, "it has failed")


@final
class Secure:
    """How a server's connections get TLS."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: ssl.SSLContext,
        farewell: bytes,
        time: float,
        *,
        enter: Callable[[Place], object] = lambda place: None,
        leave: Callable[[Place], object] = lambda place: None,
    ) -> None:
        """
        Args:
            loop: Where to.
            context: Certificates and rules.
            farewell: What is said to a client that speaks typedrpc without TLS.
            time: Seconds that a handshake may take.
            enter: Called with the place of who begins to shake hands: it counts from then on.
            leave: Called with the place of who is gone before there was TLS.
        """
        self._loop = loop
        self._context = context
        if context.sslobject_class is ssl.SSLObject:
            context.sslobject_class = _TellingObject
        self._farewell = farewell
        self._time = time
        self._enter = enter
        self._leave = leave

    async def shake(self, make: Callable[[], asyncio.BaseProtocol], sock: socket.socket, place: Place) -> None:
        """Shake hands with a client that was accepted, and give it its protocol.

        Its time began when it was accepted, and what TLS leaves of it is for the handshake of the protocol.

        Raises:
            OSError: It came to nothing: see :func:`typedrpc.tls.failure`.
            Crowded: It was cut off for another one.
            TimeoutError: It took too long.
        """
        limit = asyncio.timeout(max(0.0, place.since + self._time - monotonic()))
        attempt = _Attempt(limit)
        place.cut = attempt.cut
        try:
            await self._shake(make, sock, limit, attempt, place)
        except BaseException:
            self._leave(place)
            raise

    async def _shake(
        self,
        make: Callable[[], asyncio.BaseProtocol],
        sock: socket.socket,
        limit: asyncio.Timeout,
        attempt: _Attempt,
        place: Place,
    ) -> None:
        try:
            async with limit:
                self._enter(place)
                await self._look_at_first(sock)
                _attempt.set(attempt)  # this is a task of its own
                await self._connect(make, sock)
        except OSError:  # the time-out too
            if attempt.crowded:
                raise Crowded("too many connections shake hands with the server at a time") from None
            if attempt.error is not None:
                raise attempt.error from None
            raise

    async def _connect(self, make: Callable[[], asyncio.BaseProtocol], sock: socket.socket) -> None:
        time = self._time + 1.0  # never reached
        try:
            await self._loop.connect_accepted_socket(make, sock, ssl=self._context, ssl_handshake_timeout=time)
        except ConnectionError as error:  # as loops call it
            raise ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "the client has left") from error

    async def _look_at_first(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        try:
            await self._readable(sock)
        except NotImplementedError:  # pragma: no cover  # the loop of Windows: OpenSSL says what it makes of it
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
