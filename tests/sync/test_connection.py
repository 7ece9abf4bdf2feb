"""Calls over real sockets from many threads: that they finish, whatever happens to the connection meanwhile."""

import contextlib
import gc
import random
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from functools import partial

import pytest

from tests.support import (
    PATIENCE,
    FakeServer,
    Gate,
    RawPeer,
    Running,
    Workshop,
    agree,
    open_descriptors,
    run_all,
    serving_process,
)
from typedrpc import (
    ConnectionLost,
    DeadlineExceeded,
    Server,
    Service,
    connect,
    current_call,
    rpc,
)
from typedrpc.codec import Segmented, pack_plain
from typedrpc.wire import HEADER, Frame, Kind

pytestmark = pytest.mark.usefixtures("no_leaks")

MIB = 1 << 20


@pytest.fixture
def workshop() -> Iterator[Workshop]:
    workshop = Workshop()
    yield workshop
    workshop.gates.open_all()


@pytest.fixture
def server(workshop: Workshop) -> Iterator[Server]:
    with Server(workshop, url="tcp://127.0.0.1:0") as server:
        yield server


@pytest.fixture
def proxy(server: Server) -> Iterator[Workshop]:
    with connect(Workshop, server.url) as proxy:
        yield proxy


class Meeting(Service):
    """Handlers that finish only when all of them run at the same time."""

    def __init__(self, parties: int) -> None:
        self.barrier = threading.Barrier(parties)

    @rpc
    def meet(self) -> int:
        return self.barrier.wait(PATIENCE)


class TestManyThreads:
    def test_handlers_that_wait_for_each_other(self) -> None:
        with (
            Server(Meeting(8), url="tcp://127.0.0.1:0") as server,
            connect(Meeting, server.url) as meeting,
        ):
            for _ in range(5):
                assert sorted(run_all([meeting.meet] * 8)) == list(range(8))

    def test_handlers_that_wait_for_each_other_called_from_one_thread(self) -> None:
        with (
            Server(Meeting(8), url="tcp://127.0.0.1:0") as server,
            connect(Meeting, server.url) as meeting,
        ):
            for _ in range(5):
                futures = [meeting.meet.submit() for _ in range(8)]
                assert sorted(future.result(PATIENCE) for future in futures) == list(range(8))

    @pytest.mark.unmeasured
    def test_answers_reach_who_asked(self, proxy: Workshop) -> None:
        def ask(first: int) -> None:
            for number in range(first, first + 300):
                assert proxy.add(number, 1) == number + 1

        run_all([partial(ask, first) for first in range(0, 80_000, 10_000)])

    @pytest.mark.unmeasured
    def test_answers_of_every_size_reach_who_asked(self, proxy: Workshop) -> None:
        def ask(seed: int) -> None:
            for number in range(25):
                data = bytes([seed]) * ((seed * 7919 + number * 104_729) % 300_000)
                assert proxy.echo(data) == data

        run_all([partial(ask, seed) for seed in range(6)])

    def test_a_blocked_call_holds_up_no_other_thread(self, workshop: Workshop, proxy: Workshop) -> None:
        blocked = [Running(proxy.wait, name) for name in "abc"]
        for name in "abc":
            workshop.started[name].wait()
        run_all([lambda: [proxy.add(number) for number in range(100)]] * 4)
        assert not any(call.done for call in blocked)
        for name, call in zip("cab", (blocked[2], blocked[0], blocked[1]), strict=True):
            workshop.gates[name].open()
            assert call.result() == name
        assert proxy.add(1) == 1

    @pytest.mark.parametrize("max_calls", [1, 2, 3])
    def test_room_for_few_calls(self, max_calls: int, workshop: Workshop) -> None:
        """Threads wait at the caller: the server never has to refuse one."""
        with (
            Server(workshop, url="tcp://127.0.0.1:0", max_calls=max_calls) as server,
            connect(Workshop, server.url) as proxy,
        ):

            def ask(first: int) -> None:
                for number in range(first, first + 50):
                    assert proxy.add(number, 1) == number + 1
                    assert proxy.add.submit(number, 2).result(PATIENCE) == number + 2
                assert list(proxy.add.map(range(50))) == list(range(50))

            run_all([partial(ask, first) for first in range(0, 6000, 1000)])

    def test_no_room_in_time(self, workshop: Workshop) -> None:
        with (
            Server(workshop, url="tcp://127.0.0.1:0", max_calls=1) as server,
            connect(Workshop, server.url) as proxy,
        ):
            blocked = Running(proxy.wait, "a")
            workshop.started["a"].wait()
            with pytest.raises(DeadlineExceeded, match="no room"):
                proxy.add.with_options(timeout=0.01)(1)
            with pytest.raises(DeadlineExceeded, match="no room"):
                proxy.add.with_options(timeout=0.01).submit(1)
            workshop.gates["a"].open()
            assert blocked.result() == "a"
            assert proxy.add(1) == 1

    def test_a_peer_that_ignores_the_bound_is_refused(self, workshop: Workshop) -> None:
        with Server(workshop, url="tcp://127.0.0.1:0", max_calls=2) as server, RawPeer.dial(server.url) as peer:
            peer.shake_hands()
            peer.send_frame(Kind.REQUEST, Workshop.wait.id, 1, pack_plain(["a"]))
            peer.send_frame(Kind.REQUEST, Workshop.wait.id, 3, pack_plain(["b"]))
            peer.send_frame(Kind.REQUEST, Workshop.wait.id, 5, pack_plain(["c"]))
            refused = peer.read_frame()
            assert (refused.kind, refused.call) == (Kind.ERROR, 5)
            workshop.gates.open_all()
            workshop.gates["a"].open()
            workshop.gates["b"].open()
            assert {peer.read_frame().call, peer.read_frame().call} == {1, 3}

    def test_few_threads_to_lend(self, workshop: Workshop) -> None:
        """Calls wait for a thread, and other connections have their own."""
        with (
            Server(workshop, url="tcp://127.0.0.1:0", max_workers=1) as server,
            connect(Workshop, server.url) as proxy,
            connect(Workshop, server.url) as other,
        ):
            first = Running(proxy.wait, "a")
            workshop.started["a"].wait()
            second = Running(proxy.wait, "b")
            workshop.started["b"].wait()
            third = Running(proxy.add, 1)
            assert [other.add(number) for number in range(50)] == list(range(50))
            assert not third.done
            workshop.gates["b"].open()
            assert second.result() == "b"
            assert third.result() == 1
            workshop.gates["a"].open()
            assert first.result() == "a"

    def test_no_threads_to_lend(self, workshop: Workshop) -> None:
        with (
            Server(workshop, url="tcp://127.0.0.1:0", max_workers=0) as server,
            connect(Workshop, server.url) as proxy,
        ):
            first = Running(proxy.wait, "a")
            workshop.started["a"].wait()
            second = Running(proxy.add, 1)
            workshop.gates["a"].open()
            assert (first.result(), second.result()) == ("a", 1)


