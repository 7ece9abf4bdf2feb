"""Asking ten stations at once: server and client as processes, and the order of answers with stations at gates."""

import asyncio
import importlib
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from typedrpc import ConnectFailed, DeadlineExceeded, Service, rpc
from typedrpc.aio import Server

pytestmark = pytest.mark.unmeasured

Run = Callable[..., Any]
Start = Callable[..., Any]

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "async_gather"
PATIENCE = 30.0


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("gather_client")


def start_stations(start: Start, *arguments: str) -> tuple[Any, list[str]]:
    server = start("async_gather/gather_server.py", "--port", "0", *arguments)
    return server, [server.output.expect(" is at ").rpartition(" ")[2] for _ in range(10)]


def test_the_client_shows_what_each_of_ten_stations_says(start: Start, run: Run) -> None:
    server, urls = start_stations(start, "--seconds", "0")
    client = run("async_gather/gather_client.py", *urls)
    assert sorted(client.stdout.splitlines()) == [
        "Aachen: 20.5 °C",
        "Bergen: 19.5 °C",
        "Cork: 18.5 °C",
        "Dijon: 17.5 °C",
        "Espoo: 16.5 °C",
        "Faro: 15.5 °C",
        "Gdansk: 14.5 °C",
        "Havre: 13.5 °C",
        "Ios: 12.5 °C",
        "Jena: 11.5 °C",
    ]
    assert (client.stderr, client.returncode) == ("", 0)
    server.popen.terminate()
    assert server.wait() == 0
    assert server.output.rest()[-1] == "stopped"
    assert server.complaints.rest() == []


def test_a_station_that_is_down_keeps_no_other_from_answering(start: Start, run: Run) -> None:
    server, urls = start_stations(start, "--seconds", "0")
    nobody = "unix:///nobody/listens/here"
    client = run("async_gather/gather_client.py", urls[0], nobody)
    assert client.stdout == "Aachen: 20.5 °C\n"
    assert client.stderr.startswith(f"{nobody}: ConnectFailed: ")
    assert client.returncode == 1
    server.popen.terminate()
    assert server.wait() == 0


@dataclass(frozen=True)
class Weather:
    station: str
    celsius: float


class Station(Service):
    """Answers when it is let. The contract is what another program would write down."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.asked = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.cancelled = asyncio.Event()

    @rpc
    async def measure(self) -> Weather:
        self.asked.set()
        try:
            await self.may_answer.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return Weather(self.name, 0.0)


@asynccontextmanager
async def gated_stations(count: int) -> AsyncIterator[tuple[list[Station], list[str]]]:
    async with asyncio.timeout(PATIENCE), AsyncExitStack() as stack:
        stations = [Station(str(number)) for number in range(count)]
        servers = [await stack.enter_async_context(Server(one, url="tcp://127.0.0.1:0")) for one in stations]
        yield stations, [server.url for server in servers]


def test_first_answers_first(example: Any) -> None:
    async def main() -> None:
        async with gated_stations(10) as (stations, urls):
            order = [3, 9, 0, 1, 8, 2, 7, 4, 6, 5]
            seen = []
            async with aclosing(example.answers(urls, PATIENCE)) as answers:
                coming: asyncio.Future[Any] = asyncio.ensure_future(anext(answers))
                for station in stations:
                    await station.asked.wait()  # all are, though none has answered
                for place in order:
                    stations[place].may_answer.set()
                    url, answer = await coming
                    assert url == urls[place]
                    seen.append(int(answer.station))
                    coming = asyncio.ensure_future(anext(answers, None))
                assert await coming is None
            assert seen == order

    asyncio.run(main())


def test_who_leaves_early_cancels_the_rest(example: Any) -> None:
    async def main() -> None:
        async with gated_stations(3) as (stations, urls):
            async with aclosing(example.answers(urls, PATIENCE)) as answers:
                coming = asyncio.ensure_future(anext(answers))
                for station in stations:
                    await station.asked.wait()
                stations[1].may_answer.set()
                assert (await coming)[0] == urls[1]
            await stations[0].cancelled.wait()
            await stations[2].cancelled.wait()
            assert not stations[1].cancelled.is_set()

    asyncio.run(main())


def test_a_station_that_is_too_slow_or_down_is_an_answer_too(example: Any) -> None:
    async def main() -> None:
        async with gated_stations(1) as (_, urls):
            (answer,) = [answer async for answer in example.answers(urls, 0.01)]
            assert answer[0] == urls[0]
            assert isinstance(answer[1], DeadlineExceeded)
        (answer,) = [answer async for answer in example.answers(urls, PATIENCE)]
        assert isinstance(answer[1], ConnectFailed)

    asyncio.run(main())
