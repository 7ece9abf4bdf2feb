import contextlib
import errno
import gc
import os
import socket
import stat
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from tests.support import PATIENCE
from typedrpc import transport
from typedrpc.errors import ConnectFailed, ListenFailed
from typedrpc.transport import Address, describe_peer, dial, inode_of, listen, parse, prepare, resolve, unlisten, wait

posix = pytest.mark.skipif(os.name != "posix", reason="unix sockets and their files are posix's")


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")

Listen = Callable[..., tuple[socket.socket, Address]]


@pytest.fixture(name="listening")
def fixture_listening() -> Iterator[Listen]:
    """Listens, and closes at the end what it opened."""
    with contextlib.ExitStack() as stack:

        def listening(url: str, *, insecure: bool = False, **options: Any) -> tuple[socket.socket, Address]:
            listener, address = listen(url, insecure=insecure, **options)
            stack.enter_context(listener)
            return listener, address

        yield listening


def meet(listener: socket.socket, url: str) -> tuple[socket.socket, socket.socket]:
    """A connection to a listener, from both sides."""
    client = dial(url, 10.0)
    server, _ = listener.accept()
    prepare(server)
    return client, server


def reason_of(url: str, **options: Any) -> str:
    with pytest.raises(ListenFailed) as raised:
        listen(url, insecure=False, **options)[0].close()
    assert raised.value.url == url
    assert str(raised.value) == f"cannot listen on {url}: {raised.value.reason}"
    return raised.value.reason


def refusal_of(url: str, timeout: float = 10.0) -> str:
    with pytest.raises(ConnectFailed) as raised:
        dial(url, timeout).close()
    assert raised.value.url == url
    return raised.value.reason


# URLs


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("tcp://127.0.0.1:9000", Address("127.0.0.1", 9000)),
        ("tcp://localhost:0", Address("localhost", 0)),
        ("tcp://example.org:65535", Address("example.org", 65535)),
        ("tcp://[::1]:80", Address("::1", 80)),
        ("tcp://[fe80::1%eth0]:80", Address("fe80::1%eth0", 80)),
        ("tls://localhost:9000", Address("localhost", 9000, tls=True)),
        ("tls://[::1]:80", Address("::1", 80, tls=True)),
        ("unix:///run/a.sock", Address(path="/run/a.sock")),
        ("unix:///run/a b?c#d%20.sock", Address(path="/run/a b?c#d%20.sock")),
        ("unix://relative/a.sock", Address(path="relative/a.sock")),
        ("unix://a:b/c.sock", Address(path="a:b/c.sock")),
        ("unix://[/c.sock", Address(path="[/c.sock")),
    ],
)
def test_a_url_names_an_address(url: str, address: Address) -> None:
    assert parse(url) == address
    assert str(address) == url


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("", "unknown scheme ''"),
        ("9000", "unknown scheme ''"),
        ("localhost:9000", "unknown scheme 'localhost'"),
        ("http://localhost:9000", "unknown scheme 'http'"),
        ("ssl://localhost:9000", "unknown scheme 'ssl'"),
        ("tls://localhost", "no port"),
        ("tcp:localhost:9000", "no host"),
        ("tcp://", "no host"),
        ("tcp://:9000", "no host"),
        ("tcp://localhost", "no port"),
        ("tcp://localhost:", "no port"),
        ("tcp://localhost:http", "Port could not be cast"),
        ("tcp://localhost:65536", "Port out of range"),
        ("tcp://localhost:-1", "Port"),
        ("tcp://[::1:80", "Invalid IPv6 URL"),
        ("tcp://::1:80", "Port could not be cast"),
        ("tcp://localhost:80/", "more than a host and a port"),
        ("tcp://localhost:80?a=1", "more than a host and a port"),
        ("tcp://localhost:80#a", "more than a host and a port"),
        ("tcp://me@localhost:80", "more than a host and a port"),
        ("unix:", "no path"),
        ("unix:/run/a.sock", "no path"),
        ("unix://", "no path"),
        ("unix:///run/a\0.sock", "a zero byte in the path"),
    ],
)
def test_a_bad_url_is_refused_in_words_on_both_sides(url: str, fault: str) -> None:
    with pytest.raises(ValueError, match=r"; write tcp://host:port, tls://host:port or unix:///path$"):
        parse(url)
    assert reason_of(url).startswith(fault)
    assert refusal_of(url).startswith(fault)
    with pytest.raises(ConnectFailed):
        resolve(url)


