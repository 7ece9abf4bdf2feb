"""TLS over a socket of the threads side: what it takes, gives and owes, with pipes that are full and records cut."""

import contextlib
import errno
import os
import signal
import socket
import ssl
import threading
from collections.abc import Iterator
from time import monotonic
from types import FrameType
from typing import Any

import pytest

from tests.certificates import certificates, contexts
from tests.support import PATIENCE, Running, handling
from typedrpc import Tls, transport
from typedrpc.sync.secure import RECORD_SIZE, TlsSocket
from typedrpc.tls import NoTls, server_context


class Ends:
    """Two ends of a connection, after their handshake."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        of_client, of_server = contexts()
        self.raw_client, self.raw_server = socket.socketpair()
        for raw in (self.raw_client, self.raw_server):
            transport.prepare(raw)
        self.server = TlsSocket(self.raw_server, context or of_server)
        self.client = TlsSocket(self.raw_client, of_client, server_name="localhost")
        shaking = Running(read_step, self.server)
        self.client.handshake(monotonic() + PATIENCE)
        assert shaking.result() is None

    def close(self) -> None:
        self.client.close()
        self.server.close()


def read_step(sock: TlsSocket) -> None:
    """Read until the handshake is done."""
    while not sock.ready:
        transport.wait(sock, read=True, timeout=PATIENCE)
        with contextlib.suppress(BlockingIOError):
            sock.recv_into(bytearray(1), 0, transport.DONT_WAIT)


@pytest.fixture
def ends() -> Iterator[Ends]:
    ends = Ends()
    yield ends
    ends.close()


def receive(sock: TlsSocket, size: int) -> bytes:
    got = bytearray()
    buffer = bytearray(64 * 1024)
    while len(got) < size:
        count = sock.recv_into(buffer)
        assert count, "it ended before"
        got += buffer[:count]
    return bytes(got)


def send_all(sock: TlsSocket, data: bytes) -> None:
    """As the writer of a connection does: what was not taken comes first the next time."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[sock.send(rest) :]
        except BlockingIOError:
            transport.wait(sock, write=True, timeout=1.0)


def test_what_is_sent_arrives(ends: Ends) -> None:
    assert ends.client.send(b"there") == 5
    assert receive(ends.server, 5) == b"there"
    assert ends.server.sendmsg([b"and", b"", memoryview(b" back")]) == 8
    assert receive(ends.client, 8) == b"and back"


def test_it_does_not_travel_as_it_is() -> None:
    of_client, _ = contexts()
    raw, other = socket.socketpair()
    with raw, other:
        secured = TlsSocket(raw, of_client, server_name="localhost")
        with pytest.raises(TimeoutError):
            secured.handshake(monotonic())
        assert other.recv(1) == b"\x16"
        with pytest.raises(OSError, match="not done") as caught:
            secured.send(b"secret")
        assert caught.value.errno == errno.ENOTCONN


@pytest.mark.parametrize(
    "sizes",
    [
        (1, 1),
        (12, RECORD_SIZE),
        (RECORD_SIZE, 1),
        (RECORD_SIZE - 1, 1),
        (RECORD_SIZE - 1, 1, 1),
        (12, 128 * 1024, 5),
        (10,) * 60,
        (300_000,),
    ],
)
def test_buffers_of_any_sizes_arrive_in_order(ends: Ends, sizes: tuple[int, ...]) -> None:
    whole = os.urandom(sum(sizes))
    view = memoryview(whole)
    buffers = []
    for size in sizes:
        buffers.append(view[:size])
        view = view[size:]

    def send() -> None:
        rest: list[Any] = buffers
        while rest:
            try:
                count = ends.client.sendmsg(rest)
            except BlockingIOError:
                transport.wait(ends.client, write=True, timeout=1.0)
                continue
            while rest and count >= len(rest[0]):
                count -= len(rest[0])
                rest = rest[1:]
            if rest:
                rest = [rest[0][count:], *rest[1:]]

    sending = Running(send)
    assert receive(ends.server, len(whole)) == whole
    sending.result()


