"""The servers of the soak, and how clients connect to them: one table. A further kind of connection is a row.

Options are made in each process, from the folder of the run, where a row may keep what it needs, such as a socket.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from typedrpc.common.client import ConnectOptions
from typedrpc.common.server import ServerOptions

TCP: Final = "tcp://127.0.0.1:0"
PATIENCE: Final = 60.0
"""Seconds to connect: the machine is busy."""


def no_server_options(folder: Path) -> ServerOptions:
    return {}


def no_connect_options(folder: Path) -> ConnectOptions:
    return {}


class Place(NamedTuple):
    """A server, in a process of its own, and how to reach it.

    Attributes:
        name: For the table.
        colour: ``threads`` or ``asyncio``.
        url: Where it listens; ``{folder}`` is that of the run.
        server: Further options of ``Server``, from the folder.
        connect: Further options of ``connect`` at all clients, from the folder. What they expose and how long they try
            is given already.
    """

    name: str
    colour: str
    url: str = TCP
    server: Callable[[Path], ServerOptions] = no_server_options
    connect: Callable[[Path], ConnectOptions] = no_connect_options


PLACES: Final = {
    place.name: place
    for place in (
        Place("threads-tcp", "threads"),
        Place("threads-unix", "threads", "unix://{folder}/threads.sock"),
        Place("asyncio-tcp", "asyncio"),
        Place("asyncio-unix", "asyncio", "unix://{folder}/asyncio.sock"),
    )
}