def test_a_system_without_unix_sockets_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "_HAS_UNIX", False)
    assert (
        reason_of("unix:///run/a.sock") == "this system has no unix sockets; write tcp://host:port or tls://host:port"
    )


# TCP


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", pytest.param("[::1]", marks=ipv6)])
def test_the_system_chooses_a_port_where_the_url_says_0(listening: Listen, host: str) -> None:
    listener, address = listening(f"tcp://{host}:0")
    assert address.port == listener.getsockname()[1] > 0
    assert str(address) == f"tcp://{host}:{address.port}"
    client, server = meet(listener, str(address))
    with client, server:
        client.sendall(b"hello")
        assert server.recv(100) == b"hello"


def test_a_port_in_use_is_refused_in_words(listening: Listen) -> None:
    _, address = listening("tcp://127.0.0.1:0")
    assert reason_of(str(address)) == "Address already in use"


def test_a_port_can_be_used_again_at_once(listening: Listen) -> None:
    listener, address = listening("tcp://127.0.0.1:0")
    client, server = meet(listener, str(address))
    server.close()  # this side closes first: its port would stay in TIME_WAIT
    client.close()
    listener.close()
    again, _ = listening(str(address))
    assert again.getsockname()[1] == address.port


BEYOND = ["tcp://0.0.0.0:0", "tcp://[::]:0", "tcp://192.0.2.1:0"]


@pytest.mark.parametrize("url", [BEYOND[0], pytest.param(BEYOND[1], marks=ipv6), BEYOND[2]])
def test_beyond_loopback_nobody_listens_unguarded(url: str) -> None:
    reason = reason_of(url)
    assert reason.startswith("this address can be reached from other machines")
    assert "insecure=True" in reason


@pytest.mark.parametrize("url", [BEYOND[0], pytest.param(BEYOND[1], marks=ipv6)])
def test_beyond_loopback_with_insecure(listening: Listen, url: str) -> None:
    listener, address = listening(url, insecure=True)
    assert listener.getsockname()[1] == address.port


def test_an_address_that_is_not_ours(listening: Listen) -> None:
    with pytest.raises(ListenFailed, match="Cannot assign requested address"):
        listening("tcp://192.0.2.1:0", insecure=True)


@pytest.mark.parametrize("host", ["a" * 300, "a..b", "\ud800"])
def test_a_host_name_that_cannot_exist(host: str) -> None:
    url = f"tcp://{host}:9000"
    assert reason_of(url) == "no host or file can have this name"
    assert refusal_of(url) == "no host or file can have this name"


def test_a_host_name_that_does_not_resolve(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    reason = "the host name cannot be resolved (Name or service not known)"
    assert refusal_of("tcp://nowhere.invalid:9000") == reason
    assert reason_of("tcp://nowhere.invalid:9000") == reason


def test_a_host_name_without_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: [])
    assert refusal_of("tcp://nowhere.invalid:9000") == "the host has no address"


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def test_dialling_a_closed_port() -> None:
    assert refusal_of(f"tcp://127.0.0.1:{closed_port()}") == "nothing listens there (connection refused)"


@contextlib.contextmanager
def full_listener() -> Iterator[int]:
    """The port of a listener that has no room for another connection: dialling it gets no answer at all."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        port: int = listener.getsockname()[1]
        for _ in range(8):
            client = stack.enter_context(socket.socket())
            client.settimeout(0.05)
            try:
                client.connect(("127.0.0.1", port))
            except TimeoutError:
                break
        else:
            pytest.skip("this system answers however full the listener is")
        yield port


def test_dialling_somebody_who_does_not_answer() -> None:
    with full_listener() as port:
        assert refusal_of(f"tcp://127.0.0.1:{port}", 0.1) == "no answer within the time-out"


def resolve_to(monkeypatch: pytest.MonkeyPatch, *ports: int) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", port)) for port in ports]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: found)


def test_the_addresses_of_a_host_share_the_time(monkeypatch: pytest.MonkeyPatch, listening: Listen) -> None:
    asked: list[float] = []
    real = socket.socket.settimeout

    def settimeout(sock: socket.socket, value: float | None) -> None:
        asked.append(value or 0.0)
        real(sock, value)

    _, address = listening("tcp://127.0.0.1:0")
    with full_listener() as port:
        resolve_to(monkeypatch, port, closed_port(), address.port)
        monkeypatch.setattr(socket.socket, "settimeout", settimeout)
        dial("tcp://somewhere:1", 0.9).close()
    assert [0.0 < given <= most for given, most in zip(asked, [0.3, 0.3, 0.6], strict=True)] == [True] * 3


def test_of_several_addresses_the_first_fault_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with full_listener() as port:
        resolve_to(monkeypatch, closed_port(), port)
        assert refusal_of("tcp://somewhere:1", 0.1) == "nothing listens there (connection refused)"


def test_a_socket_that_meets_itself_is_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    port = closed_port()

    class Selfish(socket.socket):
        def connect(self, address: Any) -> None:
            self.bind(address)
            super().connect(address)

    monkeypatch.setattr(socket, "socket", Selfish)
    assert refusal_of(f"tcp://127.0.0.1:{port}") == "nothing listens there (connection refused)"


# Unix sockets


@pytest.fixture(name="path")
def fixture_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where a socket may be. A relative path, as that of the temporary directory may be too long for one."""
    monkeypatch.chdir(tmp_path)
    return "a.sock"


