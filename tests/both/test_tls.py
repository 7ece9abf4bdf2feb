"""TLS between clients and servers of either side: who gets in, who does not, and what both are told."""

import contextlib
import os
import queue
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from tests import ends
from tests.certificates import certificates, contexts, of_client, of_server
from tests.ends import CLIENTS, LOOPS, SERVERS, Colours, close, for_both, for_servers
from tests.loops import uvloop
from tests.support import PATIENCE, Gate, Log, Running, Workshop, hello
from typedrpc import (
    ConnectFailed,
    ConnectTimeout,
    Identity,
    ListenFailed,
    Peer,
    RpcError,
    Service,
    Tls,
    TlsFailed,
    current_call,
    rpc,
)
from typedrpc.wire import HEADER, PREAMBLE, RECEIVE_SIZE, Kind

pytestmark = pytest.mark.usefixtures("no_leaks")

MEBIBYTE = 1 << 20


class Guarded(Service):
    """Tells who calls."""

    @rpc
    def who(self) -> str:
        identity = current_call().peer.identity
        return "nobody" if identity is None else f"{identity.name} by {identity.means}"


class Guest:
    """A server, and what it hears of clients that do not come in."""

    def __init__(self) -> None:
        self.failures: queue.Queue[RpcError] = queue.Queue()

    def heard(self) -> RpcError:
        return self.failures.get(timeout=PATIENCE)


@pytest.fixture
def guest() -> Iterator[Guest]:
    guest = Guest()
    yield guest
    assert guest.failures.empty()


def refused(colours: Colours, url: str, tls: Any) -> ConnectFailed:
    """The error with which a client does not come in."""
    with pytest.raises(ConnectFailed) as caught, colours.connect(Workshop, url, tls=tls):
        pass
    return caught.value


def test_calls_travel_by_tls(colours: Colours) -> None:
    with colours.serve(Workshop(), url="tls://localhost:0", tls=of_server()) as server:
        assert server.url.startswith("tls://localhost:")
        with colours.connect(Workshop, server.url, tls=of_client()) as proxy:
            assert proxy.add.call(1, 2) == 3
            assert proxy.add.submit(1, 2).result(PATIENCE) == 3
            assert list(proxy.add.map(range(1000))) == list(range(1000))
            data = os.urandom(MEBIBYTE)
            assert proxy.echo.call(data) == data


def test_contexts_of_the_users_own(colours: Colours) -> None:
    of_clients, of_servers = contexts()
    with colours.serve(Workshop(), url="tls://127.0.0.1:0", tls=of_servers) as server:
        with colours.connect(Workshop, server.url, tls=of_clients) as proxy:
            assert proxy.add.call(1, 2) == 3


def test_a_server_beyond_loopback_needs_no_more_than_tls(colours: Colours) -> None:
    with colours.serve(Workshop(), url="tls://0.0.0.0:0", tls=of_server()) as server:
        url = server.url.replace("0.0.0.0", "127.0.0.1")
        with colours.connect(Workshop, url, tls=of_client()) as proxy:
            assert proxy.add.call(1, 2) == 3


# Who it is


def test_a_client_is_known_by_its_certificate(colours: Colours) -> None:
    met: queue.Queue[Identity | None] = queue.Queue()

    def meet(peer: Peer) -> None:
        met.put(peer.identity)

    tls = of_server(mutual=True)
    with colours.serve(Guarded(), url="tls://localhost:0", tls=tls, on_connect=meet) as server:
        with colours.connect(Guarded, server.url, tls=of_client()) as proxy:
            assert proxy.who.call() == "robot by certificate"
        identity = met.get(timeout=PATIENCE)
        assert identity is not None
        assert identity.certificate is not None
        assert ("email", "robot@example.org") in identity.certificate["subjectAltName"]


def test_a_client_whose_certificate_is_not_asked_for_is_nobody(colours: Colours) -> None:
    with colours.serve(Guarded(), url="tls://localhost:0", tls=of_server()) as server:
        with colours.connect(Guarded, server.url, tls=of_client()) as proxy:
            assert proxy.who.call() == "nobody"


