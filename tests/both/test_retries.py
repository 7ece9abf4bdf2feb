"""Calls that the loss of a connection cuts short: which are sent again, under which key, and which never are."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, repeat
from typing import Any, Final

import pytest

from tests.both.test_reconnect import QUICK, WAYS, Desk, Here, connected, desk
from tests.proxy import Proxy
from tests.support import PATIENCE, FakeServer, Gate, Program, RawPeer, Running, Tally, run_all, until
from typedrpc import (
    ArgumentValueError,
    ConnectFailed,
    ConnectionLost,
    DeadlineExceeded,
    MessageTooLarge,
    OutcomeUnknown,
    PermissionDenied,
    RemoteError,
    Retry,
    Server,
    ServerBusy,
    Service,
    UnknownCommand,
    aio,
    connect,
    rpc,
)
from typedrpc.codec import pack_plain
from typedrpc.failure import pack_protocol_failure
from typedrpc.messages import MAX_CALLS, Hello, Leave, pack_goodbye, read_extension, read_hello
from typedrpc.protocol import State
from typedrpc.wire import Frame, Kind

pytestmark = pytest.mark.usefixtures("kept_loop")


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Any:
    return request.param


class Talk:
    """One connection of a client to a :class:`Scripted` server.

    Attributes:
        hello: What the client said of itself.
        requests: The calls that came.
    """

    def __init__(self, peer: RawPeer, incarnation: bytes = b"the one", max_calls: int = MAX_CALLS) -> None:
        self.peer = peer
        self.requests: list[Frame] = []
        if incarnation:
            peer.greet(incarnation=incarnation, max_calls=max_calls)
        else:
            peer.greet(max_calls=max_calls)
        hello = read_hello(peer.read_frame().payload)
        assert isinstance(hello, Hello)
        self.hello = hello
        question = peer.question()
        peer.send_frame(Kind.RESPONSE, 0, question.call, pack_plain(None))

    def hear(self) -> Frame:
        """The next call, whatever is given up before it."""
        while (frame := self.peer.read_frame()).kind == Kind.CANCEL:
            pass
        assert frame.kind == Kind.REQUEST, str(frame)
        self.requests.append(frame)
        return frame

    @property
    def keys(self) -> list[tuple[int, int, int] | None]:
        """Of the calls that came: key, attempt, and from which key on answers are wanted."""
        keys = []
        for frame in self.requests:
            extras = read_extension(frame.extension) if frame.extension else None
            assert not isinstance(extras, str)
            keys.append(None if extras is None else extras.key)
        return keys

    def answer(self, frame: Frame, result: object) -> None:
        self.peer.send_frame(Kind.RESPONSE, 0, frame.call, pack_plain(result))

    def fail(self, frame: Frame, error: Exception) -> None:
        self.peer.send_frame(Kind.ERROR, 0, frame.call, pack_protocol_failure(error))

    def leave(self, last_accepted: int, code: int = Leave.OTHER) -> None:
        self.peer.send_frame(Kind.GOODBYE, 0, 0, pack_goodbye(last_accepted, "the server is closing", code))


class Scripted(FakeServer):
    """A server that does with the first connection what the first script says, and so on.

    Attributes:
        talks: The connections, in order.
    """

    def __init__(
        self,
        *scripts: Callable[[Talk], object],
        incarnations: Iterable[bytes] = (),
        max_calls: Iterable[int] = (),
    ) -> None:
        """
        Args:
            scripts: What it does.
            incarnations: What it is to the first connection, and so on; the same one to those that follow.
            max_calls: How many calls it takes at a time on the first connection, and so on.
        """
        self.talks: list[Talk] = []
        self._scripts = iter(scripts)
        self._incarnations = chain(incarnations, repeat(b"the one"))
        self._max_calls = chain(max_calls, repeat(MAX_CALLS))
        super().__init__(self._play)

    def _play(self, peer: RawPeer) -> None:
        script = next(self._scripts)
        talk = Talk(peer, next(self._incarnations), next(self._max_calls))
        self.talks.append(talk)
        script(talk)

    def stop_listening(self) -> None:
        """Nobody who comes is let in any more."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(PATIENCE)

    @property
    def keys(self) -> list[list[tuple[int, int, int] | None]]:
        return [talk.keys for talk in self.talks]


