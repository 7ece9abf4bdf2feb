"""Accepting on an event loop, with the reader that most loops have and by awaiting, as on that of Windows."""

import asyncio
import errno
import logging
import socket
from collections.abc import Awaitable, Callable
from contextlib import closing
from typing import Any

import pytest

from tests.support import PATIENCE
from typedrpc import transport
from typedrpc.aio.acceptor import Acceptor
from typedrpc.common.arrivals import Arrivals, Place

pytestmark = pytest.mark.usefixtures("no_leaks")


class WithoutReaders(asyncio.SelectorEventLoop):
    """As the loop of Windows: nobody may have descriptors watched."""

    def add_reader(self, fd: Any, callback: Callable[..., Any], *args: Any) -> None:  # type: ignore[override]
        raise NotImplementedError


class Listener(socket.socket):
    """A listening socket whose accept() first fails as it is told to."""

    failures: list[OSError]

    def __init__(self, real: socket.socket) -> None:
        super().__init__(fileno=real.detach())
        self.failures = []

    def accept(self) -> tuple[socket.socket, object]:
        if self.failures:
            raise self.failures.pop(0)
        return super().accept()


class Made(asyncio.Protocol):
    def __init__(self, transports: "asyncio.Queue[asyncio.Transport]") -> None:
        self.transports = transports

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transports.put_nowait(transport)


class Stand:
    """An acceptor with what it is made of."""

    def __init__(self) -> None:
        real, self.address = transport.listen("tcp://127.0.0.1:0", insecure=False)
        self.listener = Listener(real)
        self.made: asyncio.Queue[asyncio.Transport] = asyncio.Queue()
        self.acceptor = Acceptor(asyncio.get_running_loop(), self.listener, self.address, self.make, Arrivals(None))

    def make(self, place: Place) -> asyncio.BaseProtocol:
        return Made(self.made)

    def dial(self) -> socket.socket:
        return socket.create_connection((self.address.host, self.address.port), timeout=PATIENCE)

    async def take(self) -> None:
        async with asyncio.timeout(PATIENCE):
            (await self.made.get()).abort()

    async def close(self) -> None:
        self.acceptor.close()
        await self.acceptor.wait_until_settled()
        while not self.made.empty():
            self.made.get_nowait().abort()
        await asyncio.sleep(0)


@pytest.fixture(params=[asyncio.SelectorEventLoop, WithoutReaders])
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[Stand], Awaitable[None]]], None]:
    """Runs a function with an acceptor on either loop."""

    def run(body: Callable[[Stand], Awaitable[None]]) -> None:
        async def main() -> None:
            stand = Stand()
            try:
                await body(stand)
            finally:
                await stand.close()

        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(main())

    return run


Run = Callable[[Callable[[Stand], Awaitable[None]]], None]


def test_each_client_has_a_connection(run: Run) -> None:
    async def body(stand: Stand) -> None:
        for _ in range(3):
            with stand.dial():
                await stand.take()

    run(body)


def test_more_at_once_than_in_one_turn(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("typedrpc.aio.acceptor.AT_ONCE", 2)

    async def body(stand: Stand) -> None:
        clients = [stand.dial() for _ in range(5)]
        for client in clients:
            await stand.take()
            client.close()

    run(body)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_waits_out_a_lack_of_resources_with_a_line_in_the_log(
    run: Run, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def body(stand: Stand) -> None:
        stand.listener.failures = [OSError(number, "no more"), OSError(number, "no more")]
        with stand.dial():
            await stand.take()

    with caplog.at_level(logging.WARNING, "typedrpc"):
        run(body)
    assert [record.getMessage() for record in caplog.records] == [
        "cannot accept connections now, trying again and again: no more"
    ]


def test_closed_while_it_waits_for_resources(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def body(stand: Stand) -> None:
        stand.listener.failures = [OSError(errno.EMFILE, "no more")]
        with stand.dial():
            while stand.listener.failures:
                await asyncio.sleep(0)
            await stand.close()
        assert stand.made.empty()

    run(body)


def test_a_client_that_left_again_is_no_news(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def body(stand: Stand) -> None:
        stand.listener.failures = [ConnectionAbortedError(errno.ECONNABORTED, "left")]
        with stand.dial():
            await stand.take()

    run(body)
    assert not caplog.records


@pytest.mark.parametrize(("error", "lines"), [(OSError("left"), 0), (RuntimeError("broken"), 1)])
def test_a_connection_that_cannot_be_made_costs_that_client_only(
    run: Run, error: Exception, lines: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def body(stand: Stand) -> None:
        make, errors = stand.make, [error]

        def fail(place: Place) -> asyncio.BaseProtocol:
            if errors:
                raise errors.pop()
            return make(place)

        stand.acceptor._make = fail
        with stand.dial() as first, stand.dial():
            await stand.take()
            assert await asyncio.to_thread(first.recv, 1) == b""

    run(body)
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == lines


def test_who_is_accepted_as_it_closes_still_gets_a_connection() -> None:
    """Between accepting and making the protocol a turn of the loop goes by: whoever closes then has to wait for it."""

    async def main() -> None:
        stand = Stand()
        with stand.dial():
            while not stand.acceptor._coming:
                await asyncio.sleep(0)
            await stand.close()
            assert not stand.acceptor._coming
        assert stand.made.empty()

    asyncio.run(main())


def test_nobody_is_accepted_once_it_is_closed(run: Run) -> None:
    async def body(stand: Stand) -> None:
        await stand.close()
        with pytest.raises(ConnectionRefusedError), closing(stand.dial()):
            pass

    run(body)
