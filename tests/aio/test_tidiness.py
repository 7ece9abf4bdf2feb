"""Nothing is complained about at the end of a program, however it was left: neither by Python nor by asyncio.

Each program is a process of its own, in development mode, asyncio's debug mode, and with warnings as errors.
"""

import textwrap
from typing import Final

import pytest

from tests.loops import LOOPS
from tests.support import Program

PROLOGUE: Final = """
    import asyncio, gc, logging, socket, sys, threading
    from collections.abc import AsyncIterator, Iterator
    import typedrpc
    from typedrpc import Service, aio, rpc, current_call

    class Desk(Service):
        @rpc
        def plain(self, number: int) -> int:
            return number

        @rpc
        async def awaited(self, number: int) -> int:
            await asyncio.sleep(0)
            return number

        @rpc
        async def hang(self, told: bool = True) -> None:
            if told:
                hung.release()
            await asyncio.Event().wait()

        @rpc
        async def numbers(self) -> AsyncIterator[int]:
            number = 0
            while True:
                yield number
                number += 1

        @rpc
        def plain_numbers(self) -> Iterator[int]:
            number = 0
            while True:
                yield number
                number += 1

        @rpc
        async def consume(self, items: AsyncIterator[int]) -> int:
            async for item in items:
                return item
            return -1

    URL = "tcp://127.0.0.1:0"
    logging.getLogger("typedrpc").addHandler(logging.NullHandler())  # what it logs is for its operator

    hung, ended = asyncio.Semaphore(0), asyncio.Semaphore(0)

    async def three(of):
        async with asyncio.timeout(30):
            for _ in range(3):
                await of.acquire()

    def run(main):
        async def begin():
            asyncio.get_running_loop().slow_callback_duration = 30  # which says nothing of a machine that is shared
            return await main()

        with asyncio.Runner(loop_factory=FACTORY) as runner:
            return runner.run(begin())
"""
FACTORIES: Final = {"asyncio": "FACTORY = None", "uvloop": "import uvloop; FACTORY = uvloop.new_event_loop"}

