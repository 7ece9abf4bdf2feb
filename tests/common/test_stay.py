"""A peer's stay: hooks, services of its own, and the order in which things begin and end."""

import asyncio
import functools
import os
import signal
import threading
from abc import abstractmethod
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import pytest

from tests.ends import ENDS, Ends, alike_ends
from tests.streaming import AsyncGate
from tests.support import PATIENCE, FakeServer, Gate, Log, Program, RawPeer, Running, Visitor, Workshop
from typedrpc import (
    Call,
    CallOutcome,
    ConnectFailed,
    ConnectionLost,
    DefinitionError,
    FunctionService,
    Peer,
    RpcError,
    Server,
    ServerBusy,
    Service,
    connect,
    current_call,
    rpc,
)
from typedrpc.common.loop import kept_loop
from typedrpc.common.stay import Stay
from typedrpc.service import Table
from typedrpc.wire import Kind

pytestmark = pytest.mark.usefixtures("no_leaks")
ends = alike_ends

URL = "tcp://127.0.0.1:0"


@pytest.fixture(autouse=True, scope="module")
def loop() -> None:
    """The loop of what is async lasts as long as the process: it is nothing that a test leaves behind."""
    kept_loop()


class Diary:
    """What happened, in order."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._changed = threading.Condition()

    def write(self, line: str) -> None:
        with self._changed:
            self._lines.append(line)
            self._changed.notify_all()

    def lines(self, count: int) -> list[str]:
        """The first lines, when so many are there."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self._lines) >= count, PATIENCE), self._lines
            return list(self._lines)


class Listener(Service):
    @rpc
    @abstractmethod
    def on_text(self, text: str) -> str: ...


class Ear(Listener):
    def __init__(self, diary: Diary) -> None:
        self.diary = diary

    @rpc
    def on_text(self, text: str) -> str:
        self.diary.write(text)
        return text.upper()


class Who(Service):
    @rpc
    def state(self) -> str:
        return current_call().peer.state_as(str)


@pytest.fixture
def workshop() -> Iterator[Workshop]:
    workshop = Workshop()
    yield workshop
    workshop.gates.open_all()


@pytest.fixture
def diary() -> Diary:
    return Diary()


