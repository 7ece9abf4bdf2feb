"""The client: what it sends and what it does not, what it agrees on, and how it ends."""

import contextlib
import threading
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import pytest

from tests.ends import ENDS, Ends, alike_ends
from tests.support import PATIENCE, FakeServer, Forwarder, Gate, RawPeer, Running, Workshop, agree, in_time, run_all
from typedrpc import (
    ArgumentError,
    Client,
    ConnectFailed,
    ConnectionLost,
    ContractMismatch,
    FunctionService,
    MessageTooLarge,
    Server,
    Service,
    UnknownCommand,
    aio,
    rpc,
)
from typedrpc.codec import pack_plain
from typedrpc.wire import Kind, payload_size

pytestmark = pytest.mark.usefixtures("no_leaks")
ends = alike_ends

URL = "tcp://127.0.0.1:0"


@pytest.fixture
def server(ends: Ends) -> Iterator[Server]:
    with ends.Server(Workshop(), url=URL) as server:
        yield server


class TestBytesThatAreNotSent:
    def test_wrong_arguments_send_nothing(self, ends: Ends, server: Server) -> None:
        with Forwarder(server.url) as forwarder, ends.connect(Workshop, forwarder.url) as proxy:
            assert proxy.add(1) == 1
            sent = bytes(forwarder.sent)
            forms: list[Any] = [
                proxy.add,
                proxy.add.call,
                proxy.add.submit,
                proxy.add.notify,
                proxy.add.with_options(timeout=9),
            ]
            for call in forms:
                for arguments in (("1",), (), (1, 2, 3), (1.5,), (None,)):
                    with pytest.raises(ArgumentError):
                        call(*arguments)
            with pytest.raises(ArgumentError):
                next(proxy.add.map(["1"]))  # type: ignore[list-item]  # that it is wrong is what is tried
            assert proxy.add(2) == 2
            more = forwarder.frames()[-1]
            assert bytes(forwarder.sent)[: len(sent)] == sent
            assert (more.kind, len(forwarder.frames())) == (Kind.REQUEST, 4)  # hello, contract, two calls

    def test_calls_that_cannot_be_made_send_nothing(self, ends: Ends, server: Server) -> None:
        class Other(Service, name="Workshop"):
            @rpc
            def add(self, a: str) -> int: ...  # type: ignore[empty-body]  # a contract

            @rpc
            def echo(self, data: bytes) -> bytes: ...  # type: ignore[empty-body]  # a contract

            @rpc
            def missing(self) -> None: ...

        with Forwarder(server.url) as forwarder, ends.connect(Other, forwarder.url) as proxy:
            assert proxy.echo(b"x") == b"x"
            count = len(forwarder.frames())
            assert count == 4  # hello, contract, signatures, call
            for _ in range(3):
                with pytest.raises(ContractMismatch):
                    proxy.add("1")
                with pytest.raises(UnknownCommand):
                    proxy.missing()
                with pytest.raises(MessageTooLarge):
                    proxy.echo(bytes(17 << 20))
            assert proxy.echo(b"x") == b"x"
            assert len(forwarder.frames()) == count + 1

    def test_arguments_that_are_not_given_are_not_sent(self, ends: Ends, server: Server) -> None:
        with Forwarder(server.url) as forwarder, ends.connect(Workshop, forwarder.url) as proxy:
            proxy.add(1)
            proxy.add(1, 2)
            assert [bytes(frame.payload) for frame in forwarder.frames()[-2:]] == [  # type: ignore[arg-type]  # no segments
                pack_plain([1]),
                pack_plain([1, 2]),
            ]

    def test_an_agreement_is_asked_for_once(self, ends: Ends, server: Server) -> None:
        with Forwarder(server.url) as forwarder, ends.connect(forwarder.url) as client:
            for _ in range(3):
                assert client.proxy(Workshop).add(1) == 1
            frames = forwarder.frames()
            assert sum(frame.command >= 0xFF00 for frame in frames) <= 3
            assert sum(frame.command == Workshop.add.id for frame in frames) == 3