def test_a_client_knows_its_server_by_its_certificate(colours: Colours) -> None:
    with colours.serve(Workshop(), url="tls://localhost:0", tls=of_server()) as server:
        with colours.connect(server.url, tls=of_client()) as client:
            assert client.peer.identity.name == "localhost"
            assert str(client.peer.address) == server.url


# Who does not get in


@pytest.mark.parametrize(
    ("ca", "name", "words", "heard"),
    [
        (
            "other_ca",
            None,
            "is of nobody who is trusted here",
            "whoever has signed the certificate|perhaps it does not",
        ),
        ("ca", "example.com", "is not for this host: Hostname mismatch", "does not accept|perhaps it does not trust"),
    ],
    ids=["wrong CA", "wrong host"],
)
def test_a_server_that_is_not_trusted(
    log: Log, colours: Colours, guest: Guest, ca: str, name: str | None, words: str, heard: str
) -> None:
    tls = Tls(ca=getattr(certificates(), ca), server_name=name)
    with colours.serve(
        Workshop(), url="tls://localhost:0", tls=of_server(), on_connect_failed=guest.failures.put
    ) as server:
        error = refused(colours, server.url, tls)
        assert type(error) is TlsFailed
        assert error.url == server.url
        assert words in error.reason
        assert isinstance(error.__cause__, ssl.SSLCertVerificationError)
        said = guest.heard()
        assert type(said) is TlsFailed
        assert said.url.startswith("127.0.0.1:")
        assert any(part in said.reason for part in heard.split("|"))
        assert "was cut off: no TLS: the client " in log.line()


@for_both
def test_a_host_that_the_certificate_does_not_name(log: Log, colours: Colours) -> None:
    """Without a name of its own, that of the URL counts."""
    with colours.serve(Workshop(), url="tls://127.0.0.2:0", tls=of_server()) as server:
        error = refused(colours, server.url, of_client())
        assert "IP address mismatch" in error.reason
        log.line()
        tls = Tls(ca=certificates().ca, server_name="localhost")
        with colours.connect(Workshop, server.url, tls=tls) as proxy:
            assert proxy.add.call(1, 2) == 3


def test_a_server_whose_certificate_has_expired(log: Log, colours: Colours, guest: Guest) -> None:
    tls = Tls(certificate=certificates().expired)
    with colours.serve(Workshop(), url="tls://localhost:0", tls=tls, on_connect_failed=guest.failures.put) as server:
        error = refused(colours, server.url, of_client())
        assert (type(error), error.reason) == (TlsFailed, "the certificate of the server has expired")
        assert type(guest.heard()) is TlsFailed
        assert "no TLS" in log.line()


@pytest.mark.parametrize(
    ("certificate", "told", "heard"),
    [
        (
            None,
            "the server wants a certificate of this side; pass tls=Tls(certificate=...)",
            "the client has shown no certificate, which is wanted here",
        ),
        ("other_client", "the server does not trust whoever has signed", "of nobody who is trusted here"),
        ("expired_client", "has expired, as the server says", "the certificate of the client has expired"),
    ],
    ids=["none", "of another CA", "expired"],
)
def test_a_client_whose_certificate_is_not_accepted(
    log: Log, colours: Colours, guest: Guest, certificate: str | None, told: str, heard: str
) -> None:
    made = certificates()
    tls = Tls(ca=made.ca, certificate=certificate and getattr(made, certificate))
    with colours.serve(
        Workshop(), url="tls://localhost:0", tls=of_server(mutual=True), on_connect_failed=guest.failures.put
    ) as server:
        error = refused(colours, server.url, tls)
        assert type(error) is TlsFailed
        assert told in error.reason
        said = guest.heard()
        assert type(said) is TlsFailed
        assert heard in said.reason
        assert heard in log.line()
        with colours.connect(Workshop, server.url, tls=of_client()) as proxy:  # others come in
            assert proxy.add.call(1, 2) == 3


