"""Forks: sockets are shared with the child then, and threads are not. Each side goes on with its own connection."""

import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.ends import LoopClient, LoopServer
from tests.support import PATIENCE, Gate, Program, RawPeer, Running, Workshop, serving_process
from typedrpc import ConnectionLost, Server, connect
from typedrpc.codec import pack_plain
from typedrpc.wire import Kind

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
    pytest.mark.usefixtures("no_leaks"),
    # Newer Pythons warn of forks while threads run, which is what is tried here.
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),
]


class Child:
    """A forked child that runs a function; :meth:`finish` fails the test with what the function raised."""

    def __init__(self, body: Callable[[], object]) -> None:
        reading, writing = os.pipe()
        self._pid = os.fork()
        if not self._pid:
            code = 1
            try:
                os.close(reading)
                body()
                code = 0
            except BaseException:
                os.write(writing, traceback.format_exc().encode()[-60_000:])
            finally:
                sys.stdout.flush()
                os._exit(code)
        os.close(writing)
        self._reading = reading

    def finish(self) -> None:
        with os.fdopen(self._reading, "rb") as pipe:
            complaint = pipe.read().decode()
        _, status = os.waitpid(self._pid, 0)
        assert not complaint, complaint
        assert os.waitstatus_to_exitcode(status) == 0


def call_often(proxy: Workshop, seed: int, count: int = 1000) -> None:
    for number in range(count):
        assert proxy.add(seed, number) == seed + number


@pytest.fixture
def url() -> Iterator[str]:
    with serving_process() as (url, _):
        yield url


@pytest.mark.unmeasured
def test_parent_and_child_call_a_thousand_times_each(url: str) -> None:
    with connect(Workshop, url) as proxy:
        call_often(proxy, 0, 10)
        child = Child(lambda: call_often(proxy, 1_000_000))
        call_often(proxy, 2_000_000)
        child.finish()
        call_often(proxy, 3_000_000, 10)


@pytest.mark.unmeasured
def test_several_children_and_a_grandchild(url: str) -> None:
    with connect(Workshop, url) as proxy:
        call_often(proxy, 0, 10)

        def beget() -> None:
            call_often(proxy, 1000, 50)
            grandchild = Child(lambda: call_often(proxy, 9000, 50))
            call_often(proxy, 2000, 50)
            grandchild.finish()

        children = [Child(beget) for _ in range(3)]
        call_often(proxy, 3000, 50)
        for child in children:
            child.finish()


def test_every_form_of_a_call_in_the_child(url: str) -> None:
    with connect(Workshop, url) as proxy:
        assert proxy.add(1) == 1

        def body() -> None:
            assert proxy.add.submit(1, 2).result(PATIENCE) == 3
            assert list(proxy.add.map([1, 2, 3])) == [1, 2, 3]
            assert proxy.add.with_options(timeout=PATIENCE)(5) == 5
            proxy.note.notify("n")
            assert proxy.echo(bytes(1_000_000)) == bytes(1_000_000)

        Child(body).finish()
        body()


@pytest.mark.unmeasured
def test_a_fork_while_other_threads_are_in_calls(url: str) -> None:
    with connect(Workshop, url) as proxy:
        stop = Gate()

        def ask() -> int:
            count = 0
            while not stop.is_open:
                assert proxy.add(count, 1) == count + 1
                assert proxy.add.submit(count, 2).result(PATIENCE) == count + 2
                count += 1
            return count

        asking = [Running(ask) for _ in range(3)]
        for _ in range(4):
            Child(lambda: call_often(proxy, 5000, 20)).finish()
            call_often(proxy, 7000, 20)
        stop.open()
        for one in asking:
            assert one.result() > 0


def test_a_fork_while_a_call_waits() -> None:
    workshop = Workshop()
    with serving_process() as (url, _), Server(workshop, url="tcp://127.0.0.1:0") as server:
        with connect(Workshop, server.url) as waiting, connect(Workshop, url) as proxy:
            blocked = Running(waiting.wait, "a")
            workshop.started["a"].wait()
            Child(lambda: call_often(proxy, 1, 10)).finish()
            workshop.gates["a"].open()
            assert blocked.result() == "a"
            assert waiting.add(1) == 1


