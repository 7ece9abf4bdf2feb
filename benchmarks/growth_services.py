"""What the processes of `growth.py` serve and call: one service for threads, one for event loops, and large ones."""

from collections.abc import Callable
from typing import Any, Final

from typedrpc import FunctionService, Service, current_call, rpc
from typedrpc.command import FunctionCommand

LARGE: Final = 2**30 + 2**20
"""The limit of a message where 1 GiB travels in one."""

DEEP: Final = 200
"""Calls that may be nested in each other."""

LARGE_SERVICE: Final = "large"

Number = Callable[[int], int]


class Growth(Service, name="growth"):
    """Handlers that do next to nothing. Both ends serve it, so that calls can be nested."""

    @rpc(id=1)
    def add(self, a: int, b: int) -> int:
        return a + b

    @rpc(id=2)
    def echo(self, data: bytes) -> bytes:
        return data

    @rpc(id=3)
    def climb(self, levels: int) -> int:
        """Go so many levels, each of them a call of the other end; how many it were."""
        return 1 if levels == 1 else 1 + current_call().peer.proxy(Growth).climb(levels - 1)


class AsyncGrowth(Service, name="growth"):
    """The same on an event loop."""

    @rpc(id=1)
    async def add(self, a: int, b: int) -> int:
        return a + b

    @rpc(id=2)
    async def echo(self, data: bytes) -> bytes:
        return data

    @rpc(id=3)
    async def climb(self, levels: int) -> int:
        return 1 if levels == 1 else 1 + await current_call().peer.proxy(AsyncGrowth).climb(levels - 1)


def large_service(count: int, *, newer: bool = False) -> tuple[FunctionService, list[FunctionCommand[Number]]]:
    """A service of so many commands, on the ids from 0; in a newer version, the last one has got a parameter more."""
    service = FunctionService(LARGE_SERVICE)
    rpc_of: Any = service.rpc  # the newer one has another type
    return service, [rpc_of(id=number)(_command(number, newer and number == count - 1)) for number in range(count)]


def _command(number: int, newer: bool) -> Callable[..., int]:
    def older(value: int) -> int:
        return value + number

    def latest(value: int, factor: int = 1) -> int:
        return value * factor + number

    function: Callable[..., int] = latest if newer else older
    function.__name__ = f"command_{number}"
    return function