def test_a_client_of_tls_1_2_whose_certificate_is_wanted(log: Log, colours: Colours, guest: Guest) -> None:
    context = ssl.create_default_context(cafile=str(certificates().ca))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with colours.serve(
        Workshop(), url="tls://localhost:0", tls=of_server(mutual=True), on_connect_failed=guest.failures.put
    ) as server:
        error = refused(colours, server.url, context)
        assert type(error) is TlsFailed
        assert "perhaps it wants a certificate of this side" in error.reason
        assert "has shown no certificate" in str(guest.heard())
        assert "has shown no certificate" in log.line()


def test_a_client_without_tls_is_told_what_to_write(log: Log, colours: Colours, guest: Guest) -> None:
    with colours.serve(
        Workshop(), url="tls://localhost:0", tls=of_server(), on_connect_failed=guest.failures.put
    ) as server:
        error = refused(colours, server.url.replace("tls:", "tcp:"), None)
        assert f"this server speaks TLS; write {server.url}" in error.reason
        said = guest.heard()
        assert type(said) is TlsFailed
        assert "speaks typedrpc without TLS" in said.reason
        assert "its URL is to begin with tls://" in log.line()


def test_a_client_with_tls_at_a_server_without_it(log: Log, colours: Colours, guest: Guest) -> None:
    with colours.serve(Workshop(), url="tcp://localhost:0", on_connect_failed=guest.failures.put) as server:
        error = refused(colours, server.url.replace("tcp:", "tls:"), of_client())
        assert type(error) is TlsFailed
        assert error.reason == "the server there speaks no TLS; write tcp://host:port"
        said = guest.heard()
        assert type(said) is TlsFailed
        assert "its URL is to begin with tcp://" in said.reason
        assert "the client speaks TLS, and this server does not" in log.line()


@for_servers
def test_somebody_who_speaks_something_else(log: Log, colours: Colours, guest: Guest) -> None:
    with colours.serve(
        Workshop(), url="tls://localhost:0", tls=of_server(), on_connect_failed=guest.failures.put
    ) as server:
        with dial(server.url) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert read_to_end(sock) == b""
        assert "does not speak TLS" in str(guest.heard())
        assert "does not speak TLS" in log.line()


def dial(url: str) -> socket.socket:
    host, _, port = url.partition("://")[2].rpartition(":")
    return socket.create_connection((host, int(port)), PATIENCE)


def read_to_end(sock: socket.socket) -> bytes:
    got = b""
    with contextlib.suppress(ConnectionResetError):
        while data := sock.recv(RECEIVE_SIZE):
            got += data
    return got


@for_servers
@pytest.mark.parametrize("first", [b"", b"\x16\x03\x01\x02"], ids=["nothing", "a piece of a record"])
def test_somebody_who_says_no_more_is_cut_off(log: Log, colours: Colours, guest: Guest, first: bytes) -> None:
    with colours.serve(
        Workshop(),
        url="tls://localhost:0",
        tls=of_server(),
        handshake_timeout=0.2,
        on_connect_failed=guest.failures.put,
    ) as server:
        with dial(server.url) as sock:
            sock.sendall(first)
            assert read_to_end(sock) == b""
        assert "no handshake within 0.2 s" in str(guest.heard())
        assert "no handshake within 0.2 s" in log.line()


@for_servers
def test_somebody_who_looks_whether_there_is_anybody_is_no_news(log: Log, colours: Colours) -> None:
    with colours.serve(Workshop(), url="tls://localhost:0", tls=of_server()) as server:
        dial(server.url).close()
        with colours.connect(Workshop, server.url, tls=of_client()) as proxy:
            assert proxy.add.call(1, 2) == 3


@for_servers
def test_a_server_closes_while_somebody_shakes_hands(colours: Colours) -> None:
    with contextlib.ExitStack() as left:
        with colours.serve(Workshop(), url="tls://localhost:0", tls=of_server()) as server:
            silent = [left.enter_context(dial(server.url)) for _ in range(2)]
            silent[1].sendall(b"\x16\x03\x01\x02")
            with colours.connect(Workshop, server.url, tls=of_client()) as proxy:
                assert proxy.add.call(1, 2) == 3
            began = monotonic()
        assert monotonic() - began < PATIENCE / 2  # and not when they are cut off
        assert [read_to_end(sock) for sock in silent] == [b"", b""]


