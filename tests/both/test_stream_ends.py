"""Either end of a stream is killed, at each point of each shape: the other learns it, and keeps nothing."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any, Final

import pytest

from tests.ends import LOOPS, THREADS, Colours, alike
from tests.streaming import Pipes, Watched, connection_of, connections_of, expect_empty
from tests.support import PATIENCE, Gate, Program, RawPeer, Running, until
from typedrpc import ConnectionLost

pytestmark = [pytest.mark.usefixtures("kept_loop", "no_leaks"), pytest.mark.unmeasured]
colours = alike

URL = "tcp://127.0.0.1:0"
POINTS: Final = ["before the first item", "between two items", "while nobody takes", "after the last item"]
COUNT: Final = 5
CASES: Final = [
    *((THREADS, "plain", point) for point in POINTS),
    (THREADS, "async", POINTS[1]),
    (LOOPS, "plain", POINTS[2]),
    (LOOPS, "async", POINTS[1]),
]
"""Where it matters which thread waits, every point; a task is cancelled at any point in the same way."""


class Script:
    """A stream that comes to a halt at one point, until its producer is stopped."""

    def __init__(self, point: str) -> None:
        self.halted = Gate()
        self.ended = Gate()
        self.go = Gate()
        self._at = {"before the first item": 0, "between two items": 2, "after the last item": COUNT}.get(point, -1)

    def plain(self) -> Iterator[int]:
        try:
            number = 0
            while True:
                if number == self._at:
                    self.halted.open()
                    self.go.wait()
                    if number == COUNT:
                        return
                yield number
                number += 1
        finally:
            self.ended.open()

    async def awaited(self) -> AsyncIterator[int]:
        try:
            number = 0
            while True:
                if number == self._at:
                    self.halted.open()
                    await asyncio.Event().wait()
                yield number
                number += 1
        finally:
            self.ended.open()

    def expect_end(self) -> None:
        self.go.open()  # a thread that waits for something else cannot be told
        self.ended.wait()

    @property
    def items(self) -> int:
        """How many come before it halts; a few where it never does."""
        return 3 if self._at < 0 else self._at


SERVING: Final = """
    from tests.both.test_stream_ends import Script
    from tests.streaming import Pipes
    from tests.ends import SERVERS
    import asyncio
    def consume(items):
        return sum(1 for _ in items)
    async def aconsume(items):
        return len([item async for item in items])
    def take(count):
        def taken(items):
            for _ in range(count):
                next(items)
            say("halted")
            import threading
            threading.Event().wait()
        return taken
    def atake(count):
        async def taken(items):
            for _ in range(count):
                await anext(items)
            say("halted")
            await asyncio.Event().wait()
        return taken
    script = Script({point!r})
    service = Pipes(items=script.plain, aitems=script.awaited, take=take(script.items), atake=atake(script.items))
    def both(items):
        for _ in range(script.items):
            next(items)
        yield from script.plain()
    async def aboth(items):
        for _ in range(script.items):
            await anext(items)
        async for item in script.awaited():
            yield item
    service.scripts.update(both=both, aboth=aboth)
    with SERVERS[{server!r}](service) as server:
        say(server.url)
        hear()
"""


def take(stream: Iterator[int], count: int) -> None:
    assert [next(stream) for _ in range(count)] == list(range(count))


@pytest.mark.parametrize(("colours", "form", "point"), CASES, indirect=["colours"])
@pytest.mark.parametrize("shape", ["result", "argument", "both"])
def test_the_server_is_killed(shape: str, form: str, point: str, colours: Colours) -> None:
    mine = Script("while nobody takes" if shape == "both" else point)
    count = Script(point).items
    with Program(SERVING.format(point=point, server=colours.server)) as program:
        with colours.connect(program.hear()) as client:
            pipes = client.proxy(Pipes)
            call: Any
            if shape == "argument":
                if form == "plain":
                    call = pipes.consume.submit("take", mine.plain())
                else:
                    call = pipes.aconsume.submit("atake", mine.awaited())
                assert program.hear() == "halted"
                if mine._at >= 0:
                    mine.halted.wait()
                program.process.kill()
                assert isinstance(call.exception(PATIENCE), ConnectionLost)
                mine.expect_end()
            else:
                if shape == "result":
                    stream: Any = pipes.produce("items") if form == "plain" else pipes.aproduce.call("aitems")
                else:
                    stream = (
                        pipes.both("both", mine.plain())
                        if form == "plain"
                        else pipes.aboth.call("aboth", mine.awaited())
                    )
                take(stream, count)
                waiting = None if point == "while nobody takes" else Running(next, stream)
                program.process.kill()
                if waiting is not None:
                    assert isinstance(waiting.error(), ConnectionLost)
                else:
                    with pytest.raises(ConnectionLost):
                        list(stream)
                assert list(stream) == []
                if shape == "both":
                    mine.expect_end()
            near = connection_of(client)
            until(lambda: near.ended, "the end of the connection")
            expect_empty(near)


CALLING: Final = """
    from tests.both.test_stream_ends import Script
    from tests.streaming import Pipes
    from tests.ends import CLIENTS
    import threading
    opened = CLIENTS[{client!r}]({url!r})
    pipes = opened.__enter__().proxy(Pipes)
    mine = Script("while nobody takes")
    prefix = {prefix!r}
    if {shape!r} == "argument":
        script = Script({point!r})
        if prefix:
            pipes.aconsume.submit("atake", script.awaited())
        else:
            pipes.consume.submit("take", script.plain())
    elif {shape!r} == "result":
        stream = pipes.aproduce.call("aitems") if prefix else pipes.produce("items")
    else:
        stream = pipes.aboth.call("aboth", mine.awaited()) if prefix else pipes.both("both", mine.plain())
    if {shape!r} != "argument":
        for _ in range({count}):
            next(stream)
        if {point!r} != "while nobody takes":
            threading.Thread(target=next, args=(stream,), daemon=True).start()
    say("halted")
    threading.Event().wait()
