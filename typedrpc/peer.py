"""The other end of a connection, as handlers and servers see it."""

from collections.abc import Callable
from itertools import count
from threading import Lock
from typing import Any, Final, final

MAX_VERSIONS: Final = 4096
"""Schemas of its own by which one peer may write its calls."""


@final
class Versions:
    """By which schemas of its own a peer writes its calls: what each of their numbers leads to. Thread-safe."""

    __slots__ = ("_lock", "_numbers", "rows")

    def __init__(self) -> None:
        self.rows: list[Any] = []
        self._numbers: dict[object, int] = {}
        self._lock = Lock()

    def number_of(self, key: object, make: Callable[[], Any]) -> int | None:
        """The number of what `make` gives, the same one for the same key; None beyond `MAX_VERSIONS`."""
        with self._lock:
            number = self._numbers.get(key)
            if number is None and len(self.rows) < MAX_VERSIONS:
                number = self._numbers[key] = len(self.rows)
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
