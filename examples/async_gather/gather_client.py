"""Asks ten weather stations at once, and shows what each says as soon as it says it: first answers first.

::

    python examples/async_gather/gather_client.py
    python examples/async_gather/gather_client.py --timeout 1     # for those that have not answered by then: an error
"""

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator, Sequence

from gather_contract import Station, Weather

from typedrpc import RpcError
from typedrpc.aio import connect

DEFAULT_URLS = [f"tcp://127.0.0.1:{port}" for port in range(9040, 9050)]

Answer = tuple[str, Weather | RpcError]
"""The URL of a station, and what came of asking it."""


async def ask(url: str, timeout: float) -> Answer:
    try:
        async with connect(Station, url) as station:
            return url, await station.measure.with_options(timeout=timeout)()
    except RpcError as error:  # one that is down, or too slow, does not keep the others from answering
        return url, error


async def answers(urls: Sequence[str], timeout: float) -> AsyncIterator[Answer]:
    """Ask all at once; yields what each has said, in the order in which they answer."""
    tasks = [asyncio.create_task(ask(url, timeout)) for url in urls]
    try:
        for answer in asyncio.as_completed(tasks):
            yield await answer
    finally:
        for task in tasks:  # who leaves early wants the others no more: each cancels its call, at the station too
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def show(urls: Sequence[str], timeout: float) -> int:
    failed = 0
    async for url, answer in answers(urls, timeout):
        if isinstance(answer, Weather):
            print(f"{answer.station}: {answer.celsius} °C", flush=True)
        else:
            failed += 1
            print(f"{url}: {type(answer).__name__}: {answer}", file=sys.stderr, flush=True)
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description="Ask many weather stations at once.")
    parser.add_argument("urls", nargs="*", default=DEFAULT_URLS, help="what gather_server.py printed")
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds that a station has (%(default)s)")
    arguments = parser.parse_args()
    return 1 if asyncio.run(show(arguments.urls, arguments.timeout)) else 0


if __name__ == "__main__":
    sys.exit(main())
