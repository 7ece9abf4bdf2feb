"""The other end of a connection, as handlers and servers see it."""

from collections.abc import Callable
from itertools import count
from typing import Any, final


@final
class Peer:
    """The other end of a connection.

    Attributes:
        id: A number that no other peer of this process has or had.
        address: Where it connects from, for people: ``"127.0.0.1:50214"``.
        server: The server that it is connected to; None at a client.
    """

    __slots__ = ("_close", "address", "id", "server")

    def __init__(self, id: int, address: str, server: Any, close: Callable[[str], None]) -> None:
        self.id = id
        self.address = address
        self.server = server
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
