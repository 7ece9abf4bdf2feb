"""What a caller may believe when a connection ends, and that a call that is sent again runs once."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest

from tests.ends import Colours, close, for_clients, for_servers
from tests.support import PATIENCE, FakeServer, Gate, Gates, RawPeer, Running, failure_of, hello, until
from typedrpc import (
    CallCancelled,
    ConnectionLost,
    OutcomeUnknown,
    Retry,
    Server,
    Service,
    current_call,
    dispatch,
    rpc,
)
from typedrpc.agreement import digest_of
from typedrpc.codec import pack_plain, unpack_plain
from typedrpc.dispatch import Dispatcher
from typedrpc.failure import Code, pack_protocol_failure
from typedrpc.messages import Leave, pack_extension, pack_goodbye, read_hello
from typedrpc.parts import pack_array
from typedrpc.protocol import State
from typedrpc.service import services_of
from typedrpc.wire import PREAMBLE, RECEIVE_SIZE, Frame, Kind, encode

pytestmark = pytest.mark.usefixtures("kept_loop", "no_leaks")


class Till(Service):
    """What must not be done twice."""

    def __init__(self) -> None:
        self.paid: list[int] = []
        self.started = Gates()
        self.gates = Gates()
        self.cancelled: list[str] = []
        self.buffer = bytearray(b"kept" * (RECEIVE_SIZE // 2))

    @rpc
    def pay(self, amount: int) -> int:
        self.paid.append(amount)
        return sum(self.paid)

    @rpc
    async def pay_async(self, amount: int) -> int:
        return self.pay.call(amount)

    @rpc
    def fail(self, amount: int) -> int:
        self.paid.append(amount)
        raise ValueError(f"{amount} is too much")

    @rpc
    def misfit(self, amount: int) -> int:
        self.paid.append(amount)
        result: Any = "no number"
        return result  # type: ignore[no-any-return]  # that is what is tested

    @rpc
    def slow(self, name: str) -> str:
        self.paid.append(1)
        self.started[name].open()
        self.gates[name].wait()
        return name

    @rpc
    def wait(self) -> str:
        self.paid.append(1)
        self.started["wait"].open()
        call = current_call()
        call.cancelled.wait(PATIENCE)
        self.cancelled.append(call.why_cancelled)
        raise CallCancelled("of the handler's own")

    @rpc
    def fill(self) -> bytearray:
        self.paid.append(1)
        return self.buffer

    @rpc
    def call_back(self, ask: Callable[[int], int]) -> int:
        self.paid.append(1)
        return ask(1)

    @rpc
    def ask_peer(self) -> int:
        self.paid.append(1)
        self.started["ask"].open()
        return current_call().peer.proxy(Asked).ask(1)

    @rpc
    def count(self, to: int) -> Iterator[int]:
        self.paid.append(1)
        yield from range(to)


class Asked(Service):
    @rpc
    def ask(self, number: int) -> int:
        return number


ASKED: Final = {name: digest_of(commands) for name, commands in services_of(Asked).items()}
"""What a client says that exposes it."""


@pytest.fixture
def till() -> Iterator[Till]:
    made = Till()
    yield made
    made.gates.open_all()


# Calls that are in flight when the connection ends

CALL: Final = 3  # the first asks for the contract


def agree(peer: RawPeer) -> Frame:
    """Shake hands, take the contract as it is; the request that comes next."""
    peer.shake_hands()
    question = peer.question()
    peer.send_frame(Kind.RESPONSE, 0, question.call, pack_plain(None))
    return peer.read_frame()


class Once(FakeServer):
    """One that takes a single connection: what did not run cannot be sent again."""

    def _talk(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        super()._talk(sock)


ENDINGS: Final[dict[str, tuple[Callable[[int], bytes], type[ConnectionLost]]]] = {
    "no goodbye": (lambda call: b"", OutcomeUnknown),
    "goodbye below": (lambda call: goodbye(call - 2), ConnectionLost),
    "goodbye at": (lambda call: goodbye(call), OutcomeUnknown),
    "goodbye above": (lambda call: goodbye(call + 2), OutcomeUnknown),
    "goodbye unreadable": (lambda call: joined(Kind.GOODBYE, 0, b"\xc1"), OutcomeUnknown),
    "finished": (lambda call: goodbye(call, Leave.FINISHED), ConnectionLost),
    "goodbye and finished": (lambda call: goodbye(call) + goodbye(call, Leave.FINISHED), ConnectionLost),
    "not accepted": (
        lambda call: joined(Kind.ERROR, call, pack_protocol_failure(ConnectionLost("it did not run"))),
        ConnectionLost,
    ),
    "outcome unknown": (
        lambda call: joined(Kind.ERROR, call, pack_protocol_failure(OutcomeUnknown("the answer is gone"))),
        OutcomeUnknown,
    ),
}


def joined(kind: int, call: int, payload: bytes) -> bytes:
    data = encode(kind, 0, call, payload)
    return data if isinstance(data, bytes) else b"".join(data)


def goodbye(last: int, code: int = Leave.OTHER) -> bytes:
    return joined(Kind.GOODBYE, 0, pack_goodbye(last, "it is late", code))


def plainly(till: Till) -> Exception | None:
    return caught(lambda: till.pay(1))


def submitted(till: Till) -> Exception | None:
    return caught(lambda: till.pay.submit(1).result(PATIENCE))


def awaited(till: Till) -> Exception | None:
    async def pay() -> int:
        return await till.pay.aio(1)

    return caught(lambda: asyncio.run(pay()))


def with_deadline(till: Till) -> Exception | None:
    return caught(lambda: till.pay.with_options(timeout=PATIENCE)(1))


def mapped(till: Till) -> Exception | None:
    return caught(lambda: list(till.pay.map([1])))


def streamed(till: Till) -> Exception | None:
    return caught(lambda: list(till.count(3)))


def with_callback(till: Till) -> Exception | None:
    return caught(lambda: till.call_back(lambda number: number))


def caught(function: Callable[[], object]) -> Exception | None:
    try:
        function()
    except Exception as error:
        return error
    return None


@for_clients
class TestInFlight:
    @pytest.mark.parametrize("ending", ENDINGS)
    @pytest.mark.parametrize(
        "attempt",
        [plainly, submitted, awaited, with_deadline, mapped, streamed, with_callback],
        ids=lambda f: f.__name__,
    )
    def test_what_the_caller_learns(
        self, colours: Colours, ending: str, attempt: Callable[[Till], Exception | None]
    ) -> None:
        last_words, kind = ENDINGS[ending]

        def script(peer: RawPeer) -> None:
            request = agree(peer)
            peer.send(last_words(request.call))

        with Once(script) as fake, colours.connect(Till, fake.url) as till:
            error = attempt(till)
        assert type(error) is kind

    def test_a_batch_that_was_answered_in_part(self, colours: Colours) -> None:
        def script(peer: RawPeer) -> None:
            peer.shake_hands()
            question = peer.question()
            peer.send_frame(Kind.RESPONSE, 0, question.call, pack_plain(None))
            while True:
                request = peer.read_frame()
                if request.kind == Kind.BATCH:
                    break
                peer.send_frame(Kind.RESPONSE, 0, request.call, pack_plain(0))
            peer.send_frame(Kind.BATCH, 0, request.call, pack_array([pack_plain(7)]))

        told: list[object] = []
        with Once(script) as fake, colours.connect(Till, fake.url) as till:
            error = caught(lambda: told.extend(till.pay.map([1, 2, 3, 4])))
            assert type(error) is OutcomeUnknown
            results = till.pay.map([1])
            assert type(caught(lambda: next(results))) is ConnectionLost  # nothing was sent

    def test_what_is_not_sent_does_not_run(self, colours: Colours) -> None:
        def script(peer: RawPeer) -> None:
            agree(peer)

        with Once(script) as fake, colours.connect(Till, fake.url) as till:
            assert type(caught(lambda: till.pay(1))) is OutcomeUnknown
            assert type(caught(lambda: till.pay(1))) is ConnectionLost

    def test_a_call_nested_in_one_of_the_peers_may_be_accepted_after_the_goodbye(self, colours: Colours) -> None:
        """The goodbye of a server that drains says nothing of it, as what it accepts is told to go on."""
        errors: list[Exception | None] = []

        class Nesting(Service):
            @rpc
            def ask(self, number: int) -> int:
                errors.append(caught(lambda: current_call().peer.proxy(Till).pay(number)))
                return number

        def script(peer: RawPeer) -> None:
            agree(peer)  # the call that keeps the client from leaving
            peer.send_frame(Kind.REQUEST, Nesting.ask.id, 2, pack_plain([1]))
            nested = peer.question()
            while nested.command >= 0xFF00:
                peer.send_frame(Kind.RESPONSE, 0, nested.call, pack_plain(None))
                nested = peer.question()
            peer.send(goodbye(1))
            if nested.command != Till.pay.id:
                raise AssertionError(str(nested))

        with Once(script) as fake, colours.connect(Till, fake.url, expose=[Nesting()]) as till:
            assert type(caught(lambda: till.pay(1))) is ConnectionLost
            until(lambda: errors)
        assert [type(error) for error in errors] == [OutcomeUnknown]


@for_servers
class TestCallsOfServers:
    @pytest.mark.parametrize(
        ("last_words", "kind"),
        [
            (lambda call: b"", OutcomeUnknown),
            (lambda call: goodbye(call), OutcomeUnknown),
            (lambda call: goodbye(0), ConnectionLost),
        ],
    )
    def test_what_a_handler_learns(
        self, colours: Colours, last_words: Callable[[int], bytes], kind: type[ConnectionLost]
    ) -> None:
        errors: list[Exception | None] = []
        told = Gate()

        class Asking(Service):
            @rpc
            def go(self) -> None:
                errors.append(caught(lambda: current_call().peer.proxy(Asked).ask(1)))
                told.open()

        with colours.serve(Asking()) as server, RawPeer.dial(server.url) as peer:
            peer.send(PREAMBLE + hello(services=ASKED))
            assert peer.read_frame().kind == Kind.HELLO
            until(lambda: server.peers)
            peer.send_frame(Kind.REQUEST, Asking.go.id, 1, pack_plain([]))
            request = peer.question()
            peer.send(last_words(request.call))
            peer.sock.close()
            told.wait()
        assert [type(error) for error in errors] == [kind]


# A server that closes


@for_servers
class TestGracefulStop:
    def test_what_comes_late_is_told_so_and_the_last_word_is_that_all_is_finished(
        self, colours: Colours, till: Till
    ) -> None:
        with colours.serve(till) as server, RawPeer.dial(server.url) as peer:
            peer.shake_hands()
            peer.send_frame(Kind.REQUEST, Till.slow.id, 1, pack_plain(["a"]))
            till.started["a"].wait()
            closing = Running(close, server, PATIENCE)
            first = peer.read_frame()
            assert (first.kind, unpack_plain(first.payload)) == (Kind.GOODBYE, [1, "the server is closing"])
            peer.send_frame(Kind.REQUEST, Till.pay.id, 3, pack_plain([1]))
            peer.send(joined_batch(5, [[1], [2]]))
            for call in (3, 5):
                refusal = peer.read_frame()
                assert (refusal.call, failure_of(refusal)[0]) == (call, Code.NOT_ACCEPTED)
            till.gates["a"].open()
            answer, last = peer.read_frame(), peer.read_frame()
            assert (answer.kind, answer.call) == (Kind.RESPONSE, 1)
            assert unpack_plain(last.payload) == [1, "the server is closing", Leave.FINISHED]
            # Until the client leaves, what it has sent meanwhile learns of its fate.
            peer.send_frame(Kind.REQUEST, Till.pay.id, 7, pack_plain([1]))
            assert failure_of(peer.read_frame())[0] == Code.NOT_ACCEPTED
            peer.sock.close()
            closing.result()
        assert till.paid == [1]

    def test_what_is_not_done_in_time_is_cancelled_and_nothing_is_called_finished(
        self, colours: Colours, till: Till
    ) -> None:
        with colours.serve(till) as server, RawPeer.dial(server.url) as peer:
            peer.shake_hands()
            peer.send_frame(Kind.REQUEST, Till.wait.id, 1, pack_plain([]))
            till.started["wait"].wait()
            close(server, 0)
            assert [unpack_plain(frame.payload) for frame in peer.read_frames_to_end()] == [
                [1, "the server is closing"]
            ]
        assert till.cancelled == ["its caller has left"]

    def test_nor_is_anything_while_an_answer_is_made_but_not_sent(
        self, colours: Colours, till: Till, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made, gate = Gate(), Gate()
        of = Dispatcher.finish

        def finish(self: Dispatcher, protocol: Any, request: Any, call: Any, result: Any) -> Any:
            answer = of(self, protocol, request, call, result)
            if call.command == "Till.pay":
                made.open()
                gate.wait()
            return answer

        monkeypatch.setattr(Dispatcher, "finish", finish)
        with colours.serve(till) as server, RawPeer.dial(server.url) as peer:
            peer.shake_hands()
            peer.send_frame(Kind.REQUEST, Till.pay.id, 1, pack_plain([1]))
            made.wait()
            closing = Running(close, server, 0)
            try:
                said = [unpack_plain(frame.payload) for frame in peer.read_frames_to_end()]
            finally:
                gate.open()
            closing.result()
        assert said == [[1, "the server is closing"]]


def joined_batch(call: int, arguments: list[list[Any]]) -> bytes:
    data = encode(Kind.BATCH, Till.pay.id, call, pack_array([pack_plain(each) for each in arguments]))
    return data if isinstance(data, bytes) else b"".join(data)


@pytest.mark.parametrize("colours", [Colours("threads", "threads"), Colours("loop", "loop")], ids=" ".join)
def test_clients_of_a_server_that_closes_leave_by_themselves(colours: Colours, till: Till) -> None:
    left = Gate()
    with colours.serve(till) as server:
        server.on_disconnect(lambda peer, error: left.open())
        with colours.connect(Till, server.url) as proxy:
            running = Running(proxy.slow, "a")
            till.started["a"].wait()
            closing = Running(close, server, PATIENCE)
            until(lambda: all(peer.link.connection.core.state is not State.OPEN for peer in server.peers))  # type: ignore[attr-defined]
            till.gates["a"].open()
            assert running.result() == "a"
            left.wait()
            closing.result()


# Calls that are sent again


class Caller:
    """A client that sends calls again, on as many connections as it likes."""

    def __init__(self, server: Server, session: bytes = b"session") -> None:
        self.server = server
        self.session = session
        self.call = 1

    def dial(self, next_key: int = 0) -> RawPeer:
        peer = RawPeer.dial(self.server.url)
        session = {"session": self.session, "next_key": next_key} if self.session else {}
        peer.send(PREAMBLE + hello(services=ASKED, **session))
        assert peer.read_frame().kind == Kind.HELLO
        until(lambda: self._is_in(peer))
        return peer

    def _is_in(self, peer: RawPeer) -> bool:
        if not peer._welcomed:
            peer._take(peer.sock.recv(65536))
        return peer._welcomed

    def send(self, peer: RawPeer, command: Any, arguments: list[Any], key: int, attempt: int = 0, **more: Any) -> int:
        """Send a call. Returns its id on the connection."""
        self.call += 2
        wanted_from = more.pop("wanted_from", None)
        packed = (key, attempt) if wanted_from is None else (key, attempt, wanted_from)
        extension = pack_extension(key=packed, **more)
        data = encode(Kind.REQUEST, command.id, self.call, pack_plain(arguments), extension)
        peer.send(data if isinstance(data, bytes) else b"".join(data))
        return self.call

    def ask(self, peer: RawPeer, command: Any, arguments: list[Any], key: int, attempt: int = 0, **more: Any) -> Frame:
        """Send a call, and read its answer."""
        call = self.send(peer, command, arguments, key, attempt, **more)
        frame = peer.read_frame()
        assert frame.call == call
        return frame


def result_of(frame: Frame) -> object:
    assert frame.kind == Kind.RESPONSE, str(frame)
    return unpack_plain(frame.payload)


@for_servers
class TestKeyedCalls:
    @pytest.fixture
    def server(self, colours: Colours, till: Till) -> Iterator[Server]:
        with colours.serve(till) as server:
            yield server
            till.gates.open_all()

    @pytest.mark.parametrize("command", ["pay", "pay_async"])
    def test_a_retry_gets_the_kept_answer(self, server: Server, till: Till, command: str) -> None:
        caller = Caller(server)
        pay = getattr(Till, command)
        with caller.dial() as peer:
            assert result_of(caller.ask(peer, pay, [5], 0)) == 5
            assert result_of(caller.ask(peer, pay, [5], 0, 1)) == 5
        with caller.dial(next_key=1) as peer:
            assert result_of(caller.ask(peer, pay, [5], 0, 2)) == 5
            assert result_of(caller.ask(peer, pay, [2], 1, 0)) == 7
        assert till.paid == [5, 2]

    @pytest.mark.parametrize("command", ["fail", "misfit"])
    def test_and_the_kept_error(self, server: Server, till: Till, command: str) -> None:
        caller = Caller(server)
        with caller.dial() as peer:
            first = caller.ask(peer, getattr(Till, command), [5], 0)
            again = caller.ask(peer, getattr(Till, command), [5], 0, 1)
        assert first.kind == Kind.ERROR
        assert bytes(first.payload) == bytes(again.payload)  # type: ignore[arg-type]  # errors have no segments
        assert till.paid == [5]

    def test_a_result_that_is_a_live_buffer(self, server: Server, till: Till) -> None:
        caller = Caller(server)
        before = bytes(till.buffer)
        with caller.dial() as peer:
            first = caller.ask(peer, Till.fill, [], 0)
            till.buffer[:] = bytes(len(before))
            again = caller.ask(peer, Till.fill, [], 0, 1)
        assert [bytes(frame.payload.segments[0]) for frame in (first, again)] == [before] * 2  # type: ignore[union-attr]
        assert till.paid == [1]

    def test_a_handler_goes_on_when_its_connection_is_lost_and_the_retry_waits_for_it(
        self, server: Server, till: Till
    ) -> None:
        caller = Caller(server)
        with caller.dial() as peer:
            caller.send(peer, Till.slow, ["a"], 0)
            till.started["a"].wait()
        until(lambda: not server.peers)
        with caller.dial(next_key=1) as peer, caller.dial(next_key=1) as other:
            caller.send(peer, Till.slow, ["a"], 0, 1)
            caller.send(other, Till.slow, ["a"], 0, 2)
            # What is asked next is answered first: the retries are waiting then.
            for one in (peer, other):
                assert result_of(caller.ask(one, Till.pay, [2], 1, 1)) == 3
            till.gates["a"].open()
            assert [result_of(one.read_frame()) for one in (peer, other)] == ["a", "a"]
        assert till.paid == [1, 2]

    def test_who_waited_has_the_answer_before_all_is_called_finished(
        self, server: Server, till: Till, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        caller = Caller(server)
        of = dispatch._again
        with caller.dial() as first:
            caller.send(first, Till.slow, ["a"], 0)
            till.started["a"].wait()
            before = server.peers
            with caller.dial(next_key=1) as peer:
                until(lambda: len(server.peers) == 2)
                (here,) = set(server.peers) - set(before)
                connection: Any = here.link.connection  # type: ignore[attr-defined]

                def again(*args: Any) -> Any:
                    """And the server is just about to close, as far as that is possible now."""
                    frame = of(*args)
                    if not connection._state.locked():
                        connection.finish("the server is closing")
                    return frame

                monkeypatch.setattr(dispatch, "_again", again)
                call = caller.send(peer, Till.slow, ["a"], 0, 1)
                until(lambda: connection.core.handled)
                connection.drain("the server is closing")
                assert peer.read_frame().kind == Kind.GOODBYE
                till.gates["a"].open()
                answer = peer.read_frame()
                assert (answer.kind, answer.call) == (Kind.RESPONSE, call)

    def test_a_handler_whose_caller_is_lost_may_fail_for_it(self, server: Server, till: Till) -> None:
        caller = Caller(server)
        with caller.dial() as peer:
            caller.send(peer, Till.ask_peer, [], 0)
            till.started["ask"].wait()
            peer.question()
        with caller.dial(next_key=1) as peer:
            assert caller.ask(peer, Till.ask_peer, [], 0, 1).kind == Kind.ERROR
        assert till.paid == [1]

    def test_giving_it_up_cancels_it_on_whichever_connection(self, server: Server, till: Till) -> None:
        caller = Caller(server)
        with caller.dial() as peer:
            caller.send(peer, Till.wait, [], 0)
            till.started["wait"].wait()
        with caller.dial(next_key=1) as peer:
            call = caller.send(peer, Till.wait, [], 0, 1)
            assert result_of(caller.ask(peer, Till.pay, [2], 1)) == 3
            peer.send_frame(Kind.CANCEL, 0, call, b"")
            assert failure_of(peer.read_frame())[0] == Code.CANCELLED
        assert till.cancelled == ["its caller has given it up"]
        assert till.paid == [1, 2]

    def test_its_deadline_ends_it(self, server: Server, till: Till) -> None:
        caller = Caller(server)
        with caller.dial() as peer:
            caller.send(peer, Till.wait, [], 0, time_left=0.05)
            till.started["wait"].wait()
        with caller.dial(next_key=1) as peer:
            assert failure_of(caller.ask(peer, Till.wait, [], 0, 1))[0] == Code.DEADLINE
        assert till.cancelled == [""]

    def test_a_client_that_leaves_for_good_ends_it(self, server: Server, till: Till) -> None:
        caller = Caller(server)
        for code in (Leave.OTHER, Leave.GONE):
            with caller.dial() as peer:
                caller.send(peer, Till.wait, [], code)
                until(lambda number=code: len(till.paid) == bool(number) + 1)  # type: ignore[misc]
                assert till.cancelled == []  # a client that says no more than goodbye may come back
                peer.send_frame(Kind.GOODBYE, 0, 0, pack_goodbye(0, "", code))
                peer.read_to_end()
            until(lambda: not server.peers)
        until(lambda: len(till.cancelled) == 2)
        assert till.cancelled == ["its caller has left"] * 2

    def test_a_client_that_is_closed_leaves_for_good(self, server: Server, till: Till, colours: Colours) -> None:
        with colours.connect(Till, server.url, retry=Retry()) as proxy:
            running = Running(caught, proxy.wait)
            till.started["wait"].wait()
        assert isinstance(running.result(), ConnectionLost)
        until(lambda: till.cancelled)
        assert till.cancelled == ["its caller has left"]

    def test_too_many_that_go_on_for_nobody(self, server: Server, till: Till, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("typedrpc.answers.MAX_UNATTENDED", 0)
        caller = Caller(server)
        with caller.dial() as peer:
            caller.send(peer, Till.wait, [], 0)
            till.started["wait"].wait()
        until(lambda: till.cancelled)
        assert till.cancelled == ["its caller has left, and too many calls go on for callers that have"]

    def test_the_end_of_the_server_ends_it(self, server: Server, till: Till) -> None:
        caller = Caller(server)
        with caller.dial() as peer:
            caller.send(peer, Till.wait, [], 0)
            till.started["wait"].wait()
        until(lambda: not server.peers)
        close(server, PATIENCE)
        until(lambda: till.cancelled)
        assert till.cancelled == ["the server is closing"]

    def test_a_call_that_was_not_begun_is_run_when_it_comes_again(self, server: Server, till: Till) -> None:
        caller = Caller(server)
        with caller.dial() as peer:
            refused = caller.ask(peer, Till.pay, ["no number"], 0)
            assert failure_of(refused)[0] == Code.ARGUMENT_TYPE
            assert result_of(caller.ask(peer, Till.pay, [5], 0, 1)) == 5
        assert till.paid == [5]

    def test_a_server_that_does_not_know_the_session_runs_nothing_again(self, server: Server, till: Till) -> None:
        caller = Caller(server)
        with caller.dial(next_key=3) as peer:
            unknown = caller.ask(peer, Till.pay, [5], 2, 1)
            assert failure_of(unknown)[0] == Code.OUTCOME_UNKNOWN
            assert result_of(caller.ask(peer, Till.pay, [5], 2, 0)) == 5  # the first time
            assert result_of(caller.ask(peer, Till.pay, [2], 3, 1)) == 7  # it was lost on its way here
        assert till.paid == [5, 2]

    def test_nor_one_that_has_dropped_the_answer(self, server: Server, till: Till) -> None:
        caller = Caller(server)
        with caller.dial() as peer:
            caller.ask(peer, Till.pay, [5], 0)
            caller.ask(peer, Till.pay, [2], 1, wanted_from=1)
            assert failure_of(caller.ask(peer, Till.pay, [5], 0, 1))[0] == Code.OUTCOME_UNKNOWN
        assert till.paid == [5, 2]

    def test_nor_one_that_has_no_room_for_the_session(
        self, server: Server, till: Till, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("typedrpc.answers.MAX_SESSIONS", 0)
        caller = Caller(server)
        with caller.dial() as peer:
            assert result_of(caller.ask(peer, Till.pay, [5], 0)) == 5
            assert failure_of(caller.ask(peer, Till.pay, [5], 0, 1))[0] == Code.OUTCOME_UNKNOWN
        assert till.paid == [5]

    def test_a_key_without_a_session_keeps_nothing(self, server: Server, till: Till) -> None:
        caller = Caller(server, session=b"")
        with caller.dial() as peer:
            assert result_of(caller.ask(peer, Till.pay, [5], 0)) == 5
            assert failure_of(caller.ask(peer, Till.pay, [5], 0, 1))[0] == Code.OUTCOME_UNKNOWN
        assert till.paid == [5]

    def test_it_is_ignored_with_one_way_calls_and_those_of_the_protocol(self, server: Server, till: Till) -> None:
        caller = Caller(server)
        extension = pack_extension(key=(0, 0))
        with caller.dial() as peer:
            for _ in range(2):
                data = encode(Kind.NOTIFY, Till.pay.id, 0, pack_plain([1]), extension)
                peer.send(data if isinstance(data, bytes) else b"".join(data))
            until(lambda: len(till.paid) == 2)
            for _ in range(2):
                data = encode(Kind.REQUEST, 0xFF00, 1, pack_plain(["Till", b"digest"]), extension)
                peer.send(data if isinstance(data, bytes) else b"".join(data))
                assert peer.read_frame().kind == Kind.RESPONSE
            assert server._answers.size == 0

    def test_what_is_kept_goes_when_it_is_wanted_no_more(self, server: Server) -> None:
        caller = Caller(server)
        with caller.dial() as peer:
            for key in range(100):
                caller.ask(peer, Till.pay, [1], key, wanted_from=key)
            (session,) = server._answers._sessions.values()
            assert list(session.done) == [99]

    def test_the_server_says_which_run_of_it_this_is(self, server: Server, colours: Colours, till: Till) -> None:
        def incarnation_of(server: Server) -> bytes:
            with RawPeer.dial(server.url) as peer:
                peer.greet()
                said = read_hello(peer.read_frame().payload)
                assert not isinstance(said, str)
                return said.incarnation

        assert len(incarnation_of(server)) == 16
        assert incarnation_of(server) == incarnation_of(server)
        with colours.serve(till) as other:
            assert incarnation_of(other) != incarnation_of(server)
