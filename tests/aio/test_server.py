"""A server on an event loop where the system has no more threads."""

import asyncio
import threading

import pytest

from tests.ends import loop_connect, loop_server
from tests.support import PATIENCE, Log, RawPeer
from typedrpc import Service, aio, rpc
from typedrpc.wire import Kind

pytestmark = pytest.mark.usefixtures("no_leaks")


class Adder(Service):
    @rpc
    def add(self, a: int, b: int) -> int:
        return a + b


def refuse(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_a_client_that_hooks_have_no_thread_for_is_cut_off(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    with loop_server(Adder(), on_connect=lambda peer: None) as server:
        with monkeypatch.context() as patch, RawPeer.dial(server.url) as peer:
            patch.setattr(threading.Thread, "start", refuse)
            peer.greet()
            peer.read_to_end()
        assert "no thread could be started" in log.line()
        with loop_connect(Adder, server.url) as adder:
            assert adder.add(1, 2) == 3


def test_who_waits_until_it_is_closed_is_told_without_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        server = await aio.Server(Adder(), url="tcp://127.0.0.1:0").start()
        waiting = asyncio.create_task(server.wait())
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            with pytest.raises(RuntimeError, match="can't start"):
                await server.close()
        async with asyncio.timeout(PATIENCE):
            await waiting

    asyncio.run(main())


def test_a_client_that_does_not_read_takes_no_threads_from_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """More results than threads wait for it, and more calls wait for threads."""
    monkeypatch.setattr("typedrpc.common.outbox.QUEUED_BYTES", 1 << 20)
    run = threading.Semaphore(0)

    class Large(Service):
        @rpc(id=1)
        def blob(self) -> bytes:
            run.release()
            return bytes(1 << 20)

    with loop_server(Large(), Adder(), max_workers=2) as server, loop_connect(Adder, server.url) as adder:
        with RawPeer.dial(server.url, receive_buffer=4096).shake_hands() as peer:
            for number in range(40):
                peer.send_frame(Kind.REQUEST, 1, 2 * number + 1, b"\x90")
            for _ in range(4):  # so many have room
                assert run.acquire(timeout=PATIENCE)
            for number in range(20):
                assert adder.add(number, 1) == number + 1
        assert adder.add(1, 2) == 3