class TestConnecting:
    def test_without_a_contract(self, ends: Ends, server: Server) -> None:
        with ends.connect(server.url) as client:
            assert isinstance(ends.itself(client), Client | aio.Client)
            assert repr(client) == f"<client of {server.url}>"
            assert client.peer.address == server.url
            assert client.proxy(Workshop).add(1) == 1
            assert "client of" in repr(client.proxy(Workshop))

    def test_a_client_that_is_not_entered(self, ends: Ends, server: Server) -> None:
        client = ends.connect(Workshop, server.url)
        assert client.proxy(Workshop).add(1) == 1
        client.close()
        with pytest.raises(ConnectionLost):
            client.proxy(Workshop)

    def test_an_abstract_contract(self, ends: Ends) -> None:
        class Store(Service, name="store"):
            @rpc
            @abstractmethod
            def get(self, key: str) -> str: ...

        class Memory(Store):
            @rpc
            def get(self, key: str) -> str:
                return key * 2

        with ends.Server(Memory(), url=URL) as server, ends.connect(Store, server.url) as store:
            assert store.get("k") == "kk"
            with pytest.raises(AttributeError, match="no command"):
                store.put  # type: ignore[attr-defined]  # noqa: B018  # that it is missing is what is tried

    def test_a_service_that_grew(self, ends: Ends) -> None:
        """A function that is declared after the client knows the service is agreed about when it is needed."""
        service = FunctionService("grows")

        @service.rpc
        def first() -> int:
            return 1

        with ends.Server(service, url=URL) as server, ends.connect(server.url) as client:
            assert client.proxy(first)() == 1

            @service.rpc
            def second() -> int:
                return 2

            with pytest.raises(UnknownCommand):
                client.proxy(second)()
            assert client.proxy(first)() == 1

    def test_it_gives_up_in_time_while_the_contract_is_awaited(self, ends: Ends) -> None:
        def script(peer: RawPeer) -> None:
            with contextlib.suppress(AssertionError):  # the client had too little time to ask
                peer.shake_hands()
                peer.question()
            peer.read_to_end()

        def asks_in_time(timeout: float) -> bool:
            with FakeServer(script) as fake, pytest.raises(ConnectFailed) as caught:
                ends.connect(Workshop, fake.url, timeout=timeout)
            assert caught.value.url == fake.url
            return "contract in time" in str(caught.value)

        in_time(asks_in_time)

    def test_limits_without_sense(self, ends: Ends, server: Server) -> None:
        with pytest.raises(ValueError, match="max_message_size"):
            ends.connect(server.url, max_message_size=1)
        with pytest.raises(ValueError, match="max_calls"):
            ends.connect(server.url, max_calls=0)

    @pytest.mark.parametrize("ends", ENDS[:2], ids=repr)
    def test_a_fault_in_the_handshake_leaves_no_socket(
        self, ends: Ends, server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object) -> None:
            raise MemoryError

        with monkeypatch.context() as patch:
            patch.setattr("typedrpc.sync.connection.Connection.open", fail)
            with pytest.raises(MemoryError):
                ends.connect(server.url)


