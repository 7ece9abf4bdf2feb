"""Keep-alive of a connection with threads: whoever finds nothing to read says so here.

The system ends a read that has lasted for half of the time, so the paths that run for each call look at no clock. What
came between two such ends has left its trace in the reader, see :meth:`typedrpc.wire.FrameReader.mark`.
"""

from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any, Final, final

from typedrpc import transport
from typedrpc.common.outbox import STALL_TIME
from typedrpc.common.role import ReadRole
from typedrpc.common.silence import SIGN_TIME, Heed, Silence
from typedrpc.messages import Feature
from typedrpc.protocol import Event, Protocol, State
from typedrpc.sync.writer import Writer


@final
class KeepAlive:
    """Of one connection. But for :meth:`look` it belongs to who has the read role.

    Attributes:
        half: Seconds that a wait for something to read may last; None for as long as it takes.
    """

    def __init__(
        self,
        sock: transport.SocketLike,
        core: Protocol[Any],
        role: ReadRole,
        writer: Writer,
        *,
        deliver: Callable[[list[Event[Any]]], None],
        stop_leading: Callable[[], None],
    ) -> None:
        """
        Args:
            sock: Where is read.
            core: The protocol's state.
            role: The connection's read role.
            writer: Writes what is asked.
            deliver: Passes on what follows; the role is held.
            stop_leading: Gives the role up.
        """
        self.half: float | None = None
        self._sock = sock
        self._core = core
        self._role: Final = role
        self._writer = writer
        self._deliver = deliver
        self._stop_leading = stop_leading
        self._silence: Silence | None = None
        # When it is looked next whether nobody reads, and how far they were before.
        self._look_at = 0.0
        self._seen_progress = -1

    def begin(self, silence: Silence) -> None:
        """The handshake is over: from now on a silence that lasts is to be noticed."""
        with suppress(OSError):  # the peer has left again, as who reads will see
            reads = self._core.client or Feature.READS in self._core.peer_hello.features
            transport.keep_alive(self._sock, silence.period, reads=reads, patience=STALL_TIME)
            transport.limit_silence(self._sock, silence.half)
        silence.look = lambda: transport.delivery(self._sock)
        self._silence = silence
        self.half = silence.half

    def is_readable(self) -> bool:
        """Whether there is something to read."""
        try:
            return transport.wait(self._sock, read=True, timeout=0)
        except (OSError, ValueError):  # closed meanwhile
            return False

    def read_ended(self) -> list[Event[Any]]:
        """A read that waits for nothing else has ended with nothing, or has failed. Returns what follows."""
        now = monotonic()
        if not transport.READS_END:  # pragma: no cover  # where sockets do not block
            transport.wait(self._sock, read=True, timeout=self.half)
        elif self.half is not None:
            now -= self.half
        return [] if self.is_readable() else self.nothing_came(now)

    def nothing_came(self, since: float) -> list[Event[Any]]:
        """There is nothing to be read, and has not been since then. Returns what follows."""
        silence, core = self._silence, self._core
        if silence is None or core.state is State.CLOSED:
            return []
        now = monotonic()
        heed = silence.grow(now, now - since, broken=core.reader.moved, may_ask=core.may_ask)
        core.reader.mark()
        if heed is Heed.END:
            return core.receive_nothing(silence.period)
        if heed is Heed.ASK:
            self._writer.queue.append(core.ping())
            self._writer.flush(monotonic(), leading=True)
        return []

    def hear_nothing(self) -> None:
        """There is nothing to be read just now."""
        self._deliver(self.nothing_came(monotonic()))

    def look(self, now: float) -> None:
        """In the watcher's thread, while handlers run: where nobody reads, the peer is answered and listened for."""
        if now < self._look_at:
            return
        progress, self._look_at = self._seen_progress, now + SIGN_TIME
        if progress == self._role.progress and self._role.try_take():
            try:
                if not self.is_readable():
                    self.hear_nothing()
                elif not self._writer.queue and self._core.state is State.OPEN:
                    # No thread is free to read it, and it may be a ping.
                    self._writer.queue.append(self._core.sign_of_life())
                    self._writer.flush(now, leading=True)
            finally:
                self._stop_leading()
        self._seen_progress = self._role.progress
