"""Calls within calls: handlers that call their callers, over one connection and over several, in either direction."""

import contextlib
import contextvars
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from threading import get_ident
from time import monotonic
from typing import Any, Final, NamedTuple

import pytest

from tests.ends import Colours, alike, for_servers
from tests.support import PATIENCE, Gate, Gates, Log, Program, RawPeer, Running, hello, in_time, run_all, until
from typedrpc import (
    CallCancelled,
    Client,
    ConnectionLost,
    DeadlineExceeded,
    MessageTooLarge,
    NestedTooDeep,
    RemoteError,
    Server,
    ServerBusy,
    Service,
    UnknownCommand,
    connect,
    current_call,
    rpc,
)
from typedrpc.codec import pack_plain
from typedrpc.common import handlers, room
from typedrpc.messages import pack_extension
from typedrpc.wire import PREAMBLE, Kind, encode

pytestmark = pytest.mark.usefixtures("no_leaks")
colours = alike

URL: Final = "tcp://127.0.0.1:0"


class End(Service):
    """What both ends serve: whatever a test says under a name, and calls that go to and fro."""

    def __init__(self) -> None:
        self.does: dict[str, Callable[..., Any]] = {}
        self.threads: list[int] = []
        self.errors: list[Exception] = []

    @rpc
    def do(self, name: str, number: int = 0) -> Any:
        """What the test says."""
        return self.does[name](number)

    @rpc
    def tell(self, name: str, number: int) -> None:
        """The same, for one-way calls."""
        self.does[name](number)

    @rpc
    def to_and_fro(self, further: int) -> int:
        """Call back, and so on; how many calls were made from here on."""
        self.threads.append(get_ident())
        try:
            return 1 + caller().to_and_fro(further - 1) if further else 0
        except Exception as error:
            self.errors.append(error)
            raise

    @rpc
    def echo(self, data: bytes, further: int) -> bytes:
        """Give back what came, after it has gone to and fro."""
        return caller().echo(data, further - 1) if further else data

    @rpc
    def add(self, a: int, b: int) -> int:
        return a + b


def caller() -> End:
    """The caller of the current call."""
    return current_call().peer.proxy(End)


class Ends(NamedTuple):
    """Two ends of a connection: the one that a test calls from, and the other."""

    here: End
    there: End
    call: End
    """The other end, called from this one."""
    back: End
    """This end, called from the other one."""
    client: Client[Any]
    server: Any


@contextlib.contextmanager
def two_ends(
    colours: Colours,
    *,
    from_server: bool = False,
    here: dict[str, Any] | None = None,
    there: dict[str, Any] | None = None,
) -> Iterator[Ends]:
    """A client and a server that serve each other.

    Args:
        colours: Of which sides they are.
        from_server: Whether the server is the end that the test calls from.
        here: Options of this end.
        there: Options of the other one.
    """
    at_client: dict[str, Any] = (there if from_server else here) or {}
    at_server: dict[str, Any] = (here if from_server else there) or {}
    with (
        colours.serve(served := End(), **at_server) as server,
        colours.connect(server.url, expose=[exposed := End()], **at_client) as client,
    ):
        to_server = client.proxy(End)
        to_client = server.peers[0].proxy(End)
        if from_server:
            yield Ends(served, exposed, to_client, to_server, client, server)
        else:
            yield Ends(exposed, served, to_server, to_client, client, server)


