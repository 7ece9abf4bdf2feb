"""typedrpc: a contract with a handler for each work, used by its public names alone.

Every value is checked, at both ends. `map` is `add.map(xs, ys)`, the stream an `Iterator[int]`. Nothing is set but the
limit of a message.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from typedrpc import Server, Service, connect, rpc

from .base import LARGEST, LOCALHOST, Client, Item, Peer, count


class Calls(Service, name="calls"):
    @rpc(id=1)
    def add(self, a: int, b: int) -> int:
        return a + b

    @rpc(id=2)
    def records(self, items: list[Item]) -> list[Item]:
        return items

    @rpc(id=3)
    def count(self, number: int) -> Iterator[int]:
        yield from count(number)

    @rpc(id=4)
    def echo(self, data: bytes) -> bytes:
        return data


@contextmanager
def _serve(path: str | None) -> Iterator[str]:
    url = f"tcp://{LOCALHOST}:0" if path is None else f"unix://{path}"
    with Server(Calls(), url=url, max_message_size=LARGEST) as server:
        yield server.url


@contextmanager
def _connect(url: str) -> Iterator[Client]:
    with connect(Calls, url, max_message_size=LARGEST) as calls:
        yield Client(add=calls.add, map=calls.add.map, records=calls.records, stream=calls.count, echo=calls.echo)


PEER = Peer(serve=_serve, connect=_connect)