PROGRAMS: Final = {
    "all is closed": """
        async def main():
            async with aio.Server(Desk(), url=URL) as server, aio.connect(Desk, server.url) as desk:
                assert await desk.plain.aio(1) == 1
                assert await desk.awaited(1) == 1
                assert [number async for number in first(desk.numbers())] == [0]
    """,
    "the client is not closed": """
        async def main():
            server = await aio.Server(Desk(), url=URL).start()
            client = await aio.connect(Desk, server.url)
            assert await client.proxy(Desk).awaited(1) == 1
            await server.close()
    """,
    "nothing is closed": """
        async def main():
            server = await aio.Server(Desk(), url=URL).start()
            client = await aio.connect(Desk, server.url)
            assert await client.proxy(Desk).awaited(1) == 1
            assert await client.proxy(Desk).plain.aio(1) == 1
    """,
    "nothing is closed, and all is kept": """
        kept = []
        async def main():
            server = await aio.Server(Desk(), url=URL).start()
            client = await aio.connect(Desk, server.url)
            kept.extend([server, client])
            assert await client.proxy(Desk).awaited(1) == 1
    """,
    "the server is closed, with calls in flight": """
        async def main():
            server = await aio.Server(Desk(), url=URL).start()
            async with aio.connect(Desk, server.url) as desk:
                tasks = [asyncio.create_task(desk.hang()) for _ in range(3)]
                await three(hung)
                await server.close(grace=0.01)
                results = await asyncio.gather(*tasks, return_exceptions=True)
                assert all(isinstance(error, typedrpc.ConnectionLost) for error in results), results
    """,
    "the end comes, with calls in flight": """
        tasks = []
        async def main():
            server = await aio.Server(Desk(), url=URL).start()
            client = await aio.connect(Desk, server.url)
            tasks.extend(asyncio.create_task(client.proxy(Desk).hang()) for _ in range(3))
            await three(hung)
    """,
    "the client is closed, with calls in flight that nobody awaits": """
        async def main():
            async with aio.Server(Desk(), url=URL) as server:
                client = await aio.connect(Desk, server.url)
                for _ in range(3):
                    client.proxy(Desk).hang.submit()
                await three(hung)
                await client.close()
    """,
    "the connection is lost, with calls pending": """
        async def main():
            async with aio.Server(Desk(), url=URL) as server, aio.connect(Desk, server.url) as desk:
                tasks = [asyncio.create_task(desk.hang()) for _ in range(3)]
                stream = desk.numbers()
                assert await anext(stream) == 0
                await three(hung)
                server.peers[0].close()
                results = await asyncio.gather(*tasks, return_exceptions=True)
                assert all(isinstance(error, typedrpc.ConnectionLost) for error in results), results
    """,
    "the connection is lost, and nobody looks at what becomes of calls and streams": """
        async def main():
            async with aio.Server(Desk(), url=URL) as server, aio.connect(Desk, server.url) as desk:
                futures = [desk.hang.submit() for _ in range(3)]
                for future in futures:
                    future.add_done_callback(lambda future: ended.release())
                stream, plain = desk.numbers(), desk.plain_numbers.aio()
                assert await anext(stream) == await anext(plain) == 0
                await three(hung)
                server.peers[0].close()
                await three(ended)
    """,
    "streams are left half way": """
        async def main():
            async with aio.Server(Desk(), url=URL) as server, aio.connect(Desk, server.url) as desk:
                async for number in desk.numbers():
                    break
                async for number in desk.plain_numbers.aio():
                    break
                kept = desk.numbers()
                assert await anext(kept) == 0
                dropped = desk.numbers()
                assert await anext(dropped) == 0
                del dropped
                gc.collect()
                never = desk.numbers()
    """,
    "streams are left half way at the end": """
        kept = []
        async def main():
            server = await aio.Server(Desk(), url=URL).start()
            client = await aio.connect(Desk, server.url)
            desk = client.proxy(Desk)
            kept.extend([desk.numbers(), desk.plain_numbers.aio(), desk.numbers()])
            assert await anext(kept[0]) == await anext(kept[1]) == 0
    """,
    "an argument is left half way": """
        async def items():
            number = 0
            while True:
                yield number
                number += 1

        async def main():
            async with aio.Server(Desk(), url=URL) as server, aio.connect(Desk, server.url) as desk:
                assert await desk.consume(items()) == 0
    """,
    "calls are cancelled": """
        async def main():
            async with aio.Server(Desk(), url=URL) as server, aio.connect(Desk, server.url) as desk:
                for _ in range(3):
                    try:
                        async with asyncio.timeout(0.01):
                            await desk.hang(told=False)
                    except TimeoutError:
                        pass
                tasks = [asyncio.create_task(desk.hang()) for _ in range(3)]
                await three(hung)
                for task in tasks:
                    task.cancel()
    """,
    "the program fails": """
        async def main():
            async with aio.Server(Desk(), url=URL) as server, aio.connect(Desk, server.url) as desk:
                task = asyncio.create_task(desk.hang())
                task.add_done_callback(lambda task: task.cancelled() or task.exception())
                await hung.acquire()
                raise KeyError("its own")

        def run(main, run=run):
            try:
                run(main)
            except KeyError:
                pass
    """,
    "a threads client is used from a loop and not closed": """
        async def main():
            server = await aio.Server(Desk(), url=URL).start()
            client = await asyncio.to_thread(typedrpc.connect, Desk, server.url)
            assert await client.proxy(Desk).awaited.aio(1) == 1
            task = asyncio.create_task(client.proxy(Desk).hang())
            await hung.acquire()
    """,
    "connecting fails": """
        async def main():
            for _ in range(2):
                try:
                    await aio.connect(Desk, "tcp://127.0.0.1:1")
                except typedrpc.ConnectFailed:
                    pass
            async with aio.Server(Desk(), url=URL) as server:
                url = server.url
            try:
                await aio.connect(Desk, url, timeout=0.05)
            except typedrpc.ConnectFailed:
                pass
            connecting = aio.connect(Desk, url)
    """,
    "connecting is cancelled": """
        async def main():
            with socket.create_server(("127.0.0.1", 0)) as silent:
                try:
                    async with asyncio.timeout(0.05):
                        await aio.connect(Desk, f"tcp://127.0.0.1:{silent.getsockname()[1]}")
                except TimeoutError:
                    pass
    """,
    "two runs with what the first one left": """
        kept = []
        async def once():
            server = await aio.Server(Desk(), url=URL).start()
            client = await aio.connect(Desk, server.url)
            kept.append((server, client))
            assert await client.proxy(Desk).awaited(1) == 1

        async def again():
            for server, client in kept:
                try:
                    await client.proxy(Desk).awaited(1)
                except typedrpc.ConnectionLost:
                    pass
                else:
                    raise AssertionError

        async def main():
            await once()

        def run(main, run=run):
            run(main)
            run(again)
    """,
}

HELPERS: Final = """
    async def first(stream):
        async with stream:
            async for item in stream:
                yield item
                return
"""


def ran(program: str, kind: str) -> str:
    """What a program complains of."""
    parts = (PROLOGUE, FACTORIES[kind], HELPERS, program, 'run(main)\ngc.collect()\nsay("done")')
    source = "\n".join(textwrap.dedent(part) for part in parts)
    environment = {"PYTHONASYNCIODEBUG": "1", "PYTHONDEVMODE": "1", "PYTHONWARNINGS": "error"}
    with Program(source, environment=environment) as child:
        code, output, errors = child.finish()
    assert (code, output) == (0, "done\n"), errors
    return errors


@pytest.mark.unmeasured
@pytest.mark.parametrize("kind", LOOPS)
@pytest.mark.parametrize("name", PROGRAMS)
def test_no_program_is_complained_about(name: str, kind: str) -> None:
    assert ran(PROGRAMS[name], kind) == ""


@pytest.mark.unmeasured
def test_a_coroutine_that_is_never_awaited_is_told_by_python_alone() -> None:
    program = """
        async def main():
            async with aio.Server(Desk(), url=URL) as server, aio.connect(Desk, server.url) as desk:
                desk.plain.aio(1)
                desk.hang()
                assert await desk.plain.aio(1) == 1
    """
    errors = ran(program, "asyncio")
    assert errors.count("was never awaited") == 2, errors
    for line in errors.splitlines():
        assert "pending" not in line
        assert "never retrieved" not in line
        assert "unclosed" not in line