"""


@pytest.mark.parametrize(("colours", "form", "point"), CASES, indirect=["colours"])
@pytest.mark.parametrize("shape", ["result", "argument", "both"])
def test_the_client_is_killed(shape: str, form: str, point: str, colours: Colours) -> None:
    script = Script(point)
    seen: list[BaseException] = []
    over, taken = Gate(), Gate()
    service = Pipes(items=script.plain, aitems=script.awaited)

    def consume(items: Iterator[int]) -> int:
        try:
            for number in range(script.items):
                assert next(items) == number
            taken.open()
            if point == "while nobody takes":
                script.go.wait()
            return sum(items)
        except BaseException as error:
            seen.append(error)
            raise
        finally:
            over.open()

    async def aconsume(items: AsyncIterator[int]) -> int:
        try:
            for number in range(script.items):
                assert await anext(items) == number
            taken.open()
            return sum([item async for item in items])
        except BaseException as error:
            seen.append(error)
            raise
        finally:
            over.open()

    def both(items: Iterator[int]) -> Iterator[int]:
        for _ in range(script.items):
            next(items)
        yield from script.plain()

    async def aboth(items: AsyncIterator[int]) -> AsyncIterator[int]:
        for _ in range(script.items):
            await anext(items)
        async for item in script.awaited():
            yield item

    service.scripts.update(take=consume, atake=aconsume, both=both, aboth=aboth)
    prefix = "" if form == "plain" else "a"
    with colours.serve(service, url=URL) as server:
        source = CALLING.format(
            client=colours.client, url=server.url, prefix=prefix, shape=shape, point=point, count=script.items
        )
        with Program(source) as program:
            assert program.hear() == "halted"
            (connection,) = connections_of(server)
            if shape == "argument":
                taken.wait()
            elif script._at >= 0:
                script.halted.wait()
            program.process.kill()
            until(lambda: connection.ended, "the end of the connection")
            script.go.open()
            if shape == "argument":
                over.wait()
                if not (form == "async" and point == "while nobody takes"):
                    kinds = (ConnectionLost,) if form == "plain" else (ConnectionLost, asyncio.CancelledError)
                    assert [isinstance(error, kinds) for error in seen] == [True]
            else:
                script.expect_end()
            expect_empty(connection)


class Cutter:
    """Passes on what client and server say to each other, until it cuts the connection."""

    def __init__(self, target: str) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self._target = target
        self._socks: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self.budget: int | None = None
        """Bytes that may still pass from the server to the client; None for any number."""

    def __enter__(self) -> "Cutter":
        self._threads[0].start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.cut()
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE)
        for sock in (self._listener, *self._socks):
            sock.close()

    def cut(self) -> None:
        """As a network that is gone: both ends get a reset."""
        for sock in self._socks:
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                sock.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:
            return
        server = RawPeer.dial(self._target).sock
        server.settimeout(None)
        self._socks += [client, server]
        back = threading.Thread(target=self._pass_on, args=(server, client, True), daemon=True)
        self._threads.append(back)
        back.start()
        self._pass_on(client, server, False)

    def _pass_on(self, source: socket.socket, target: socket.socket, counts: bool) -> None:
        with suppress(OSError):
            while data := source.recv(4096):
                if counts and self.budget is not None:
                    data = data[: self.budget]
                    self.budget -= len(data)
                    if not self.budget:
                        target.sendall(data)
                        break
                target.sendall(data)
        self.cut()


@pytest.mark.parametrize("budget", [1, 11, 12, 13, 40, 1000, 5000, 70_000])
@pytest.mark.parametrize("form", ["plain", "aio"])
def test_the_connection_is_cut_in_the_middle_of_whatever_it_may_be(form: str, budget: int, colours: Colours) -> None:
    mine, theirs = Watched(), Watched()

    def both(items: Iterator[int]) -> Iterator[int]:
        for item in items:
            yield item
            theirs.began.open()

    def watched(items: Iterator[int]) -> Iterator[int]:
        try:
            yield from both(items)
        finally:
            theirs.ended.open()

    async def main(pipes: Pipes) -> None:
        count = 0
        async for item in pipes.both.aio("both", mine.plain()):
            assert item == count
            count += 1

    def take_all(pipes: Pipes) -> None:
        for number, item in enumerate(pipes.both("both", mine.plain())):
            assert item == number

    service = Pipes(both=watched)
    with colours.serve(service, url=URL) as server, Cutter(server.url) as cutter, colours.connect(cutter.url) as client:
        pipes = client.proxy(Pipes)
        assert pipes.add(1, 2) == 3  # the contract is agreed on
        cutter.budget = budget
        with pytest.raises(ConnectionLost):
            asyncio.run(main(pipes)) if form == "aio" else take_all(pipes)
        mine.ended.wait()
        if theirs.began.is_open:
            theirs.ended.wait()
        expect_empty(connection_of(client))
        until(lambda: not server.peers, "the end of the connection at the server")
