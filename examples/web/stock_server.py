"""The warehouse behind the web application: a service on an event loop.

::

    python examples/web/stock_server.py
"""

import argparse
import asyncio
from collections.abc import AsyncIterator

from stock_contract import NoSuchProduct, OutOfStock, Stock

from typedrpc import rpc
from typedrpc.aio import Server, serve

DEFAULT_URL = "tcp://127.0.0.1:9050"


class Warehouse(Stock):
    """All handlers run on one loop, so what one does between two awaits needs no lock."""

    def __init__(self, left: dict[str, int]) -> None:
        self._left = left
        self._changed = asyncio.Condition()

    @rpc
    async def left(self, product: str) -> int:
        try:
            return self._left[product]
        except KeyError:
            raise NoSuchProduct(product) from None

    @rpc
    async def reserve(self, product: str, count: int) -> int:
        if count < 1:
            raise ValueError(f"the count must be 1 or more, not {count}")
        left = await self.left(product)
        if left < count:
            raise OutOfStock(product, left)
        self._left[product] = left - count
        async with self._changed:
            self._changed.notify_all()
        return left - count

    @rpc
    async def watch(self, product: str) -> AsyncIterator[int]:
        left = await self.left(product)
        yield left
        while left:
            async with self._changed:
                # A browser that leaves cancels this where it waits.
                await self._changed.wait_for(lambda: self._left[product] != left)  # noqa: B023  # awaited right here
            left = self._left[product]
            yield left


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve a warehouse until Ctrl-C or SIGTERM.")
    parser.add_argument("--url", default=DEFAULT_URL, help="where to listen (%(default)s)")
    arguments = parser.parse_args()

    def on_start(server: Server) -> None:
        print(f"serving Stock at {server.url}", flush=True)

    asyncio.run(serve(Warehouse({"tea": 5, "milk": 2, "sugar": 0}), url=arguments.url, on_start=on_start))
    print("stopped", flush=True)


if __name__ == "__main__":
    main()
