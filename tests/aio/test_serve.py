"""Servers and clients of the asyncio side from their own loop: ``serve``, closing, and loops that end under them."""

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import PATIENCE, Gate, Log, Program, Running, Workshop
from typedrpc import ConnectFailed, ConnectionLost, ListenFailed, Peer, Server, Service, aio, connect, current_call, rpc

pytestmark = pytest.mark.usefixtures("no_leaks")

URL = "tcp://127.0.0.1:0"

SERVE = """
    import asyncio
    from tests.support import Workshop
    from typedrpc import aio
    {started}
    async def main():
        await aio.serve(Workshop(), url="tcp://127.0.0.1:0", on_start=started, grace=20)
        say("stopped")
    asyncio.run(main(), debug=True)
"""
PLAIN = """
    def started(server):
        say(server.url)
"""
ASYNC = """
    async def started(server):
        await asyncio.sleep(0)
        say(server.url)
"""


@contextlib.contextmanager
def served() -> Iterator[str]:
    with Server(Workshop(), url=URL) as server:
        yield server.url


class TestServe:
    @pytest.mark.parametrize("started", [PLAIN, ASYNC], ids=["plain", "async"])
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_stops_it_cleanly(self, number: signal.Signals, started: str) -> None:
        with Program(SERVE.format(started=started)) as program:
            with connect(Workshop, program.hear()) as proxy:
                assert proxy.add(1) == 1
                program.signal(number)
                assert program.expect_success() == "stopped\n"
                with pytest.raises(ConnectionLost, match="the server is closing"):
                    proxy.add(1)

    def test_the_handlers_that_run_are_let_finish(self) -> None:
        with Program("""
            import asyncio, threading
            from tests.support import Workshop
            from typedrpc import aio
            workshop = Workshop()
            def started(server):
                say(server.url)
                def listen():
                    workshop.started["a"].wait()
                    say("started")
                    hear()
                    workshop.gates["a"].open()
                threading.Thread(target=listen).start()
            asyncio.run(aio.serve(workshop, url="tcp://127.0.0.1:0", on_start=started, grace=20))
        """) as program:
            with connect(Workshop, program.hear()) as proxy:
                blocked = Running(proxy.wait, "a")
                assert program.hear() == "started"
                program.signal(signal.SIGTERM)
                program.say()
                assert blocked.result() == "a"
            program.expect_success()

    def test_a_cancelled_task_closes_the_server(self) -> None:
        async def main() -> None:
            started: asyncio.Future[aio.Server] = asyncio.get_running_loop().create_future()
            serving = asyncio.ensure_future(aio.serve(Workshop(), url=URL, on_start=started.set_result))
            server = await started
            async with aio.connect(Workshop, server.url) as proxy:
                assert await proxy.add.aio(1) == 1
                serving.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await serving
                with pytest.raises(ConnectionLost, match="the server is closing"):
                    await proxy.add.aio(1)

        asyncio.run(main(), debug=True)

    def test_on_start_that_fails(self) -> None:
        async def fail(server: aio.Server) -> None:
            raise LookupError("not today")

        with pytest.raises(LookupError):
            asyncio.run(aio.serve(Workshop(), url=URL, on_start=fail))

    def test_in_another_thread_signals_are_left_alone(self) -> None:
        before = signal.getsignal(signal.SIGTERM)
        servers: list[aio.Server] = []
        started = Gate()

        def on_start(server: aio.Server) -> None:
            servers.append(server)
            started.open()

        serving = Running(lambda: asyncio.run(aio.serve(Workshop(), url=URL, on_start=on_start)))
        started.wait()
        assert signal.getsignal(signal.SIGTERM) is before
        servers[0].close()  # from any thread
        serving.result()

    def test_signal_handlers_are_given_back(self) -> None:
        before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
        asyncio.run(aio.serve(Workshop(), url=URL, on_start=lambda server: server.close()))
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


class Closer(Service):
    @rpc
    async def close_later(self) -> str:
        closing: Any = current_call().server.close(grace=PATIENCE)
        await closing
        return "closing"

    @rpc
    def close_now(self) -> str:
        current_call().server.close(grace=PATIENCE)
        return "closing"