def cut(talk: Talk) -> None:
    """Hear a call, and say nothing more."""
    talk.hear()


def refuse(talk: Talk) -> None:
    """Hear a call, and leave saying that it was not accepted."""
    talk.leave(talk.hear().call - 2)


def answer(talk: Talk) -> None:
    """Answer whatever comes."""
    with contextlib.suppress(AssertionError):  # until the client leaves
        while True:
            talk.answer(talk.hear(), 7)


FORMS: Final[dict[str, Callable[[Here], Any]]] = {
    "call": lambda here: here("run"),
    "submit": lambda here: here.submit("run").result(PATIENCE),
    "with a deadline": lambda here: here("run", timeout=PATIENCE),
}


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> Any:
    return FORMS[request.param]


class TestKeys:
    def test_a_call_of_which_nobody_knows_has_the_same_key_again(self, way: str, form: Callable[[Here], Any]) -> None:
        with Scripted(cut, cut, answer) as server, connected(way, Desk, server.url, retry=QUICK) as here:
            assert form(here) == 7
            assert server.keys == [[(0, 0, 0)], [(0, 1, 0)], [(0, 2, 0)]]
            hellos = [talk.hello for talk in server.talks]
            assert len(hellos[0].session) == 16
            assert len({hello.session for hello in hellos}) == 1
            assert [hello.next_key for hello in hellos] == [0, 1, 1]

    def test_a_call_that_did_not_run_is_sent_for_the_first_time_again(
        self, way: str, form: Callable[[Here], Any]
    ) -> None:
        with Scripted(refuse, refuse, answer) as server, connected(way, Desk, server.url, retry=QUICK) as here:
            assert form(here) == 7
            assert server.keys == [[(0, 0, 0)]] * 3

    def test_each_call_has_its_own(self, way: str) -> None:
        with Scripted(answer) as server, connected(way, Desk, server.url, retry=QUICK) as here:
            for _ in range(3):
                assert here("run") == 7
            assert server.keys == [[(0, 0, 0), (1, 0, 1), (2, 0, 2)]]

    def test_an_answer_is_wanted_until_it_is_there(self, way: str) -> None:
        def late(talk: Talk) -> None:
            first, second = talk.hear(), talk.hear()
            talk.answer(second, 2)
            third = talk.hear()
            talk.answer(first, 1)
            talk.answer(third, 3)
            answer(talk)

        with Scripted(late) as server, connected(way, Desk, server.url, retry=QUICK) as here:
            first = Running(here, "run")
            assert here("run") + here("run") in (5, 4)  # whichever was heard first
            assert first.result() in (1, 2)
            assert here("run") == 7
            assert [key and key[2] for key in server.keys[0]][:3] in ([0, 0, 0], [0, 0, 1])
            assert server.keys[0][3] == (3, 0, 3)

    def test_idempotent_calls_need_none(self, way: str) -> None:
        with Scripted(cut, refuse, answer) as server, connected(way, Desk, server.url, retry=QUICK) as here:
            assert here("look") == 7
            assert server.keys == [[None]] * 3

    def test_nor_do_those_of_a_client_without_retry(self, way: str, form: Callable[[Here], Any]) -> None:
        with Scripted(answer) as server, connected(way, Desk, server.url) as here:
            assert form(here) == 7
            assert server.talks[0].hello.session == b""
            assert server.talks[0].keys in ([None], [None])

    def test_a_map_goes_on_where_it_was_cut(self, way: str) -> None:
        if way == "loop":
            pytest.skip("a map blocks")

        def some(talk: Talk) -> None:
            for _ in range(3):
                frame = talk.hear()
                talk.answer(frame, frame.call)

        with Scripted(some, some, answer) as server, connected(way, Desk, server.url, retry=QUICK) as here:
            assert len(list(here.proxy.double.map(range(20)))) == 20
            answered = {key[0] for talk in server.talks for key in talk.keys if key is not None}
            assert answered == set(range(20))

    def test_a_forked_child_has_a_session_of_its_own(self) -> None:
        source = """
            import os
            from tests.both.test_reconnect import QUICK, Desk
            from typedrpc import connect
            with connect(Desk, hear(), retry=QUICK) as desk:
                assert desk.run() == 7
                child = os.fork()
                assert desk.run() == 7
                if child == 0:
                    os._exit(0)
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        """
        with Scripted(answer, answer) as server, Program(source) as program:
            program.say(server.url)
            program.expect_success()
            assert server.talks[0].hello.session != server.talks[1].hello.session
            assert server.keys == [[(0, 0, 0), (1, 0, 1)], [(0, 0, 0)]]

    def test_so_has_each_child_of_a_child_that_has_called_nothing(self) -> None:
        """A program that becomes a daemon after it has connected, and then has workers."""
        source = """
            import os
            from tests.both.test_reconnect import QUICK, Desk
            from typedrpc import connect

            def beget(body):
                child = os.fork()
                if child == 0:
                    code = 1
                    try:
                        body()
                        code = 0
                    finally:
                        os._exit(code)
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

            def work():
                assert desk.run() == 7

            def be_daemon():
                beget(work)
                beget(work)

            with connect(Desk, hear(), retry=QUICK) as desk:
                assert desk.run() == 7
                beget(be_daemon)
        """
        with Scripted(answer, answer, answer) as server, Program(source) as program:
            program.say(server.url)
            program.expect_success()
            assert len({talk.hello.session for talk in server.talks}) == 3
            assert server.keys == [[(0, 0, 0)]] * 3


