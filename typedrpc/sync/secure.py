"""TLS on a socket of the threads side: one thread reads while another writes.

``ssl.SSLSocket`` waits for the system within OpenSSL, so that who reads and who writes would wait for each other. Here
OpenSSL works on memory, under a lock that nobody holds while he waits.
"""

import errno
import socket
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import repeat
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, final

from typedrpc import transport
from typedrpc.tls import HANDSHAKE, NoTls
from typedrpc.wire import MAGIC, Buffer

if TYPE_CHECKING:  # imported when used
    import ssl

RECORD_SIZE: Final = 16 * 1024
"""Bytes of plain text that a record of TLS may have."""

MOST_RECORDS: Final = 9  # as a piece of a large message has
"""Records that are made at once."""

RAW_SIZE: Final = 64 * 1024
"""Bytes that are read from the system at once."""


@final
class TlsSocket:
    """As much of a socket as a connection uses, with TLS over it.

    One thread at a time reads, and one at a time writes; the rest may be called from any. At a server the handshake
    goes on within the first reads.

    Attributes:
        has_more: There may be something to read of which the system does not know.
        ready: The handshake is done.
    """

    def __init__(
        self,
        sock: socket.socket,
        context: "ssl.SSLContext",
        *,
        server_name: str | None = None,
        on_ready: "Callable[[TlsSocket], object] | None" = None,
        farewell: bytes = b"",
    ) -> None:
        """
        Args:
            sock: Connected, and set up by :func:`typedrpc.transport.prepare`. This one owns it.
            context: Certificates and rules.
            server_name: At a client, the name that the server's certificate must have. None makes it a server.
            on_ready: Called once with this, when the handshake is done, before anything is read.
            farewell: What a server says to a client that speaks typedrpc without TLS.

        Raises:
            OSError: The context is not one for this.
        """
        import ssl

        self.has_more = False
        self.ready = False
        self.family: Final = sock.family
        self._sock = sock
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_name is None, server_hostname=server_name
        )
        self._is_server = server_name is None
        self._on_ready = on_ready
        self._farewell = farewell
        self._want_read: Final = ssl.SSLWantReadError
        self._ends: Final = (ssl.SSLZeroReturnError, ssl.SSLEOFError)
        self._lock = threading.Lock()  # OpenSSL, and the outgoing memory
        self._sending = threading.Lock()  # what is below, and the right to send to the system
        self._rest = memoryview(b"")  # ciphertext that the system has not taken yet
        self._owed = 0  # bytes of what was encrypted that were not reported: 1 while there is a rest
        # From the system into memory within one operation: a signal handler runs before it or after it. So its
        # exception never loses what was read.
        write = self._incoming.write
        self._fetch_waiting = map(write, map(sock.recv, repeat(RAW_SIZE)))
        self._fetch_at_once = map(write, map(sock.recv, repeat(RAW_SIZE), repeat(transport.DONT_WAIT)))
        self._begun = False  # something has come

    # As a socket has it

    def fileno(self) -> int:
        return self._sock.fileno()

    def getpeername(self) -> Any:
        return self._sock.getpeername()

    def getsockname(self) -> Any:
        return self._sock.getsockname()

    def getsockopt(self, level: int, option: int, *size: int) -> Any:
        return self._sock.getsockopt(level, option, *size)

    def setsockopt(self, level: int, option: int, value: "int | bytes") -> None:
        self._sock.setsockopt(level, option, value)

    def getpeercert(self) -> dict[str, Any] | None:
        """What the other end's certificate says: None if it has shown none, empty if that was not checked."""
        return self._object.getpeercert()

    def close(self) -> None:
        self._sock.close()

    def shutdown(self, how: int) -> None:
        """End it; the other end is told by TLS too, as far as nobody has to wait for that."""
        if self.ready and self._sending.acquire(blocking=False):
            try:
                if not self._rest and self._lock.acquire(blocking=False):
                    try:
                        with suppress(OSError):  # that the other end has not said the same yet
                            self._object.unwrap()
                    finally:
                        self._lock.release()
                    with suppress(OSError):
                        self._hand_over(transport.DONT_WAIT)
            finally:
                self._sending.release()
        self._sock.shutdown(how)

    # The handshake

    def handshake(self, deadline: float) -> None:
        """Shake hands, at a client, before anything else.

        Raises:
            OSError: It came to nothing: see :func:`typedrpc.tls.failure`.
            TimeoutError: It was not done by the deadline.
        """
        while not self._shake():
            left = deadline - monotonic()
            if left <= 0:
                raise TimeoutError
            transport.wait(self._sock, read=True, write=bool(self._rest), timeout=left)
            with suppress(BlockingIOError):
                self._fetch(transport.DONT_WAIT)

    def _shake(self) -> bool:
        """Do what can be done of the handshake now. Returns whether it is done."""
        try:
            with self._lock:
                self._object.do_handshake()
        except self._want_read:
            self.has_more = False
            return False
        finally:
            self._push()  # an alert too
        self.ready = True
        if self._on_ready is not None:
            self._on_ready(self)
            self._on_ready = None
        return True

    def _look_at_first(self, flags: int) -> None:
        """Read what the client begins with. If that is no TLS, it is told so where it understands it."""
        data = self._sock.recv(RAW_SIZE, flags)
        self._begun = True
        if data and data[0] != HANDSHAKE:
            ours = data[0] == MAGIC[0]
            if ours:
                with suppress(OSError):
                    self._sock.send(self._farewell, transport.DONT_WAIT)
            what = "speaks typedrpc without TLS: its URL is to begin with tls://" if ours else "does not speak TLS"
            raise NoTls(errno.EPROTO, f"the client {what}")
        if data:
            self._incoming.write(data)
            self.has_more = True

    # Reading

    def recv_into(self, buffer: bytearray | memoryview, nbytes: int = 0, flags: int = 0) -> int:
        """As ``socket.recv_into``: how many bytes came, 0 at the end.

        Raises:
            BlockingIOError: Nothing has come, where the flags say not to wait, or the socket is set to wait no longer.
            OSError: What comes is none of TLS, or the connection broke.
        """
        size = nbytes or len(buffer)
        while True:
            if not self.has_more:
                if not self._begun and self._is_server:
                    self._look_at_first(flags)
                    if not self.has_more:
                        return 0  # it has left without a word
                else:
                    self._fetch(flags)
            if not self.ready and not self._shake():
                continue
            count = self._take(buffer, size)
            if count is not None:
                return count

    def _fetch(self, flags: int) -> None:
        """Read from the system once."""
        self.has_more = True  # as whoever is interrupted from here on may leave something
        try:
            count = next(self._fetch_at_once if flags else self._fetch_waiting)
        except BlockingIOError:
            self.has_more = False
            raise
        if not count:
            self._incoming.write_eof()

    def _take(self, buffer: bytearray | memoryview, size: int) -> int | None:
        """Decrypt what has come; None when it is no whole record."""
        source = self._incoming
        decrypt: Any = self._object.read
        count = 0
        with self._lock:
            try:
                count = decrypt(size, buffer)
                while 0 < count < size and (source.pending or self._object.pending()):
                    more = decrypt(size - count, memoryview(buffer)[count:])
                    if not more:
                        break
                    count += more
                self.has_more = not count or bool(source.pending or self._object.pending())
            except self._want_read:
                self.has_more = False
                if not count:
                    return None
            except self._ends:
                self.has_more = True  # it is said again to the next read
            except OSError:
                if not count:
                    raise
            # Few messages of TLS are answered.
            answers = self._outgoing.pending
        if answers:
            self._push()
        return count

    # Writing

    def send(self, data: Buffer, flags: int = 0) -> int:
        """As :meth:`sendmsg`, for one buffer."""
        return self.sendmsg((data,), (), flags)

    def sendmsg(self, buffers: Sequence[Buffer], ancdata: Iterable[Any] = (), flags: int = 0) -> int:
        """As ``socket.sendmsg``: how many bytes were taken.

        What was encrypted has to be sent. So where the system does not take all of it, one byte less is reported: the
        caller comes back with what he takes for left, and that byte is skipped. Whatever he sends next must begin with
        what was left.

        Raises:
            BlockingIOError: Nothing was taken, as the pipe is full.
            OSError: The connection broke, or the handshake is not done.
        """
        if not self.ready:
            raise OSError(errno.ENOTCONN, "the TLS handshake is not done")
        with self._sending:
            if self._rest and not self._hand_over(flags):
                raise BlockingIOError(errno.EAGAIN, "the pipe is full")
            skip, self._owed = self._owed, 0
            taken = skip
            with self._lock:
                for record in _records(buffers, skip):
                    done = 0
                    while done < len(record):
                        done += self._object.write(record[done:] if done else record)
                    taken += done
                self._rest = memoryview(self._outgoing.read())
            if not self._hand_over(flags):
                self._owed = 1
                taken -= 1
        if self._outgoing.pending:  # of who reads, and found this thread sending
            self._push()
        return taken

    def _push(self) -> None:
        """Send what OpenSSL has to say of its own, unless another thread sends, which then does it."""
        while (self._outgoing.pending or self._rest) and self._sending.acquire(blocking=False):
            try:
                if not self._hand_over(transport.DONT_WAIT):
                    return  # whoever sends next begins with it
            except BaseException as error:
                if not transport.is_of_socket(error):  # of a signal handler: nobody knows how much was sent
                    with suppress(OSError):
                        self._sock.shutdown(socket.SHUT_RDWR)
                    raise
                return  # broken, as who reads or writes will see
            finally:
                self._sending.release()

    def _hand_over(self, flags: int) -> bool:
        """Send all that is encrypted. Returns False when the pipe is full; the right to send is held."""
        while True:
            if not self._rest:
                if not self._outgoing.pending:
                    return True
                with self._lock:
                    self._rest = memoryview(self._outgoing.read())
            try:
                count = self._sock.send(self._rest, flags)
            except BlockingIOError:
                return False
            self._rest = self._rest[count:]


def _records(buffers: Sequence[Buffer], skip: int) -> Iterable[Buffer]:
    """What buffers hold, from some byte on, in pieces that become records; as much as is encrypted at once."""
    if len(buffers) == 1 and len(buffers[0]) <= RECORD_SIZE:
        return (memoryview(buffers[0])[skip:],) if skip else buffers
    return _cut(buffers, skip)


def _cut(buffers: Sequence[Buffer], skip: int) -> Iterable[Buffer]:
    left = MOST_RECORDS
    head: bytes = b""  # small ones go together with what follows
    for buffer in buffers:
        view = memoryview(buffer)[skip:]
        skip = max(0, skip - len(buffer))
        if head and view:
            piece = view[: RECORD_SIZE - len(head)]
            head += piece
            view = view[len(piece) :]
        while len(head) == RECORD_SIZE or len(view) >= RECORD_SIZE:
            if not left:
                return
            left -= 1
            if head:
                yield head
                head = b""
            else:
                yield view[:RECORD_SIZE]
                view = view[RECORD_SIZE:]
        if view:
            assert not head, "a head takes all there is up to a record"
            head = bytes(view)
    if head and left:
        yield head