class TestServersHooks:
    def test_on_connect_runs_before_the_client_is_let_in(self, ends: Ends, diary: Diary) -> None:
        server = ends.Server(Who(), url=URL)

        @server.on_connect
        def greet(peer: Peer) -> None:
            assert peer.server is ends.itself(server)
            assert server.peers == ()
            peer.state = peer.proxy(Listener).on_text("who are you?")

        server.on_connect(lambda peer: diary.write(f"then {peer.state}"))
        with server, ends.connect(Who, server.url, expose=[Ear(diary)]) as who:
            assert diary.lines(2) == ["who are you?", "then WHO ARE YOU?"]
            assert who.state() == "WHO ARE YOU?"
            assert len(server.peers) == 1

    @pytest.mark.parametrize("timeout", [None, 20.0])
    def test_on_connect_may_refuse_a_peer(
        self, ends: Ends, workshop: Workshop, diary: Diary, timeout: float | None
    ) -> None:
        def on_connect(peer: Peer) -> None:
            diary.write("refused")
            peer.close("not on Sundays")

        with ends.Server(
            workshop,
            url=URL,
            on_connect=on_connect,
            on_disconnect=lambda peer, cause: diary.write("was in"),
            on_connect_failed=lambda error: diary.write(str(error)),
        ) as server:
            server.on_connect(lambda peer: diary.write("the hook after it"))
            with pytest.raises(ConnectFailed, match="not on Sundays"):
                ends.connect(Workshop, server.url, timeout=timeout)
            assert diary.lines(2) == ["refused", "the connection was closed on this side: not on Sundays"]
            assert server.peers == ()

    def test_a_hook_that_raises_harms_nothing(self, ends: Ends, workshop: Workshop, diary: Diary, log: Log) -> None:
        def fail(*args: object) -> None:
            raise LookupError("of a hook")

        server = ends.Server(
            workshop, url=URL, on_connect=fail, on_disconnect=fail, on_connect_failed=fail, on_call=fail, on_result=fail
        )
        server.on_disconnect(lambda peer, cause: diary.write("left"))
        with server:
            with ends.connect(Workshop, server.url) as proxy:
                assert proxy.add(1, 2) == 3
            diary.lines(1)
        assert [log.line() for _ in range(4)] == ["a hook failed"] * 4

    def test_on_disconnect_is_told_the_cause_before_handlers_are_done(
        self, ends: Ends, workshop: Workshop, diary: Diary
    ) -> None:
        with ends.Server(workshop, url=URL) as server:

            @server.on_disconnect
            def note(peer: Peer, cause: ConnectionLost) -> None:
                assert peer not in server.peers
                diary.write(f"{peer.state}: {cause}")

            server.on_connect(lambda peer: setattr(peer, "state", "one"))
            with ends.connect(Workshop, server.url) as proxy:
                working = Running(proxy.wait, "job")
                workshop.started["job"].wait()
            assert diary.lines(1) == ["one: the peer closed the connection"]
            assert isinstance(working.error(), ConnectionLost)
            workshop.gates["job"].open()

    def test_on_disconnect_may_call_the_others(self, ends: Ends, workshop: Workshop, diary: Diary) -> None:
        with ends.Server(workshop, url=URL) as server:
            server.on_connect_failed(lambda error: diary.write("nobody"))

            @server.on_disconnect
            def tell(peer: Peer, cause: ConnectionLost) -> None:
                for other in server.peers:
                    assert other.proxy(Listener).on_text("somebody left") == "SOMEBODY LEFT"
                diary.write("told")

            heard = Diary()
            with ends.connect(
                server.url, expose=[Ear(diary)], on_disconnect=lambda peer, cause: heard.write(str(cause))
            ):
                with ends.connect(Workshop, server.url) as proxy:
                    assert proxy.add(1) == 1
                assert diary.lines(2) == ["somebody left", "told"]
                server.peers[0].close("you too")
                assert diary.lines(3)[2] == "told"
                assert heard.lines(1) == ["the peer closed the connection: you too"]

    def test_a_peer_that_leaves_during_on_connect(self, ends: Ends, workshop: Workshop, diary: Diary) -> None:
        begun, left = Gate(), Gate()

        def on_connect(peer: Peer) -> None:
            begun.open()
            left.wait()
            diary.write("connect")

        with ends.Server(
            workshop,
            url=URL,
            on_connect=on_connect,
            on_disconnect=lambda peer, cause: diary.write("disconnect"),
            on_connect_failed=lambda error: diary.write(type(error).__name__),
        ) as server:
            server.on_connect(lambda peer: peer.close("seen to have left"))
            with Visitor.dial(server.url).shake_hands(welcome=False):
                begun.wait()
            left.open()
            assert diary.lines(2) == ["connect", "ConnectionLost"]

    def test_everybody_who_does_not_get_in_is_reported(
        self, ends: Ends, workshop: Workshop, diary: Diary, log: Log, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        errors: list[RpcError] = []

        def note(error: RpcError) -> None:
            errors.append(error)
            diary.write(type(error).__name__)

        with ends.Server(workshop, url=URL, max_clients=1, on_connect_failed=note) as server:
            with ends.connect(server.url):
                with pytest.raises(ServerBusy):
                    ends.connect(server.url)
                assert diary.lines(1) == ["ServerBusy"]
                monkeypatch.setattr(ends.itself(server), "_handshake_timeout", 0.05)
                with RawPeer.dial(server.url):
                    diary.lines(2)
                assert "no handshake within 0.05 s" in log.line()
            assert [str(error) for error in errors] == [
                "1 of 1 clients are in",
                f"{log_name(errors[1])}: no handshake within 0.05 s",
            ]

    def test_hooks_run_when_the_server_closes(self, ends: Ends, workshop: Workshop, diary: Diary) -> None:
        gate = Gate()

        def late(peer: Peer, cause: ConnectionLost) -> None:
            gate.wait()
            diary.write(str(cause))

        with ends.Server(workshop, url=URL, on_disconnect=late) as server, ends.connect(Workshop, server.url) as proxy:
            assert proxy.add(1) == 1
            closing = Running(server.close)
            gate.open()
            closing.result()
            assert len(diary.lines(1)) == 1

    def test_a_server_may_be_closed_by_a_hook(self, ends: Ends, workshop: Workshop) -> None:
        with ends.Server(workshop, url=URL) as server:
            server.on_disconnect(lambda peer, cause: server.close())
            with ends.connect(Workshop, server.url) as proxy:
                assert proxy.add(1) == 1
            server.wait()


def log_name(error: RpcError) -> str:
    """How the peer that an error is about is printed."""
    return str(error).partition(": ")[0]


class TestCallHooks:
    def test_calls_and_their_outcomes(self, ends: Ends, diary: Diary, log: Log) -> None:
        class Shop(Service):
            @rpc
            def sell(self, count: int) -> int:
                if count < 0:
                    raise ValueError(count)
                return "many" if count > 10 else count  # type: ignore[return-value]

        outcomes: list[CallOutcome] = []

        def on_result(call: Call, outcome: CallOutcome) -> None:
            outcomes.append(outcome)
            diary.write(f"{call.command} {call.args}: {outcome.result or outcome.error!r}")

        server = ends.Server(Shop(), url=URL, on_result=on_result)
        server.on_call(lambda call: diary.write(f"{call.command}?"))
        with server, ends.connect(Shop, server.url) as shop:
            assert shop.sell(3) == 3
            with pytest.raises(ValueError, match="-1"):
                shop.sell(-1)
            with pytest.raises(RpcError):
                shop.sell(11)
            shop.sell.notify(4)
            lines = diary.lines(8)
        assert "does not keep to its annotations" in log.line()
        assert lines[:4] == ["Shop.sell?", "Shop.sell (3,): 3", "Shop.sell?", "Shop.sell (-1,): ValueError(-1)"]
        assert lines[5].startswith("Shop.sell (11,): ")
        assert "Error" in lines[5]
        assert lines[6:] == ["Shop.sell?", "Shop.sell (4,): 4"]
        assert all(0 <= outcome.seconds < PATIENCE for outcome in outcomes)

    def test_on_a_client(self, ends: Ends, workshop: Workshop, diary: Diary) -> None:
        with ends.Server(workshop, url=URL) as server:
            with ends.connect(
                server.url, expose=[Ear(diary)], on_call=lambda call: diary.write(call.command)
            ) as client:

                @client.on_result
                def note(call: Call, outcome: CallOutcome) -> None:
                    diary.write(str(outcome.result))

                assert server.peers[0].proxy(Listener).on_text("hello") == "HELLO"
                assert diary.lines(3) == ["Listener.on_text", "hello", "HELLO"]

    def test_a_call_that_began_before_anybody_looked(self, ends: Ends, workshop: Workshop, diary: Diary) -> None:
        with ends.Server(workshop, url=URL) as server, ends.connect(Workshop, server.url) as proxy:
            working = Running(proxy.wait, "job")
            workshop.started["job"].wait()
            server.on_result(lambda call, outcome: diary.write(call.command))
            workshop.gates["job"].open()
            working.result()
            assert proxy.add(1) == 1
            assert diary.lines(1) == ["Workshop.add"]


class TestClientsHooks:
    def test_on_connect_runs_before_connect_returns(self, ends: Ends, workshop: Workshop, diary: Diary) -> None:
        def on_connect(peer: Peer) -> None:
            diary.write(str(peer.proxy(Workshop).add(1, 2)))

        with ends.Server(workshop, url=URL) as server, ends.connect(server.url, on_connect=on_connect):
            assert diary.lines(1) == ["3"]

    def test_on_connect_may_end_the_connection(self, ends: Ends, workshop: Workshop, diary: Diary) -> None:
        with ends.Server(workshop, url=URL) as server:
            with pytest.raises(ConnectFailed, match="not this one"):
                ends.connect(
                    Workshop,
                    server.url,
                    on_connect=lambda peer: peer.close("not this one"),
                    on_disconnect=lambda peer, cause: diary.write("never"),
                    on_connect_failed=lambda error: diary.write(str(error)),
                )
            assert diary.lines(1) == ["the connection was closed on this side: not this one"]

    def test_what_waits_in_a_client_that_is_not_let_in(self, ends: Ends, workshop: Workshop, diary: Diary) -> None:
        """A handler of the client's, called before it is let in, calls back and is never answered."""

        class Asker(Service):
            @rpc
            def ask(self) -> None:
                try:
                    current_call().peer.proxy(Workshop).wait("for ever")
                except ConnectionLost as error:
                    diary.write(str(error))

        def on_connect(peer: Peer) -> None:
            peer.proxy(Asker).ask.submit()
            workshop.started["for ever"].wait()
            peer.close("not you")

        with ends.Server(workshop, url=URL, on_connect=on_connect) as server:
            with pytest.raises(ConnectFailed, match="not you"):
                ends.connect(server.url, expose=[Asker()])
            assert "not you" in diary.lines(1)[0]
            workshop.gates.open_all()

    @pytest.mark.parametrize("late", [False, True])
    def test_on_disconnect_of_an_idle_client(self, ends: Ends, workshop: Workshop, diary: Diary, late: bool) -> None:
        def note(peer: Peer, cause: ConnectionLost) -> None:
            diary.write(f"{peer is client.peer} {cause}")

        with ends.Server(workshop, url=URL) as server:
            client = ends.connect(server.url) if late else ends.connect(server.url, on_disconnect=note)
            if late:
                assert client.on_disconnect(note) is note
            server.peers[0].close("good night")
            assert diary.lines(1) == ["True the peer closed the connection: good night"]
            client.close()
        assert len(diary.lines(1)) == 1

    def test_on_disconnect_when_the_server_is_killed(self, ends: Ends, diary: Diary) -> None:
        source = """
            from typedrpc import Server
            from tests.support import Workshop
            with Server(Workshop(), url="tcp://127.0.0.1:0") as server:
                say(server.url)
                hear()
        """
        with Program(source) as program:
            with ends.connect(program.hear(), on_disconnect=lambda peer, cause: diary.write(type(cause).__name__)):
                program.signal(signal.SIGKILL)
                assert diary.lines(1) == ["ConnectionLost"]

    def test_on_disconnect_when_the_client_closes(self, ends: Ends, workshop: Workshop, diary: Diary) -> None:
        with ends.Server(workshop, url=URL) as server:
            with ends.connect(server.url, on_disconnect=lambda peer, cause: diary.write(str(cause))) as client:
                pass
            assert diary.lines(1) == ["the connection was closed on this side"]
            client.close()
            assert len(diary.lines(1)) == 1

    def test_each_failed_attempt_is_reported(self, ends: Ends, workshop: Workshop, diary: Diary) -> None:
        server = ends.Server(workshop, url=URL)
        with server:
            url = server.url
        starting: list[Server] = []

        def note(error: RpcError) -> None:
            diary.write(type(error).__name__)
            if len(diary.lines(1)) == 3:
                starting.append(ends.Server(workshop, url=url).start())

        with ends.connect(Workshop, url, timeout=PATIENCE, on_connect_failed=note) as proxy:
            assert proxy.add(1) == 1
        starting[0].close()
        assert diary.lines(3) == ["ConnectFailed"] * 3

    def test_a_refusal_is_reported_once(self, ends: Ends, workshop: Workshop, diary: Diary) -> None:
        with ends.Server(workshop, url=URL, max_clients=1) as server, ends.connect(server.url):
            with pytest.raises(ServerBusy):
                ends.connect(server.url, timeout=PATIENCE, on_connect_failed=lambda error: diary.write(str(error)))
            assert diary.lines(1) == ["1 of 1 clients are in"]

    def test_a_contract_that_cannot_be_agreed_on(self, ends: Ends, diary: Diary) -> None:
        def serve(peer: RawPeer) -> None:
            peer.shake_hands()
            peer.question()

        with FakeServer(serve) as server:
            with pytest.raises(ConnectFailed):
                ends.connect(
                    Workshop,
                    server.url,
                    on_connect=lambda peer: diary.write("in"),
                    on_disconnect=lambda peer, cause: diary.write("out"),
                )
            assert diary.lines(2) == ["in", "out"]

    @pytest.mark.parametrize("ends", ENDS[:2], ids=repr)
    def test_an_interrupt_in_on_connect_is_the_callers(self, ends: Ends, workshop: Workshop, diary: Diary) -> None:
        def interrupt(peer: Peer) -> None:
            raise KeyboardInterrupt

        server = ends.Server(workshop, url=URL)

        @server.on_disconnect
        def left(peer: Peer, cause: ConnectionLost) -> None:
            diary.write("left")

        with server:
            with pytest.raises(KeyboardInterrupt):
                ends.connect(Workshop, server.url, on_connect=interrupt)
            assert diary.lines(1) == ["left"]


class TestWithoutThreads:
    """The system has no more threads: what cannot be done is said, and no place is lost."""

    def test_hooks_that_cannot_be_called(self, workshop: Workshop, diary: Diary, log: Log) -> None:
        server = Server(workshop, url=URL, max_clients=1, on_disconnect=lambda peer, cause: diary.write("never"))
        over = Gate()
        on_over = server._on_over

        def note(stay: Stay) -> None:
            on_over(stay)
            over.open()

        server._on_over = note  # type: ignore[method-assign]
        with server:
            with connect(Workshop, server.url) as proxy:
                assert proxy.add(1) == 1
                (stay,) = server._connections.values()
                stay._start = out_of_threads
            over.wait()
            assert "no thread could be started for the hooks of" in log.line()
            assert server._admission.inside == 0
            with connect(Workshop, server.url) as proxy:
                assert proxy.add(1) == 1
                (stay,) = server._connections.values()
        assert diary.lines(1) == ["never"]

    def test_a_service_is_left_all_the_same(self, session: type["Session"], diary: Diary) -> None:
        with Server(session, url=URL) as server, connect(Session, server.url) as proxy:
            assert proxy.count() == 1
            (stay,) = server._connections.values()
            stay._start = out_of_threads
        assert diary.lines(3) == ["made", "entered", "left"]

    def test_the_next_in_line_is_cut_off(self, workshop: Workshop, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
        with Server(workshop, url=URL, max_clients=1, when_full="wait") as server:
            first = connect(Workshop, server.url)
            with (
                Visitor.dial(server.url).shake_hands(welcome=False) as second,
                Visitor.dial(server.url).shake_hands(welcome=False) as third,
            ):
                assert [second.read_frame().kind, third.read_frame().kind] == [Kind.QUEUED] * 2
                with monkeypatch.context() as patch:
                    patch.setattr(server._workers, "start", out_of_threads)
                    first.close()
                    assert second.read_frames_to_end() == []
                    assert third.read_frames_to_end() == []
                assert [log.line().partition(" for ")[0] for _ in range(2)] == ["no thread could be started"] * 2
            with connect(Workshop, server.url) as proxy:
                assert proxy.add(1) == 1


def out_of_threads(body: Callable[[], None]) -> None:
    raise RuntimeError("can't start new thread")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
class TestForks:
    def test_nothing_of_the_parents_is_called_in_the_child(self) -> None:
        source = """
            import os, warnings
            warnings.simplefilter("ignore", DeprecationWarning)
            from typedrpc import Server, connect
            from tests.support import Workshop

            parent = os.getpid()
            def note(*args):
                if os.getpid() != parent:
                    os._exit(3)

            server = Server(Workshop(), url="tcp://127.0.0.1:0", max_clients=1, on_connect=note, on_disconnect=note,
                            on_connect_failed=note).start()
            client = connect(Workshop, server.url, on_disconnect=note)
            child = os.fork()
            if not child:
                client.close()
                server.close()
                os._exit(0)
            say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            with client as proxy:
                say(proxy.add(1))
            server.close()
        """
        with Program(source) as program:
            assert program.hear() == "0"
            assert program.hear() == "1"
            program.expect_success()


class Session(Service):
    """Says in the diary that its peer keeps what happens to it."""

    diary: Diary

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.calls = 0
        self.diary.write("made")

    def __enter__(self) -> "Session":
        self.diary.write("entered")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.diary.write("left")

    @rpc
    def count(self) -> int:
        assert current_call().peer is self.peer
        self.calls += 1
        return self.calls

    @rpc
    def wait(self) -> None:
        self.diary.write("waits")
        self.gate.wait()
        self.diary.write("done")

    gate: Gate


@pytest.fixture
def session(diary: Diary) -> type[Session]:
    class Mine(Session):
        pass

    Mine.diary = diary
    Mine.gate = Gate()
    return Mine


class TestFactories:
    def test_each_client_has_an_instance_of_its_own(self, ends: Ends, session: type[Session], diary: Diary) -> None:
        with ends.Server(session, url=URL) as server:
            with ends.connect(Session, server.url) as one, ends.connect(Session, server.url) as two:
                assert [one.count(), one.count(), two.count(), one.count()] == [1, 2, 1, 3]
            assert sorted(diary.lines(6)) == ["entered"] * 2 + ["left"] * 2 + ["made"] * 2

    def test_the_order_of_a_stay(self, ends: Ends, session: type[Session], diary: Diary) -> None:
        with ends.Server(
            session,
            url=URL,
            max_clients=1,
            when_full="wait",
            on_connect=lambda peer: diary.write("connect"),
            on_disconnect=lambda peer, cause: diary.write("disconnect"),
        ) as server:
            with ends.connect(Session, server.url) as proxy:
                assert proxy.count() == 1
                working = Running(proxy.wait)
                diary.lines(4)
            assert diary.lines(5) == ["made", "entered", "connect", "waits", "disconnect"]
            following = Running(lambda: ends.connect(Session, server.url))
            session.gate.open()
            with following.result() as proxy:
                assert proxy.count() == 1
            first = ["made", "entered", "connect"]
            assert diary.lines(12) == [*first, "waits", "disconnect", "done", "left", *first, "disconnect", "left"]
            assert isinstance(working.error(), ConnectionLost)

    def test_beside_what_all_share(self, ends: Ends, session: type[Session], workshop: Workshop) -> None:
        functions = FunctionService("functions")

        @functions.rpc
        def double(number: int) -> int:
            return 2 * number

        def make_disk() -> Listener:
            return Ear(Diary())

        with ends.Server(workshop, session, functions, make_disk, url=URL) as server:
            with ends.connect(Session, server.url) as one, ends.connect(server.url) as client:
                assert one.count() == 1
                assert client.proxy(double)(4) == 8
                assert client.proxy(Workshop).add(1) == 1
                assert client.proxy(Session).count() == 1
                assert client.proxy(Listener).on_text("a") == "A"

    @pytest.mark.parametrize("step", ["__init__", "__enter__"])
    def test_what_cannot_be_made_is_not_told_to_strangers(
        self, ends: Ends, session: type[Session], diary: Diary, log: Log, step: str
    ) -> None:
        class Broken(Who):
            def __enter__(self) -> None: ...
            def __exit__(self, *args: object) -> None: ...

        def fail(*args: Any) -> None:
            raise SystemExit("a secret") if step == "__enter__" else LookupError("a secret")

        setattr(Broken, step, fail)
        with ends.Server(session, Broken, url=URL, on_connect_failed=lambda error: diary.write("failed")) as server:
            with pytest.raises(ConnectFailed) as caught:
                ends.connect(Session, server.url)
            text = str(caught.value)
            assert "secret" not in text
            error_id = text.rpartition("error id ")[2]
            assert len(error_id) == 8
            assert log.line().endswith(f"could not be made, error id {error_id}")
            assert "left" in diary.lines(4)

    def test_a_service_that_fails_when_it_is_left(self, ends: Ends, session: type[Session], log: Log) -> None:
        def fail(*args: Any) -> None:
            raise LookupError("too late")

        session.__exit__ = fail  # type: ignore[method-assign]
        with ends.Server(session, url=URL) as server, ends.connect(Session, server.url) as proxy:
            assert proxy.count() == 1
        assert "could not be left" in log.line()

    def test_a_call_before_the_service_is_made(self, ends: Ends, diary: Diary) -> None:
        class Eager(Service):
            @rpc
            def ask(self) -> str:
                try:
                    return str(current_call().peer.proxy(Who).state())
                except RpcError as error:
                    return f"{type(error).__name__}: {error}"

        class Late(Who):
            def __init__(self, peer: Peer) -> None:
                diary.write(peer.proxy(Eager).ask())
                peer.state = "made"

        with ends.Server(Late, url=URL) as server:
            with ends.connect(Who, server.url, expose=[Eager()]) as who:
                assert who.state() == "made"
        assert diary.lines(1) == ["ServerBusy: Who.state: the service of this client is not made yet"]

    def test_the_table_is_made_once(self, ends: Ends, monkeypatch: pytest.MonkeyPatch, session: type[Session]) -> None:
        made: list[Table] = []
        make: Callable[..., None] = Table.__init__

        def count(self: Table, *args: Any) -> None:
            made.append(self)
            make(self, *args)

        with ends.Server(session, url=URL) as server:
            with ends.connect(Session, server.url) as one:
                rows = dict(server._dispatcher._rows)
                monkeypatch.setattr(Table, "__init__", count)
                with ends.connect(Session, server.url) as two:
                    assert one.count() == two.count() == 1
                assert {id: row for id, row in server._dispatcher._rows.items() if id in rows} == rows
        assert len(made) == 1  # the client's, which exposes nothing

    def test_what_is_wrong_is_said_at_once(self, ends: Ends) -> None:
        with pytest.raises(DefinitionError, match="abstract"):
            ends.Server(Listener, url=URL)
        with pytest.raises(DefinitionError, match="neither an instance"):
            ends.connect(URL, expose=[Ear])  # type: ignore[list-item]


class TestAsync:
    """Hooks that are ``async def``, and services that are entered and left with ``await``."""

    def test_they_run_on_the_loop_in_the_order_of_registration(
        self, ends: Ends, workshop: Workshop, diary: Diary
    ) -> None:
        server = ends.Server(workshop, Who(), url=URL)

        @server.on_connect
        async def greet(peer: Peer) -> None:
            assert ends.itself(server).peers == ()
            await asyncio.sleep(0)
            peer.state = await peer.proxy(Listener).on_text.aio("who are you?")

        server.on_connect(lambda peer: diary.write(f"then {peer.state}"))

        @server.on_disconnect
        async def left(peer: Peer, cause: ConnectionLost) -> None:
            await asyncio.sleep(0)
            diary.write(f"{peer.state} has left on {threading.current_thread().name}")

        with server, ends.connect(Who, server.url, expose=[Ear(diary)]) as who:
            assert diary.lines(2) == ["who are you?", "then WHO ARE YOU?"]
            assert who.state() == "WHO ARE YOU?"
        name = "typedrpc-loop" if ends.server == "threads" else "test-loop"
        assert diary.lines(3)[2] == f"WHO ARE YOU? has left on {name}"

    def test_nobody_is_let_in_before_on_connect_has_ended(self, ends: Ends, workshop: Workshop) -> None:
        begun, go_on = Gate(), AsyncGate()

        async def on_connect(peer: Peer) -> None:
            begun.open()
            await go_on.pass_through()

        with ends.Server(workshop, url=URL, on_connect=on_connect) as server:
            with Visitor.dial(server.url).shake_hands(welcome=False) as peer:
                begun.wait()
                assert peer.hears_nothing()
                assert server.peers == ()
                go_on.open()
                assert peer.is_let_in()

    def test_they_may_refuse_a_peer(self, ends: Ends, workshop: Workshop, diary: Diary) -> None:
        async def on_connect(peer: Peer) -> None:
            await asyncio.sleep(0)
            peer.close("not on Sundays")

        async def failed(error: RpcError) -> None:
            await asyncio.sleep(0)
            diary.write(type(error).__name__)

        with ends.Server(workshop, url=URL, on_connect=on_connect, on_connect_failed=failed) as server:
            with pytest.raises(ConnectFailed, match="not on Sundays"):
                ends.connect(Workshop, server.url, on_connect_failed=failed)
            assert sorted(diary.lines(2)) == ["ConnectFailed", "ConnectionLost"]

    def test_of_a_client(self, ends: Ends, workshop: Workshop, diary: Diary) -> None:
        async def on_connect(peer: Peer) -> None:
            diary.write(str(await peer.proxy(Workshop).add.aio(1, 2)))

        async def on_disconnect(peer: Peer, cause: ConnectionLost) -> None:
            await asyncio.sleep(0)
            diary.write("left")

        with ends.Server(workshop, url=URL) as server:
            with ends.connect(server.url, on_connect=on_connect, on_disconnect=on_disconnect):
                assert diary.lines(1) == ["3"]
            assert diary.lines(2) == ["3", "left"]

    def test_one_that_raises_harms_nothing(self, ends: Ends, workshop: Workshop, log: Log) -> None:
        async def fail(*args: object) -> None:
            await asyncio.sleep(0)
            raise LookupError("of a hook")

        with ends.Server(workshop, url=URL, on_connect=fail, on_disconnect=fail) as server:
            with ends.connect(Workshop, server.url) as proxy:
                assert proxy.add(1, 2) == 3
            assert [log.line() for _ in range(2)] == ["a hook failed"] * 2

    def test_a_server_may_be_closed_by_one(self, ends: Ends, workshop: Workshop, log: Log) -> None:
        async def close(peer: Peer, cause: ConnectionLost) -> None:
            closing = ends.itself(server).close()
            if ends.server == "loop":
                await closing

        with ends.Server(workshop, url=URL, on_disconnect=close) as server:
            with ends.connect(Workshop, server.url) as proxy:
                assert proxy.add(1) == 1
            server.wait()

    def test_a_client_may_be_closed_by_one(self, ends: Ends, workshop: Workshop, diary: Diary) -> None:
        async def close(peer: Peer, cause: ConnectionLost) -> None:
            closing = ends.itself(client).close()
            if ends.client == "loop":
                await closing
            diary.write("closed")

        with ends.Server(workshop, url=URL) as server:
            with ends.connect(server.url, on_disconnect=close) as client:
                server.peers[0].close("good night")
                assert diary.lines(1) == ["closed"]

    @pytest.mark.parametrize("name", ["on_call", "on_result"])
    def test_what_each_call_waits_for_must_not_be(self, ends: Ends, workshop: Workshop, name: str) -> None:
        async def look(*args: object) -> None: ...

        class Looker:
            async def __call__(self, *args: object) -> None: ...

        with ends.Server(workshop, url=URL) as server:
            for hook in (look, Looker(), functools.partial(look, 1)):
                options: Any = {name: hook}
                with pytest.raises(DefinitionError, match=rf"{name} takes plain functions"):
                    getattr(server, name)(hook)
                with pytest.raises(DefinitionError, match=rf"{name} takes plain functions"):
                    ends.Server(workshop, url=URL, **options)
                with pytest.raises(DefinitionError, match=rf"{name} takes plain functions"):
                    ends.connect(server.url, **options)

    def test_one_that_hides_it_is_told_of(self, ends: Ends, workshop: Workshop, log: Log) -> None:
        async def look(call: Call) -> None: ...

        with ends.Server(workshop, url=URL, on_call=lambda call: look(call)) as server:
            with ends.connect(Workshop, server.url) as proxy:
                assert proxy.add(1) == 1
        assert log.line() == "a hook failed"

    def test_a_service_is_entered_and_left_on_the_loop(self, ends: Ends, diary: Diary) -> None:
        class Room(Who):
            async def __aenter__(self) -> None:
                await asyncio.sleep(0)
                diary.write(f"entered on {threading.current_thread().name}")

            async def __aexit__(self, *error: object) -> None:
                await asyncio.sleep(0)
                diary.write(f"left on {threading.current_thread().name}")

        def connected(peer: Peer) -> None:
            peer.state = "in"
            diary.write("connect")

        async def disconnected(peer: Peer, cause: ConnectionLost) -> None:
            diary.write("disconnect")

        with ends.Server(Room, url=URL, on_connect=connected, on_disconnect=disconnected) as server:
            with ends.connect(Who, server.url) as who:
                assert who.state() == "in"
            name = "typedrpc-loop" if ends.server == "threads" else "test-loop"
            assert diary.lines(4) == [f"entered on {name}", "connect", "disconnect", f"left on {name}"]

    def test_a_service_that_cannot_be_entered_or_left(self, ends: Ends, diary: Diary, log: Log) -> None:
        class Room(Who):
            async def __aenter__(self) -> None:
                diary.write("entered")

            async def __aexit__(self, *error: object) -> None:
                raise LookupError("too late")

        class Broken(Workshop):
            async def __aenter__(self) -> None:
                await asyncio.sleep(0)
                raise LookupError("a secret")

            async def __aexit__(self, *error: object) -> None: ...

        with ends.Server(Room, Broken, url=URL) as server:
            with pytest.raises(ConnectFailed, match="error id"):
                ends.connect(Who, server.url)
            assert "could not be made, error id" in log.line()
            assert "could not be left" in log.line()
        assert diary.lines(1) == ["entered"]

    def test_a_function_that_makes_services_must_not_be(self) -> None:
        async def make() -> Workshop:
            return Workshop()

        with pytest.raises(DefinitionError, match=r"it is async: .*__aenter__"):
            Server(make, url=URL)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_a_server_knows_its_clients_by_id(ends: Ends, workshop: Workshop) -> None:
    gate = Gate()
    with ends.Server(workshop, url=URL, on_disconnect=lambda peer, cause: gate.open()) as server:
        with ends.connect(server.url):
            (peer,) = server.peers
            assert server.peer(peer.id) is peer
        gate.wait()
        with pytest.raises(KeyError):
            server.peer(peer.id)
