"""Pyro5, with serpent (its default) and with msgpack: a proxy and a daemon with a pool of threads.

TCP_NODELAY is set. A proxy belongs to a thread, so 8 threads have 8. The pool has room for 1 000 connections; what is
not used of it is not there. `map` is a BatchProxy: all calls in one message. A stream is a generator of the server,
each item of which is asked for by a call. serpent sends bytes in base64, which its own function turns back.
"""

import importlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from .base import LOCALHOST, ROWS, Client, Peer, count, in_background


def _pyro(serializer: str) -> Any:
    pyro: Any = importlib.import_module("Pyro5.api")
    pyro.config.SERIALIZER = serializer
    pyro.config.SOCK_NODELAY = True
    pyro.config.THREADPOOL_SIZE = 2000
    return pyro


@contextmanager
def _serve(serializer: str, path: str | None) -> Iterator[str]:
    pyro = _pyro(serializer)
    as_bytes = importlib.import_module("serpent").tobytes

    class Calls:
        def add(self, a: int, b: int) -> int:
            return a + b

        def records(self, items: Any) -> Any:
            return items

        def echo(self, data: Any) -> Any:
            return as_bytes(data)

        def count(self, number: int) -> Iterator[int]:
            return count(number)

    with pyro.Daemon(host=LOCALHOST, unixsocket=path) as daemon:
        uri = daemon.register(pyro.expose(Calls)(), "calls")
        in_background(daemon.requestLoop)
        yield str(uri)


@contextmanager
def _connect(serializer: str, uri: str) -> Iterator[Client]:
    pyro = _pyro(serializer)
    as_bytes = importlib.import_module("serpent").tobytes
    with pyro.Proxy(uri) as proxy:
        proxy._pyroBind()

        def map(xs: Sequence[int], ys: Sequence[int]) -> Iterable[int]:
            batch: Any = pyro.BatchProxy(proxy)
            add = batch.add
            for x, y in zip(xs, ys, strict=True):
                add(x, y)
            results: Iterable[int] = batch()
            return results

        echo = proxy.echo
        yield Client(
            add=proxy.add,
            map=map,
            records=proxy.records,
            items=ROWS,
            stream=proxy.count,
            echo=lambda data: as_bytes(echo(data)),
        )


def peer(serializer: str) -> Peer:
    """Pyro5 with one of its serializers."""
    return Peer(
        serve=partial(_serve, serializer),
        connect=partial(_connect, serializer),
        packages=("Pyro5", serializer),
        shared=False,
    )
