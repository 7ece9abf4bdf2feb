"""An event that signals set too, so that a program which waits for its end finds it whatever thread the signal hits."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any, Self, final

from typedrpc import transport
from typedrpc.common.fork import forsake_after_fork


@final
class Stop:
    """Set once, never cleared. It waits on a socket and not on a lock.

    A thread that waits for a lock hears of a signal only if the system delivers it to just that thread, while it
    waits; and a handler must not take a lock that the thread which it interrupts may hold.
    """

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._before: dict[int, Any] = {}  # signal to handler, while it is set by signals
        forsake_after_fork(self)

    def forsake(self) -> None:
        """See :mod:`typedrpc.common.fork`: signals of the child are its own, and must not stop the parent."""
        if self._before:
            import signal

            signal.set_wakeup_fd(-1)
            for number, handler in self._before.items():
                signal.signal(number, handler)
            self._before = {}
        self._reader.close()
        self._writer.close()

    def set(self) -> None:
        """From any thread, and from a signal handler."""
        with contextlib.suppress(OSError):  # full: it is set; closed: nobody waits any more
            self._writer.send(b"\0")

    def wait(self) -> None:
        """Block until it is set."""
        transport.wait(self._reader, read=True)

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[None]:
        """Have SIGINT and SIGTERM set it. Outside the main thread, which alone may handle signals, do nothing."""
        import signal  # imported when used: its enumerations cost 0.7 ms

        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def handle(number: int, frame: FrameType | None) -> None:
            self.set()

        self._before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
        descriptor = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            if self._before:
                signal.set_wakeup_fd(descriptor)
            for number, handler in self._before.items():
                signal.signal(number, handler)
            self._before = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self._reader.close()
        self._writer.close()