class TestClosing:
    @pytest.mark.parametrize("name", ["close_later", "close_now"])
    def test_by_a_handler(self, name: str, log: Log) -> None:
        async def main() -> None:
            async with aio.Server(Closer(), url=URL) as server, aio.connect(Closer, server.url) as proxy:
                assert await getattr(proxy, name).aio() == "closing"
                await server.wait()

        asyncio.run(main(), debug=True)

    def test_awaited_twice_and_at_once(self) -> None:
        async def main() -> None:
            server = await aio.Server(Workshop(), url=URL).start()
            client = await aio.connect(server.url)
            closing = client.close()
            await closing
            await closing
            await asyncio.gather(client.close(), client.close())
            closing = server.close()
            await asyncio.gather(closing, server.close(), server.close())
            await closing
            await server.close()
            await server.wait()

        asyncio.run(main(), debug=True)

    def test_who_awaits_it_may_be_cancelled(self, log: Log) -> None:
        """It goes on all the same."""
        workshop = Workshop()

        async def main() -> None:
            server = await aio.Server(workshop, url=URL).start()
            async with aio.connect(Workshop, server.url) as proxy:
                working = asyncio.ensure_future(proxy.wait.aio("job"))
                await asyncio.to_thread(workshop.started["job"].wait)

                async def close() -> None:
                    await server.close(PATIENCE)

                closing = asyncio.ensure_future(close())
                await asyncio.sleep(0)
                closing.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await closing
                workshop.gates["job"].open()
                assert await working == "job"
                await server.wait()

        asyncio.run(main(), debug=True)

    def test_a_server_that_cannot_start(self) -> None:
        async def main() -> None:
            server = aio.Server(Workshop(), url="tcp://0.0.0.0:0")
            with pytest.raises(ListenFailed, match="insecure=True"):
                async with server:
                    raise AssertionError
            await server.close()
            with pytest.raises(RuntimeError, match="started once"):
                await server.start()

        asyncio.run(main(), debug=True)

    @pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
    def test_a_loop_that_ends_without_a_word(self, caplog: pytest.LogCaptureFixture) -> None:
        """The client's loop is closed under it: whoever calls then is told, and nothing waits or warns for ever."""
        kept: list[Any] = []

        async def use(url: str) -> None:
            client = await aio.connect(Workshop, url)
            kept.append(client)
            assert await client.proxy(Workshop).add.aio(1) == 1

        with caplog.at_level(logging.WARNING), served() as url:
            asyncio.run(use(url))
            with pytest.raises((ConnectionLost, RuntimeError)):
                Running(kept[0].proxy(Workshop).add, 1).result()
            kept.pop().close()
            gc.collect()  # asyncio leaves it to that to close what its loop had
        assert [record for record in caplog.records if record.name != "asyncio"] == []

    @pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
    def test_a_server_whose_loop_ends_without_a_word(self) -> None:
        async def start() -> tuple[aio.Server, Any]:
            server = await aio.Server(Workshop(), url=URL).start()
            client = await asyncio.to_thread(connect, Workshop, server.url)
            return server, client

        server, client = asyncio.run(start())
        with client as proxy:
            calling = Running(proxy.add, 1)
            server.close()
            server.close()
            assert isinstance(calling.error(), ConnectionLost)
        del server
        gc.collect()  # asyncio leaves it to that to close what its loop had


class TestConnecting:
    def test_a_socket_that_meets_itself(self) -> None:
        """Where nobody listens, the system may choose the very port that is dialled."""

        async def main(url: str) -> None:
            for _ in range(20):
                with pytest.raises(ConnectFailed):
                    await aio.connect(Workshop, url)

        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            url = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
        asyncio.run(main(url), debug=True)

    def test_who_gives_up_leaves_nothing(self) -> None:
        """A task that is cancelled while a server that does not answer is dialled."""

        async def main() -> None:
            with socket.create_server(("127.0.0.1", 0)) as silent:
                url = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.1):
                        await aio.connect(Workshop, url, timeout=PATIENCE)

        asyncio.run(main(), debug=True)

    def test_an_async_hook_may_take_its_time(self) -> None:
        said: list[str] = []

        async def on_connect(peer: Peer) -> None:
            said.append(threading.current_thread().name)
            assert await peer.proxy(Workshop).add.aio(1) == 1

        async def main(url: str) -> None:
            async with aio.connect(Workshop, url, on_connect=on_connect):
                assert said == [threading.current_thread().name]

        with served() as url:
            asyncio.run(main(url), debug=True)
