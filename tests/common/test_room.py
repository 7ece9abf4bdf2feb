"""Room for calls at the peer; the tests of connections try it with peers."""

import asyncio
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any, cast
from unittest import mock

import pytest

from tests.ends import Colours, for_threads
from tests.support import PATIENCE, Workshop
from typedrpc.common.calling import Calls
from typedrpc.common.room import Room
from typedrpc.common.tokens import CallWaiter, NotSent, Pending
from typedrpc.errors import DeadlineExceeded
from typedrpc.messages import Limits
from typedrpc.protocol import State


class Core:
    """A core whose peer has as many calls as it takes, until a test says otherwise."""

    def __init__(self) -> None:
        self.peer_limits = Limits(max_calls=3)
        self.state = State.OPEN
        self.late_replies = 0
        self.calls = self
        self.in_flight = 2
        self.looks: list[int] = []
        self.room: Room | None = None

    def __len__(self) -> int:
        if self.room is not None:
            self.looks.append(self.room.waiting)
        return self.in_flight


class Expected:
    """Handlers who are told that an answer is waited for, and no longer."""

    def expect(self) -> None: ...

    def forget(self) -> None: ...


def make_room(core: Core, handlers: object = None) -> tuple[Room, threading.Lock]:
    lock = threading.Lock()
    core.room = Room(cast(Any, core), lock, cast(Any, handlers))
    return core.room, lock


def test_who_waits_is_counted_before_the_look_that_decides() -> None:
    """Otherwise an answer between the two would wake nobody."""
    core = Core()
    room, lock = make_room(core)
    with lock, pytest.raises(NotSent) as caught:
        room.await_place("Store.put", monotonic(), CallWaiter())
    assert isinstance(caught.value.error, DeadlineExceeded)
    assert core.looks[:2] == [0, 1]
    assert room.waiting == 0


def test_nobody_waits_where_there_is_room() -> None:
    core = Core()
    core.in_flight = 1
    room, lock = make_room(core)
    with lock:
        room.await_place("Store.put", None, CallWaiter())
    assert core.looks == [0]


@for_threads
def test_who_led_takes_a_place_when_it_is_in_the_table(colours: Colours) -> None:
    """Two calls are in the table, one of a thread that led and gave the role up: nobody may lead beside them."""
    with (
        colours.serve(Workshop(), url="tcp://127.0.0.1:0", max_calls=2) as server,
        colours.connect(server.url) as client,
    ):
        proxy = client.proxy(Workshop)
        assert proxy.add(1, 2) == 3
        link: Any = client.peer.link
        connection = link.connection
        calls = connection.core.calls
        for call in (1001, 1003):
            calls.insert(call, CallWaiter())
        assert connection.role.free
        with pytest.raises(DeadlineExceeded, match="the peer had no room for another call in time"):
            proxy.add.with_options(timeout=0.05)(1, 2)
        assert connection.role.free
        for call in (1001, 1003):
            assert calls.pop(call) is not None
        assert proxy.add(1, 2) == 3


@pytest.mark.parametrize("way", ["cancelled", "late"])
def test_a_call_that_is_given_up_makes_no_room_at_any_moment(
    way: str, monkeypatch: pytest.MonkeyPatch, colours: Colours
) -> None:
    """To the peer it is in flight until it is answered: another one in between would be refused."""
    looks: list[bool] = []
    workshop = Workshop()
    with colours.serve(workshop, url="tcp://127.0.0.1:0", max_calls=2) as server, colours.connect(server.url) as client:
        connection = cast(Any, client.peer.link).connection
        fail, give_up = Pending.fail, Calls.give_up

        def look() -> None:
            with connection._state:
                looks.append(connection._room.has_place())

        def failing(self: Pending, *args: Any) -> None:
            look()
            fail(self, *args)

        def giving_up(self: Calls, call: int) -> None:
            look()
            give_up(self, call)

        monkeypatch.setattr(Pending, "fail", failing)
        monkeypatch.setattr(Calls, "give_up", giving_up)
        wait = client.proxy(Workshop).wait
        future = (wait.with_options(timeout=0.2) if way == "late" else wait).submit("a")
        if way == "cancelled":
            workshop.started["a"].wait()
            assert future.cancel()
        else:
            assert isinstance(future.exception(PATIENCE), DeadlineExceeded)
        workshop.gates["a"].open()
        monkeypatch.undo()
        assert client.proxy(Workshop).add(1, 2) == 3
    assert looks == [False, False]


class TestTasksInLine:
    """Where a server lets in few calls, thousands of tasks may stand in line."""

    def test_are_roused_in_order_and_by_their_own_loop_without_waking_it_from_elsewhere(self) -> None:
        """A loop is woken from elsewhere by a socket, which takes longer than all the rest."""
        roused, woken = asyncio.run(self.roused_by(lambda notify: notify()))
        assert (roused, woken) == (list(range(50)), 0)

    def test_are_roused_from_other_threads_too(self) -> None:
        def elsewhere(notify: Callable[[], None]) -> None:
            thread = threading.Thread(target=notify)
            thread.start()
            thread.join(PATIENCE)
            assert not thread.is_alive()

        roused, woken = asyncio.run(self.roused_by(elsewhere))
        assert (roused, woken) == (list(range(50)), 50)

    async def roused_by(self, rouse: Callable[[Callable[[], None]], None]) -> tuple[list[int], int]:
        """Who of 50 tasks was roused, in order, and how often their loop was woken from elsewhere."""
        core = Core()
        room, lock = make_room(core, Expected())
        loop = asyncio.get_running_loop()
        woken: list[object] = []
        from_elsewhere = loop.call_soon_threadsafe

        def waking(*args: Any, **kwargs: Any) -> asyncio.Handle:
            woken.append(args)
            return from_elsewhere(*args, **kwargs)

        roused: list[int] = []

        async def stand(number: int) -> None:
            await room.stand_in_line("Store.put", None)
            roused.append(number)

        def notify() -> None:
            with lock:
                core.in_flight = 0
                core.peer_limits = Limits(max_calls=100)
                room.notify_all()

        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
            for number in range(50):
                group.create_task(stand(number))
            while room.waiting < 50:
                await asyncio.sleep(0)
            with mock.patch.object(loop, "call_soon_threadsafe", waking):
                rouse(notify)
        assert room.waiting == 0
        return roused, len(woken)