@posix
def test_a_unix_socket(listening: Listen, path: str) -> None:
    listener, address = listening(f"unix://{path}")
    assert str(address) == f"unix://{os.path.abspath(path)}"
    client, server = meet(listener, f"unix://{path}")
    with client, server:
        client.sendall(b"hello")
        assert server.recv(100) == b"hello"
        assert describe_peer(server) == "unix"
        assert describe_peer(client) == f"unix:{path}"


@posix
@pytest.mark.parametrize(("options", "mode"), [({}, 0o600), ({"mode": 0o660}, 0o660), ({"mode": 0o777}, 0o777)])
def test_the_permissions_of_a_unix_socket(listening: Listen, path: str, options: dict[str, int], mode: int) -> None:
    before = os.umask(0o077)
    try:
        listening(f"unix://{path}", **options)
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(path).st_mode) == mode


@posix
def test_a_socket_that_nobody_listens_at_is_replaced(listening: Listen, path: str) -> None:
    listener, _ = listening(f"unix://{path}")
    listener.close()
    assert os.path.exists(path)
    listener, _ = listening(f"unix://{path}")
    client, server = meet(listener, f"unix://{path}")
    client.close()
    server.close()


@posix
def test_a_socket_that_somebody_listens_at_is_left_alone(listening: Listen, path: str) -> None:
    listener, _ = listening(f"unix://{path}")
    assert reason_of(f"unix://{path}") == "another server listens there"
    client, server = meet(listener, f"unix://{path}")
    client.close()
    server.close()


@posix
@pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere a full unix socket refuses as one does that is not there"
)
def test_a_socket_whose_server_accepts_nobody_is_left_alone(path: str) -> None:
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(path)
        listener.listen(0)
        client = stack.enter_context(socket.socket(socket.AF_UNIX))
        client.connect(path)
        assert reason_of(f"unix://{path}") == "another server listens there, and does not accept"
        assert refusal_of(f"unix://{path}").startswith("the server has no room for another connection")
        assert os.path.exists(path)


@posix
def test_a_file_that_is_no_socket_is_left_alone(path: str) -> None:
    Path(path).write_text("precious", encoding="utf-8")
    assert reason_of(f"unix://{path}") == "the path exists and is no socket"
    assert Path(path).read_text(encoding="utf-8") == "precious"
    os.unlink(path)
    os.mkdir(path)
    assert reason_of(f"unix://{path}") == "the path exists and is no socket"


