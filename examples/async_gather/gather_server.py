"""Ten weather stations, each a server of its own at a port of its own, all on one event loop.

Start it in one terminal, and gather_client.py in another::

    python examples/async_gather/gather_server.py
    python examples/async_gather/gather_client.py
"""

import argparse
import asyncio
import signal
from contextlib import AsyncExitStack, suppress

from gather_contract import Station, Weather

from typedrpc import rpc
from typedrpc.aio import Server

NAMES = ["Aachen", "Bergen", "Cork", "Dijon", "Espoo", "Faro", "Gdansk", "Havre", "Ios", "Jena"]
DEFAULT_PORT = 9040


class SlowStation(Station):
    """Takes its time, and holds up nobody meanwhile: the loop goes on while a handler awaits."""

    def __init__(self, name: str, celsius: float, seconds: float) -> None:
        self.name = name
        self.celsius = celsius
        self.seconds = seconds

    @rpc
    async def measure(self) -> Weather:
        await asyncio.sleep(self.seconds)
        return Weather(self.name, self.celsius)


async def serve_all(port: int, seconds: float) -> None:
    """Serve until SIGINT or SIGTERM."""
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(NotImplementedError):  # not on this system: Ctrl-C cancels this task, which closes them too
            asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with AsyncExitStack() as servers:
        for place, name in enumerate(NAMES):
            late = place * 7 % len(NAMES)  # not in the order in which they are asked
            station = SlowStation(name, 20.5 - place, late * seconds)
            url = f"tcp://127.0.0.1:{port + place if port else 0}"
            server = await servers.enter_async_context(Server(station, url=url))
            print(f"{name} is at {server.url}", flush=True)
        await stopped.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve ten weather stations until Ctrl-C or SIGTERM.")
    parser.add_argument(
        "--port", type=int, default=DEFAULT_PORT, help="of the first; 0 for any ports (%(default)s and the next ones)"
    )
    parser.add_argument(
        "--seconds", type=float, default=0.2, help="by which one is slower than the one before it (%(default)s)"
    )
    arguments = parser.parse_args()
    asyncio.run(serve_all(arguments.port, arguments.seconds))
    print("stopped", flush=True)


if __name__ == "__main__":
    main()