class TestWhatIsNotSentAgain:
    def test_a_call_of_which_nobody_knows_by_default(self, way: str, form: Callable[[Here], Any]) -> None:
        with Scripted(cut, answer) as server, connected(way, Desk, server.url) as here:
            with pytest.raises(OutcomeUnknown):
                form(here)
            assert len(server.talks) == 1
            assert form(here) == 7

    def test_not_even_where_it_is_idempotent(self, way: str) -> None:
        with Scripted(cut, answer) as server, connected(way, Desk, server.url) as here:
            with pytest.raises(OutcomeUnknown):
                here("look")
            assert here("look") == 7

    def test_but_one_that_did_not_run_is_once(self, way: str, form: Callable[[Here], Any]) -> None:
        with Scripted(refuse, answer) as server, connected(way, Desk, server.url) as here:
            assert form(here) == 7
            assert [len(talk.requests) for talk in server.talks] == [1, 1]

    def test_and_not_twice(self, way: str, form: Callable[[Here], Any]) -> None:
        with Scripted(refuse, refuse, answer) as server, connected(way, Desk, server.url) as here:
            with pytest.raises(ConnectionLost, match="the server is closing") as caught:
                form(here)
            assert type(caught.value) is ConnectionLost
            assert len(server.talks) == 2

    @pytest.mark.parametrize("retry", [None, QUICK])
    def test_what_callbacks_go_with(self, way: str, retry: Retry | None) -> None:
        with Scripted(cut, answer) as server, connected(way, Desk, server.url, retry=retry) as here:
            with pytest.raises(OutcomeUnknown):
                here("apply", lambda number: number)
            assert server.keys == [[None]]
            assert here("run") == 7

    @pytest.mark.parametrize("retry", [None, QUICK])
    def test_what_a_stream_goes_with(self, way: str, retry: Retry | None) -> None:
        with Scripted(refuse, answer) as server, connected(way, Desk, server.url, retry=retry) as here:
            with pytest.raises(ConnectionLost):
                here("total", iter([1]))
            assert here("run") == 7

    def test_where_the_server_says_that_it_does_not_know(self, way: str, form: Callable[[Here], Any]) -> None:
        def forget(talk: Talk) -> None:
            talk.fail(talk.hear(), OutcomeUnknown("the answer is gone"))
            answer(talk)

        with Scripted(cut, forget) as server, connected(way, Desk, server.url, retry=QUICK) as here:
            with pytest.raises(OutcomeUnknown, match="the answer is gone"):
                form(here)
            assert form(here) == 7
            assert server.keys == [[(0, 0, 0)], [(0, 1, 0), (1, 0, 1)]]

    def test_past_the_number_of_attempts(self, way: str, form: Callable[[Here], Any]) -> None:
        retry = Retry(attempts=2, first_delay=0.001)
        with Scripted(cut, cut, answer) as server, connected(way, Desk, server.url, retry=retry) as here:
            with pytest.raises(OutcomeUnknown):
                form(here)
            assert len(server.talks) == 2

    def test_a_call_that_the_server_did_not_accept_is(self, way: str, form: Callable[[Here], Any]) -> None:
        def late(talk: Talk) -> None:
            talk.fail(talk.hear(), ConnectionLost("the call came when no more were accepted"))
            answer(talk)

        with Scripted(late) as server, connected(way, Desk, server.url, retry=QUICK) as here:
            assert form(here) == 7
            assert server.keys == [[(0, 0, 0), (0, 0, 0)]]


