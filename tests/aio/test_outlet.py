"""What an event loop writes, to a transport that takes as much as a test says."""

import asyncio
import weakref
from collections.abc import Callable
from contextvars import ContextVar, copy_context
from time import monotonic
from typing import Any, cast

import pytest

from tests.back_to_back import frames
from tests.loops import Loop, come_about, turns
from tests.support import Log, Running
from typedrpc.aio import outlet as module
from typedrpc.aio.outlet import HIGH_WATER, Outlet
from typedrpc.common import outbox
from typedrpc.errors import ConnectionLost
from typedrpc.wire import CHUNK_SIZE, Kind, encode

pytestmark = pytest.mark.usefixtures("no_leaks")

LARGE = encode(Kind.REQUEST, 1, 1, bytes(8 * CHUNK_SIZE))
SMALL = encode(Kind.REQUEST, 1, 3, b"small")


class Transport:
    """Takes writes as a transport does, and tells its outlet to pause when it has more than it wants."""

    def __init__(self, outlet: Outlet, *, wants: int = 1 << 40) -> None:
        self.writes: list[bytes] = []
        self.fails = self.lost = False
        self.sizes: list[int] = []
        self.high = 0
        self._outlet = outlet
        self._wants = wants

    def set_write_buffer_limits(self, high: int) -> None:
        self.high = high

    def get_write_buffer_size(self) -> int:
        return self.sizes.pop(0) if self.sizes else 0

    def is_closing(self) -> bool:
        return self.lost

    def write(self, data: bytes) -> None:
        self.writes.append(bytes(data))
        self.lost = self.fails
        if len(data) >= self._wants:
            self._outlet.pause()


class Rig:
    """An outlet on the running loop, and what it asks of its connection."""

    def __init__(self, *, wants: int = 1 << 40) -> None:
        self.ends: list[ConnectionLost] = []
        self.resumes = 0
        self.outlet = Outlet(asyncio.get_running_loop(), end=self._end, resumed=self._resumed)
        self.transport = Transport(self.outlet, wants=wants)

    def _end(self, error: ConnectionLost) -> None:
        self.ends.append(error)
        self.outlet.close()

    def _resumed(self) -> None:
        self.resumes += 1

    def open(self) -> "Rig":
        self.outlet.open(cast(Any, self.transport))
        return self

    @property
    def writes(self) -> list[bytes]:
        return self.transport.writes


class TestGathering:
    def test_what_is_queued_in_one_turn_leaves_in_one_write(self, loop: Loop) -> None:
        async def main() -> None:
            rig = Rig().open()
            for number in range(10):
                rig.outlet.add(b"%d" % number)
            assert rig.writes == []
            await turns(2)
            assert rig.writes == [b"0123456789"]
            rig.outlet.add(b"more")
            await turns(2)
            assert rig.writes == [b"0123456789", b"more"]

        loop.run(main())

    def test_what_is_queued_before_there_is_a_transport_leaves_when_there_is(self, loop: Loop) -> None:
        async def main() -> None:
            rig = Rig()
            rig.outlet.add(b"early")
            await turns()
            assert not rig.outlet.idle
            rig.open()
            assert rig.writes == [b"early"]
            assert rig.transport.high == HIGH_WATER
            assert rig.outlet.idle

        loop.run(main())

    def test_who_reads_flushes_himself(self, loop: Loop) -> None:
        async def main() -> None:
            rig = Rig().open()
            rig.outlet.gathering = True
            rig.outlet.add(b"answer")
            await turns()
            assert rig.writes == []
            rig.outlet.gathering = False
            rig.outlet.flush()
            assert rig.writes == [b"answer"]

        loop.run(main())

    def test_what_other_threads_queue_leaves_in_order(self, loop: Loop) -> None:
        async def main() -> None:
            rig = Rig().open()

            def add() -> None:
                for number in range(100):
                    rig.outlet.add(b"%02d" % number)

            adding = Running(add)
            await come_about(lambda: len(b"".join(rig.writes)) == 200)
            adding.result()
            assert b"".join(rig.writes) == b"".join(b"%02d" % number for number in range(100))

        loop.run(main())

    def test_what_is_queued_may_change_afterwards(self, loop: Loop) -> None:
        async def main() -> None:
            rig = Rig().open()
            buffer = bytearray(b"before")
            rig.outlet.add((b"head ", memoryview(buffer)))
            buffer[:] = b"after."
            await turns()
            assert b"".join(rig.writes) == b"head before"

        loop.run(main())

    def test_a_loop_that_is_closed(self, loop: Loop) -> None:
        rigs: list[Rig] = []

        async def main() -> None:
            rigs.append(Rig().open())

        loop.run(main())
        Running(rigs[0].outlet.add, b"late").result()
        assert rigs[0].writes == []