class TestManyThreads:
    @pytest.mark.unmeasured
    def test_a_proxy_is_first_used_by_many_threads_at_once(self, ends: Ends, server: Server) -> None:
        for _ in range(20):
            with ends.connect(server.url) as client:
                barrier = threading.Barrier(6)

                def use(client: Client[Client[object]] = client, barrier: threading.Barrier = barrier) -> int:
                    barrier.wait(PATIENCE)
                    return client.proxy(Workshop).add(1, 1) + client.proxy(Workshop).add.submit(1, 1).result(PATIENCE)

                assert run_all([use] * 6) == [4] * 6

    @pytest.mark.parametrize("ends", ENDS[:2], ids=repr)
    def test_no_thread_for_a_future(self, ends: Ends, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        with ends.connect(Workshop, server.url) as proxy:
            start = threading.Thread.start

            def refuse(thread: threading.Thread) -> None:
                if thread.name.startswith("typedrpc-client"):
                    raise RuntimeError("can't start new thread")
                start(thread)

            with monkeypatch.context() as patch:
                patch.setattr(threading.Thread, "start", refuse)
                with pytest.raises(RuntimeError, match="can't start"):
                    proxy.add.submit(1)
                assert proxy.add(1) == 1
            assert proxy.add.submit(1).result(PATIENCE) == 1

    def test_a_future_is_settled_while_another_thread_reads(self, ends: Ends) -> None:
        """The thread that reads for its own call delivers to a future, whose thread it has to wake."""
        go_on, done = Gate(), Gate()

        def script(peer: RawPeer) -> None:
            agree(peer)
            calls = {}
            for _ in range(2):
                frame = peer.question()
                calls[frame.command] = frame.call
            go_on.wait()
            peer.send_frame(Kind.RESPONSE, 0, calls[Workshop.process.id], pack_plain(7))
            done.wait()
            peer.send_frame(Kind.RESPONSE, 0, calls[Workshop.add.id], pack_plain(3))
            peer.read_to_end()

        with FakeServer(script) as fake, ends.connect(Workshop, fake.url) as proxy:
            calling = Running(proxy.add, 1, 2)
            future = proxy.process.submit()
            go_on.open()
            assert future.result(PATIENCE) == 7
            assert not calling.done
            done.open()
            assert calling.result() == 3

    def test_closing_in_one_thread_while_others_begin_to_call(self, ends: Ends, server: Server) -> None:
        for _ in range(30):
            client = ends.connect(server.url)
            proxy = client.proxy(Workshop)
            barrier = threading.Barrier(4)

            def use(proxy: Workshop = proxy, barrier: threading.Barrier = barrier) -> None:
                barrier.wait(PATIENCE)
                try:
                    proxy.add(1)
                    proxy.add.submit(1).result(PATIENCE)
                    proxy.note.notify("n")
                    list(proxy.add.map(range(10)))
                except ConnectionLost:
                    pass

            using = [Running(use) for _ in range(3)]
            barrier.wait(PATIENCE)
            client.close()
            for one in using:
                one.result()


@pytest.mark.parametrize("timeout", [float("nan"), float("inf"), -1.0, 1e300])
def test_a_time_out_that_is_none(ends: Ends, timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout must be None or a number of seconds"):
        ends.connect(Workshop, "tcp://127.0.0.1:9", timeout=timeout)


@pytest.mark.parametrize("arguments", [(Workshop, None), (Workshop,), ("tcp://127.0.0.1:9", Workshop)])
def test_arguments_that_are_no_url(ends: Ends, arguments: tuple[Any, ...]) -> None:
    with pytest.raises(ConnectFailed, match="a URL is a str, not"):
        ends.connect(*arguments)


def test_one_way_calls_to_a_peer_that_does_not_read(ends: Ends) -> None:
    """With a time-out they come back in time; what was begun is sent by another thread."""
    reading, read = Gate(), Gate()

    def script(peer: RawPeer) -> None:
        agree(peer)
        reading.wait()
        assert payload_size(peer.read_frame().payload) > 8_000_000
        read.open()

    with FakeServer(script) as fake, ends.connect(Workshop, fake.url) as proxy:
        proxy.swallow.with_options(timeout=0.05).notify(bytes(8_000_000))
        reading.open()
        read.wait()


def test_who_forgets_the_with_is_told(ends: Ends, server: Server) -> None:
    client: Any = ends.connect(Workshop, server.url)
    with pytest.raises(AttributeError, match=r"a client has no attribute 'add'; `with connect\(...\) as proxy:` gives"):
        client.add(1)
    client.close()


def test_a_client_that_exposes_nothing_is_not_asked(ends: Ends, server: Server) -> None:
    with ends.connect(server.url):
        (peer,) = server.peers
        proxy = peer.proxy(Workshop)
        with pytest.raises(UnknownCommand, match=r"the peer has no command 'Workshop\.add'"):
            proxy.add(1)