@pytest.fixture(params=[False, True], ids=["from the client", "from the server"])
def from_server(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def gates() -> Iterator[Gates]:
    gates = Gates()
    yield gates
    gates.open_all()


def wait_past(moment: float) -> None:
    """Until a moment on the monotonic clock has passed."""
    while (left := moment - monotonic()) >= 0:
        threading.Event().wait(left)


class TestDepth:
    @pytest.mark.parametrize("further", [0, 1, 2, 3, 60, 63])
    def test_to_and_fro(self, further: int, from_server: bool, colours: Colours) -> None:
        """What is nested in a call runs in the thread that waits for it, at both ends, however deep."""
        with two_ends(colours, from_server=from_server) as ends:
            assert ends.call.to_and_fro(further) == further
            assert set(ends.here.threads) <= {get_ident()}
            assert len(set(ends.there.threads)) == 1
            assert len(ends.here.threads) + len(ends.there.threads) == further + 1

    def test_past_the_limit_every_caller_gets_the_error_itself(self, from_server: bool, colours: Colours) -> None:
        with two_ends(colours, from_server=from_server) as ends:
            with pytest.raises(NestedTooDeep, match=r"^End.to_and_fro: 64 calls are nested in each other") as caught:
                ends.call.to_and_fro(64)
            errors = ends.here.errors + ends.there.errors
            assert len(errors) == 64
            assert {(type(error), str(error)) for error in errors} == {(NestedTooDeep, str(caught.value))}
            assert ends.call.to_and_fro(63) == 63

    @pytest.mark.parametrize(("here", "there", "fits"), [(3, 64, 2), (64, 3, 2), (4, 3, 2), (1, 5, 0), (5, 1, 0)])
    def test_each_end_has_a_limit_of_its_own(
        self, here: int, there: int, fits: int, from_server: bool, colours: Colours
    ) -> None:
        options = {"here": {"max_depth": here}, "there": {"max_depth": there}}
        with two_ends(colours, from_server=from_server, **options) as ends:
            # The other end runs depths 0, 2, 4, ...: with a limit of 3 it refuses 4. This end runs 1, 3, 5, ...
            deepest = min(there + there % 2, here + 1 - here % 2) - 1
            assert deepest >= fits
            assert ends.call.to_and_fro(deepest) == deepest
            with pytest.raises(NestedTooDeep):
                ends.call.to_and_fro(deepest + 1)
            assert ends.call.to_and_fro(deepest) == deepest

    def test_a_limit_counts_the_calls_of_all_connections(self, colours: Colours) -> None:
        """A chain of servers that call each other through clients of their own."""
        with ring(4, colours) as nodes:
            assert nodes[0].hop(20) == 20
            with pytest.raises(NestedTooDeep):
                nodes[0].hop(1000)

    def test_threads_that_a_handler_starts_begin_anew_without_its_context(self, colours: Colours) -> None:
        with two_ends(colours) as ends:
            ends.there.does["depth"] = lambda number: current_call().depth
            ends.here.does["depth"] = lambda number: current_call().depth
            peer = ends.server.peers[0].proxy(End)
            ends.there.does["in a thread"] = lambda number: Running(lambda: peer.do("depth")).result()
            ends.there.does["with the context"] = lambda number: Running(
                contextvars.copy_context().run, lambda: peer.do("depth")
            ).result()
            ends.there.does["itself"] = lambda number: peer.do("depth")
            assert ends.call.do("depth") == 0
            assert ends.call.do("in a thread") == 0
            assert ends.call.do("with the context") == 1
            assert ends.call.do("itself") == 1


class Node(Service):
    """A server that hands a number on to the next one, less one."""

    def __init__(self) -> None:
        self.next: Node

    @rpc
    def hop(self, further: int) -> int:
        return 1 + self.next.hop(further - 1) if further else 0


@contextlib.contextmanager
def ring(size: int, colours: Colours, **options: Any) -> Iterator[list[Node]]:
    """Proxies of servers that are connected in a ring; each hands on to the next."""
    with contextlib.ExitStack() as stack:
        nodes = [Node() for _ in range(size)]
        servers = [stack.enter_context(colours.serve(node, **options)) for node in nodes]
        proxies: list[Node] = []
        for node, server in zip(nodes, servers[1:] + servers[:1], strict=True):
            node.next = stack.enter_context(colours.connect(Node, server.url))
            proxies.append(node.next)
        yield [*proxies[-1:], *proxies[:-1]]


class TestRings:
    @pytest.mark.parametrize("threads", [1, 8])
    @pytest.mark.parametrize(
        "options",
        [
            {"max_workers": 0},
            {"max_workers": 1},
            {"max_workers": 2, "max_calls": 3},
            {"max_calls": 1},
            {"max_calls": 2},
            {"max_calls": 1, "max_workers": 0},
        ],
    )
    def test_a_ring_that_runs_out_of_anything_ends_with_an_error(
        self, options: dict[str, Any], threads: int, monkeypatch: pytest.MonkeyPatch, colours: Colours
    ) -> None:
        """Of threads, or of room for calls: what it waits for it waits for itself."""
        monkeypatch.setattr(room, "HANDLERS_PATIENCE", 0.05)
        with ring(3, colours, **options) as nodes:

            def go() -> None:
                with pytest.raises((RemoteError, ServerBusy)) as caught:
                    nodes[0].hop(40)
                assert getattr(caught.value, "type_name", "ServerBusy") in ("ServerBusy", "RemoteError")

            run_all([go] * threads)
            for node in nodes:  # and is whole afterwards
                assert node.hop(0) == 0

    @pytest.mark.unmeasured
    def test_a_ring_with_threads_enough_goes_round_and_round(self, colours: Colours) -> None:
        with ring(3, colours) as nodes:
            assert run_all([partial(nodes[0].hop, 60)] * 3) == [60] * 3

    def test_a_call_that_no_handler_makes_waits_for_room_as_long_as_it_takes(
        self, gates: Gates, monkeypatch: pytest.MonkeyPatch, colours: Colours
    ) -> None:
        monkeypatch.setattr(room, "HANDLERS_PATIENCE", 0.0)
        with two_ends(colours, there={"max_calls": 1}) as ends:
            ends.there.does["wait"] = lambda number: gates["go"].wait()
            waiting = [Running(ends.call.do, "wait") for _ in range(3)]
            gates["go"].open()
            assert [one.result() for one in waiting] == [None] * 3

    def test_a_handler_does_not_wait_for_room_for_ever(
        self, gates: Gates, monkeypatch: pytest.MonkeyPatch, colours: Colours
    ) -> None:
        monkeypatch.setattr(room, "HANDLERS_PATIENCE", 0.01)
        started = Gate()
        with two_ends(colours, there={"max_calls": 1}) as ends, two_ends(colours) as others:

            def wait(number: int) -> None:
                started.open()
                gates["go"].wait()

            ends.there.does["wait"] = wait
            waiting = Running(ends.call.do, "wait")
            started.wait()

            def call_on(number: int) -> str:
                with pytest.raises(ServerBusy) as caught:
                    ends.call.add(1, 2)
                with pytest.raises(ServerBusy):
                    ends.call.add.submit(1, 2)
                return str(caught.value)

            others.there.does["call on"] = call_on
            said = "End.add: a handler calls it, and the peer had no room within 0.01 s; raise max_calls there"
            assert others.call.do("call on") == said
            gates["go"].open()
            waiting.result()
            others.there.does["call on"] = lambda number: ends.call.add(1, 2)
            assert others.call.do("call on") == 3

    @pytest.mark.unmeasured
    def test_three_processes(self) -> None:
        source = """
            from tests.both.test_nested import Node
            from typedrpc import NestedTooDeep, Server, connect
            node = Node()
            with Server(node, url="tcp://127.0.0.1:0", max_workers={workers}) as server:
                say(server.url)
                with connect(Node, hear()) as node.next:
                    say("ready")
                    hear()
        """
        with contextlib.ExitStack() as stack:
            programs = [stack.enter_context(Program(source.format(workers=workers))) for workers in (64, 64, 64)]
            urls = [program.hear() for program in programs]
            for program, url in zip(programs, urls[1:] + urls[:1], strict=True):
                program.say(url)
                assert program.hear() == "ready"
            with connect(Node, urls[0]) as node:
                assert run_all([partial(node.hop, 62)] * 2) == [62] * 2

                def too_far() -> None:
                    with pytest.raises(NestedTooDeep):
                        node.hop(100)

                run_all([too_far] * 2)
            for program in programs:
                program.say()
            for program in programs:
                program.expect_success()


class TestOfThreads:
    def test_a_lock_is_its_owners_own(self, from_server: bool, colours: Colours) -> None:
        """What a thread holds it still holds within the handler that it is called back by."""
        lock, local = threading.RLock(), threading.local()
        with two_ends(colours, from_server=from_server) as ends:

            def take(further: int) -> list[int]:
                assert lock.acquire(timeout=PATIENCE)
                try:
                    local.levels = [*getattr(local, "levels", ()), further]
                    if further:
                        ends.call.do("pass on", further - 1)
                    return list(local.levels)
                finally:
                    lock.release()

            ends.here.does["take"] = take
            ends.there.does["pass on"] = lambda further: caller().do("take", further)
            with lock:
                assert ends.call.do("pass on", 5) == [5, 4, 3, 2, 1, 0]
            assert local.levels == [5, 4, 3, 2, 1, 0]

    def test_the_current_call_is_the_right_one_at_every_level(self, from_server: bool, colours: Colours) -> None:
        seen: list[tuple[object, int]] = []
        colour: contextvars.ContextVar[str] = contextvars.ContextVar("colour", default="none")
        with two_ends(colours, from_server=from_server) as ends:

            def check(further: int) -> None:
                before = current_call()
                seen.append((before.command, before.depth))
                assert before.args == ("check", further)
                assert before.protocol is not None
                colour.set(f"{colour.get()} {further}" if further % 2 else colour.get())
                mine = colour.get()
                if further:
                    assert caller().do("check", further - 1) is None
                    assert caller().add(further, 1) == further + 1
                assert current_call() is before
                assert colour.get().startswith(mine)

            ends.here.does["check"] = ends.there.does["check"] = check
            token = colour.set("start")
            try:
                ends.call.do("check", 6)
            finally:
                colour.reset(token)
            assert [depth for _, depth in seen] == list(range(7))
            with pytest.raises(RuntimeError):
                current_call()

    def test_what_a_handler_says_of_its_peer(self, colours: Colours) -> None:
        with two_ends(colours) as ends:
            ends.there.does["who"] = lambda number: [
                current_call().peer is ends.server.peers[0],
                current_call().server is ends.server,
                caller().do("who"),
            ]
            ends.here.does["who"] = lambda number: [current_call().peer is ends.client.peer, current_call().peer.server]
            assert ends.call.do("who") == [True, True, [True, None]]

    def test_a_thread_that_waits_runs_nothing_but_what_is_nested_in_its_call(
        self, gates: Gates, from_server: bool, colours: Colours
    ) -> None:
        """An unrelated call of the peer that takes its time does not hold up the reply."""
        blocked = Gate()
        with two_ends(colours, from_server=from_server) as ends:

            def block(number: int) -> int:
                blocked.open()
                gates["unrelated"].wait()
                return get_ident()

            ends.here.does["block"] = block

            def answer(number: int) -> None:
                gates["answer"].wait()

            ends.there.does["answer"] = answer
            waiting = Running(ends.call.do, "answer")
            unrelated = Running(ends.back.do, "block")
            blocked.wait()
            gates["answer"].open()
            assert waiting.result() is None
            assert ends.call.to_and_fro(5) == 5
            assert not unrelated.done
            gates["unrelated"].open()
            assert unrelated.result() not in (waiting.thread.ident, get_ident())

    def test_unrelated_calls_are_run_while_a_nested_one_takes_its_time(
        self, gates: Gates, from_server: bool, colours: Colours
    ) -> None:
        nested = Gate()
        with two_ends(colours, from_server=from_server) as ends:

            def wait(number: int) -> None:
                nested.open()
                gates["nested"].wait()

            ends.here.does["wait"] = wait
            ends.there.does["nest"] = lambda number: caller().do("wait")
            waiting = Running(ends.call.do, "nest")
            nested.wait()
            for number in range(20):
                assert ends.back.add(number, 1) == number + 1
                assert ends.call.add(number, 2) == number + 2
                assert ends.back.to_and_fro(3) == 3
            assert not waiting.done
            gates["nested"].open()
            waiting.result()

    def test_threads_that_a_handler_starts_call_its_caller(self, from_server: bool, colours: Colours) -> None:
        """With its context their calls are nested in its own, and run in the waiting thread one after another."""
        with two_ends(colours, from_server=from_server) as ends:
            ends.here.does["thread"] = lambda number: [number, get_ident()]

            def spread(number: int) -> list[list[int]]:
                peer = caller()
                works = [partial(peer.do, "thread", each) for each in range(8)]
                if number:
                    contexts = [contextvars.copy_context() for _ in works]
                    works = [partial(context.run, work) for context, work in zip(contexts, works, strict=True)]
                return run_all(works)

            ends.there.does["spread"] = spread
            with_context = ends.call.do("spread", 1)
            assert with_context == [[number, get_ident()] for number in range(8)]
            without = ends.call.do("spread", 0)
            assert [number for number, _ in without] == list(range(8))
            assert get_ident() not in {ident for _, ident in without}

    def test_a_thread_with_the_context_of_a_call_that_is_over(
        self, gates: Gates, from_server: bool, colours: Colours
    ) -> None:
        with two_ends(colours, from_server=from_server, here={"max_calls": 1}) as ends:
            left: list[Running[Any]] = []

            def leave(number: int) -> None:
                peer, context = caller(), contextvars.copy_context()

                def later() -> list[int]:
                    gates["over"].wait()
                    return [context.copy().run(peer.add, each, 1) for each in range(20)]

                left.extend([Running(later), Running(later)])

            ends.there.does["leave"] = leave
            ends.call.do("leave")
            gates["over"].open()
            assert [one.result() for one in left] == [list(range(1, 21))] * 2


class TestForms:
    def test_futures_within_handlers(self, from_server: bool, colours: Colours) -> None:
        with two_ends(colours, from_server=from_server) as ends:

            def gather(number: int) -> int:
                futures = [caller().add.submit(each, 1) for each in range(number)]
                return sum(future.result(PATIENCE) for future in futures)

            ends.there.does["gather"] = ends.here.does["gather"] = gather
            ends.there.does["gather both"] = lambda number: gather(number) + caller().do("gather", number)
            assert ends.call.do("gather", 50) == 1275
            assert ends.call.do("gather both", 20) == 420
            assert ends.call.do.submit("gather both", 20).result(PATIENCE) == 420

    def test_map_within_handlers(self, from_server: bool, colours: Colours) -> None:
        with two_ends(colours, from_server=from_server) as ends:
            ends.there.does["map"] = lambda number: sum(caller().add.map(range(number), range(number)))
            assert ends.call.do("map", 200) == 39_800
            assert list(ends.call.do.map(["map"] * 5, range(5))) == [0, 0, 2, 6, 12]

    def test_one_way_calls_within_handlers(self, from_server: bool, colours: Colours) -> None:
        """They are nested in nothing, arrive in order, and are answered by one-way calls that do, too."""
        came: list[int] = []
        all_came = Gate()
        with two_ends(colours, from_server=from_server) as ends:

            def note(number: int) -> None:
                came.append(number)
                if number == 99:
                    all_came.open()

            def send(number: int) -> None:
                for each in range(number):
                    caller().tell.notify("note", each)

            ends.here.does["note"] = note
            ends.there.does["send"] = send
            ends.here.does["send back"] = lambda number: caller().tell.notify("send", number)
            ends.back.tell.notify("send back", 100)
            all_came.wait()
            assert came == list(range(100))

    def test_a_call_within_a_one_way_call(self, from_server: bool, colours: Colours) -> None:
        reached: list[int] = []
        done = Gate()
        with two_ends(colours, from_server=from_server) as ends:

            def reach(number: int) -> None:
                reached.append(caller().to_and_fro(number))
                done.open()

            ends.there.does["reach"] = reach
            ends.call.tell.notify("reach", 10)
            done.wait()
            assert reached == [10]

    def test_a_client_that_exposes_nothing(self, colours: Colours) -> None:
        with colours.serve(served := End()) as server, colours.connect(End, server.url) as proxy:

            def call_back(number: int) -> str:
                peer = caller()
                with pytest.raises(UnknownCommand) as caught:
                    peer.add(1, 2)
                return str(caught.value)

            served.does["call back"] = call_back
            assert "End.add" in proxy.do("call back")
            peer = server.peers[0]
            assert not peer.exposes(End)
            served.does["let through"] = lambda number: caller().add(1, 2)
            with pytest.raises(RemoteError) as caught:
                proxy.do("let through")
            assert caught.value.type_name == "UnknownCommand"
            assert proxy.add(1, 2) == 3

    def test_an_idle_client_answers(self, colours: Colours) -> None:
        with two_ends(colours) as ends:
            (peer,) = ends.server.peers
            assert peer.exposes(End)
            assert (
                run_all([lambda: [peer.proxy(End).add(number, 1) for number in range(20)]] * 4)
                == [list(range(1, 21))] * 4
            )
            assert ends.client.peer.proxy(End).add(1, 2) == 3
            assert peer.proxy(End.add)(2, 3) == 5

    @pytest.mark.parametrize("end", ["client", "peer of the client", "peer of the server", "server"])
    def test_after_the_end_every_proxy_says_so(self, end: str, colours: Colours) -> None:
        with two_ends(colours) as ends:
            (peer,) = ends.server.peers
            waiting = Gate()

            def wait(number: int) -> None:
                waiting.open()
                with pytest.raises(ConnectionLost):
                    caller().do("for ever")

            ever = Gate()
            ends.here.does["for ever"] = lambda number: ever.wait()
            ends.there.does["wait"] = wait
            proxies = [ends.call, ends.client.peer.proxy(End)]
            call = Running(ends.call.do, "wait")
            waiting.wait()
            end_it: dict[str, Callable[[], None]] = {
                "client": ends.client.close,
                "peer of the client": partial(ends.client.peer.close, "enough"),
                "peer of the server": partial(peer.close, "enough"),
                "server": partial(ends.server.close, 0),
            }
            closing = Running(end_it[end])
            closing.result()
            until(lambda: peer not in ends.server.peers, "the end of the peer")
            ever.open()  # not before: the handler at the other end is to learn of the end, not of an answer
            assert isinstance(call.error(), ConnectionLost)
            if end == "peer of the server":  # which the client has lost, and not left: its own proxy finds another
                assert proxies[0].add(1, 2) == 3
                assert proxies[0].add.submit(1, 2).result(PATIENCE) == 3
                (other,) = ends.server.peers
                assert other is not peer
                proxies = proxies[1:]
            for proxy in proxies:
                with pytest.raises(ConnectionLost):
                    proxy.add(1, 2)
                with pytest.raises(ConnectionLost):
                    proxy.add.submit(1, 2)
                with pytest.raises(ConnectionLost):
                    proxy.tell.notify("x", 1)
            with pytest.raises(ConnectionLost):
                peer.proxy(End).add(1, 2)
            with pytest.raises(ConnectionLost):
                peer.proxy(Node)


class TestErrors:
    def test_a_builtin_error_travels_back_as_itself(self, from_server: bool, colours: Colours) -> None:
        with two_ends(colours, from_server=from_server) as ends:

            def fail(further: int) -> None:
                if further:
                    caller().do("fail", further - 1)
                raise ValueError("at the bottom")

            ends.here.does["fail"] = ends.there.does["fail"] = fail
            with pytest.raises(ValueError, match=r"^at the bottom$"):
                ends.call.do("fail", 7)
            assert ends.call.add(1, 2) == 3

    def test_an_error_of_typedrpc_says_at_each_caller_that_its_handler_failed(
        self, from_server: bool, log: Log, colours: Colours
    ) -> None:
        kinds: list[str] = []
        with two_ends(colours, from_server=from_server) as ends:

            def fail(further: int) -> None:
                if not further:
                    raise DeadlineExceeded("something that was waited for here")
                try:
                    caller().do("fail", further - 1)
                except RemoteError as error:
                    kinds.append(error.type_name)
                    raise

            ends.here.does["fail"] = ends.there.does["fail"] = fail
            with pytest.raises(RemoteError) as caught:
                ends.call.do("fail", 3)
            assert [*kinds, caught.value.type_name] == ["DeadlineExceeded", "RemoteError", "RemoteError", "RemoteError"]
            for _ in range(4):
                assert log.line().startswith("End.do failed in a call, error id ")

    @pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
    def test_what_ends_a_program_goes_on_in_the_waiting_thread(
        self, kind: type[BaseException], from_server: bool, log: Log, colours: Colours
    ) -> None:
        """The peer gets an answer all the same, and the connection is whole."""
        answers: list[RemoteError] = []
        with two_ends(colours, from_server=from_server) as ends:

            def interrupt(number: int) -> None:
                raise kind("now")

            def call_back(number: int) -> None:
                try:
                    caller().do("interrupt")
                except RemoteError as error:
                    answers.append(error)
                finally:
                    done.open()

            done = Gate()
            ends.here.does["interrupt"] = interrupt
            ends.there.does["call back"] = call_back
            with pytest.raises(kind, match="now"):
                ends.call.do("call back")
            done.wait()
            assert [error.type_name for error in answers] == [kind.__name__]
            assert ends.call.to_and_fro(5) == 5

    def test_a_signal_within_a_nested_handler(self) -> None:
        source = """
            import os, signal
            from tests.both.test_nested import End, caller
            from typedrpc import Server, connect, RemoteError
            import threading
            answered = threading.Event()
            with Server(served := End(), url="tcp://127.0.0.1:0") as server:
                client = connect(server.url, expose=[exposed := End()])
                proxy = client.proxy(End)
                def interrupt(number):
                    signal.raise_signal(signal.SIGINT)
                def call_back(number):
                    try:
                        caller().do("interrupt", number)
                    except RemoteError as error:
                        say(error.type_name)
                        answered.set()
                exposed.does["interrupt"] = interrupt
                served.does["call back"] = call_back
                for number in range(20):
                    answered.clear()
                    try:
                        proxy.do("call back", number)
                    except KeyboardInterrupt:
                        assert answered.wait(30)
                    else:
                        say("it was not interrupted")
                    assert proxy.to_and_fro(5) == 5
                client.close()
            say("end")
        """
        with Program(source, measured=False) as program:
            assert [program.hear() for _ in range(21)] == ["KeyboardInterrupt"] * 20 + ["end"]
            program.expect_success()

    @pytest.mark.parametrize("by_server", [False, True])
    @pytest.mark.parametrize("further", range(5))
    def test_the_connection_is_lost_at_each_level(
        self, further: int, by_server: bool, from_server: bool, colours: Colours
    ) -> None:
        lost: list[int] = []
        with two_ends(colours, from_server=from_server) as ends:
            end = ends.server.peers[0].close if by_server else ends.client.peer.close

            def go(left: int) -> None:
                if not left:
                    end("enough")
                    return
                try:
                    caller().do("go", left - 1)
                except ConnectionLost:
                    lost.append(left)
                    if len(lost) == further:
                        all_know.open()
                    raise

            all_know = Gate()
            ends.here.does["go"] = ends.there.does["go"] = go
            with pytest.raises(ConnectionLost):
                ends.call.do("go", further)
            if further:
                all_know.wait()
            assert sorted(lost) == list(range(1, further + 1))


class TestRoom:
    @pytest.mark.parametrize(("here", "there"), [(1, 1), (1, 2), (2, 1), (2, 2), (1, 1024), (1024, 1)])
    def test_few_calls_may_be_in_flight(self, here: int, there: int, from_server: bool, colours: Colours) -> None:
        """Nested ones have as much room again; what is beyond is refused, and the connection goes on."""
        options = {"here": {"max_calls": here}, "there": {"max_calls": there}}
        with two_ends(colours, from_server=from_server, **options) as ends:
            # The other end takes the first call, then twice its number of nested ones together; this end all nested.
            deepest = min(2 * 2 * here + 1, 2 * 2 * there) - 1 if min(here, there) < 16 else 63
            deepest = min(deepest, 63)
            assert ends.call.to_and_fro(deepest) == deepest
            if deepest < 63:
                with pytest.raises(RemoteError) as caught:
                    ends.call.to_and_fro(deepest + 1)
                assert caught.value.type_name in ("ServerBusy", "RemoteError")
                assert {type(error) for error in ends.here.errors + ends.there.errors} <= {ServerBusy, RemoteError}
            assert ends.call.to_and_fro(deepest) == deepest

    @pytest.mark.unmeasured
    @pytest.mark.parametrize("max_calls", [1, 2, 3])
    def test_many_threads_and_room_for_few(self, max_calls: int, from_server: bool, colours: Colours) -> None:
        options = {"max_calls": max_calls}
        with two_ends(colours, from_server=from_server, here=options, there=options) as ends:

            def go(proxy: End) -> None:
                for number in range(30):
                    assert proxy.to_and_fro(1) == 1
                    assert proxy.add(number, 1) == number + 1

            run_all([partial(go, proxy) for proxy in (ends.call, ends.back) for _ in range(4)])

    @pytest.mark.parametrize("max_workers", [0, 1, 2])
    def test_all_threads_are_busy(self, max_workers: int, gates: Gates, from_server: bool, colours: Colours) -> None:
        """A nested call runs where a thread waits for it; where none does, and none is left, it is refused."""
        with two_ends(colours, from_server=from_server, here={"max_workers": max_workers}) as ends:
            began = threading.Semaphore(0)

            def block(number: int) -> None:
                began.release()
                gates["block"].wait()

            ends.here.does["block"] = block
            ends.there.does["nest"] = lambda number: caller().add(number, 1)

            refusals: list[str] = []
            refused = Gate()

            def nest_busy(number: int) -> None:
                with pytest.raises(ServerBusy) as caught:
                    caller().add(number, 1)
                refusals.append(str(caught.value))
                refused.open()

            ends.there.does["nest busy"] = nest_busy
            assert ends.call.do("nest", 1) == 2  # contracts are known from now on
            # With threads, the one that reads comes on top; on a loop, a handler that blocks always has one.
            on_loop = (colours.server if from_server else colours.client) == "loop"
            most = max(1, max_workers) if on_loop else max_workers + 1
            blocked = [Running(ends.back.do, "block") for _ in range(most)]
            for _ in blocked:
                assert began.acquire(timeout=PATIENCE)
            assert ends.call.do("nest", 1) == 2
            assert ends.call.to_and_fro(9) == 9
            answer = ends.call.do.submit("nest busy", 1)
            # Who waits for it is no thread, so that it takes one; and nobody is left to read it but the watcher.
            refused.wait()
            assert refusals == ["no thread is left for a call that is nested in another one; raise max_workers"]
            assert ends.call.do("nest", 2) == 3
            gates["block"].open()
            assert answer.result(PATIENCE) is None
            assert [one.result() for one in blocked] == [None] * len(blocked)
            assert ends.call.do.submit("nest", 1).result(PATIENCE) == 2

    @pytest.mark.unmeasured
    @pytest.mark.parametrize("max_workers", [0, 1, 2])
    def test_threads_that_call_back_leave_room_for_others(
        self, max_workers: int, from_server: bool, colours: Colours
    ) -> None:
        """Each call of the peer takes a thread while it waits; what is nested in it takes none."""
        options = {"max_workers": max_workers}
        with two_ends(colours, from_server=from_server, here=options, there=options) as ends:
            run_all([lambda: [ends.call.to_and_fro(20) for _ in range(20)]] * (max_workers + 1))

    def test_deep_nesting_takes_no_further_threads(self, gates: Gates, from_server: bool, colours: Colours) -> None:
        """Where something else is ready meanwhile, one thread comes for it, not one for each level."""
        with two_ends(colours, from_server=from_server) as ends:
            assert ends.call.to_and_fro(60) == 60
            before = threading.active_count()

            def bottom(further: int) -> int:
                if further:
                    return int(caller().do("bottom", further - 1))
                assert run_all([lambda: [ends.call.add(number, 1) for number in range(30)]] * 2)
                return threading.active_count()

            ends.here.does["bottom"] = ends.there.does["bottom"] = bottom
            assert ends.call.do("bottom", 60) <= before + 6


class TestDeadlines:
    def test_a_deadline_that_passes_while_a_nested_handler_runs(self, from_server: bool, colours: Colours) -> None:
        """The wait is longer by that; then it ends, at both ends."""

        def ends_late(timeout: float) -> bool:
            answers: list[int] = []
            answered, go = Gate(), Gate()
            with two_ends(colours, from_server=from_server) as ends:

                def nested(number: int) -> int:
                    answers.append(get_ident())
                    wait_past(deadline)
                    return 1

                def call_back(number: int) -> None:
                    # Unless the request took so long that it is in time.
                    with suppress(DeadlineExceeded, CallCancelled):
                        caller().do("nested")
                    answered.open()
                    go.wait()

                ends.here.does["nested"] = nested
                ends.there.does["call back"] = call_back
                timed = ends.call.do.with_options(timeout=timeout)
                deadline = monotonic() + timeout + 0.01
                with pytest.raises(DeadlineExceeded):
                    timed("call back")
                if not answers:
                    go.open()
                    return False
                answered.wait()
                assert answers == [get_ident()]
                go.open()
                assert ends.call.to_and_fro(5) == 5
                return True

        in_time(ends_late)

    def test_what_is_nested_in_a_call_that_is_given_up(self, from_server: bool, colours: Colours) -> None:
        """It ends with it: whether somebody runs it before the other end knows is a matter of luck."""

        def ends_all(timeout: float) -> bool:
            ended: list[BaseException | None] = []
            began: list[int] = []
            done, both_sent, go = Gate(), Gate(), Gate()
            with two_ends(colours, from_server=from_server) as ends:

                def nested(number: int) -> None:
                    began.append(number)
                    if number == 0:
                        both_sent.wait()
                        wait_past(deadline)

                def call_back(number: int) -> None:
                    first, second, third = (contextvars.copy_context() for _ in range(3))
                    peer = caller()
                    running = [Running(first.run, peer.do, "nested", 0)]
                    futures = [second.run(peer.do.submit, "nested", 1), third.run(peer.do.submit, "nested", 2)]
                    both_sent.open()
                    for one in running:
                        with suppress(DeadlineExceeded, CallCancelled):
                            one.result()
                    ended.extend(future.exception(PATIENCE) for future in futures)
                    done.open()
                    go.wait()

                ends.here.does["nested"] = nested
                ends.there.does["call back"] = call_back
                timed = ends.call.do.with_options(timeout=timeout)
                deadline = monotonic() + timeout + 0.01
                with pytest.raises(DeadlineExceeded):
                    timed("call back")
                if 0 not in began:
                    go.open()
                    return False
                done.wait()
                assert all(isinstance(error, DeadlineExceeded | CallCancelled | None) for error in ended)
                go.open()
                assert ends.call.to_and_fro(5) == 5
                return True

        in_time(ends_all)

    def test_a_call_that_is_nested_in_one_that_was_given_up(
        self, gates: Gates, from_server: bool, colours: Colours
    ) -> None:
        """It is not sent: the handler learns that nobody wants what it does."""
        ran: list[int] = []
        began, done = Gate(), Gate()
        with two_ends(colours, from_server=from_server) as ends:

            def call_back(number: int) -> None:
                began.open()
                assert current_call().cancelled.wait(PATIENCE)
                with pytest.raises(CallCancelled, match="which was cancelled: its caller has given it up"):
                    caller().do("thread")
                with pytest.raises(CallCancelled, match="which was cancelled: its caller has given it up"):
                    caller().do.submit("thread")
                done.open()

            ends.here.does["thread"] = ran.append
            ends.there.does["call back"] = call_back
            future = ends.call.do.submit("call back")
            began.wait()
            assert future.cancel()
            done.wait()
            assert ran == []

    def test_a_nested_call_with_a_deadline(self, gates: Gates, from_server: bool, colours: Colours) -> None:
        with two_ends(colours, from_server=from_server) as ends:
            began = Gate()

            def wait(number: int) -> None:
                began.open()
                gates["go"].wait()

            ends.here.does["wait"] = wait

            def give_up(number: int) -> str:
                timeout = 0.01
                while not began.is_open:
                    with pytest.raises(DeadlineExceeded):
                        caller().do.with_options(timeout=timeout)("wait")
                    timeout *= 3
                gates["go"].open()
                return "gave up"

            ends.there.does["give up"] = give_up
            assert ends.call.do("give up") == "gave up"


class TestSizes:
    @pytest.mark.unmeasured
    @pytest.mark.parametrize("further", [1, 2, 5])
    def test_large_payloads_cross(self, further: int, from_server: bool, colours: Colours) -> None:
        size = 8 * 1024 * 1024
        with two_ends(colours, from_server=from_server) as ends:

            def go(proxy: End, letter: bytes) -> None:
                data = letter * size
                assert proxy.echo(data, further) == data

            run_all([partial(go, proxy, letter) for proxy, letter in ((ends.call, b"a"), (ends.back, b"b"))])

    def test_limits_of_one_peer_change_while_it_is_connected(self, from_server: bool, colours: Colours) -> None:
        """Raised and lowered, both ways, within nested calls; who makes what is too large is told, and goes on."""
        with two_ends(
            colours, from_server=from_server, here={"max_message_size": 5000}, there={"max_message_size": 5000}
        ) as ends:
            here, there = ends.client.peer, ends.server.peers[0]
            if from_server:
                here, there = there, here

            def refused(proxy: End, size: int, limit: int) -> None:
                with pytest.raises(MessageTooLarge) as caught:
                    proxy.echo(bytes(size), 0)
                assert (caught.value.limit, size < caught.value.size < size + 50) == (limit, True)
                assert caught.value.what == "End.echo"

            def change(number: int) -> None:
                refused(caller(), 6000, 5000)
                here.set_limit(max_message_size=9000)
                assert caller().add(1, 2) == 3  # by now it is known here
                refused(caller(), 10_000, 9000)
                # The argument fits, the result does not.
                with pytest.raises(MessageTooLarge) as caught:
                    caller().echo(bytes(6000), 0)
                assert (caught.value.limit, caught.value.what) == (5000, "the result of End.echo")
                there.set_limit(max_message_size=9000)
                assert caller().add(1, 2) == 3
                assert caller().echo(bytes(6000), 0) == bytes(6000)
                here.set_limit(max_message_size=2000)
                assert caller().add(1, 2) == 3
                refused(caller(), 3000, 2000)
                assert caller().echo(bytes(1900), 0) == bytes(1900)

            ends.there.does["change"] = change
            ends.call.do("change")
            refused(ends.back, 3000, 2000)
            refused(ends.call, 10_000, 9000)
            with pytest.raises(ValueError, match="max_message_size"):
                here.set_limit(max_message_size=10)
            assert ends.call.to_and_fro(5) == 5

    @pytest.mark.unmeasured
    def test_a_limit_that_is_lowered_while_calls_are_on_their_way(self, from_server: bool, colours: Colours) -> None:
        with two_ends(colours, from_server=from_server) as ends:
            peer = ends.client.peer if from_server else ends.server.peers[0]
            over = Gate()

            def go() -> tuple[int, int]:
                counts = [0, 0]
                while not over.is_open:
                    try:
                        assert ends.call.echo(bytes(50_000), 0) == bytes(50_000)
                        counts[0] += 1
                    except MessageTooLarge as error:
                        assert error.limit == 20_000
                        counts[1] += 1
                return counts[0], counts[1]

            running = [Running(go) for _ in range(4)]
            for _ in range(10):
                peer.set_limit(max_message_size=20_000)
                assert ends.back.add(1, 2) == 3
                with pytest.raises(MessageTooLarge):
                    ends.call.echo(bytes(30_000), 0)
                peer.set_limit(max_message_size=100_000)
                assert ends.back.add(1, 2) == 3
                assert len(ends.call.echo(bytes(30_000), 0)) == 30_000
            over.open()
            counts = [one.result() for one in running]
            assert sum(fitted for fitted, _ in counts) > 0


class TestAtOnce:
    @pytest.mark.unmeasured
    @pytest.mark.parametrize("seed", range(2))
    def test_threads_at_both_ends(self, seed: int, colours: Colours) -> None:
        """Thousands of calls, nested by chance: every answer is right, and no more threads come than are needed."""
        most = [0]
        with two_ends(colours) as ends:

            def mix(value: int) -> int:
                return (value * 1_103_515_245 + 12_345) & 0x7FFF_FFFF

            def step(end: End) -> Callable[[int], int]:
                def go(packed: int) -> int:
                    most[0] = max(most[0], threading.active_count())
                    further, value = packed >> 32, mix(packed & 0xFFFF_FFFF)
                    if not further:
                        return value
                    rest = (further - 1 << 32) + value
                    if value % 7 == 0:
                        return int(caller().do.submit("go", rest).result(PATIENCE))
                    return int(caller().do("go", rest))

                return go

            ends.here.does["go"] = step(ends.here)
            ends.there.does["go"] = step(ends.there)

            def run(proxy: End, number: int) -> None:
                dice = random.Random(1000 * seed + number)
                for _ in range(12):
                    further, value = dice.randrange(30), dice.getrandbits(31)
                    expected = value
                    for _ in range(further + 1):
                        expected = mix(expected)
                    assert proxy.do("go", (further << 32) + value) == expected

            run_all([partial(run, proxy, number) for number in range(8) for proxy in (ends.call, ends.back)])
            assert most[0] <= 100

    @pytest.mark.unmeasured
    @for_servers
    def test_a_peer_that_sends_what_is_nested_in_a_call_faster_than_it_is_handled(
        self, gates: Gates, monkeypatch: pytest.MonkeyPatch, colours: Colours
    ) -> None:
        """One-way calls that wait for the one thread that may run them stop the reading, like others."""
        monkeypatch.setattr(handlers, "HELD_BYTES", 100_000)
        came: list[int] = []
        all_came = Gate()
        with colours.serve(served := End(), max_message_size=2000) as server, RawPeer.dial(server.url) as peer:

            def note(number: int) -> None:
                if not came:
                    gates["first"].open()
                    gates["go"].wait()
                came.append(number)
                if number == 19_999:
                    all_came.open()

            name = "note" * 250
            served.does[name] = note
            served.does["ask"] = lambda number: caller().do("anything")
            peer.send(PREAMBLE + hello(services={"End": b"another version"}))
            assert peer.read_frame().kind == Kind.HELLO
            peer.send_frame(Kind.REQUEST, End.do.id, 1, pack_plain(["ask", 0]))
            question = peer.question()
            while question.command != End.do.id:
                peer.send_frame(Kind.RESPONSE, 0, question.call, pack_plain(None))
                question = peer.question()
            extension = pack_extension(parent=question.call, depth=1)

            sent = [0]

            def send() -> None:
                for number in range(20_000):
                    payload = pack_plain([name, number])
                    data = encode(Kind.NOTIFY, End.tell.id, 0, payload, extension)
                    peer.send(data if isinstance(data, bytes) else b"".join(data))
                    sent[0] = number + 1

            sending = Running(send)
            gates["first"].wait()
            with colours.connect(End, server.url) as other:
                before = -1
                while before != sent[0]:  # until the sender is held up, or is done
                    before = sent[0]
                    for number in range(500):
                        assert other.add(number, 1) == number + 1
            assert not sending.done
            gates["go"].open()
            sending.result()
            all_came.wait()
            assert came == list(range(20_000))
            peer.send_frame(Kind.RESPONSE, 0, question.call, pack_plain(5))
            assert peer.read_frame().kind == Kind.RESPONSE


def test_a_fork_within_a_nested_handler() -> None:
    """The child has a connection of its own; the parent's goes on."""
    source = """
        import os, warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        from tests.both.test_nested import End, caller
        from tests.support import serving_process
        from typedrpc import ConnectionLost, connect
        url = hear()
        client = connect(url, expose=[exposed := End()])
        proxy = client.proxy(End)
        def fork(number):
            child = os.fork()
            if child == 0:
                try:
                    try:
                        client.peer.proxy(End).add(1, 2)
                        code = 3
                    except ConnectionLost:
                        code = 0 if proxy.add(number, 1) == number + 1 and proxy.to_and_fro(6) == 6 else 4
                except BaseException as error:
                    print(repr(error))
                    code = 5
                finally:
                    os._exit(code)
            _, status = os.waitpid(child, 0)
            assert caller().add(1, 2) == 3
            return os.waitstatus_to_exitcode(status)
        exposed.does["fork"] = fork
        for number in range(5):
            say(proxy.do("relay", number))
        assert proxy.to_and_fro(9) == 9
        client.close()
    """
    with Server(served := End(), url=URL) as server, Program(source, measured=False) as program:
        served.does["relay"] = lambda number: caller().do("fork", number)
        program.say(server.url)
        assert [program.hear() for _ in range(5)] == ["0"] * 5
        program.expect_success()
