"""One thread that accepts connections on a listening socket, whatever happens to them, until it is told to stop."""

import logging
import selectors
import socket
import threading
from collections.abc import Callable
from typing import Final, final

from typedrpc import transport
from typedrpc.common.fork import forsake_after_fork

logger = logging.getLogger("typedrpc")

_PAUSE: Final = 0.1
"""Seconds to wait for descriptors or memory to become free."""


@final
class Acceptor:
    """Accepts connections from its making on."""

    def __init__(
        self, listener: socket.socket, address: transport.Address, welcome: Callable[[socket.socket], None]
    ) -> None:
        """
        Args:
            listener: A listening socket, which the acceptor owns from here on.
            address: Where it listens.
            welcome: Called with each connected socket, in the acceptor's thread; must not block.
        """
        self._listener = listener
        self._address = address
        self._inode = transport.inode_of(address)
        self._welcome = welcome
        self._short = False  # of descriptors or memory, and the log says so
        self._wake, self._waker = socket.socketpair()
        listener.setblocking(False)
        forsake_after_fork(self)
        self._thread = threading.Thread(target=self._run, name="typedrpc-accept", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Accept no more; the socket's file, where it has one, is removed."""
        self._waker.close()
        self._thread.join()
        transport.unlisten(self._listener, self._address, self._inode)

    def forsake(self) -> None:
        """See :mod:`typedrpc.common.fork`. The socket's file stays: it is the parent's."""
        self._listener.close()
        self._wake.close()
        self._waker.close()

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector, self._wake:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._wake, selectors.EVENT_READ)
            while True:
                ready = {key.fileobj for key, _ in selector.select()}
                if self._wake in ready:
                    return
                self._accept()

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError as error:
            if error.errno in transport.OUT_OF_RESOURCES:
                if not self._short:
                    self._short = True
                    logger.warning("cannot accept connections now, trying again and again: %s", error.strerror)
                # Needs no descriptor of its own, as a selector would.
                transport.wait(self._wake, read=True, timeout=_PAUSE)
            return  # otherwise the client has left again
        self._short = False
        try:
            self._welcome(sock)
        except OSError as error:
            logger.debug("a client left while it was welcomed: %s", error)
            sock.close()
        except Exception:
            logger.exception("a connection could not be set up")
            sock.close()
