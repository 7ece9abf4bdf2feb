"""A web application, of Starlette here, whose handlers call a typedrpc service.

The client is made in the lifespan of the application, on its event loop, and shared by all requests: any number of them
may call at a time. It needs `pip install starlette uvicorn`; with stock_server.py in another terminal::

    cd examples/web
    uvicorn web_app:app
    curl -X POST 'http://127.0.0.1:8000/stock/tea?count=2'
    curl 'http://127.0.0.1:8000/stock?product=tea&product=milk'
    curl -N http://127.0.0.1:8000/stock/tea/changes
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from stock_contract import NoSuchProduct, OutOfStock, Stock

from typedrpc import ConnectionLost, DeadlineExceeded
from typedrpc.aio import connect
from typedrpc.stream import AsyncStream

DEFAULT_URL = "tcp://127.0.0.1:9050"
CALL_SECONDS = 2.0


def stock_of(request: Request) -> Stock:
    """The proxy, as its contract: what the handlers below write is checked by mypy and pyright."""
    stock: Stock = request.state.stock
    return stock


async def show(request: Request) -> Response:
    """How much there is of a product."""
    product = request.path_params["product"]
    return JSONResponse({product: await stock_of(request).left(product)})


async def show_many(request: Request) -> Response:
    """The same of many; the calls are on their way together, on one connection."""
    products = request.query_params.getlist("product")
    numbers = await asyncio.gather(*map(stock_of(request).left, products))
    return JSONResponse(dict(zip(products, numbers, strict=True)))


async def reserve(request: Request) -> Response:
    product = request.path_params["product"]
    left = await stock_of(request).reserve(product, int(request.query_params.get("count", "1")))
    return JSONResponse({product: left})


async def changes(request: Request) -> Response:
    """Server-sent events: how much there is, now and whenever that changes."""
    stream = stock_of(request).watch(request.path_params["product"])
    first = await anext(stream)  # what fails at once fails here, where it can still become another status
    return StreamingResponse(as_events(first, stream), media_type="text/event-stream")


async def as_events(first: int, stream: AsyncStream[int]) -> AsyncIterator[str]:
    async with stream:  # closed when the browser leaves, which stops the handler at the warehouse
        yield f"data: {first}\n\n"
        async for left in stream:
            yield f"data: {left}\n\n"


async def explain(request: Request, error: Exception) -> Response:
    """What becomes of an error that a call has raised: a status, and the error's own words."""
    status = next(status for kind, status in STATUS.items() if isinstance(error, kind))
    return JSONResponse({"error": str(error)}, status)


STATUS = {
    ValueError: 400,  # the handler's own, or that of int() above
    NoSuchProduct: 404,
    OutOfStock: 409,
    ConnectionLost: 503,  # the warehouse is down; a new client has to be made when it is up again
    DeadlineExceeded: 504,
}


def make_app(url: str) -> Starlette:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Stock]]:
        async with connect(Stock, url, timeout=10.0, call_timeout=CALL_SECONDS) as stock:
            yield {"stock": stock}

    return Starlette(
        lifespan=lifespan,
        routes=[
            Route("/stock", show_many),
            Route("/stock/{product}", show),
            Route("/stock/{product}", reserve, methods=["POST"]),
            Route("/stock/{product}/changes", changes),
        ],
        exception_handlers=dict.fromkeys(STATUS, explain),
    )


app = make_app(os.environ.get("STOCK_URL", DEFAULT_URL))