class TestFutures:
    def test_a_callback_that_calls(self, proxy: Workshop, workshop: Workshop) -> None:
        results: Future[tuple[int, int, list[int]]] = Future()

        def call_on(future: Future[str]) -> None:
            results.set_result(
                (proxy.add(int(future.result()), 1), proxy.add.submit(5).result(PATIENCE), list(proxy.add.map([7])))
            )

        proxy.wait.submit("1").add_done_callback(call_on)
        workshop.gates["1"].open()
        assert results.result(PATIENCE) == (2, 5, [7])

    def test_a_callback_that_blocks(self, proxy: Workshop, workshop: Workshop) -> None:
        gate, entered = Gate(), Gate()

        def block(future: Future[str]) -> None:
            entered.open()
            gate.wait()

        # Its reply is held back until the callback is there, so that the library's thread runs it.
        proxy.wait.submit("a").add_done_callback(block)
        workshop.gates["a"].open()
        entered.wait()
        assert proxy.add(1) == 1
        assert [proxy.add.submit(number).result(PATIENCE) for number in range(50)] == list(range(50))
        gate.open()

    def test_a_callback_that_closes_the_client(self, server: Server, workshop: Workshop) -> None:
        with connect(server.url) as client:
            proxy = client.proxy(Workshop)
            blocked = Running(proxy.wait, "a")
            workshop.started["a"].wait()
            closed = Gate()

            def close(future: Future[str]) -> None:
                client.close()
                closed.open()

            proxy.wait.submit("b").add_done_callback(close)
            workshop.gates["b"].open()
            closed.wait()
            assert isinstance(blocked.error(), ConnectionLost)
            workshop.gates["a"].open()

    @pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit])
    def test_a_callback_that_raises(
        self, error: type[BaseException], proxy: Workshop, workshop: Workshop, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(future: Future[str]) -> None:
            raise error("in a callback")

        for name in "abcde":
            future = proxy.wait.submit(name)
            future.add_done_callback(fail)
            workshop.gates[name].open()
            assert future.result(PATIENCE) == name
        assert proxy.add(1) == 1

    def test_a_cancelled_future(self, proxy: Workshop, workshop: Workshop) -> None:
        future = proxy.wait.submit("a")
        workshop.started["a"].wait()
        assert future.cancel()
        workshop.gates["a"].open()
        assert proxy.add(1) == 1
        assert proxy.add.submit(1).result(PATIENCE) == 1

    def test_a_map_that_is_given_up(self, proxy: Workshop) -> None:
        results = proxy.add.map(range(200))
        assert next(results) == 0
        del results
        gc.collect()
        assert proxy.add(1) == 1

    def test_deadlines_of_futures(self, proxy: Workshop, workshop: Workshop) -> None:
        futures = [proxy.wait.with_options(timeout=0.01 + number / 1000).submit(str(number)) for number in range(20)]
        for future in futures:
            with pytest.raises(DeadlineExceeded):
                future.result(PATIENCE)
        workshop.gates.open_all()
        for number in range(20):
            workshop.gates[str(number)].open()
        assert proxy.add.with_options(timeout=PATIENCE).submit(3).result(PATIENCE) == 3

    def test_a_result_that_comes_with_anothers_reply_while_a_third_call_blocks(self) -> None:
        """What one thread reads for a future is delivered although the next who reads waits for long."""
        release, submitted = Gate(), Gate()

        def script(peer: RawPeer) -> None:
            agree(peer)
            blocked, quick, future = read_calls(peer, "blocked", "quick", "future")
            # Both answers arrive in one piece.
            peer.send(response(quick, "quick") + response(future, "future"))
            release.wait()
            peer.send(response(blocked, "blocked"))
            peer.read_to_end()

        with FakeServer(script) as fake, connect(Workshop, fake.url) as proxy:
            quick = Running(proxy.wait, "quick")
            blocked = Running(proxy.wait, "blocked")
            future = proxy.wait.submit("future")
            submitted.open()
            assert quick.result() == "quick"
            assert future.result(PATIENCE) == "future"
            release.open()
            assert blocked.result() == "blocked"


def read_calls(peer: RawPeer, *names: str) -> list[int]:
    """The ids of calls of ``wait`` with these arguments, in whatever order they come."""
    calls: dict[str, int] = {}
    while len(calls) < len(names):
        frame = peer.question()
        calls[argument_of(frame)] = frame.call
    return [calls[name] for name in names]


def argument_of(frame: Frame) -> str:
    (argument,), _ = Workshop.wait.codec.unpack_arguments(frame.payload)
    assert isinstance(argument, str)
    return argument


def response(call: int, value: object) -> bytes:
    payload = pack_plain(value)
    return HEADER.pack(len(payload), Kind.RESPONSE, 0, 0, call) + payload


class TestLargeMessages:
    @pytest.mark.unmeasured
    def test_both_sides_send_64_mib_at_once(self, workshop: Workshop) -> None:
        limit = 80 * MIB
        with (
            Server(workshop, url="tcp://127.0.0.1:0", max_message_size=limit) as server,
            connect(Workshop, server.url, max_message_size=limit) as proxy,
        ):
            data = b"x" * (64 * MIB)
            echoed, taken, given, sum_ = run_all(
                [
                    lambda: len(proxy.echo(data)),
                    lambda: proxy.swallow(data),
                    lambda: len(proxy.blob(64 * MIB)),
                    lambda: proxy.add(1, 2),
                ]
            )
            assert (echoed, taken, given, sum_) == (64 * MIB, 64 * MIB, 64 * MIB, 3)

    @pytest.mark.unmeasured
    def test_many_threads_echo_much(self, server: Server) -> None:
        with connect(Workshop, server.url) as proxy:

            def echo(seed: int) -> None:
                data = bytes([seed]) * (3 * MIB)
                for _ in range(3):
                    assert proxy.echo(data) == data
                    assert proxy.echo.submit(data).result(PATIENCE) == data

            run_all([partial(echo, seed) for seed in range(6)])

    def test_more_than_the_pipe_holds_one_way_and_back(self, workshop: Workshop, proxy: Workshop) -> None:
        data = bytes(MIB)

        def send() -> None:
            for _ in range(20):
                proxy.swallow.notify(data)

        sending = [Running(send) for _ in range(2)]
        assert [len(proxy.blob(4 * MIB)) for _ in range(10)] == [4 * MIB] * 10
        for one in sending:
            one.result()
        assert proxy.add(1) == 1

    def test_a_deadline_in_the_middle_of_a_frame(self) -> None:
        """Time runs out while the arguments are on their way: they go on their way, and later calls beside them."""
        go_on = Gate()

        def script(peer: RawPeer) -> None:
            agree(peer)
            go_on.wait()
            frames = [peer.read_frame() for _ in range(3)]
            questions = {frame.command: frame for frame in frames if frame.kind == Kind.REQUEST}
            (given_up,) = [frame for frame in frames if frame.kind == Kind.CANCEL]
            assert given_up.call == questions[Workshop.swallow.id].call
            assert [frame.kind for frame in frames if frame.call == given_up.call] == [Kind.REQUEST, Kind.CANCEL]
            peer.send(response(questions[Workshop.swallow.id].call, 1))
            peer.send(response(questions[Workshop.add.id].call, 5))
            peer.read_to_end()

        with FakeServer(script) as fake, connect(Workshop, fake.url) as proxy:
            with pytest.raises(DeadlineExceeded):
                proxy.swallow.with_options(timeout=0.05)(bytes(15 * MIB))
            go_on.open()
            assert proxy.add(2, 3) == 5


class Stock(Service):
    """Holds a buffer, takes others, and gives its own away."""

    def __init__(self) -> None:
        self.buffer = bytearray(b"old") * (4 * MIB)
        self.cleared = Gate()

    @rpc
    def put(self, data: bytearray) -> int:
        return len(data)

    @rpc
    def show(self, data: memoryview) -> tuple[int, bool]:
        return len(data), data.readonly

    @rpc
    def get(self) -> bytearray:
        return self.buffer

    @rpc
    def refuse(self, data: bytearray) -> None:
        raise ValueError("not this one")

    @rpc
    def clear(self) -> None:
        self.buffer.clear()
        self.cleared.open()


class TestBuffersThatChange:
    @pytest.mark.parametrize("form", ["notify", "submit"])
    def test_arguments_behind_what_another_thread_writes(self, form: str) -> None:
        """The peer does not read, the call has returned, and the owner changes what he gave: the old is sent."""
        begun, go_on, read = Gate(), Gate(), Gate()
        frames: list[Frame] = []

        def script(peer: RawPeer) -> None:
            agree(peer)
            peer.sock.recv(1, socket.MSG_PEEK)
            begun.open()
            go_on.wait()
            frames.extend(peer.read_frame() for _ in range(2))
            for frame in frames:
                if frame.call:
                    peer.send(response(frame.call, 0))
            read.open()
            peer.read_to_end()

        with FakeServer(script) as fake, connect(Stock, fake.url) as stock:
            buffer = bytearray(b"old") * 100_000
            stuck = Running(stock.put.notify, bytearray(15 * MIB))
            begun.wait()
            start = stock.put.notify if form == "notify" else stock.put.submit
            start(buffer)
            buffer[:] = b"new"
            go_on.open()
            read.wait()
            stuck.result()
        payloads = [frame.payload for frame in frames]
        assert all(isinstance(payload, Segmented) for payload in payloads)
        segments = sorted(
            (bytes(payload.segments[0]) for payload in payloads if isinstance(payload, Segmented)), key=len
        )
        assert segments[0] == b"old" * 100_000

    def test_arguments_of_a_call_that_ran_out_of_time(self) -> None:
        go_on, read = Gate(), Gate()
        frames: list[Frame] = []

        def script(peer: RawPeer) -> None:
            agree(peer)
            go_on.wait()
            frames.append(peer.read_frame())
            read.open()
            peer.read_to_end()

        with FakeServer(script) as fake, connect(Stock, fake.url) as stock:
            buffer = bytearray(b"old") * (5 * MIB)
            with pytest.raises(DeadlineExceeded):
                stock.put.with_options(timeout=0.05)(buffer)
            buffer[:] = bytes(len(buffer))
            go_on.open()
            read.wait()
        payload = frames[0].payload
        assert isinstance(payload, Segmented)
        assert bytes(payload.segments[0]) == b"old" * (5 * MIB)

    def test_a_result_that_its_handler_changes_while_the_peer_does_not_read(self) -> None:
        stock = Stock()
        with (
            Server(stock, url="tcp://127.0.0.1:0") as server,
            RawPeer.dial(server.url, receive_buffer=4096) as peer,
        ):
            peer.shake_hands()
            for number, command in ((1, Stock.get), (3, Stock.clear)):
                peer.send_frame(Kind.REQUEST, command.id, number, pack_plain([]))
            stock.cleared.wait()
            small, answer = peer.read_frame(), peer.read_frame()
            assert (small.call, answer.call) == (3, 1)
            assert isinstance(answer.payload, Segmented)
            assert bytes(answer.payload.segments[0]) == b"old" * (4 * MIB)

    def test_an_argument_may_be_resized_while_the_error_is_looked_at(self) -> None:
        with Server(Stock(), url="tcp://127.0.0.1:0") as server, connect(Stock, server.url) as stock:
            buffer = bytearray(MIB)
            with pytest.raises(ValueError, match="not this one") as caught:
                stock.refuse(buffer)
            buffer.clear()
            assert caught.value.__traceback__ is not None

    def test_buffers_arrive(self) -> None:
        stock = Stock()
        with (
            Server(stock, url="tcp://127.0.0.1:0") as server,
            connect(Stock, server.url) as proxy,
        ):
            assert proxy.put(bytearray(12 * MIB)) == 12 * MIB
            assert proxy.show(memoryview(bytearray(12 * MIB))) == (12 * MIB, True)
            result = proxy.get()
            assert type(result) is bytearray
            assert result == stock.buffer


class TestEnds:
    def test_a_server_killed_while_100_calls_wait(self) -> None:
        with serving_process("max_workers=200") as (url, program), connect(Workshop, url) as proxy:
            pid = proxy.process()
            assert pid == program.process.pid
            waiting = [Running(proxy.stay) for _ in range(40)]
            futures = [proxy.stay.submit() for _ in range(40)]
            timed = [Running(proxy.stay.with_options(timeout=10 * PATIENCE)) for _ in range(20)]
            # What was sent before this call has been read by the server.
            assert proxy.add(1) == 1
            program.signal(signal.SIGKILL)
            errors = [call.error() for call in (*waiting, *timed)]
            errors += [future.exception(PATIENCE) for future in futures]
            for error in errors:
                assert isinstance(error, ConnectionLost)
                assert "closed the connection" in str(error) or "broke" in str(error)
            assert len({id(error) for error in errors}) == 100
            with pytest.raises(ConnectionLost):
                proxy.add(1)

    def test_a_server_that_closes_says_so(self, workshop: Workshop) -> None:
        server = Server(workshop, url="tcp://127.0.0.1:0").start()
        with connect(Workshop, server.url) as proxy:
            assert proxy.add(1) == 1
            blocked = Running(proxy.wait, "a")
            future = proxy.wait.submit("b")
            workshop.started["a"].wait()
            server.close(grace=0)
            error = blocked.error()
            assert isinstance(error, ConnectionLost)
            assert "the server is closing" in str(error)
            with pytest.raises(ConnectionLost, match="the server is closing"):
                future.result(PATIENCE)
            workshop.gates["a"].open()
            workshop.gates["b"].open()
            for _ in range(3):
                with pytest.raises(ConnectionLost, match="the server is closing"):
                    proxy.add(1)

    def test_an_idle_client_whose_server_closed(self, workshop: Workshop) -> None:
        server = Server(workshop, url="tcp://127.0.0.1:0").start()
        with connect(Workshop, server.url) as proxy:
            assert proxy.add(1) == 1
            server.close()
            for _ in range(3):
                with pytest.raises(ConnectionLost, match="the server is closing"):
                    proxy.add(1)

    def test_closing_from_another_thread_twice_during_calls(self, server: Server, workshop: Workshop) -> None:
        for _ in range(10):
            with connect(server.url) as client:
                proxy = client.proxy(Workshop)

                def ask(proxy: Workshop = proxy) -> BaseException:
                    while True:
                        try:
                            proxy.add(1)
                            proxy.echo(bytes(100_000))
                            proxy.add.submit(1).result(PATIENCE)
                        except ConnectionLost as error:
                            return error

                asking = [Running(ask) for _ in range(4)]
                assert proxy.add(1) == 1
                run_all([client.close, client.close])
                for one in asking:
                    assert "closed on this side" in str(one.result())

    def test_closing_while_a_one_way_call_is_stuck(self) -> None:
        """The peer reads nothing; who writes learns that the connection has ended, and the socket is closed."""
        full = Gate()

        def script(peer: RawPeer) -> None:
            agree(peer)
            assert peer.sock.recv(1)
            full.open()
            closed.wait()

        closed = Gate()
        with FakeServer(script) as fake, connect(fake.url) as client:
            proxy = client.proxy(Workshop)

            def send() -> None:
                while True:
                    proxy.swallow.notify(bytes(8 * MIB))

            sending = [Running(send) for _ in range(3)]
            calling = Running(proxy.add, 1)
            full.wait()
            client.close()
            for error in (*(one.error() for one in sending), calling.error()):
                assert isinstance(error, ConnectionLost)
            closed.open()

    def test_a_server_that_cuts_off_who_is_stuck_reading_nothing(self, workshop: Workshop) -> None:
        server = Server(workshop, url="tcp://127.0.0.1:0").start()
        with RawPeer.dial(server.url) as peer:
            peer.shake_hands()
            for number in range(64):
                peer.send_frame(Kind.REQUEST, Workshop.blob.id, 2 * number + 1, pack_plain([8 * MIB]))
            header = peer.sock.recv(12)
            assert header
            server.close(grace=0)

    @pytest.mark.unmeasured
    def test_hundreds_of_connections_leave_nothing(self, server: Server) -> None:
        with connect(Workshop, server.url) as proxy:
            assert proxy.add(1) == 1
            lasting = {thread for thread in threading.enumerate() if not thread.name.startswith("typedrpc-server")}
        descriptors = len(open_descriptors())
        for number in range(300):
            with connect(Workshop, server.url) as proxy:
                if number % 3 == 0:
                    assert proxy.add(number) == number
                elif number % 3 == 1:
                    assert proxy.add.submit(number).result(PATIENCE) == number
        for thread in set(threading.enumerate()) - lasting:
            thread.join(PATIENCE)
        assert set(threading.enumerate()) <= lasting
        assert len(open_descriptors()) <= descriptors
        assert server.peers == ()

    @pytest.mark.unmeasured
    def test_hundreds_of_connections_to_another_process_leave_nothing(self) -> None:
        with serving_process() as (url, program):
            with connect(Workshop, url) as proxy:
                assert proxy.add(1) == 1
            threads, descriptors = set(threading.enumerate()), len(open_descriptors())
            for number in range(300):
                with connect(url) as client:
                    if number % 10 == 0:
                        assert client.proxy(Workshop).add.submit(number).result(PATIENCE) == number
            for thread in set(threading.enumerate()) - threads:
                thread.join(PATIENCE)
            assert set(threading.enumerate()) <= threads
            assert len(open_descriptors()) == descriptors
            program.say()
            program.expect_success()

    def test_a_connection_that_ends_while_handlers_run(self, workshop: Workshop, server: Server) -> None:
        with connect(Workshop, server.url) as proxy:
            calls = [proxy.wait.submit(name) for name in "abc"]
            for name in "abc":
                workshop.started[name].wait()
        for call in calls:
            assert isinstance(call.exception(PATIENCE), ConnectionLost)
        workshop.gates.open_all()
        with connect(Workshop, server.url) as proxy:
            assert proxy.add(1) == 1

    def test_one_way_calls_that_came_are_run_after_the_peer_has_left(self, workshop: Workshop, server: Server) -> None:
        with connect(Workshop, server.url) as proxy:
            for number in range(200):
                proxy.note.notify(str(number))
        assert workshop.wait_for_notes(200) == [str(number) for number in range(200)]


class TestLateReplies:
    def test_replies_after_the_deadline_take_no_ones_place(self, workshop: Workshop, proxy: Workshop) -> None:
        def ask(seed: int) -> None:
            for number in range(30):
                name = f"{seed}/{number}"
                with pytest.raises(DeadlineExceeded):
                    proxy.wait.with_options(timeout=0.001)(name)
                workshop.gates[name].open()
                assert proxy.add(seed, number) == seed + number

        run_all([partial(ask, seed) for seed in range(4)])

    @pytest.mark.parametrize("max_calls", [1, 2])
    @pytest.mark.parametrize("submitted", [False, True])
    def test_a_call_that_ran_out_of_time_still_takes_its_place(
        self, max_calls: int, submitted: bool, workshop: Workshop
    ) -> None:
        """The server counts it until its handler is done; so does the client, and nobody is refused because of it."""
        with (
            Server(workshop, url="tcp://127.0.0.1:0", max_calls=max_calls) as server,
            connect(Workshop, server.url) as proxy,
        ):
            names = [str(number) for number in range(max_calls)]
            for name in names:
                timed = proxy.wait.with_options(timeout=0.05)
                with pytest.raises(DeadlineExceeded):
                    timed.submit(name).result(PATIENCE) if submitted else timed(name)
            workshop.started[names[0]].wait()
            with pytest.raises(DeadlineExceeded, match="no room"):
                proxy.add.with_options(timeout=0.01)(1)
            waiting = [Running(proxy.add, number) for number in range(4)]
            for name in names:
                workshop.gates[name].open()
            assert [one.result() for one in waiting] == list(range(4))
            run_all([lambda: [proxy.add(number) for number in range(50)]] * 4)


@pytest.mark.unmeasured
class TestStress:
    @pytest.mark.parametrize("seed", range(3))
    def test_everything_at_once(self, seed: int, workshop: Workshop) -> None:
        """Sixteen threads mix all forms of calls on one connection, which is closed under them at some moment."""
        chooser = random.Random(seed)
        with Server(workshop, url="tcp://127.0.0.1:0", max_calls=chooser.choice([3, 40, 1024])) as server:
            for round_ in range(4):
                client = connect(server.url)
                proxy = client.proxy(Workshop)
                closing = threading.Barrier(17)

                def mix(seed: int, proxy: Workshop = proxy, closing: threading.Barrier = closing) -> int:
                    chooser = random.Random(seed)
                    count = 0
                    try:
                        for step in range(40):
                            if step == 25:
                                closing.wait(PATIENCE)
                            count += mix_once(chooser, proxy, seed)
                    except ConnectionLost as lost:
                        assert "closed on this side" in str(lost)
                    except BaseException:
                        closing.abort()
                        raise
                    return count

                mixing = [Running(mix, 1000 * seed + 100 * round_ + number) for number in range(16)]
                with contextlib.suppress(threading.BrokenBarrierError):  # then one of them says why
                    closing.wait(PATIENCE)
                if round_ % 2:
                    client.close()
                errors = [one.error() for one in mixing]
                client.close()
                assert [error for error in errors if not isinstance(error, threading.BrokenBarrierError | None)] == []
                assert all(one.result() >= 25 for one in mixing)
            with connect(Workshop, server.url) as after:
                assert after.add(1) == 1
            workshop.gates.open_all()


def mix_once(chooser: random.Random, proxy: Workshop, seed: int) -> int:
    number = chooser.randrange(1 << 40)
    match chooser.randrange(8):
        case 0 | 1:
            assert proxy.add(number, seed) == number + seed
        case 2:
            futures = [proxy.add.submit(number, other) for other in range(chooser.randrange(8))]
            assert [future.result(PATIENCE) for future in futures] == [number + other for other in range(len(futures))]
        case 3:
            proxy.note.notify(str(number))
        case 4:
            assert list(proxy.add.map(range(20))) == list(range(20))
        case 5:
            data = bytes([seed % 256]) * chooser.randrange(200_000)
            assert proxy.echo(data) == data
        case 6:
            with contextlib.suppress(DeadlineExceeded):
                assert proxy.add.with_options(timeout=chooser.choice([0, 1e-4, 1e-3, 1e-2]))(number) == number
        case 7:
            try:
                future = proxy.add.with_options(timeout=chooser.choice([1e-4, 1e-3, PATIENCE])).submit(number)
            except DeadlineExceeded:  # there was no room for it in time
                return 1
            if not chooser.randrange(3):
                future.cancel()
            else:
                with contextlib.suppress(DeadlineExceeded):
                    assert future.result(PATIENCE) == number
    return 1


def test_a_handler_reaches_its_server() -> None:
    class Nosy(Service):
        @rpc
        def peers(self) -> int:
            return len(current_call().server.peers)

    with Server(Nosy(), url="tcp://127.0.0.1:0") as server, connect(Nosy, server.url) as nosy:
        assert nosy.peers() == 1
        with connect(Nosy, server.url) as other:
            assert other.peers() == 2
            assert nosy.peers() == 2