def test_a_child_that_closes_the_client(url: str) -> None:
    with connect(url) as client:
        proxy = client.proxy(Workshop)
        futures = [proxy.add.submit(number) for number in range(20)]

        def close_at_once() -> None:
            client.close()
            with pytest.raises(ConnectionLost):
                proxy.add(1)

        def close_later() -> None:
            call_often(proxy, 1, 10)
            client.close()
            client.close()
            with pytest.raises(ConnectionLost):
                proxy.add(1)

        for body in (close_at_once, close_later):
            Child(body).finish()
            call_often(proxy, 1, 10)
        assert [future.result(PATIENCE) for future in futures] == list(range(20))


def test_a_child_whose_server_has_gone() -> None:
    with serving_process() as (url, program), connect(Workshop, url) as proxy:
        assert proxy.add(1) == 1
        go_reading, go_writing = os.pipe()

        def body() -> None:
            assert os.read(go_reading, 1)
            for _ in range(2):
                with pytest.raises(ConnectionError):
                    proxy.add(1)

        child = Child(body)
        program.say()
        program.expect_success()
        os.write(go_writing, b"x")
        child.finish()
        os.close(go_reading)
        os.close(go_writing)


def test_a_server_whose_process_forks() -> None:
    """The child has copies of everything, and must not touch it; the parent serves on."""
    workshop = Workshop()
    with Server(workshop, url="tcp://127.0.0.1:0") as server, connect(Workshop, server.url) as proxy:
        with RawPeer.dial(server.url) as peer:
            peer.shake_hands()
            Child(lambda: None).finish()
            call_often(proxy, 1, 10)
            peer.send_frame(Kind.REQUEST, Workshop.add.id, 1, pack_plain([1]))
            assert peer.read_frame().call == 1


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_child_that_closes_the_server(kind: str, tmp_path: Path) -> None:
    workshop = Workshop()
    url = "tcp://127.0.0.1:0" if kind == "tcp" else f"unix://{tmp_path}/s.sock"
    with Server(workshop, url=url) as server, connect(Workshop, server.url) as proxy:
        assert proxy.add(1) == 1
        Child(server.close).finish()
        assert proxy.add(1) == 1
        with connect(Workshop, server.url) as other:
            assert other.add(1) == 1


def test_multiprocessing_with_fork() -> None:
    with (
        Program("""
        import multiprocessing, warnings
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        from tests.support import Workshop
        from typedrpc import connect
        url = hear()
        client = connect(url)
        proxy = client.proxy(Workshop)
        def work(number):
            return sum(proxy.add(number, other) for other in range(50))
        proxy.add(1)
        with multiprocessing.get_context("fork").Pool(3) as pool:
            assert pool.map(work, range(20)) == [sum(number + other for other in range(50)) for number in range(20)]
        assert proxy.add(1) == 1
        client.close()
    """) as program,
        serving_process() as (url, _),
    ):
        program.say(url)
        program.expect_success()


def test_a_child_that_is_forked_within_a_callback_learns_that_the_call_is_the_parents() -> None:
    source = """
        import os
        from collections.abc import Callable
        from typedrpc import ConnectionLost, Server, Service, connect, rpc

        class Room(Service):
            @rpc
            def run(self, callback: Callable[[int], int]) -> int:
                return callback(1)

        parent = os.getpid()

        def fork(number):
            child = os.fork()
            if not child:
                return -1
            say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            return number + 1

        with Server(Room(), url="tcp://127.0.0.1:0") as server, connect(Room, server.url) as room:
            try:
                result = room.run(fork)
            except ConnectionLost as lost:
                os._exit(7 if os.getpid() != parent and "fork" in str(lost) else 8)
            if os.getpid() != parent:
                os._exit(9)
            say(result)
    """
    with Program(source) as program:
        assert program.hear() == "7"
        assert program.hear() == "2"
        program.expect_success()


@pytest.mark.parametrize("colour", ["client", "server"])
def test_what_belongs_to_an_event_loop_is_the_parents(colour: str, url: str) -> None:
    """The child has no such loop: whoever calls or closes there is told at once, and the parent goes on."""
    client: Any
    server: Any = None
    with contextlib.ExitStack() as stack:
        if colour == "client":
            client = stack.enter_context(LoopClient(url))
        else:
            server = stack.enter_context(LoopServer(Workshop(), url="tcp://127.0.0.1:0"))
            client = stack.enter_context(connect(server.url))
        proxy = client.proxy(Workshop)
        assert proxy.add(1) == 1

        def body() -> None:
            if colour == "client":
                for call in (proxy.add, lambda number: proxy.add.submit(number).result(PATIENCE)):
                    with pytest.raises(ConnectionLost, match="before a fork"):
                        call(1)
                client.itself.close()
            else:
                server.itself.close()

        Child(body).finish()
        call_often(proxy, 1, 10)