@posix
def test_a_socket_of_another_kind_is_left_alone(path: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(path)
        assert reason_of(f"unix://{path}")
    assert os.path.exists(path)


@posix
def test_a_stale_socket_that_vanishes_meanwhile(monkeypatch: pytest.MonkeyPatch, listening: Listen, path: str) -> None:
    listener, _ = listening(f"unix://{path}")
    listener.close()
    real = os.unlink

    def unlink(name: str) -> None:
        real(name)
        raise FileNotFoundError

    monkeypatch.setattr(os, "unlink", unlink)
    listening(f"unix://{path}")


@posix
@pytest.mark.parametrize("length", [108, 200, 255])
def test_a_path_that_is_too_long(path: str, length: int) -> None:
    url = f"unix://{'x' * length}"
    expected = "the path is too long for a unix socket (about 100 bytes are allowed)"
    assert reason_of(url) == expected
    assert refusal_of(url) == expected


@posix
def test_a_path_that_is_longer_than_any_file_name(path: str) -> None:
    assert reason_of(f"unix://{'x' * 5000}") == "File name too long"


@posix
def test_a_directory_that_does_not_exist(path: str) -> None:
    assert reason_of("unix://nowhere/a.sock") == "its directory does not exist"
    assert refusal_of("unix://nowhere/a.sock") == "there is no such socket file"
    Path("file").touch()
    assert reason_of("unix://file/a.sock") == "Not a directory"


@posix
def test_a_path_that_cannot_be_encoded(path: str) -> None:
    assert reason_of("unix://\ud800.sock") == "no host or file can have this name"
    assert refusal_of("unix://\ud800.sock") == "no host or file can have this name"


@posix
def test_dialling_where_nobody_listens(listening: Listen, path: str) -> None:
    assert refusal_of(f"unix://{path}") == "there is no such socket file"
    listener, _ = listening(f"unix://{path}")
    listener.close()
    assert refusal_of(f"unix://{path}") == "nothing listens there (connection refused)"


def test_what_may_not_be_opened_is_told_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert reason_of("tcp://127.0.0.1:80") == "permission denied"
    assert refusal_of("tcp://127.0.0.1:80") == "permission denied"


@posix
def test_unlisten_removes_its_own_file_only(listening: Listen, path: str) -> None:
    listener, address = listening(f"unix://{path}")
    inode = inode_of(address)
    assert inode
    unlisten(listener, address, inode)
    assert not os.path.exists(path)

    first, address = listening(f"unix://{path}")
    inode = inode_of(address)
    os.rename(path, "kept")  # the inode lives on, so that nobody else gets it
    listening(f"unix://{path}")
    unlisten(first, address, inode)
    assert os.path.exists(path)


@posix
def test_unlisten_where_the_file_is_gone(monkeypatch: pytest.MonkeyPatch, listening: Listen, path: str) -> None:
    listener, address = listening(f"unix://{path}")
    inode = inode_of(address)
    os.unlink(path)
    assert inode_of(address) == 0
    unlisten(listener, address, inode)
    monkeypatch.setattr(transport, "inode_of", lambda address: inode)
    unlisten(listener, address, inode)


def test_a_tcp_address_has_no_inode(listening: Listen) -> None:
    listener, address = listening("tcp://127.0.0.1:0")
    assert inode_of(address) == 0
    unlisten(listener, address, 0)
    assert listener.fileno() == -1


# Connected sockets


@pytest.fixture(name="pair")
def fixture_pair(listening: Listen) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connection over TCP: client and server."""
    listener, address = listening("tcp://127.0.0.1:0")
    client, server = meet(listener, str(address))
    with client, server:
        yield client, server


@pytest.mark.parametrize("at_once", [True, False])
def test_buffers_are_sent_at_once_where_the_system_can(
    monkeypatch: pytest.MonkeyPatch, pair: tuple[socket.socket, socket.socket], at_once: bool
) -> None:
    if at_once and not hasattr(socket.socket, "sendmsg"):
        pytest.skip("the system cannot")
    monkeypatch.setattr(transport, "_HAS_SENDMSG", at_once)
    client, server = pair
    assert transport.send(client, [b"one", memoryview(b"two")]) == (6 if at_once else 3)
    assert server.recv(3, socket.MSG_WAITALL) == b"one"


def test_a_dialled_socket_that_nobody_has_is_closed_in_silence(listening: Listen) -> None:
    listener, address = listening("tcp://127.0.0.1:0")
    gc.collect()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cycle: list[Any] = [dial(str(address), PATIENCE), transport.Waker()]
        cycle.append(cycle)
        with listener.accept()[0] as accepted:
            accepted.settimeout(PATIENCE)
            del cycle
            gc.collect()
            assert accepted.recv(1) == b""
    assert not [each for each in caught if each.category is ResourceWarning]


def test_a_dialled_socket_is_prepared(pair: tuple[socket.socket, socket.socket]) -> None:
    for sock in pair:
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.gettimeout() is None


@posix
def test_a_send_into_a_full_pipe_comes_back(pair: tuple[socket.socket, socket.socket]) -> None:
    client, _ = pair

    def send_without_end() -> None:
        while True:
            client.send(bytes(1 << 20))

    with pytest.raises(BlockingIOError):
        send_without_end()


def test_a_socket_that_cannot_be_prepared_is_closed(monkeypatch: pytest.MonkeyPatch, listening: Listen) -> None:
    _, address = listening("tcp://127.0.0.1:0")
    met: list[socket.socket] = []

    def fail(sock: socket.socket) -> None:
        met.append(sock)
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(transport, "prepare", fail)
    assert refusal_of(str(address)) == "Invalid argument"
    assert met[0].fileno() == -1


def test_wait_for_reading(pair: tuple[socket.socket, socket.socket]) -> None:
    client, server = pair
    assert not wait(client, read=True, timeout=0)
    assert not wait(client, read=True, timeout=-1.0)
    server.sendall(b"a")
    assert wait(client, read=True)
    assert wait(client, read=True, write=True, timeout=1e300)


def test_wait_for_writing(pair: tuple[socket.socket, socket.socket]) -> None:
    client, server = pair
    server.sendall(b"a")
    assert wait(client, read=True)
    assert not wait(client, write=True)
    assert not wait(server, read=True, write=True)


def test_the_end_of_a_connection_can_be_read(pair: tuple[socket.socket, socket.socket]) -> None:
    client, server = pair
    server.close()
    assert wait(client, read=True)


def test_errors_of_sockets_are_told_from_those_of_signal_handlers(pair: tuple[socket.socket, socket.socket]) -> None:
    client, _ = pair
    client.close()
    with pytest.raises(OSError, match="Bad file descriptor") as raised:
        client.recv(1)
    assert transport.is_of_socket(raised.value)
    assert not transport.is_of_socket(TimeoutError())
    assert not transport.is_of_socket(KeyboardInterrupt())


def test_where_a_peer_is(pair: tuple[socket.socket, socket.socket]) -> None:
    client, server = pair
    host, port = client.getsockname()
    assert describe_peer(server) == f"{host}:{port}"
    client.close()
    assert describe_peer(client) == "an unknown address"


@ipv6
def test_where_a_peer_is_with_ipv6(listening: Listen) -> None:
    listener, address = listening("tcp://[::1]:0")
    client, server = meet(listener, str(address))
    with client, server:
        assert describe_peer(client) == f"[::1]:{address.port}"


class TestUsers:
    """Who has connected to a unix socket, which Linux says."""

    def test_by_name_and_number(self) -> None:
        pwd = pytest.importorskip("pwd")
        name = pwd.getpwuid(os.getuid()).pw_name
        assert transport.find_users("unix:///s", [name, 4_000_000_000]) == {os.getuid(), 4_000_000_000}

    def test_one_that_there_is_not(self) -> None:
        with pytest.raises(ListenFailed, match="this system has no user 'no such user'"):
            transport.find_users("unix:///s", ["no such user"])

    def test_elsewhere_nobody_could_tell(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(ListenFailed, match="needs a unix socket on Linux"):
            transport.find_users("tcp://127.0.0.1:1", [0])
        monkeypatch.setattr(transport, "_HAS_PEERCRED", False)
        with pytest.raises(ListenFailed, match="needs a unix socket on Linux"):
            transport.find_users("unix:///s", [0])

    def test_the_one_at_the_other_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pwd = pytest.importorskip("pwd")
        ours, theirs = socket.socketpair(socket.AF_UNIX)
        with ours, theirs:
            assert transport.user_of(ours) == (os.getuid(), pwd.getpwuid(os.getuid()).pw_name)

            def unknown(number: int) -> None:
                raise KeyError(number)

            monkeypatch.setattr(pwd, "getpwuid", unknown)
            assert transport.user_of(ours) == (os.getuid(), str(os.getuid()))


class TestDelivery:
    """How far what was sent has come, which Linux says of TCP."""

    @pytest.mark.skipif(sys.platform != "linux", reason="only Linux says so")
    def test_what_the_other_end_takes(self, pair: tuple[socket.socket, socket.socket]) -> None:
        client, server = pair
        client.setblocking(False)
        sent = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                sent += client.send(bytes(1 << 20))
        full = transport.delivery(client)
        assert full is not None
        assert full.waiting > 16_384
        assert full.acknowledged < sent
        server.settimeout(PATIENCE)
        taken = 0
        while taken < sent:
            taken += len(server.recv(1 << 20))
        end = monotonic() + PATIENCE
        while (empty := transport.delivery(client)) is not None and empty.waiting and monotonic() < end:
            pass
        assert empty is not None
        assert empty.waiting == 0
        assert empty.acknowledged - sent in (0, 1)  # that the connection was accepted counts as one

    def test_where_nobody_knows(
        self, pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        client, server = pair
        if hasattr(socket, "AF_UNIX"):
            ours, theirs = socket.socketpair(socket.AF_UNIX)
            with ours, theirs:
                assert transport.delivery(ours) is None
        client.close()
        assert transport.delivery(client) is None
        monkeypatch.setattr(sys, "platform", "darwin")
        assert transport.delivery(server) is None

    def test_of_an_older_system(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Old:
            family = socket.AF_INET

            def getsockopt(self, level: int, option: int, size: int) -> bytes:
                return bytes(min(size, 104))

        assert transport.delivery(Old()) is None  # type: ignore[arg-type]
