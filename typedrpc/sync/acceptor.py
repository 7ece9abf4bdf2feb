"""One thread that accepts connections on a listening socket, whatever happens to them, until it is told to stop.

It shakes hands with them too, see :mod:`typedrpc.sync.greeter`.
"""

import logging
import selectors
import socket
import threading
from collections.abc import Callable
from time import monotonic
from typing import Final, final

from typedrpc import transport
from typedrpc.common.arrivals import Arrivals, Place
from typedrpc.common.fork import forsake_after_fork
from typedrpc.sync.greeter import Greeter

logger = logging.getLogger("typedrpc")

_PAUSE: Final = 0.1
"""Seconds to wait for descriptors or memory to become free."""


@final
class Acceptor:
    """Accepts connections from its making on."""

    def __init__(
        self,
        listener: socket.socket,
        address: transport.Address,
        welcome: Callable[[socket.socket, Place], None],
        *,
        arrivals: Arrivals,
        greeter: Greeter,
    ) -> None:
        """
        Args:
            listener: A listening socket, which the acceptor owns from here on.
            address: Where it listens.
            welcome: Called with each connected socket and its place among those of its address, in the acceptor's
                thread; must not block.
            arrivals: Counts them.
            greeter: Shakes hands with them in the acceptor's thread, which closes it.
        """
        self._listener = listener
        self._address = address
        self._inode = transport.inode_of(address)
        self._welcome = welcome
        self._arrivals = arrivals
        self._greeter = greeter
        self._resume_at = 0.0  # when to accept again, where there was a lack
        self._short = False  # of descriptors or memory, and the log says so
        self._wake, self._waker = socket.socketpair()
        listener.setblocking(False)
        for sock in (listener, self._wake):
            greeter.selector.register(sock, selectors.EVENT_READ)
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
        self._greeter.forsake()

    def _run(self) -> None:
        try:
            while self._turn():
                pass
        finally:
            self._greeter.close()
            self._wake.close()

    def _turn(self) -> bool:
        """Wait, and do what is due. Returns False when it is to stop.

        A function of its own, so that while it waits nothing is kept of a connection that it had to do with before.
        """
        for key, _ in self._greeter.selector.select(self._look(monotonic())):
            if key.fileobj is self._wake:
                return False
            if key.fileobj is self._listener:
                self._accept()
            else:
                self._greeter.read(key.data)
        return True

    def _look(self, now: float) -> float | None:
        """Do what is due. Returns seconds until there is more to do."""
        pause = self._greeter.look(now)
        if self._resume_at and now >= self._resume_at:
            try:
                self._greeter.selector.register(self._listener, selectors.EVENT_READ)
                self._resume_at = 0.0
            except OSError:  # there still is a lack
                self._resume_at = now + _PAUSE
        return min(_PAUSE, _PAUSE if pause is None else pause) if self._resume_at else pause

    def _accept(self) -> None:
        try:
            sock, where = self._listener.accept()
        except OSError as error:
            if error.errno in transport.OUT_OF_RESOURCES:
                if not self._short:
                    self._short = True
                    logger.warning("cannot accept connections now, trying again and again: %s", error.strerror)
                # Those who are connected are served meanwhile.
                self._greeter.selector.unregister(self._listener)
                self._resume_at = monotonic() + _PAUSE
            return  # otherwise the client has left again
        self._short = False
        place = self._arrivals.admit(where)
        if place is None:
            sock.close()
            return
        try:
            self._welcome(sock, place)
        except OSError as error:
            logger.debug("a client left while it was welcomed: %s", error)
            place.leave()
            sock.close()
        except Exception:
            logger.exception("a connection could not be set up")
            place.leave()
            sock.close()
