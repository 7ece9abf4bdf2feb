"""Starting, stopping and everything that a server does beside answering calls."""

import logging
import os
import resource
import signal
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.ends import ALIKE, Ends, alike_ends
from tests.support import PATIENCE, Gate, Log, Program, RawPeer, Running, Workshop, failure_of, run_all
from typedrpc import (
    ConnectFailed,
    ConnectionLost,
    DefinitionError,
    FunctionService,
    ListenFailed,
    Peer,
    Server,
    Service,
    connect,
    current_call,
    remote,
    rpc,
    serve,
)
from typedrpc.codec import pack_plain, unpack_plain
from typedrpc.failure import Code
from typedrpc.messages import Leave, read_goodbye
from typedrpc.wire import Kind

pytestmark = pytest.mark.usefixtures("no_leaks")
ends = alike_ends

URL = "tcp://127.0.0.1:0"


@pytest.fixture
def workshop() -> Iterator[Workshop]:
    workshop = Workshop()
    yield workshop
    workshop.gates.open_all()


class TestStarting:
    def test_port_0_becomes_a_port(self, ends: Ends) -> None:
        server = ends.Server(Workshop(), url=URL)
        assert server.url == URL
        assert repr(server) == f"<server at {URL}>"
        with server:
            assert server.url != URL
            assert repr(server) == f"<server at {server.url}>"
            with ends.connect(Workshop, server.url) as proxy:
                assert proxy.add(1) == 1

    def test_a_server_is_started_once(self, ends: Ends) -> None:
        server = ends.Server(Workshop(), url=URL)
        with server, pytest.raises(RuntimeError, match="started once"):
            server.start()
        with pytest.raises(RuntimeError, match="started once"):
            server.start()

    def test_a_server_that_was_never_started_closes(self, ends: Ends) -> None:
        server = ends.Server(Workshop(), url=URL)
        server.close()
        server.wait()
        with pytest.raises(RuntimeError, match="started once"):
            server.start()

    @pytest.mark.parametrize(
        ("url", "reason"),
        [
            ("tcp://0.0.0.0:0", "insecure=True"),
            ("ftp://x", "unknown scheme"),
            ("unix:///nowhere/at/all/s.sock", "does not exist"),
            ("tcp://no.such.host.invalid:1", "resolved"),
        ],
    )
    def test_where_it_cannot_listen(self, ends: Ends, url: str, reason: str) -> None:
        server = ends.Server(Workshop(), url=url)
        with pytest.raises(ListenFailed, match=reason):
            server.start()
        server.close()

    def test_a_port_that_is_taken(self, ends: Ends) -> None:
        with ends.Server(Workshop(), url=URL) as server:
            other = ends.Server(Workshop(), url=server.url)
            with pytest.raises(ListenFailed, match="in use"):
                other.start()
            with ends.connect(Workshop, server.url) as proxy:
                assert proxy.add(1) == 1

    def test_beyond_loopback_if_it_is_meant(self, ends: Ends) -> None:
        with ends.Server(Workshop(), url="tcp://0.0.0.0:0", insecure=True) as server:
            port = server.url.rpartition(":")[2]
            with ends.connect(Workshop, f"tcp://127.0.0.1:{port}") as proxy:
                assert proxy.add(1) == 1

    def test_services_that_clash(self, ends: Ends) -> None:
        one, two = FunctionService("one"), FunctionService("two")

        def hello() -> None: ...

        one.rpc(id=5)(hello)
        two.rpc(id=5)(hello)
        with pytest.raises(DefinitionError, match=r"one\.hello.*two\.hello"):
            ends.Server(one, two, url=URL)
        with ends.Server(one, two, url=URL, ids={"two.hello": 6}):
            pass

    @pytest.mark.parametrize("options", [{"max_message_size": 10}, {"max_calls": 0}])
    def test_limits_without_sense(self, ends: Ends, options: dict[str, int]) -> None:
        with pytest.raises(ValueError, match="must be"):
            ends.Server(Workshop(), url=URL, **options)  # type: ignore[arg-type]  # mypy knows no keys of a dict