@pytest.mark.parametrize("client", CLIENTS)
def test_a_server_that_does_not_answer_is_given_up(client: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"tls://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(ConnectTimeout), CLIENTS[client](url, tls=of_client(), timeout=0.2):
            pass


@pytest.mark.parametrize("client", CLIENTS)
def test_a_server_that_leaves_in_the_handshake_is_tried_again(client: str) -> None:
    """It may be one that goes just now, and another comes."""
    failures: list[RpcError] = []
    with contextlib.ExitStack() as servers:
        listener = servers.enter_context(socket.create_server(("127.0.0.1", 0)))
        url = f"tls://127.0.0.1:{listener.getsockname()[1]}"

        def leave_and_come() -> None:
            for _ in range(2):
                sock, _ = listener.accept()
                with sock:
                    sock.recv(RECEIVE_SIZE)
            listener.close()
            servers.enter_context(SERVERS["threads"](Workshop(), url=url, tls=of_server()))

        coming = Running(leave_and_come)
        with CLIENTS[client](
            Workshop, url, tls=of_client(), timeout=PATIENCE, on_connect_failed=failures.append
        ) as proxy:
            assert proxy.add.call(1, 2) == 3
        coming.result()
    said = [str(failure) for failure in failures if "left during the TLS handshake" in str(failure)]
    assert len(said) == 2


@pytest.mark.parametrize("client", CLIENTS)
def test_a_server_that_is_not_trusted_is_not_tried_again(log: Log, client: str) -> None:
    failures: list[RpcError] = []
    with SERVERS["threads"](Workshop(), url="tls://localhost:0", tls=of_server()) as server:
        tls = Tls(ca=certificates().other_ca)
        with (
            pytest.raises(TlsFailed),
            CLIENTS[client](server.url, tls=tls, timeout=60, on_connect_failed=failures.append),
        ):
            pass
        log.line()
    assert len(failures) == 1


@pytest.mark.skipif(uvloop is None, reason="uvloop is not installed")
def test_loops_of_uvloop(log: Log, guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    assert uvloop is not None
    monkeypatch.setattr(ends, "make_loop", uvloop.new_event_loop)
    url, tls = "tls://localhost:0", of_server(mutual=True)
    with LOOPS.serve(Guarded(), url=url, tls=tls, on_connect_failed=guest.failures.put) as server:
        with LOOPS.connect(Guarded, server.url, tls=of_client()) as proxy:
            assert proxy.who.call() == "robot by certificate"
        assert "wants a certificate of this side" in refused(LOOPS, server.url, Tls(ca=certificates().ca)).reason
        assert "has shown no certificate" in str(guest.heard())
        assert "has shown no certificate" in log.line()
        assert "write tls://" in refused(LOOPS, server.url.replace("tls:", "tcp:"), None).reason
        assert "speaks typedrpc without TLS" in str(guest.heard())
        assert "speaks typedrpc without TLS" in log.line()
        assert "is of nobody who is trusted here" in refused(LOOPS, server.url, Tls(ca=certificates().other_ca)).reason
        assert "perhaps it does not trust" in str(guest.heard())
        assert "perhaps it does not trust" in log.line()


# What is asked for and cannot be


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("url", ["tcp://localhost:1", "unix:///nowhere", ["tls://localhost:1", "tcp://localhost:1"]])
def test_certificates_for_a_url_without_tls_are_refused(client: str, url: Any) -> None:
    with pytest.raises(ValueError, match="write tls://host:port"), CLIENTS[client](url, tls=of_client()):
        pass


@pytest.mark.parametrize("client", CLIENTS)
def test_certificates_that_cannot_be_used_are_told(client: str, tmp_path: Path) -> None:
    with pytest.raises(TlsFailed, match="there is no such file"):
        with CLIENTS[client]("tls://localhost:1", tls=Tls(ca=tmp_path / "nothing.pem"), timeout=60):
            pass


@pytest.mark.parametrize("client", CLIENTS)
def test_what_is_no_url_is_told_when_it_is_dialled(client: str) -> None:
    with pytest.raises(ConnectFailed, match="no port"), CLIENTS[client]("tls://localhost", tls=of_client()):
        pass


@pytest.mark.parametrize("client", CLIENTS)
def test_what_is_not_for_a_client_is_told(client: str) -> None:
    for tls, words in (
        (
            Tls(ca=certificates().ca, server_name=".example.com"),
            "'.example.com' is no name that a certificate can have",
        ),
        (contexts()[1], "the context is not one for clients"),
    ):
        with pytest.raises(TlsFailed, match=words), CLIENTS[client]("tls://localhost:1", tls=tls):
            pass


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize(
    ("url", "tls", "words"),
    [
        ("tls://localhost:0", None, "needs a certificate: pass tls=Tls("),
        ("tls://localhost:0", Tls(), "needs a certificate: pass tls=Tls("),
        ("tls://localhost:0", Tls(certificate="/nowhere/a.pem"), "there is no such file"),
        ("tcp://localhost:0", Tls(certificate="a.pem"), "write tls://host:port"),
        ("unix:///nowhere/a.sock", Tls(certificate="a.pem"), "write tls://host:port"),
        ("tls://localhost", Tls(certificate="a.pem"), "no port"),
    ],
)
def test_a_server_that_cannot_be(server: str, url: str, tls: Tls | None, words: str) -> None:
    with pytest.raises(ListenFailed) as caught, SERVERS[server](Workshop(), url=url, tls=tls):
        pass
    assert words in str(caught.value)


# Both ways at once, and the end


def test_64_mib_both_ways_at_once(colours: Colours) -> None:
    size = 64 * MEBIBYTE
    limit = {"max_message_size": size + 1024}
    meeting = threading.Barrier(2)

    class Sender(Service):
        @rpc
        def send(self, data: bytes) -> int:
            return len(data)

    class Both(Service):
        @rpc
        def exchange(self) -> int:
            peer = current_call().peer
            meeting.wait(PATIENCE)
            return peer.proxy(Sender).send.call(b"s" * size)

        @rpc
        def take(self, data: bytes) -> int:
            return len(data)

    with colours.serve(Both(), url="tls://localhost:0", tls=of_server(), **limit) as server:
        with colours.connect(server.url, tls=of_client(), expose=[Sender()], **limit) as client:
            proxy = client.proxy(Both)
            other = Running(proxy.exchange.call)
            meeting.wait(PATIENCE)
            assert proxy.take.call(b"c" * size) == size
            assert other.result() == size


@for_servers
def test_a_client_that_does_not_say_the_end_by_tls_holds_nothing_up(colours: Colours) -> None:
    """It is waited for no longer than without TLS, and not for the half minute that loops give it."""
    entered = Gate()

    def enter(peer: Peer) -> None:
        entered.open()

    with colours.serve(Workshop(), url="tls://localhost:0", tls=of_server(), on_connect=enter) as server:
        with contexts()[0].wrap_socket(dial(server.url), server_hostname="localhost") as client:
            client.sendall(PREAMBLE + hello())
            entered.wait()
            began = monotonic()
            close(server, 0.1)
            assert monotonic() - began < PATIENCE / 2


@pytest.mark.parametrize("client", CLIENTS)
def test_a_server_that_does_not_say_the_end_by_tls_holds_nothing_up(client: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> ssl.SSLSocket:
            sock, _ = listener.accept()
            secured = contexts()[1].wrap_socket(sock, server_side=True)
            secured.sendall(PREAMBLE + hello() + HEADER.pack(0, Kind.WELCOME, 0, 0, 0))
            return secured

        serving = Running(serve)
        with CLIENTS[client](f"tls://127.0.0.1:{listener.getsockname()[1]}", tls=contexts()[0]):
            began = monotonic()
        assert monotonic() - began < PATIENCE / 2
        serving.result().close()
