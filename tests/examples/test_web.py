"""The web application, in the test client of its own framework, with the warehouse in another process."""

import asyncio
import importlib
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

with warnings.catch_warnings():  # newer versions would rather have a successor of httpx
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient

pytestmark = pytest.mark.unmeasured

Start = Callable[..., Any]

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "web"
PATIENCE = 30.0


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("web_app")


@pytest.fixture
def server(start: Start) -> Any:
    return start("web/stock_server.py", "--url", "tcp://127.0.0.1:0")


@pytest.fixture
def app(example: Any, server: Any) -> Any:
    url = server.output.expect("serving Stock at ").rpartition(" ")[2]
    return example.make_app(url)


@pytest.fixture
def web(app: Any) -> Iterator[TestClient]:
    with TestClient(app) as client:
        yield client


def test_a_request_becomes_a_call(web: TestClient) -> None:
    assert web.get("/stock/tea").json() == {"tea": 5}
    assert web.post("/stock/tea").json() == {"tea": 4}
    assert web.post("/stock/tea", params={"count": 3}).json() == {"tea": 1}
    assert web.get("/stock/tea").json() == {"tea": 1}


def test_one_request_makes_many_calls_at_once(web: TestClient) -> None:
    asked = web.get("/stock", params={"product": ["milk", "tea", "sugar"]})
    assert asked.json() == {"milk": 2, "tea": 5, "sugar": 0}


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("GET", "/stock/gold", 404, "there is no gold"),
        ("GET", "/stock/gold/changes", 404, "there is no gold"),
        ("GET", "/stock?product=tea&product=gold", 404, "there is no gold"),
        ("POST", "/stock/milk?count=3", 409, "only 2 of milk left"),
        ("POST", "/stock/milk?count=0", 400, "the count must be 1 or more, not 0"),
        ("POST", "/stock/milk?count=two", 400, "invalid literal for int() with base 10: 'two'"),
    ],
)
def test_an_error_of_a_call_becomes_a_status(web: TestClient, method: str, path: str, status: int, words: str) -> None:
    answer = web.request(method, path)
    assert (answer.status_code, answer.json()) == (status, {"error": words})
    assert web.get("/stock/milk").json() == {"milk": 2}


def test_a_stream_becomes_events(web: TestClient) -> None:
    answer = web.get("/stock/sugar/changes")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text == "data: 0\n\n"


def test_a_warehouse_that_is_gone_is_said_to_be(web: TestClient, server: Any) -> None:
    assert web.get("/stock/tea").status_code == 200
    server.popen.terminate()
    assert server.wait() == 0
    answer = web.get("/stock/tea")
    assert answer.status_code == 503
    assert re.match("the peer closed the connection: the server is closing", answer.json()["error"])


def test_a_warehouse_that_is_slow_is_said_to_be(example: Any, web: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(example, "stock_of", lambda request: Slow(request.state.stock))
    answer = web.get("/stock/tea")
    assert (answer.status_code, answer.json()) == (
        504,
        {"error": "Stock.left: the deadline has passed, the call was not sent"},
    )


class Slow:
    """A proxy whose calls have no time."""

    def __init__(self, stock: Any) -> None:
        self.left = stock.left.with_options(timeout=0)


def test_events_come_with_each_change_and_end_when_the_browser_leaves(app: Any) -> None:
    """By hand: the test client shows a response when it is complete."""

    async def main() -> None:
        sent: asyncio.Queue[Any] = asyncio.Queue()
        left = asyncio.Event()

        async def receive() -> Any:
            await left.wait()
            return {"type": "http.disconnect"}

        async with asyncio.timeout(PATIENCE), app.router.lifespan_context(app) as state:
            scope = {
                "type": "http",
                "asgi": {"version": "3.0"},
                "http_version": "1.1",
                "method": "GET",
                "path": "/stock/tea/changes",
                "query_string": b"",
                "headers": [],
                "state": state,
            }
            watching = asyncio.create_task(app(scope, receive, sent.put))
            assert (await sent.get())["status"] == 200
            assert (await sent.get())["body"] == b"data: 5\n\n"
            await state["stock"].reserve("tea", 2)
            assert (await sent.get())["body"] == b"data: 3\n\n"
            left.set()
            await watching
            assert sent.empty()

    asyncio.run(main())