class TestPausing:
    def test_a_transport_that_has_enough_is_given_no_more(self, loop: Loop) -> None:
        async def main() -> None:
            rig = Rig(wants=4).open()
            rig.outlet.add(b"1234")
            await turns()
            rig.outlet.add(b"5")
            await turns()
            assert rig.writes == [b"1234"]
            rig.outlet.resume()
            assert rig.writes == [b"1234", b"5"]
            assert rig.resumes == 1
            rig.outlet.close()

        loop.run(main())

    def test_a_small_frame_passes_a_large_one_that_waits(self, loop: Loop) -> None:
        async def main() -> None:
            rig = Rig(wants=CHUNK_SIZE // 2).open()
            rig.outlet.add(LARGE)
            await turns()
            assert rig.outlet.paused
            assert len(rig.writes) == 1
            rig.outlet.add(SMALL)
            for _ in range(20):
                rig.outlet.resume()
            assert b"small" in rig.writes[1]
            assert [frame.call for frame in frames(b"".join(rig.writes))] == [3, 1]
            assert rig.resumes == 20  # who is paused again by a large frame alone has room for small ones
            rig.outlet.close()

        loop.run(main())

    def test_tasks_wait_until_there_is_room(self, loop: Loop) -> None:
        async def main() -> None:
            rig = Rig(wants=4).open()
            rig.outlet.add(b"1234")
            await turns()
            waiting = [asyncio.create_task(rig.outlet.drained()) for _ in range(3)]
            await turns()
            waiting[0].cancel()
            rig.outlet.add(b"5678")
            rig.outlet.resume()  # which is paused again by what still waited
            await turns()
            assert [task.done() for task in waiting] == [True, False, False]
            rig.outlet.resume()
            await asyncio.gather(*waiting[1:])
            await rig.outlet.drained()
            rig.outlet.close()

        loop.run(main())

    def test_tasks_wait_no_longer_than_the_connection_lasts(self, loop: Loop) -> None:
        async def main() -> None:
            rig = Rig(wants=4).open()
            rig.outlet.add(b"1234")
            await turns()
            waiting = asyncio.create_task(rig.outlet.drained())
            await turns()
            rig.outlet.close()
            await waiting
            await rig.outlet.drained()

        loop.run(main())


class TestRoom:
    """For threads, which wait where tasks go on."""

    @pytest.fixture(autouse=True)
    def small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(outbox, "QUEUED_FRAMES", 3)

    def fill(self, rig: Rig) -> None:
        rig.outlet.pause()
        for _ in range(5):
            rig.outlet.add(b"x")

    @pytest.mark.parametrize("how", ["resume", "close"])
    def test_they_wait_until_little_is_left_or_nothing_is_written_any_more(self, loop: Loop, how: str) -> None:
        async def main() -> None:
            rig = Rig().open()
            self.fill(rig)
            waiting = Running(rig.outlet.await_room, None)
            await come_about(lambda: rig.outlet._crowd)
            assert not waiting.done
            getattr(rig.outlet, how)()
            await come_about(lambda: waiting.done)
            waiting.result()
            rig.outlet.close()

        loop.run(main())

    def test_they_wait_no_longer_than_they_are_told(self, loop: Loop) -> None:
        async def main() -> None:
            rig = Rig().open()
            self.fill(rig)
            Running(rig.outlet.await_room, monotonic() - 1).result()
            assert rig.outlet.outbox.full
            rig.outlet.close()

        loop.run(main())

    def test_where_there_is_room_nobody_waits(self, loop: Loop) -> None:
        async def main() -> None:
            rig = Rig()
            rig.outlet.add(b"x")
            Running(rig.outlet.await_room, None).result()

        loop.run(main())


class TestStalling:
    def test_a_peer_that_reads_nothing_is_cut_off(self, loop: Loop, monkeypatch: pytest.MonkeyPatch, log: Log) -> None:
        monkeypatch.setattr(module, "STALL_TIME", 0.0)

        async def main() -> None:
            rig = Rig().open()
            rig.transport.sizes = [1000, 900, 900, 900]  # it reads a little, and then nothing
            rig.outlet.pause()
            await come_about(lambda: rig.ends)
            assert str(rig.ends[0]) == "the peer read nothing for 0 s"
            assert rig.transport.sizes == []

        loop.run(main())
        assert log.line() == "a peer that read nothing for 0 s was cut off"

    @pytest.mark.parametrize("how", ["resume", "close"])
    def test_one_that_reads_again_or_has_left_is_looked_at_no_more(
        self, loop: Loop, monkeypatch: pytest.MonkeyPatch, how: str
    ) -> None:
        monkeypatch.setattr(module, "STALL_TIME", 0.0)

        async def main() -> None:
            rig = Rig().open()
            rig.outlet.pause()
            getattr(rig.outlet, how)()
            await turns()
            assert rig.ends == []

        loop.run(main())


class TestTheEnd:
    def test_what_was_queued_before_the_end_is_still_written(self, loop: Loop) -> None:
        async def main() -> None:
            rig = Rig().open()
            rig.outlet.add(b"goodbye")
            rig.outlet.sealed = True
            rig.outlet.add(b"too late")
            rig.outlet.flush()
            assert rig.writes == [b"goodbye"]

        loop.run(main())

    def test_closed_it_writes_nothing(self, loop: Loop) -> None:
        async def main() -> None:
            rig = Rig().open()
            rig.outlet.add(b"lost")
            rig.outlet.close()
            await turns()
            assert rig.writes == []
            assert rig.outlet.idle

        loop.run(main())

    @pytest.mark.parametrize(
        "fill",
        [
            lambda rig: rig.outlet.add(b"x"),
            lambda rig: (rig.outlet.pause(), rig.outlet.outbox.lanes.admit(LARGE)),
            lambda rig: rig.transport.sizes.append(1),
        ],
        ids=["queued", "on its way", "with the transport"],
    )
    def test_it_is_idle_when_the_system_has_everything(self, loop: Loop, fill: Callable[[Rig], object]) -> None:
        async def main() -> None:
            rig = Rig().open()
            idle = [rig.outlet.idle]
            fill(rig)
            idle.append(rig.outlet.idle)
            rig.outlet.close()
            assert [*idle, rig.outlet.idle] == [True, False, True]

        loop.run(main())


class Tenant:
    """What a handler has in its context."""


tenant: ContextVar[Tenant] = ContextVar("tenant")


def test_a_timer_does_not_keep_the_context_of_who_has_written(loop: Loop) -> None:
    """asyncio keeps a timer that was cancelled until it would be due, and its context: the call of a handler."""

    async def main() -> None:
        rig = Rig().open()
        held = Tenant()
        left = weakref.ref(held)

        def write_too_much(held: Tenant) -> None:
            tenant.set(held)
            rig.outlet.pause()
            rig.outlet.resume()

        copy_context().run(write_too_much, held)
        del held
        assert left() is None
        rig.outlet.close()

    loop.run(main())


class Layer:
    """As asyncio's TLS, which does not say that the transport below it is closing."""

    def __init__(self, pipe: Transport) -> None:
        self._ssl_protocol = self
        self._transport = pipe
        self.write = pipe.write
        self.set_write_buffer_limits = pipe.set_write_buffer_limits
        self.get_write_buffer_size = pipe.get_write_buffer_size

    def is_closing(self) -> bool:
        return False


def test_a_transport_that_was_lost_is_given_no_more(loop: Loop) -> None:
    """asyncio logs a warning for each further write, and of a large message there are many."""

    async def main() -> None:
        for has_tls in (False, True):
            rig = Rig()
            pipe = rig.transport
            pipe.fails = True
            rig.outlet.open(cast(Any, Layer(pipe) if has_tls else pipe))
            rig.outlet.add(LARGE)
            rig.outlet.flush()
            assert pipe.lost
            assert len(rig.writes) == 1
            rig.outlet.close()

    loop.run(main())