def fill(sock: TlsSocket, data: bytes) -> int:
    """Send until the pipe is full: how many bytes were taken."""
    taken = 0
    while True:
        try:
            taken += sock.send(memoryview(data)[taken : taken + 100_000], transport.DONT_WAIT)
        except BlockingIOError:
            return taken


def test_where_the_pipe_is_full_a_byte_is_owed_and_skipped_later(ends: Ends) -> None:
    data = os.urandom(8_000_000)
    taken = fill(ends.client, data)
    assert 0 < taken < len(data)
    with pytest.raises(BlockingIOError):  # not even what is encrypted goes out, so nothing of this is taken
        ends.client.send(memoryview(data)[taken:], transport.DONT_WAIT)
    receiving = Running(receive, ends.server, taken + 10)
    send_all(ends.client, data[taken : taken + 10])
    assert receiving.result() == data[: taken + 10]


def test_what_was_taken_whole_leaves_nothing_lying(ends: Ends) -> None:
    data = os.urandom(8_000_000)
    taken = fill(ends.client, data)
    receiving = Running(receive, ends.server, taken + 1)
    # The byte that is owed is reported when the last of the ciphertext is with the system.
    send_all(ends.client, data[taken : taken + 1])
    assert receiving.result() == data[: taken + 1]


def test_64_mib_each_way_at_once(ends: Ends) -> None:
    size = 64 * 1024 * 1024
    there, back = os.urandom(1 << 20) * 64, os.urandom(1 << 20) * 64
    assert len(there) == size
    work: list[Running[Any]] = [
        Running(send_all, ends.client, there),
        Running(send_all, ends.server, back),
        Running(receive, ends.client, size),
        Running(receive, ends.server, size),
    ]
    results = [each.result() for each in work]
    assert results[2] == back
    assert results[3] == there


def test_a_record_that_is_not_whole_is_waited_for_by_who_waits(ends: Ends) -> None:
    """The system says that there is something to read, and there is nothing yet that can be."""
    held = Held(ends.raw_client)
    ends.client._sock = held  # type: ignore[assignment]
    ends.client.send(b"message")
    record = held.taken()
    ends.raw_client.send(record[:10])
    assert transport.wait(ends.server, read=True, timeout=PATIENCE)
    buffer = bytearray(100)
    with pytest.raises(BlockingIOError):
        ends.server.recv_into(buffer, 0, transport.DONT_WAIT)
    assert not transport.wait(ends.server, read=True, timeout=0)
    reading = Running(ends.server.recv_into, buffer)
    for byte in record[10:]:
        assert not reading.done
        ends.raw_client.send(bytes([byte]))
    assert reading.result() == 7
    assert buffer[:7] == b"message"


