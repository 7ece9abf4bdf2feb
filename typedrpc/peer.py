"""The other end of a connection, as handlers and servers see it."""

from collections.abc import Callable
from itertools import count
from threading import Lock
from typing import Any, Final, final

MAX_VERSIONS: Final = 4096
"""Schemas of its own by which one peer may write its calls."""

MAX_VERSIONS_SIZE: Final = 16 * 1024 * 1024
"""Bytes of all these schemas together."""


@final
class Versions:
    """By which schemas of its own a peer writes its calls: what each of their numbers leads to. Thread-safe.

    Attributes:
        rows: What the numbers, which count from 0, lead to.
    """

    __slots__ = ("_left", "_lock", "_numbers", "rows")

    def __init__(self) -> None:
        self.rows: list[Any] = []
        self._numbers: dict[tuple[int, bytes], int] = {}
        self._left = MAX_VERSIONS_SIZE
        self._lock = Lock()

    def number_of(self, command: int, schema: bytes, make: Callable[[], Any]) -> int | None:
        """The number of a packed schema for a command, the same one each time; None where there are too many.

        Args:
            command: The id of the command.
            schema: The schema, packed.
            make: Gives what a new number leads to.
        """
        with self._lock:
            number = self._numbers.get((command, schema))
            if number is None and len(self.rows) < MAX_VERSIONS and len(schema) <= self._left:
                self._left -= len(schema)
                number = self._numbers[command, schema] = len(self.rows)
                self.rows.append(make())
            return number


@final
class Peer:
    """The other end of a connection.

    Attributes:
        id: A number that no other peer of this process has or had.
        address: Where it connects from, for people: ``"127.0.0.1:50214"``.
        server: The server that it is connected to; None at a client.
    """

    __slots__ = ("_close", "address", "id", "server", "versions")

    def __init__(self, id: int, address: str, server: Any, close: Callable[[str], None]) -> None:
        self.id = id
        self.address = address
        self.server = server
        self.versions = Versions()
        self._close = close

    def close(self, reason: str = "") -> None:
        """End the connection; the peer is told the reason. Calls that wait on either side raise ``ConnectionLost``."""
        self._close(reason)

    def __repr__(self) -> str:
        return f"<peer {self.id} at {self.address}>"


_ids = count(1)


def next_peer_id() -> int:
    """A number that no peer of this process had before."""
    return next(_ids)
