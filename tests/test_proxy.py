"""The proxy that tests break connections with does what it says: plain sockets at both ends."""

import contextlib
import os
import socket
import tempfile
from collections.abc import Iterator

import pytest

from tests.proxy import Passage, Plan, Proxy, dial
from tests.support import PATIENCE

pytestmark = [pytest.mark.usefixtures("no_leaks"), pytest.mark.unmeasured]

DATA = bytes(range(256)) * 40


class Ends:
    """A client and a server, and the proxy between them."""

    def __init__(self, proxy: Proxy, listener: socket.socket) -> None:
        self.proxy = proxy
        number = len(proxy.passages)
        self.client = dial(proxy.url)
        self.server, _ = listener.accept()
        self.server.settimeout(PATIENCE)
        self.passage: Passage = proxy.passage(number)

    def close(self) -> None:
        self.client.close()
        self.server.close()


@pytest.fixture(params=["tcp", "unix"])
def listener(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    with contextlib.ExitStack() as stack:
        if request.param == "tcp":
            sock = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        else:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.bind(os.path.join(folder, "sock"))
            sock.listen()
        sock.settimeout(PATIENCE)
        yield sock


def url_of(listener: socket.socket) -> str:
    name = listener.getsockname()
    return f"unix://{name}" if isinstance(name, str) else f"tcp://127.0.0.1:{name[1]}"


@contextlib.contextmanager
def joined(listener: socket.socket, *, up: Plan | None = None, down: Plan | None = None) -> Iterator[Ends]:
    with Proxy(url_of(listener), up=up, down=down) as proxy:
        ends = Ends(proxy, listener)
        try:
            yield ends
        finally:
            ends.close()


def take(sock: socket.socket, count: int) -> bytes:
    found = bytearray()
    while len(found) < count:
        data = sock.recv(count - len(found))
        assert data, f"the end after {len(found)} of {count} bytes"
        found += data
    return bytes(found)


def rest_of(sock: socket.socket) -> tuple[bytes, bool]:
    """What comes until the end, and whether the end is a reset."""
    found = bytearray()
    try:
        while data := sock.recv(65536):
            found += data
    except (ConnectionResetError, BrokenPipeError):
        return bytes(found), True
    return bytes(found), False


def hears_nothing(sock: socket.socket) -> bool:
    sock.setblocking(False)
    try:
        return not sock.recv(1)
    except BlockingIOError:
        return True
    finally:
        sock.settimeout(PATIENCE)


def test_bytes_pass_both_ways_and_are_written_down(listener: socket.socket) -> None:
    with joined(listener) as ends:
        ends.client.sendall(DATA)
        assert take(ends.server, len(DATA)) == DATA
        ends.server.sendall(b"answer")
        assert take(ends.client, 6) == b"answer"
        assert (bytes(ends.passage.up.came), bytes(ends.passage.down.came)) == (DATA, b"answer")
        ends.passage.up.wait_until_passed(len(DATA))  # it is counted after it has arrived
        ends.passage.down.wait_until_passed(6)
        assert not ends.passage.was_cut


def test_an_end_of_file_passes_one_way_and_the_other_stays_open(listener: socket.socket) -> None:
    with joined(listener) as ends:
        ends.client.sendall(b"last")
        ends.client.shutdown(socket.SHUT_WR)
        assert rest_of(ends.server) == (b"last", False)
        ends.server.sendall(b"after it")
        assert take(ends.client, 8) == b"after it"
        ends.server.close()
        assert rest_of(ends.client) == (b"", False)
        ends.passage.wait()
        assert not ends.passage.was_cut


@pytest.mark.parametrize("reset", [True, False])
@pytest.mark.parametrize("way", ["up", "down"])
@pytest.mark.parametrize("count", [0, 1, 7, len(DATA)])
def test_a_cut_after_so_many_bytes(way: str, count: int, reset: bool, listener: socket.socket) -> None:
    with joined(listener) as ends:
        ends.client.sendall(b"before")
        assert take(ends.server, 6) == b"before"
        (source, target) = (ends.client, ends.server) if way == "up" else (ends.server, ends.client)
        cut = getattr(ends.passage, way)
        cut.cut_after(count, reset=reset)
        refused = False
        try:
            source.sendall(DATA)
        except (ConnectionResetError, BrokenPipeError):  # it was cut already, and the socket says so only once
            refused = True
        is_tcp = listener.family == socket.AF_INET
        found, was_reset = rest_of(target)
        assert found == DATA[:count]
        assert was_reset == (reset and is_tcp)
        _, source_was_reset = rest_of(source)
        if is_tcp:
            assert (source_was_reset or refused) == reset
        ends.client.close()
        ends.server.close()
        ends.passage.wait()
        assert ends.passage.was_cut


def test_a_cut_that_is_planned_counts_from_the_first_byte_on(listener: socket.socket) -> None:
    with joined(listener, up=Plan(cut_after=5, reset=False)) as ends:
        ends.client.sendall(b"abcd")
        assert take(ends.server, 4) == b"abcd"
        assert not ends.passage.was_cut
        ends.client.sendall(b"efgh")
        assert rest_of(ends.server) == (b"e", False)
        ends.proxy.plan()
        again = Ends(ends.proxy, listener)
        again.client.sendall(b"abcdefgh")
        assert take(again.server, 8) == b"abcdefgh"
        again.close()


def test_a_cut_on_command(listener: socket.socket) -> None:
    with joined(listener) as ends:
        ends.passage.cut(reset=False)
        assert (rest_of(ends.client), rest_of(ends.server)) == ((b"", False), (b"", False))
        ends.close()
        ends.passage.wait()
        again = Ends(ends.proxy, listener)
        ends.proxy.cut()
        assert rest_of(again.client)[0] == rest_of(again.server)[0] == b""
        assert again.passage.is_over
        assert again.passage is not ends.passage
        again.close()


def test_what_is_held_passes_when_it_is_released_so_many_bytes_at_a_time(listener: socket.socket) -> None:
    with joined(listener, up=Plan(held=True)) as ends:
        up = ends.passage.up
        ends.client.sendall(b"abcdef")
        ends.client.shutdown(socket.SHUT_WR)
        up.wait_for(6)
        assert (up.waiting, up.passed) == (6, 0)
        assert hears_nothing(ends.server)
        up.release(1)
        assert take(ends.server, 1) == b"a"
        up.release(2)
        assert take(ends.server, 2) == b"bc"
        assert hears_nothing(ends.server)
        ends.server.sendall(b"x")
        assert take(ends.client, 1) == b"x"
        up.release()
        assert rest_of(ends.server) == (b"def", False)


def test_what_comes_after_a_hold_waits(listener: socket.socket) -> None:
    with joined(listener) as ends:
        ends.server.sendall(b"a")
        assert take(ends.client, 1) == b"a"
        ends.passage.down.hold()
        ends.server.sendall(b"b")
        ends.passage.down.wait_for(2)
        assert hears_nothing(ends.client)
        ends.passage.down.release()
        assert take(ends.client, 1) == b"b"
        ends.passage.down.wait_until_passed(2)


def test_half_of_what_waits_is_delivered(listener: socket.socket) -> None:
    with joined(listener, down=Plan(held=True)) as ends:
        ends.server.sendall(b"abcdefg")
        ends.passage.down.wait_for(7)
        ends.passage.down.halve(reset=False)
        assert rest_of(ends.client) == (b"abc", False)
        assert rest_of(ends.server) == (b"", False)
        assert ends.passage.was_cut


@pytest.mark.parametrize("piece", [1, 100])
def test_pieces_are_all_delivered(piece: int, listener: socket.socket) -> None:
    with joined(listener, up=Plan(piece=piece)) as ends:
        ends.client.sendall(DATA)
        assert take(ends.server, len(DATA)) == DATA


def test_a_black_hole_takes_everything_and_stays_open(listener: socket.socket) -> None:
    with joined(listener, up=Plan(lost=True)) as ends:
        ends.client.sendall(DATA)
        ends.passage.up.wait_for(len(DATA))
        ends.client.shutdown(socket.SHUT_WR)
        ends.server.sendall(b"still here")
        assert take(ends.client, 10) == b"still here"
        assert hears_nothing(ends.server)
        ends.passage.down.lose()
        ends.server.sendall(b"nobody there")
        ends.passage.down.wait_for(22)
        assert hears_nothing(ends.client)
        assert not ends.passage.is_over


def test_a_clogged_way_fills_the_socket_of_the_sender(listener: socket.socket) -> None:
    with joined(listener) as ends:
        up = ends.passage.up
        up.clog()
        ends.client.setblocking(False)
        sent = 0
        with contextlib.suppress(BlockingIOError):
            while sent < 1 << 30:
                sent += ends.client.send(bytes(1 << 16))
        assert sent < 1 << 30
        assert len(up.came) == 0
        up.unclog()
        ends.client.settimeout(PATIENCE)
        assert take(ends.server, sent) == bytes(sent)


def test_who_resets_resets_the_other(listener: socket.socket) -> None:
    with joined(listener) as ends:
        ends.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        ends.client.close()
        assert rest_of(ends.server)[0] == b""
        ends.server.close()
        ends.passage.wait()
        assert not ends.passage.was_cut


def test_a_server_that_is_down_and_comes_back_elsewhere() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        url = url_of(gone)
    with Proxy(url) as proxy, socket.create_server(("127.0.0.1", 0)) as listener:
        with dial(proxy.url) as sock:
            assert rest_of(sock)[0] == b""
        assert proxy.passages == []
        proxy.target = url_of(listener)
        ends = Ends(proxy, listener)
        ends.client.sendall(b"x")
        assert take(ends.server, 1) == b"x"
        ends.close()


def test_it_takes_any_scheme_over_tcp() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with Proxy(url_of(listener).replace("tcp", "tls")) as proxy:
            assert proxy.url.startswith("tls://127.0.0.1:")
            Ends(proxy, listener).close()
