"""Servers that run so many handlers at a time."""

import contextlib
import threading
from abc import abstractmethod
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from tests.ends import Colours, alike, for_servers
from tests.support import PATIENCE, Gate, Running, Workshop, run_all
from typedrpc import ConnectionLost, DeadlineExceeded, Service, current_call, rpc
from typedrpc.common.server import BaseServer

pytestmark = pytest.mark.usefixtures("no_leaks")
colours = alike


@pytest.fixture
def workshop() -> Iterator[Workshop]:
    workshop = Workshop()
    yield workshop
    workshop.gates.open_all()


class Line:
    """Knows how many calls have come to a server that is busy."""

    def __init__(self, server: BaseServer[Any]) -> None:
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


@contextlib.contextmanager
def in_line(colours: Colours, *services: Service, **options: Any) -> Iterator[tuple[BaseServer[Any], Line]]:
    """A server that handles one call at a time, and the line before it."""
    with colours.serve(*services, max_concurrent=1, **options) as server:
        yield server, Line(server)


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


@pytest.mark.unmeasured
@pytest.mark.parametrize(("most", "workers"), [(1, 4), (3, 4), (1, 0)])
def test_thirty_clients_at_once(most: int, workers: int, colours: Colours) -> None:
    fragile = Fragile(most)
    with colours.serve(fragile, max_concurrent=most, max_workers=workers) as server:

        def work() -> None:
            with colours.connect(Fragile, server.url) as proxy:
                for number in range(20):
                    assert proxy.touch(number) == number
                futures = [proxy.touch.submit(number) for number in range(20)]
                assert [future.result(PATIENCE) for future in futures] == list(range(20))
                for _ in range(5):
                    proxy.touch.notify(0)
                assert proxy.touch(1) == 1

        run_all([work] * 30)
    assert len(fragile.seen) == 30 * 46


def test_calls_wait_in_the_order_in_which_they_came(workshop: Workshop, colours: Colours) -> None:
    with (
        in_line(colours, workshop) as (server, line),
        colours.connect(Workshop, server.url) as one,
        colours.connect(Workshop, server.url) as two,
    ):
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


def test_the_protocols_own_commands_take_no_turn(workshop: Workshop, colours: Colours) -> None:
    with colours.serve(workshop, max_concurrent=1) as server, colours.connect(Workshop, server.url) as proxy:
        working = Running(proxy.wait, "job")
        workshop.started["job"].wait()
        with colours.connect(Workshop, server.url):
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


def test_a_nested_call_does_not_wait_for_itself(colours: Colours) -> None:
    with colours.serve(Deep(), max_concurrent=1) as server:
        with contextlib.ExitStack() as stack:
            clients = [colours.connect(Asking, server.url, expose=[Deep()]) for _ in range(4)]
            proxies = [stack.enter_context(client) for client in clients]
            assert run_all([partial(proxy.ask, 20) for proxy in proxies]) == [20] * 4


def test_who_leaves_the_line_is_not_waited_for(workshop: Workshop, colours: Colours) -> None:
    left = Gate()
    with (
        in_line(colours, workshop, on_disconnect=lambda peer, cause: left.open()) as (server, line),
        colours.connect(Workshop, server.url) as one,
    ):
        working = Running(one.wait, "job")
        workshop.started["job"].wait()
        with colours.connect(Workshop, server.url) as two:
            futures = [two.note.submit("never") for _ in range(100)]
            line.wait_for(100)
        left.wait()
        assert all(isinstance(future.exception(PATIENCE), ConnectionLost) for future in futures)
        last = one.note.submit("last")
        workshop.gates["job"].open()
        last.result(PATIENCE)
        assert working.result() == "job"
        assert workshop.notes == ["last"]


def test_a_call_whose_deadline_passes_in_line_is_not_run(workshop: Workshop, colours: Colours) -> None:
    with in_line(colours, workshop) as (server, line), colours.connect(Workshop, server.url) as proxy:
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


def test_a_line_that_is_too_long_to_be_held(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, colours: Colours
) -> None:
    monkeypatch.setattr("typedrpc.common.handlers.HELD_BYTES", 8192)
    with (
        in_line(colours, workshop, max_message_size=2048) as (server, line),
        colours.connect(Workshop, server.url) as one,
        colours.connect(Workshop, server.url) as two,
    ):
        working = Running(one.wait, "job")
        workshop.started["job"].wait()
        futures = [two.echo.submit(bytes(1500)) for _ in range(200)]
        line.wait_for(4)
        workshop.gates["job"].open()
        assert working.result() == "job"
        assert all(len(future.result(PATIENCE)) == 1500 for future in futures)


def test_a_place_is_kept_for_one_way_calls_in_line(workshop: Workshop, colours: Colours) -> None:
    with in_line(colours, workshop) as (server, line), colours.connect(Workshop, server.url) as one:
        working = Running(one.wait, "job")
        workshop.started["job"].wait()
        with colours.connect(Workshop, server.url) as two:
            for number in range(10):
                two.note.notify(str(number))
            line.wait_for(10)
        workshop.gates["job"].open()
        assert working.result() == "job"
        assert workshop.wait_for_notes(10) == [str(number) for number in range(10)]


@for_servers
@pytest.mark.parametrize("number", [0, -1, 1.5])
def test_what_makes_no_sense(number: int, colours: Colours) -> None:
    with pytest.raises(ValueError, match="max_concurrent must be"), colours.serve(Workshop(), max_concurrent=number):
        pass