def _refuse_with(error: Exception) -> Callable[[Talk], None]:
    def script(talk: Talk) -> None:
        talk.fail(talk.hear(), error)
        answer(talk)

    return script


class TestWhatIsToldOfACallThatMayHaveRun:
    """The last attempt did not run. That says nothing of the one before it."""

    @pytest.mark.parametrize(
        "error",
        [
            ServerBusy("too many calls"),
            PermissionDenied("no more"),
            ConnectionLost("the call came when no more were accepted"),
            UnknownCommand("Desk.run", 1),
            MessageTooLarge("the result", 10, 5),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_where_the_server_refuses_it_then(self, way: str, form: Callable[[Here], Any], error: Exception) -> None:
        retry = Retry(attempts=2, first_delay=0.001)
        with Scripted(cut, _refuse_with(error)) as server, connected(way, Desk, server.url, retry=retry) as here:
            with pytest.raises(OutcomeUnknown, match="may have run before") as caught:
                form(here)
            assert type(caught.value.__cause__) is type(error)
            assert server.keys == [[(0, 0, 0)], [(0, 1, 0)]]
            assert form(here) == 7

    def test_where_it_is_idempotent_too(self, way: str) -> None:
        with (
            Scripted(cut, _refuse_with(ServerBusy("full"))) as server,
            connected(way, Desk, server.url, retry=QUICK) as here,
            pytest.raises(OutcomeUnknown),
        ):
            here("look")

    def test_where_nobody_is_there_then(self, way: str, form: Callable[[Here], Any]) -> None:
        def vanish(talk: Talk) -> None:
            talk.hear()
            server.stop_listening()

        retry = Retry(attempts=2, first_delay=0.001)
        with Scripted(vanish) as server, connected(way, Desk, server.url, retry=retry) as here:
            with pytest.raises(OutcomeUnknown) as caught:
                form(here)
            assert type(caught.value.__cause__) is ConnectionLost
            assert isinstance(caught.value.__cause__.__cause__, ConnectFailed)

    def test_what_the_handler_says_is_its_answer(self, way: str, form: Callable[[Here], Any]) -> None:
        for error in (RemoteError("it failed"), ArgumentValueError("so not")):
            with (
                Scripted(cut, _refuse_with(error)) as server,
                connected(way, Desk, server.url, retry=QUICK) as here,
                pytest.raises(type(error)),
            ):
                form(here)


def test_a_call_that_waits_for_room_does_not_hold_up_those_behind_it(way: str) -> None:
    """One thread sends all that are sent again: to a server, then, that takes one call at a time, and is slow."""
    if way == "loop":
        pytest.skip("tasks wait by themselves")

    def cut_all(talk: Talk) -> None:
        for _ in range(3):
            talk.hear()

    def take_one(talk: Talk) -> None:
        frame = talk.hear()
        over.wait()
        talk.answer(frame, 7)
        answer(talk)

    over = Gate()
    with (
        Scripted(cut_all, take_one, max_calls=[MAX_CALLS, 1]) as server,
        connected(way, Desk, server.url, retry=QUICK) as here,
    ):
        try:
            calls = [here.submit("run"), here.submit("run")]
            pressed = here.proxy.run.with_options(timeout=1.0).submit()
            with pytest.raises(DeadlineExceeded):
                pressed.result(PATIENCE)  # though both of those before it wait, one of them for room
        finally:
            over.open()
        assert [call.result(PATIENCE) for call in calls] == [7, 7]


class TestAnotherServer:
    """It does not know which calls ran on the one before: where a call may have run there, it does not get it."""

    def test_a_call_of_which_nobody_knows_is_not_sent(self, way: str, form: Callable[[Here], Any]) -> None:
        with (
            Scripted(cut, answer, incarnations=[b"one", b"two"]) as server,
            connected(way, Desk, server.url, retry=QUICK) as here,
        ):
            with pytest.raises(OutcomeUnknown, match=r"Desk\.run: it may have run .* does not know"):
                form(here)
            assert form(here) == 7
            assert server.keys == [[(0, 0, 0)], [(1, 0, 1)]]

    def test_nor_to_one_before_that_has_had_it_without_running_it(self, way: str, form: Callable[[Here], Any]) -> None:
        """That would take it for a new one, and run it."""
        with (
            Scripted(refuse, cut, answer, incarnations=[b"one", b"two", b"one"]) as server,
            connected(way, Desk, server.url, retry=QUICK) as here,
        ):
            with pytest.raises(OutcomeUnknown, match="does not know"):
                form(here)
            assert form(here) == 7
            assert server.keys == [[(0, 0, 0)], [(0, 0, 0)], [(1, 0, 1)]]

    def test_nor_to_a_server_that_does_not_say_who_it_is(self, way: str, form: Callable[[Here], Any]) -> None:
        with (
            Scripted(cut, answer, incarnations=[b"", b""]) as server,
            connected(way, Desk, server.url, retry=QUICK) as here,
        ):
            with pytest.raises(OutcomeUnknown):
                form(here)
            assert form(here) == 7
            assert [key for keys in server.keys for key in keys] == [(0, 0, 0), (1, 0, 1)]

    def test_one_that_did_not_run_is_sent(self, way: str, form: Callable[[Here], Any]) -> None:
        with (
            Scripted(refuse, answer, incarnations=[b"one", b"two"]) as server,
            connected(way, Desk, server.url, retry=QUICK) as here,
        ):
            assert form(here) == 7
            assert server.keys == [[(0, 0, 0)], [(0, 0, 0)]]

    def test_an_idempotent_one_is_sent(self, way: str) -> None:
        with (
            Scripted(cut, cut, answer, incarnations=[b"one", b"two", b""]) as server,
            connected(way, Desk, server.url, retry=QUICK) as here,
        ):
            assert here("look") == 7
            assert server.keys == [[None]] * 3

    def test_two_servers_at_two_addresses(self, way: str) -> None:
        with desk(1) as (first, one), desk(2) as (second, two), contextlib.ExitStack() as way_there:
            proxy = way_there.enter_context(Proxy(one.url))
            with connected(way, Desk, [proxy.url, two.url], retry=QUICK) as here:
                assert here("run") == 1
                staying = Running(here, "stay")
                first.started.wait()
                way_there.close()  # nobody listens there any more
                assert isinstance(staying.error(), OutcomeUnknown)
                assert here("run") == 2
                assert not second.started.is_open


class TestGoodbye:
    """A server that has said goodbye still answers what it accepted."""

    @pytest.mark.parametrize("retry", [None, QUICK])
    def test_new_calls_go_by_another_connection_meanwhile(self, way: str, retry: Retry | None) -> None:
        over = Gate()

        def drain(talk: Talk) -> None:
            frame = talk.hear()
            talk.leave(frame.call)
            over.wait()
            talk.answer(frame, 1)

        with Scripted(drain, answer) as server, connected(way, Desk, server.url, retry=retry) as here:
            first = Running(here, "run")
            until(lambda: here.client._link.connection.core.state is State.DRAINING)
            assert [here("run") for _ in range(3)] == [7, 7, 7]
            assert here.submit("run").result(PATIENCE) == 7
            assert not first.done
            over.open()
            assert first.result() == 1
            assert len(server.talks) == 2


class Counter(Service):
    """Counts how often each call ran, over all runs of the server."""

    def __init__(self, ran: Tally) -> None:
        self._ran = ran

    @rpc
    def run(self, name: str) -> str:
        self._ran.add(name)
        return name

    @rpc(idempotent=True)
    def look(self, name: str) -> str:
        return name


@contextlib.contextmanager
def restarting(ran: Tally) -> Iterator[tuple[str, Callable[[], None]]]:
    """A server; its address, and what closes it and has another one up at the same address."""
    servers = [Server(Counter(ran), url="tcp://127.0.0.1:0").start()]
    url = servers[0].url

    def restart() -> None:
        servers[-1].close()
        servers.append(Server(Counter(ran), url=url).start())

    try:
        yield url, restart
    finally:
        servers[-1].close()


@pytest.mark.parametrize("way", ["threads", "threads of a loop"])
def test_a_server_that_is_restarted_under_load(way: str) -> None:
    """No call fails, and none runs twice."""
    ran, answered = Tally(), Tally()
    stop = threading.Event()

    def work(number: int) -> int:
        count = 0
        while not stop.is_set():
            name = f"{number}.{count}"
            assert here("run", name) == name
            assert here("look", name) == name
            count += 1
            answered.add("calls")
        return count

    with restarting(ran) as (url, restart), connected(way, Counter, url, retry=QUICK) as here:
        working = [Running(work, number) for number in range(4)]
        for _ in range(4):
            before = answered["calls"]
            while answered["calls"] < before + 40 and not any(one.done for one in working):
                stop.wait(0.001)
            restart()
        stop.set()
        counts = [one.result() for one in working]
    for number, count in enumerate(counts):
        assert all(ran[f"{number}.{index}"] == 1 for index in range(count))


def test_tasks_on_a_loop_while_the_server_is_restarted() -> None:
    import asyncio

    ran = Tally()

    async def work(proxy: Any, number: int) -> None:
        for count in range(100):
            name = f"{number}.{count}"
            assert await proxy.run.aio(name) == name

    async def main(url: str, restart: Callable[[], None]) -> None:
        async with aio.connect(Counter, url, retry=QUICK) as proxy:
            tasks = [asyncio.create_task(work(proxy, number)) for number in range(4)]
            for _ in range(3):
                await asyncio.to_thread(restart)
            async with asyncio.timeout(PATIENCE):
                await asyncio.gather(*tasks)

    with restarting(ran) as (url, restart):
        asyncio.run(main(url, restart))
    assert all(ran[f"{number}.{count}"] == 1 for number in range(4) for count in range(100))


def test_threads_that_are_all_cut_short_have_one_connection_made() -> None:
    gathered = threading.Barrier(2)

    def gather(talk: Talk) -> None:
        for _ in range(8):
            talk.hear()
        gathered.wait(PATIENCE)

    with Scripted(gather, answer) as server, connect(Desk, server.url, retry=QUICK) as desk:
        working = [Running(desk.run) for _ in range(8)]
        gathered.wait(PATIENCE)
        assert [one.result() for one in working] == [7] * 8
        assert len(server.talks) == 2
        assert sorted(key[0] for key in server.keys[1] if key) == list(range(8))
        assert run_all([desk.run] * 8) == [7] * 8