class Held:
    """A socket whose bytes do not go out."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._bytes = bytearray()

    def send(self, data: Any, flags: int = 0) -> int:
        self._bytes += data
        return len(data)

    def taken(self) -> bytes:
        return bytes(self._bytes)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


def test_what_was_read_already_is_there_to_be_read(ends: Ends) -> None:
    """A read of a few bytes leaves the rest of a record, and of others, where the system knows nothing of it."""
    data = os.urandom(3 * RECORD_SIZE)
    send_all(ends.client, data)
    got = b""
    buffer = bytearray(1000)
    while len(got) < len(data):
        assert transport.wait(ends.server, read=True, timeout=PATIENCE)
        with contextlib.suppress(BlockingIOError):
            got += buffer[: ends.server.recv_into(buffer, 0, transport.DONT_WAIT)]
    assert got == data
    assert not transport.wait(ends.server, read=True, timeout=0)


def test_a_read_fills_its_buffer_from_several_records(ends: Ends) -> None:
    data = os.urandom(2 * RECORD_SIZE)
    send_all(ends.client, data)
    buffer = bytearray(len(data))
    assert ends.server.recv_into(buffer) == len(data)
    assert buffer == data


@pytest.mark.parametrize("said", [True, False], ids=["said", "unsaid"])
def test_the_end_is_an_end_whether_or_not_tls_says_so(ends: Ends, said: bool) -> None:
    ends.client.send(b"last")
    (ends.client if said else ends.raw_client).shutdown(socket.SHUT_RDWR)
    assert receive(ends.server, 4) == b"last"
    for _ in range(2):
        assert ends.server.recv_into(bytearray(10)) == 0


def test_the_end_is_said_by_tls() -> None:
    ends = Ends()
    try:
        held = Held(ends.raw_client)
        ends.client._sock = held  # type: ignore[assignment]
        ends.client.shutdown(socket.SHUT_RDWR)
        assert held.taken()
    finally:
        ends.close()


def test_a_byte_that_was_changed_on_the_way_is_an_error(ends: Ends) -> None:
    held = Held(ends.raw_client)
    ends.client._sock = held  # type: ignore[assignment]
    ends.client.send(b"message")
    record = bytearray(held.taken())
    record[-1] ^= 1
    ends.raw_client.send(record)
    with pytest.raises(ssl.SSLError):
        ends.server.recv_into(bytearray(100))


@pytest.mark.parametrize("first", [b"\xd4tRPC\r\n\x01", b"GET / HTTP/1.1\r\n"])
def test_who_speaks_something_else_is_told_where_he_understands_it(first: bytes) -> None:
    raw, other = socket.socketpair()
    with raw, other:
        secured = TlsSocket(raw, contexts()[1], farewell=b"goodbye")
        other.sendall(first)
        with pytest.raises(NoTls, match="typedrpc without TLS" if first[0] == 0xD4 else "does not speak TLS"):
            secured.recv_into(bytearray(100))
        secured.shutdown(socket.SHUT_RDWR)
        assert other.recv(100) == (b"goodbye" if first[0] == 0xD4 else b"")


def test_who_leaves_without_a_word_has_just_left() -> None:
    raw, other = socket.socketpair()
    with raw:
        other.close()
        assert TlsSocket(raw, contexts()[1]).recv_into(bytearray(100)) == 0


def test_who_leaves_within_the_handshake_is_an_error() -> None:
    raw, other = socket.socketpair()
    with raw:
        other.sendall(b"\x16\x03\x01")
        other.close()
        with pytest.raises(ssl.SSLEOFError):
            TlsSocket(raw, contexts()[1]).recv_into(bytearray(100))


def test_a_server_learns_the_certificate_before_anything_is_read() -> None:
    made = certificates()
    raw_client, raw_server = socket.socketpair()
    with raw_client, raw_server:
        known: list[Any] = []
        context = server_context(Tls(certificate=made.server, ca=made.ca))
        server = TlsSocket(raw_server, context, on_ready=lambda sock: known.append(sock.getpeercert()))
        of_client = ssl.create_default_context(cafile=str(made.ca))
        of_client.load_cert_chain(made.client)
        client = TlsSocket(raw_client, of_client, server_name="localhost")
        shaking = Running(read_step, server)
        client.handshake(monotonic() + PATIENCE)
        shaking.result()
        [certificate] = known
        assert (("commonName", "robot"),) in certificate["subject"]


def test_tls_1_2_too() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates().server)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    ends = Ends(context)
    try:
        data = os.urandom(1_000_000)
        sending = Running(send_all, ends.client, data)
        assert receive(ends.server, len(data)) == data
        sending.result()
    finally:
        ends.close()


class Interrupt(Exception):
    pass


def test_an_exception_of_a_signal_handler_while_it_waits_loses_nothing(ends: Ends) -> None:
    buffer = bytearray(b"\xff" * 100)
    waiting = threading.Event()

    class Telling(Held):
        def recv(self, *args: Any) -> bytes:
            waiting.set()
            return self._sock.recv(*args)

    # As the socket itself has it, but one sees that it is about to wait.
    telling = Telling(ends.raw_server)
    write = ends.server._incoming.write
    ends.server._fetch_waiting = map(write, map(telling.recv, [64 * 1024] * 10))

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise Interrupt

    def kill() -> None:
        assert waiting.wait(PATIENCE)
        os.kill(os.getpid(), signal.SIGUSR1)

    with handling(signal.SIGUSR1, interrupt):
        killing = Running(kill)
        with pytest.raises(Interrupt):
            ends.server.recv_into(buffer)
        killing.result()
    assert buffer[0] == 0xFF  # by which the connection sees that nothing was read
    ends.client.send(b"message")
    assert receive(ends.server, 7) == b"message"


def test_what_was_read_by_a_thread_that_is_interrupted_then_is_there_for_the_next(ends: Ends) -> None:
    """The system's bytes are with OpenSSL, and none is with the caller, when the handler's exception comes."""
    ends.client.send(b"message")
    taking = ends.server._take

    def interrupted(*args: Any) -> int | None:
        ends.server._take = taking  # type: ignore[method-assign]
        raise Interrupt

    ends.server._take = interrupted  # type: ignore[method-assign,assignment]
    buffer = bytearray(b"\xff" * 100)
    with pytest.raises(Interrupt):
        ends.server.recv_into(buffer)
    assert buffer[0] == 0xFF
    assert transport.wait(ends.server, read=True, timeout=0)
    assert ends.server.recv_into(buffer, 0, transport.DONT_WAIT) == 7
    assert buffer[:7] == b"message"


# What OpenSSL has to say of its own


class Failing(Held):
    """A socket whose sends fail."""

    def __init__(self, sock: socket.socket, error: BaseException) -> None:
        super().__init__(sock)
        self._error = error

    def send(self, data: Any, flags: int = 0) -> int:
        raise self._error


def test_who_reads_leaves_it_to_the_thread_that_sends(ends: Ends) -> None:
    ends.server._sock = held = Held(ends.raw_server)  # type: ignore[assignment]
    ends.server._outgoing.write(b"answer")
    with ends.server._sending:
        ends.server._push()
    assert held.taken() == b""
    ends.server.send(b"message")  # which sends it first, as that is the order in which it was encrypted
    assert held.taken().startswith(b"answer")
    assert len(held.taken()) > len(b"answermessage")


def test_what_comes_while_a_thread_sends_is_sent_by_it(ends: Ends) -> None:
    server = ends.server

    class Late(Held):
        def send(self, data: Any, flags: int = 0) -> int:
            if not self._bytes:
                reading = Running(leave, server)
                reading.result()
            return super().send(data, flags)

    def leave(server: TlsSocket) -> None:
        with server._lock:
            server._outgoing.write(b"answer")
        server._push()

    server._sock = late = Late(ends.raw_server)  # type: ignore[assignment]
    server.send(b"message")
    assert late.taken().endswith(b"answer")


def test_where_there_is_no_room_for_it_whoever_sends_next_begins_with_it(ends: Ends) -> None:
    ends.server._sock = Failing(ends.raw_server, BlockingIOError(errno.EAGAIN, "full"))  # type: ignore[assignment]
    ends.server._outgoing.write(b"answer")
    ends.server._push()
    with pytest.raises(BlockingIOError):
        ends.server.send(b"message")
    ends.server._sock = held = Held(ends.raw_server)  # type: ignore[assignment]
    assert ends.server.send(b"message") == 7
    assert held.taken().startswith(b"answer")


def test_where_it_cannot_be_sent_who_reads_goes_on_reading(ends: Ends) -> None:
    ends.server._sock = Failing(ends.raw_server, BrokenPipeError(errno.EPIPE, "broken"))  # type: ignore[assignment]
    ends.server._outgoing.write(b"answer")
    ends.server._push()
    ends.client.send(b"message")
    assert receive(ends.server, 7) == b"message"


@pytest.mark.parametrize("error", [Interrupt(), TimeoutError("of a handler")])
def test_where_who_reads_is_interrupted_as_it_sends_the_connection_is_over(ends: Ends, error: BaseException) -> None:
    ends.server._sock = Failing(ends.raw_server, error)  # type: ignore[assignment]
    ends.server._outgoing.write(b"answer")
    with pytest.raises(type(error)):
        ends.server._push()
    assert ends.client.recv_into(bytearray(10)) == 0
    assert not ends.server._sending.locked()


def test_it_has_what_is_asked_of_a_socket(ends: Ends) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as raw:
        secured = TlsSocket(raw, contexts()[0], server_name="localhost")
        assert secured.getpeername() == listener.getsockname()
        assert secured.getsockname() == raw.getsockname()
        assert secured.fileno() == raw.fileno()
        assert secured.family == socket.AF_INET
        secured.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        assert secured.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
