"""The reading half of a connection with threads: what whoever has the read role reads with."""

from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any, final

from typedrpc import transport
from typedrpc.common.connection import GOODBYE_TIME
from typedrpc.protocol import Event, Protocol, State
from typedrpc.sync.alive import KeepAlive


@final
class Reader:
    """Of one connection. It belongs to who has the read role, but for :meth:`wake`."""

    def __init__(
        self,
        sock: transport.SocketLike,
        core: Protocol[Any],
        alive: KeepAlive,
        deliver: Callable[[list[Event[Any]]], None],
    ) -> None:
        """
        Args:
            sock: Where is read.
            core: The protocol's state.
            alive: Is told when nothing comes.
            deliver: Passes on what follows.
        """
        self._sock = sock
        self._core = core
        self._alive = alive
        self._deliver = deliver
        self._waker: transport.Waker | None = None

    def get_waker(self) -> transport.Waker | None:
        """What ends the wait of a thread that reads and may be told to stop; None if there are no descriptors."""
        if self._waker is None:
            with suppress(OSError):
                self._waker = transport.Waker()
        return self._waker

    def wake(self) -> None:
        """A thread that waits for something of its own, and may read meanwhile, is to look at once."""
        if self._waker is not None:  # where it is made only now, its maker looks afterwards
            self._waker.set()

    def close(self) -> None:
        """Nobody reads any more. The socket is closed by who writes, too."""
        if self._waker is not None:
            self._waker.close()

    def read(self, deadline: float | None = None, waker: transport.Waker | None = None) -> list[Event[Any]]:
        """Read once. Empty when the deadline passed first, or the waker was set."""
        core, sock = self._core, self._sock
        try:
            if deadline is not None or waker is not None:
                began = monotonic()
                left = None if deadline is None else deadline - began
                if (half := self._alive.half) is not None and (left is None or left > half):
                    left = half
                if not transport.wait(sock, read=True, timeout=left, waker=waker):
                    return self._alive.nothing_came(began)
                return self.read_now()
            count = sock.recv_into(core.reader.get_buffer())
        except OSError as error:
            return self._failed(error)
        return core.receive(count) if count else core.receive_eof()

    def read_now(self) -> list[Event[Any]]:
        """Read what is there, which may be nothing: of TLS, what has come may be no whole record."""
        core = self._core
        try:
            count = self._sock.recv_into(core.reader.get_buffer(), 0, transport.DONT_WAIT)
        except BlockingIOError:
            return []
        except OSError as error:
            return self._failed(error)
        return core.receive(count) if count else core.receive_eof()

    def read_and_deliver(self) -> None:
        """Read once, and pass on what follows: for the threads that handle what they read, once for each call."""
        core = self._core
        try:
            count = self._sock.recv_into(core.reader.get_buffer())
        except OSError as error:
            events = self._failed(error)
        else:
            events = core.receive(count) if count else core.receive_eof()
        self._deliver(events)

    def read_rest(self) -> None:
        """Read what has come, without waiting."""
        until = monotonic() + GOODBYE_TIME  # it may go on and on
        while self._core.state is not State.CLOSED and monotonic() < until and self._alive.is_readable():
            self._deliver(self.read_now())

    def read_last_words(self) -> None:
        """As :meth:`read_rest`, once nothing can be written: an end without a reason does not say why."""
        core = self._core
        until = monotonic() + GOODBYE_TIME
        while core.state is not State.CLOSED and monotonic() < until and self._alive.is_readable():
            try:
                count = self._sock.recv_into(core.reader.get_buffer(), 0, transport.DONT_WAIT)
            except BlockingIOError:
                continue
            except OSError:
                count = 0
            if not count:  # with a frame cut short it may be; that is not why
                if core.state is State.DRAINING:
                    self._deliver(core.receive_eof())
                return
            self._deliver(core.receive(count))

    def _failed(self, error: OSError) -> list[Event[Any]]:
        if isinstance(error, BlockingIOError):  # nothing came for half the time; or sockets do not block here
            return self._alive.read_ended()
        if not transport.is_of_socket(error):
            raise error
        return self._core.receive_error(error)