class TestUnixSockets:
    def test_only_the_owner_may_connect_unless_told(self, ends: Ends, tmp_path: Path) -> None:
        path = tmp_path / "s.sock"
        with ends.Server(Workshop(), url=f"unix://{path}") as server:
            assert server.url == f"unix://{path}"
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            with ends.connect(Workshop, server.url) as proxy:
                assert proxy.add(1) == 1
                assert len(server.peers) == 1
        assert not path.exists()
        with ends.Server(Workshop(), url=f"unix://{path}", mode=0o666):
            assert stat.S_IMODE(path.stat().st_mode) == 0o666

    def test_a_stale_file_is_replaced(self, ends: Ends, tmp_path: Path) -> None:
        path = tmp_path / "s.sock"
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(path))
        with ends.Server(Workshop(), url=f"unix://{path}") as server, ends.connect(Workshop, server.url) as proxy:
            assert proxy.add(1) == 1

    def test_a_server_that_runs_is_not_replaced(self, ends: Ends, tmp_path: Path) -> None:
        url = f"unix://{tmp_path}/s.sock"
        with ends.Server(Workshop(), url=url), ends.connect(Workshop, url) as proxy:
            with pytest.raises(ListenFailed, match="another server listens there"):
                ends.Server(Workshop(), url=url).start()
            assert proxy.add(1) == 1
            with ends.connect(Workshop, url) as other:
                assert other.add(1) == 1

    def test_a_file_that_is_no_socket_stays(self, ends: Ends, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.write_text("mine")
        with pytest.raises(ListenFailed, match="no socket"):
            ends.Server(Workshop(), url=f"unix://{path}").start()
        assert path.read_text() == "mine"

    def test_a_path_that_is_too_long(self, ends: Ends) -> None:
        with pytest.raises(ListenFailed, match="too long"):
            ends.Server(Workshop(), url="unix:///" + "x" * 200).start()


class TestPeers:
    def test_who_is_connected(self, ends: Ends) -> None:
        with ends.Server(Workshop(), url=URL) as server:
            assert not server.peers
            reasons: list[str] = []
            told = Gate()

            def tell(peer: Peer, error: ConnectionLost) -> None:
                reasons.append(str(error))
                told.open()

            connecting = ends.connect(Workshop, server.url, on_disconnect=tell)
            with connecting as one, ends.connect(Workshop, server.url) as two:
                assert one.add(1) + two.add(1) == 2
                first, second = server.peers
                assert first.id < second.id
                assert first.server is ends.itself(server)
                assert first.address.startswith("127.0.0.1:")
                assert repr(first) == f"<peer {first.id} at {first.address}>"
                first.close("you are one too many")
                told.wait()
                assert "you are one too many" in reasons[0]
                assert two.add(1) == 1
                assert [peer.id for peer in server.peers] == [second.id]
                assert one.add(1) == 1  # its client has dialled again
                again = server.peers[1]
                assert [peer.id for peer in server.peers] == [second.id, again.id]
                assert again.id > second.id

    def test_who_has_left_is_forgotten(self, ends: Ends) -> None:
        left = Gate()

        class Nosy(Service):
            @rpc
            def join(self) -> None:
                peers.append(current_call().peer)

        peers: list[object] = []
        with ends.Server(Nosy(), url=URL) as server:
            for _ in range(10):
                with ends.connect(Nosy, server.url) as nosy:
                    nosy.join()
            left.open()
        assert len(peers) == 10
        assert server.peers == ()


class TestClosing:
    def test_twice_and_from_many_threads(self, ends: Ends) -> None:
        server = ends.Server(Workshop(), url=URL).start()
        with ends.connect(Workshop, server.url) as proxy:
            assert proxy.add(1) == 1
            run_all([server.close] * 4)
            server.close()
            server.wait()
            with pytest.raises(ConnectionLost):
                proxy.add(1)
        with pytest.raises(ConnectFailed):
            ends.connect(Workshop, server.url)

    def test_a_handler_that_runs_finishes_and_its_answer_arrives(self, ends: Ends, workshop: Workshop) -> None:
        server = ends.Server(workshop, url=URL).start()
        with ends.connect(Workshop, server.url) as proxy, RawPeer.dial(server.url) as idle:
            idle.shake_hands()
            calls = [Running(proxy.wait, "a"), Running(proxy.wait, "b")]
            future = proxy.wait.submit("c")
            for name in "abc":
                workshop.started[name].wait()
            closing = Running(lambda: server.close(grace=PATIENCE))
            # Once the goodbye is said, no calls are accepted, while those that run go on.
            assert idle.read_frame().kind == Kind.GOODBYE
            idle.send_frame(Kind.REQUEST, Workshop.add.id, 1, pack_plain([1]))
            for name in "cab":
                workshop.gates[name].open()
            assert [call.result() for call in calls] == ["a", "b"]
            assert future.result(PATIENCE) == "c"
            refusal, last = idle.read_frames_to_end()
            assert (refusal.call, failure_of(refusal)[0]) == (1, Code.NOT_ACCEPTED)
            assert last.kind == Kind.GOODBYE
            assert unpack_plain(last.payload) == [0, "the server is closing", Leave.FINISHED]
            closing.result()

    def test_a_handler_that_does_not_finish(self, ends: Ends, workshop: Workshop, log: Log) -> None:
        server = ends.Server(workshop, url=URL).start()
        with ends.connect(Workshop, server.url) as proxy:
            blocked = Running(proxy.wait, "a")
            workshop.started["a"].wait()
            server.close(grace=0)
            assert isinstance(blocked.error(), ConnectionLost)
        assert log.line() == "1 handlers go on after the server has closed"
        workshop.gates["a"].open()

    def test_a_handler_that_runs_may_call_its_caller_until_the_end(self, ends: Ends, log: Log) -> None:
        called, closing = Gate(), Gate()

        class Listener(Service):
            @rpc
            def ask(self, number: int) -> int:
                return server_side.double(number)  # nested in a call of the server's, which drains

        class Long(Service):
            @rpc
            def run(self, callback: Callable[[int], int]) -> list[int]:
                called.open()
                closing.wait()
                remote(callback).notify(0)
                return [callback(1), current_call().peer.proxy(Listener).ask(2)]

            @rpc
            def double(self, number: int) -> int:
                return 2 * number

        server = ends.Server(Long(), url=URL).start()
        with RawPeer.dial(server.url) as idle, ends.connect(Long, server.url, expose=[Listener()]) as server_side:
            idle.shake_hands()
            seen: list[int] = []

            def callback(number: int) -> int:
                seen.append(number)
                return -number

            running = Running(server_side.run, callback)
            called.wait()
            stopping = Running(lambda: server.close(grace=PATIENCE))
            assert idle.read_frame().kind == Kind.GOODBYE
            closing.open()
            assert running.result() == [-1, 4]
            assert seen == [0, 1]
            stopping.result()
        assert log.unread == []

    def test_a_handler_that_learns_that_its_caller_has_left_is_no_failure(self, ends: Ends, log: Log) -> None:
        called, left = Gate(), Gate()

        class Long(Service):
            @rpc
            def run(self, progress: Callable[[int], None]) -> None:
                called.open()
                left.wait()
                progress(1)

        with ends.Server(Long(), url=URL, on_disconnect=lambda peer, cause: left.open()) as server:
            with ends.connect(Long, server.url) as long:
                running = Running(long.run, lambda number: None)
                called.wait()
            assert isinstance(running.error(), ConnectionLost)
            left.wait()
        assert log.unread == []

    @pytest.mark.parametrize("ends", ALIKE[:1], ids=repr)
    def test_a_connection_that_ends_before_it_is_served(
        self, ends: Ends, log: Log, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        serving = Server._serve

        def end_first(server: Server, connection: Any, stay: Any) -> None:
            connection.end(ConnectionLost("the server is closing"))
            serving(server, connection, stay)

        monkeypatch.setattr(Server, "_serve", end_first)
        with ends.Server(Workshop(), url=URL) as server, RawPeer.dial(server.url) as peer:
            peer.greet()
            assert [frame.kind for frame in peer.read_frames_to_end()] == [Kind.HELLO]
        assert log.unread == []

    def test_large_answers_are_written_before_the_end(self, ends: Ends, workshop: Workshop) -> None:
        server = ends.Server(workshop, url=URL).start()
        with RawPeer.dial(server.url) as peer:
            peer.shake_hands()
            peer.send_frame(Kind.REQUEST, Workshop.blob.id, 1, pack_plain([8_000_000]))
            assert peer.sock.recv(1, socket.MSG_PEEK)  # the answer has begun, and stands in the pipe
            closing = Running(lambda: server.close(grace=PATIENCE))
            answer, *goodbyes = peer.read_frames_to_end()
            assert (answer.kind, answer.call) == (Kind.RESPONSE, 1)
            assert [read_goodbye(goodbye.payload)[1] for goodbye in goodbyes] == [Leave.OTHER, Leave.FINISHED]
            closing.result()

    def test_from_within_a_handler(self, ends: Ends) -> None:
        class Closer(Service):
            @rpc
            def close_server(self) -> str:
                current_call().server.close(grace=PATIENCE)
                current_call().server.close(grace=PATIENCE)
                return "closing"

        with ends.Server(Closer(), url=URL) as server, ends.connect(Closer, server.url) as proxy:
            assert proxy.close_server() == "closing"
            server.wait()
            with pytest.raises(ConnectionLost, match="the server is closing"):
                proxy.close_server()

    def test_from_within_a_one_way_handler(self, ends: Ends) -> None:
        class Closer(Service):
            @rpc
            def close_server(self) -> None:
                current_call().server.close(grace=PATIENCE)

        with ends.Server(Closer(), url=URL) as server, ends.connect(Closer, server.url) as proxy:
            proxy.close_server.notify()
            server.wait()

    def test_who_is_in_the_middle_of_the_handshake_is_told_nothing(self, ends: Ends) -> None:
        server = ends.Server(Workshop(), url=URL).start()
        with RawPeer.dial(server.url) as stranger, ends.connect(Workshop, server.url) as proxy:
            assert proxy.add(1) == 1
            server.close()
            assert stranger.read_to_end() == b""

    def test_while_clients_come_and_go(self, ends: Ends) -> None:
        for _ in range(5):
            server = ends.Server(Workshop(), url=URL).start()
            begun = Gate()

            def come_and_go(url: str = server.url, begun: Gate = begun) -> None:
                while True:
                    try:
                        with ends.connect(Workshop, url) as proxy:
                            proxy.add(1)
                            begun.open()
                            proxy.add.submit(1).result(PATIENCE)
                    except ConnectionError:
                        return

            coming = [Running(come_and_go) for _ in range(4)]
            begun.wait()
            server.close()
            for one in coming:
                one.result()


SERVE = """
    import os, signal, threading
    from tests.support import Workshop
    from typedrpc import serve
    def started(server):
        say(server.url)
        {started}
    serve(Workshop(), url="tcp://127.0.0.1:0", on_start=started, grace=20)
    say("stopped")
"""


class TestServe:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_stops_it_cleanly(self, number: signal.Signals) -> None:
        with Program(SERVE.format(started="pass")) as program:
            with connect(Workshop, program.hear()) as proxy:
                assert proxy.add(1) == 1
                program.signal(number)
                assert program.expect_success() == "stopped\n"
                with pytest.raises(ConnectionLost, match="the server is closing"):
                    proxy.add(1)

    def test_signals_that_come_at_any_moment(self) -> None:
        """Each of the first bytecodes of waiting is interrupted once, in a server of its own."""
        with Program("""
            import os, signal, sys, threading
            from tests.support import Workshop
            from typedrpc import serve
            from typedrpc.sync import server as module
            def interrupted_after(count):
                left, late = count, threading.Event()
                def step(frame, event, argument):
                    nonlocal left
                    if event == "opcode" and not late.is_set():
                        left -= 1
                        if not left:
                            sys.settrace(None)
                            signal.raise_signal(signal.SIGTERM)
                    return step
                def enter(frame, event, argument):
                    frame.f_trace_opcodes = True
                    return step
                def started(server):
                    frame = sys._getframe(1)
                    frame.f_trace, frame.f_trace_opcodes = step, True
                    timer.start()
                    sys.settrace(enter)
                def stop_all_the_same():
                    late.set()
                    os.kill(os.getpid(), signal.SIGTERM)
                timer = threading.Timer(1, stop_all_the_same)
                serve(Workshop(), url="tcp://127.0.0.1:0", on_start=started)
                sys.settrace(None)
                timer.cancel()
                return not late.is_set()
            count = 1
            while interrupted_after(count):
                count += 1
            say(count)
        """) as program:
            assert int(program.hear()) > 3
            program.expect_success()

    def test_the_handlers_that_run_are_let_finish(self) -> None:
        with Program("""
            import threading
            from tests.support import Workshop
            from typedrpc import serve
            workshop = Workshop()
            def started(server):
                say(server.url)
                def listen():
                    workshop.started["a"].wait()
                    say("started")
                    hear()
                    workshop.gates["a"].open()
                threading.Thread(target=listen).start()
            serve(workshop, url="tcp://127.0.0.1:0", on_start=started, grace=20)
        """) as program:
            with connect(Workshop, program.hear()) as proxy:
                blocked = Running(proxy.wait, "a")
                assert program.hear() == "started"
                program.signal(signal.SIGTERM)
                program.say()
                assert blocked.result() == "a"
            program.expect_success()

    def test_in_another_thread_it_is_closed_by_its_server(self) -> None:
        servers: list[Server] = []
        started = Gate()

        def on_start(server: Server) -> None:
            servers.append(server)
            started.open()

        before = signal.getsignal(signal.SIGTERM)
        serving = Running(lambda: serve(Workshop(), url=URL, on_start=on_start))
        started.wait()
        with connect(Workshop, servers[0].url) as proxy:
            assert proxy.add(1) == 1
        assert signal.getsignal(signal.SIGTERM) is before
        servers[0].close()
        serving.result()

    def test_signal_handlers_are_given_back(self) -> None:
        before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
        serve(Workshop(), url=URL, on_start=lambda server: server.close())
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before

    def test_a_handler_ends_it(self) -> None:
        with Program("""
            from typedrpc import Service, current_call, rpc, serve
            class Closer(Service):
                @rpc
                def close_server(self) -> str:
                    current_call().server.close()
                    return "closing"
            serve(Closer(), url="tcp://127.0.0.1:0", on_start=lambda server: say(server.url))
            say("stopped")
        """) as program:

            class Closer(Service):
                @rpc
                def close_server(self) -> str: ...  # type: ignore[empty-body]  # only called from afar

            with connect(Closer, program.hear()) as proxy:
                assert proxy.close_server() == "closing"
            assert program.expect_success() == "stopped\n"

    def test_a_handler_that_never_ends_does_not_keep_the_process(self) -> None:
        with Program("""
            from tests.support import Workshop
            from typedrpc import serve
            serve(Workshop(), url="tcp://127.0.0.1:0", on_start=lambda server: say(server.url), grace=0)
        """) as program:
            with connect(Workshop, program.hear()) as proxy:
                blocked = Running(proxy.stay)
                assert proxy.add(1) == 1
                program.signal(signal.SIGTERM)
                assert isinstance(blocked.error(), ConnectionLost)
            code, _, _ = program.finish()
            assert code == 0


class TestExhaustion:
    def test_out_of_descriptors(self, ends: Ends) -> None:
        """It is logged, who is connected is served on, and who waits is served when there is room again."""
        with Program("""
            import logging, os, resource
            from tests.support import Log, Workshop
            from typedrpc import Server
            log = Log()
            logging.getLogger("typedrpc").addHandler(log)
            with Server(Workshop(), url="tcp://127.0.0.1:0") as server:
                say(server.url)
                hear()
                used = [os.dup(0)]
                resource.setrlimit(resource.RLIMIT_NOFILE, (used[0] + 3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
                try:
                    while True:
                        used.append(os.dup(0))
                except OSError:
                    say("out of descriptors")
                say(log.line())
                hear()
                for descriptor in used:
                    os.close(descriptor)
                say("freed")
                hear()
        """) as program:
            url = program.hear()
            with ends.connect(Workshop, url) as proxy:
                assert proxy.add(1) == 1
                program.say()
                assert program.hear() == "out of descriptors"
                connecting = Running(lambda: ends.connect(Workshop, url, timeout=PATIENCE))
                assert "cannot accept connections now" in program.hear()
                assert proxy.add(1) == 1
                assert not connecting.done
                program.say()
                assert program.hear() == "freed"
                with connecting.result() as other:
                    assert other.add(1) == 1
                program.say()
            program.expect_success()

    @pytest.mark.parametrize("ends", ALIKE[:1], ids=repr)
    def test_no_thread_for_a_new_connection(self, ends: Ends, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
        with ends.Server(Workshop(), url=URL) as server, ends.connect(Workshop, server.url) as proxy:
            assert proxy.add(1) == 1
            start = threading.Thread.start

            def refuse(thread: threading.Thread) -> None:
                if threading.current_thread().name == "typedrpc-accept":
                    raise RuntimeError("can't start new thread")
                start(thread)

            with monkeypatch.context() as patch, RawPeer.dial(server.url) as peer:
                patch.setattr(threading.Thread, "start", refuse)
                peer.greet()
                assert "no thread could be started" in log.line()
                patch.undo()
                assert peer.read_frame().kind == Kind.HELLO  # it was tried again
                assert log.unread == []
            with ends.connect(Workshop, server.url) as other:
                assert proxy.add(1) + other.add(1) == 2

    @pytest.mark.parametrize("ends", ALIKE[:1], ids=repr)
    def test_no_thread_for_a_new_connection_in_time(
        self, ends: Ends, log: Log, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with ends.Server(Workshop(), url=URL, handshake_timeout=0.2) as server:
            start = threading.Thread.start

            def refuse(thread: threading.Thread) -> None:
                if threading.current_thread().name == "typedrpc-accept":
                    raise RuntimeError("can't start new thread")
                start(thread)

            with monkeypatch.context() as patch, RawPeer.dial(server.url) as peer:
                patch.setattr(threading.Thread, "start", refuse)
                peer.greet()
                peer.read_to_end()
            assert "trying again" in log.line()
            assert "was cut off" in log.line()
            with ends.connect(Workshop, server.url) as other:
                assert other.add(1) == 1

    @pytest.mark.parametrize("ends", ALIKE[:1], ids=repr)
    def test_no_thread_to_lend(self, ends: Ends, workshop: Workshop, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
        with ends.Server(workshop, url=URL) as server, ends.connect(Workshop, server.url) as proxy:
            assert proxy.add(1) == 1
            start = threading.Thread.start

            def refuse(thread: threading.Thread) -> None:
                if thread.name.startswith("typedrpc-server"):
                    raise RuntimeError("can't start new thread")
                start(thread)

            with monkeypatch.context() as patch:
                patch.setattr(threading.Thread, "start", refuse)
                # Several: on a busy machine a thread was lent before, and is still there to be lent again.
                blocked = [Running(proxy.wait, name) for name in "abcd"]
                waiting = Running(proxy.add, 5)
                assert "no thread could be started" in log.line()
            assert waiting.result() == 5
            for name in "abcd":
                workshop.gates[name].open()
            assert [one.result() for one in blocked] == list("abcd")
            while log.unread:
                log.line()

    def test_a_fault_of_our_own_ends_its_connection_alone(
        self, ends: Ends, workshop: Workshop, log: Log, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with ends.Server(workshop, url=URL) as server, ends.connect(Workshop, server.url) as good:
            assert good.add(1) == 1

            def fail(*_: object) -> None:
                raise RuntimeError("a fault")

            with ends.connect(Workshop, server.url) as proxy:
                assert proxy.add(1) == 1
                with monkeypatch.context() as patch:
                    patch.setattr("typedrpc.dispatch.Dispatcher.begin", fail)
                    with pytest.raises(ConnectionLost):
                        proxy.add(1)
                assert "a fault of typedrpc's own" in log.line()
            with monkeypatch.context() as patch:
                patch.setattr("typedrpc.protocol.Protocol.receive", fail)
                with RawPeer.dial(server.url) as peer:
                    peer.greet()
                    assert peer.read_to_end() == b""
            assert "a fault of typedrpc's own" in log.line()
            assert good.add(1) == 1


def test_what_is_logged_of_a_life(ends: Ends, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "typedrpc"):
        with ends.Server(Workshop(), url=URL) as server, ends.connect(Workshop, server.url) as proxy:
            assert proxy.add(1) == 1
            url = server.url
    messages = [record.getMessage() for record in caplog.records if record.levelno >= logging.INFO]
    assert messages == [f"serving at {url}", f"closed {url}"]


def test_limits_of_the_system_are_not_touched(ends: Ends) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE), os.getcwd()
    with ends.Server(Workshop(), url=URL):
        pass
    assert (resource.getrlimit(resource.RLIMIT_NOFILE), os.getcwd()) == before


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("max_workers", -1),
        ("max_workers", 2.5),
        ("max_calls", 2.5),
        ("max_message_size", "1"),
        ("handshake_timeout", 0),
        ("handshake_timeout", -1),
        ("handshake_timeout", float("nan")),
    ],
)
def test_options_out_of_range(ends: Ends, option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=option):
        ends.Server(Workshop(), url="tcp://127.0.0.1:0", **{option: value})
