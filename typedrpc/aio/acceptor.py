"""Accept connections on a listening socket, on an event loop.

The servers of asyncio are not used for it: one that is closed while it accepts leaves that client connected to nobody.
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Any, Final, final

from typedrpc import transport
from typedrpc.aio.secure import Secure
from typedrpc.common.arrivals import Arrivals, Place

logger = logging.getLogger("typedrpc")

AT_ONCE: Final = 64
"""Connections that are accepted in one turn of the loop; whatever else is due has its turn then."""
_PAUSE: Final = 0.1
"""Seconds to wait for descriptors or memory to become free."""


@final
class Acceptor:
    """Accepts connections from its making on. Used in the thread of the loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listener: socket.socket,
        address: transport.Address,
        make: Callable[[Place], asyncio.BaseProtocol],
        arrivals: Arrivals,
        *,
        secure: Secure | None = None,
        failed: Callable[[str, OSError], None] = lambda address, error: None,
    ) -> None:
        """
        Args:
            loop: Where to.
            listener: A listening socket, which the acceptor owns from here on.
            address: Where it listens.
            make: Makes the protocol of a connection, given its place among those of its address.
            arrivals: Counts them.
            secure: Shakes hands, where there is TLS.
            failed: Called with the address of a client, and the error, when that came to nothing.
        """
        self._loop = loop
        self._listener = listener
        self._address = address
        self._inode = transport.inode_of(address)
        self._make = make
        self._secure = secure
        self._failed = failed
        self._arrivals = arrivals
        self._short = False  # of descriptors or memory, and the log says so
        self._coming: set[asyncio.Task[None]] = set()
        self._pause: asyncio.TimerHandle | None = None
        self._awaiting: asyncio.Task[None] | None = None
        self._closed = False
        listener.setblocking(False)
        self._begin()

    def close(self) -> None:
        """Accept no more; the socket's file, where it has one, is removed. May be called again."""
        if self._closed:
            return
        self._closed = True
        if self._pause is not None:
            self._pause.cancel()
        if not self._loop.is_closed():
            self._stop()
        if self._secure is not None:  # who shakes hands is not in yet, and may take his time
            for task in self._coming:
                task.cancel()
        transport.unlisten(self._listener, self._address, self._inode)

    async def wait_until_settled(self) -> None:
        """Wait, once it was closed, until all that was accepted has its protocol; no longer than a few turns."""
        tasks = set(self._coming) if self._awaiting is None else {self._awaiting, *self._coming}
        if tasks:
            await asyncio.wait(tasks)

    def _begin(self) -> None:
        try:
            self._loop.add_reader(self._listener, self._accept)
        except NotImplementedError:  # the loop of Windows
            self._awaiting = self._loop.create_task(self._accept_by_awaiting())

    def _stop(self) -> None:
        if self._awaiting is None:
            self._loop.remove_reader(self._listener)
        else:
            self._awaiting.cancel()

    def _accept(self) -> None:
        for _ in range(AT_ONCE):
            try:
                sock, where = self._listener.accept()
            except OSError as error:
                if error.errno in transport.OUT_OF_RESOURCES:
                    self._tell(error)
                    self._stop()
                    self._pause = self._loop.call_later(_PAUSE, self._begin)
                return  # otherwise there is no more, or the client has left again
            self._welcome(sock, where)

    async def _accept_by_awaiting(self) -> None:
        while True:
            try:
                sock, where = await self._loop.sock_accept(self._listener)
            except OSError as error:
                if self._closed:
                    return
                if error.errno in transport.OUT_OF_RESOURCES:
                    self._tell(error)
                    await asyncio.sleep(_PAUSE)
            else:
                self._welcome(sock, where)

    def _tell(self, error: OSError) -> None:
        if not self._short:
            self._short = True
            logger.warning("cannot accept connections now, trying again and again: %s", error.strerror)

    def _welcome(self, sock: socket.socket, where: Any) -> None:
        self._short = False
        place = self._arrivals.admit(where)
        if place is None:
            sock.close()
            return
        task = self._loop.create_task(self._connect(sock, place))
        self._coming.add(task)
        task.add_done_callback(self._coming.discard)

    async def _connect(self, sock: socket.socket, place: Place) -> None:
        address = "" if self._secure is None else transport.describe_peer(sock)
        try:
            if self._secure is not None:
                await self._secure.shake(lambda: self._make(place), sock, place)
            else:
                await self._loop.connect_accepted_socket(lambda: self._make(place), sock)
        except OSError as error:
            logger.debug("a client left while it was welcomed: %s", error)
            place.leave()
            sock.close()
            if self._secure is not None:
                self._failed(address, error)
        except BaseException as error:
            place.leave()
            sock.close()
            if not isinstance(error, Exception):
                raise
            logger.exception("a connection could not be set up")
