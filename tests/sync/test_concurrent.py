"""Servers that run so many handlers at a time."""

import threading
from abc import abstractmethod
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from tests.blocking import Ends
from tests.support import PATIENCE, Gate, Running, Workshop, run_all
from typedrpc import ConnectionLost, DeadlineExceeded, Server, Service, current_call, rpc

pytestmark = pytest.mark.usefixtures("no_leaks")

URL = "tcp://127.0.0.1:0"


@pytest.fixture
def workshop() -> Iterator[Workshop]:
    workshop = Workshop()
    yield workshop
    workshop.gates.open_all()


class Line:
    """Knows how many calls have come to a server that is busy."""

    def __init__(self, server: Server) -> None:
        turns = server._dispatcher.turns
        assert turns is not None
        self._changed = threading.Condition()
        self._length = 0
        self._take = turns.take
        server._dispatcher.turns = self  # type: ignore[misc, assignment]
        self.give_back = turns.give_back

    def take(self, go: Callable[[], bool]) -> bool:
        taken = self._take(go)
        with self._changed:
            self._length += not taken
            self._changed.notify_all()
        return taken

    def wait_for(self, count: int) -> None:
        """Until so many have had to stand in line."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._length >= count, PATIENCE), self._length


class Fragile(Service):
    """Breaks when two handlers run at once."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.running: list[None] = []
        self.seen: list[int] = []

    @rpc
    def touch(self, number: int) -> int:
        self.running.append(None)
        assert len(self.running) <= self.most
        self.seen.append(number)
        self.running.pop()
        return number


@pytest.mark.parametrize(("most", "workers"), [(1, 4), (3, 4), (1, 0)])
def test_thirty_clients_at_once(ends: Ends, most: int, workers: int) -> None:
    fragile = Fragile(most)
    with ends.Server(fragile, url=URL, max_concurrent=most, max_workers=workers) as server:

        def work() -> None:
            with ends.connect(Fragile, server.url) as proxy:
                for number in range(20):
                    assert proxy.touch(number) == number
                futures = [proxy.touch.submit(number) for number in range(20)]
                assert [future.result(PATIENCE) for future in futures] == list(range(20))
                for _ in range(5):
                    proxy.touch.notify(0)
                assert proxy.touch(1) == 1

        run_all([work] * 30)
    assert len(fragile.seen) == 30 * 46


def test_calls_wait_in_the_order_in_which_they_came(ends: Ends, workshop: Workshop) -> None:
    server = ends.Server(workshop, url=URL, max_concurrent=1)
    line = Line(server)
    with server, ends.connect(Workshop, server.url) as one, ends.connect(Workshop, server.url) as two:
        working = Running(one.wait, "job")
        workshop.started["job"].wait()
        calls = []
        for number, proxy in enumerate([two, one, two, two, one, one]):
            if number % 2:
                proxy.note.notify(str(number))
            else:
                calls.append(proxy.note.submit(str(number)))
            line.wait_for(number + 1)
        assert workshop.notes == []
        workshop.gates["job"].open()
        assert working.result() == "job"
        assert workshop.wait_for_notes(6) == list("012345")
        for call in calls:
            call.result(PATIENCE)


def test_the_protocols_own_commands_take_no_turn(ends: Ends, workshop: Workshop) -> None:
    with ends.Server(workshop, url=URL, max_concurrent=1) as server, ends.connect(Workshop, server.url) as proxy:
        working = Running(proxy.wait, "job")
        workshop.started["job"].wait()
        with ends.connect(Workshop, server.url):
            assert not working.done
            workshop.gates["job"].open()
        assert working.result() == "job"


class Asking(Service):
    @rpc
    @abstractmethod
    def ask(self, depth: int) -> int: ...


class Deep(Asking):
    """Asks its caller, which asks back."""

    @rpc
    def ask(self, depth: int) -> int:
        return depth and 1 + current_call().peer.proxy(Asking).ask(depth - 1)


def test_a_nested_call_does_not_wait_for_itself(ends: Ends) -> None:
    with ends.Server(Deep(), url=URL, max_concurrent=1) as server:
        clients = [ends.connect(Asking, server.url, expose=[Deep()]) for _ in range(4)]
        try:
            proxies = [client.proxy(Asking) for client in clients]
            assert run_all([partial(proxy.ask, 20) for proxy in proxies]) == [20] * 4
        finally:
            for client in clients:
                client.close()


def test_who_leaves_the_line_is_not_waited_for(ends: Ends, workshop: Workshop) -> None:
    left = Gate()
    server = ends.Server(workshop, url=URL, max_concurrent=1, on_disconnect=lambda peer, cause: left.open())
    line = Line(server)
    with server, ends.connect(Workshop, server.url) as one:
        working = Running(one.wait, "job")
        workshop.started["job"].wait()
        with ends.connect(Workshop, server.url) as two:
            futures = [two.note.submit("never") for _ in range(100)]
            line.wait_for(100)
        left.wait()
        assert all(isinstance(future.exception(PATIENCE), ConnectionLost) for future in futures)
        last = one.note.submit("last")
        workshop.gates["job"].open()
        last.result(PATIENCE)
        assert working.result() == "job"
        assert workshop.notes == ["last"]


def test_a_call_whose_deadline_passes_in_line_is_not_run(ends: Ends, workshop: Workshop) -> None:
    server = ends.Server(workshop, url=URL, max_concurrent=1)
    line = Line(server)
    with server, ends.connect(Workshop, server.url) as proxy:
        working = Running(proxy.wait, "job")
        workshop.started["job"].wait()
        short = proxy.note.with_options(timeout=0.2).submit("too late")
        line.wait_for(1)
        # When this one gives up, the other's time has passed at the server too.
        with pytest.raises(DeadlineExceeded):
            proxy.note.with_options(timeout=0.3)("late")
        assert isinstance(short.exception(PATIENCE), DeadlineExceeded)
        workshop.gates["job"].open()
        assert working.result() == "job"
        proxy.note("in time")
        assert "too late" not in workshop.notes


def test_a_line_that_is_too_long_to_be_held(ends: Ends, workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("typedrpc.common.handlers.HELD_BYTES", 8192)
    server = ends.Server(workshop, url=URL, max_concurrent=1, max_message_size=2048)
    line = Line(server)
    with server, ends.connect(Workshop, server.url) as one, ends.connect(Workshop, server.url) as two:
        working = Running(one.wait, "job")
        workshop.started["job"].wait()
        futures = [two.echo.submit(bytes(1500)) for _ in range(200)]
        line.wait_for(4)
        workshop.gates["job"].open()
        assert working.result() == "job"
        assert all(len(future.result(PATIENCE)) == 1500 for future in futures)


def test_a_place_is_kept_for_one_way_calls_in_line(ends: Ends, workshop: Workshop) -> None:
    server = ends.Server(workshop, url=URL, max_concurrent=1)
    line = Line(server)
    with server, ends.connect(Workshop, server.url) as one:
        working = Running(one.wait, "job")
        workshop.started["job"].wait()
        with ends.connect(Workshop, server.url) as two:
            for number in range(10):
                two.note.notify(str(number))
            line.wait_for(10)
        workshop.gates["job"].open()
        assert working.result() == "job"
        assert workshop.wait_for_notes(10) == [str(number) for number in range(10)]


@pytest.mark.parametrize("number", [0, -1, 1.5])
def test_what_makes_no_sense(ends: Ends, number: int) -> None:
    with pytest.raises(ValueError, match="max_concurrent must be"):
        ends.Server(Workshop(), url=URL, max_concurrent=number)
